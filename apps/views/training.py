"""How the network was trained."""

from __future__ import annotations

import streamlit as st

from apps.views import charts, reading
from apps.views.cards import cards
from apps.views.links import plain
from boneage_xai.store import AnalysisFolder
from reports.wording import months


def show(folder: AnalysisFolder) -> None:
    """Show the learning curve and what the network was trained on."""
    st.header("Training")
    history = reading.history(folder)
    if history is None or history.empty or history["val_mae_months"].isna().all():
        st.info("This analysis holds no training history: the model was trained elsewhere.")
        return
    # Counted from 1, as the command line does.
    history = history.assign(epoch=history["epoch"] + 1)
    run = folder.manifest["run"]
    learned = run.get("training") or {}
    best = history.iloc[int(history["val_mae_months"].argmin())]
    trained, validated = (
        f"{learned[key]:,}" if key in learned else "–" for key in ("n_train", "n_validation")
    )
    lowest = months(float(best["val_mae_months"]))
    cards(
        [
            ("Best validation MAE, months", lowest, f"at epoch {best['epoch']:.0f}"),
            ("Training cases", trained, ""),
            ("Validation cases", validated, ""),
        ]
    )
    st.altair_chart(charts.learning_chart(history))
    st.caption(
        "The ring marks the epoch whose weights are analysed. Training errors are measured on "
        "augmented radiographs while the weights still change, so the two curves need not meet."
    )
    st.markdown(
        f"Recipe **{plain(str(run.get('recipe')))}** · model {plain(str(run.get('model_id')))} · "
        f"seed {plain(str(learned.get('seed', '–')))}"
    )
    with st.expander("All epochs"):
        st.dataframe(history, hide_index=True)
