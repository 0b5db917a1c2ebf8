"""How the network was trained, beside the other runs that are there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import streamlit as st

from apps.views import charts, comparison_charts, reading
from apps.views.cards import cards
from apps.views.folders import open_each
from apps.views.links import linked_choice, plain
from boneage_xai.store import AnalysisFolder
from reports.learning import shown_history
from reports.wording import months, run_name

_CURVES = {
    "val_mae_months": "validation: mean absolute error (months)",
    "train_mae_months": "training: mean absolute error (months)",
    "train_loss": "training loss",
    "val_loss": "validation loss",
    "lr": "learning rate",
}


def show(folder: AnalysisFolder, analyses: Mapping[str, Path]) -> None:
    """Show the learning curve, what the network was trained on, and the other runs' curves.

    Args:
        folder: the analysis that is looked at.
        analyses: all that were found, by name.
    """
    st.header("Training")
    history = _history(folder)
    if history is None:
        st.info("This analysis holds no training history: the model was trained elsewhere.")
    else:
        _own(folder, history)
    _beside(analyses)


def _history(folder: AnalysisFolder) -> pd.DataFrame | None:
    history = reading.history(folder)
    if history is None or history.empty or history["val_mae_months"].isna().all():
        return None
    return shown_history(history, folder.manifest["run"])


def _own(folder: AnalysisFolder, history: pd.DataFrame) -> None:
    run = folder.manifest["run"]
    learned = run.get("training") or {}
    best = history[history["kept"]].iloc[0]
    trained, validated = (
        f"{learned[key]:,}" if key in learned else "–" for key in ("n_train", "n_validation")
    )
    kept = months(float(best["val_mae_months"]))
    cards(
        [
            ("Validation MAE of the kept epoch, months", kept, f"at epoch {best['epoch']:.0f}"),
            ("Training cases", trained, ""),
            ("Validation cases", validated, ""),
        ]
    )
    st.altair_chart(charts.learning_chart(history))
    st.caption(
        "The ring marks the epoch whose weights are analysed, the best at full input size. "
        "Training errors are measured on augmented radiographs while the weights still change, so "
        "the two curves need not meet."
    )
    st.markdown(
        f"Recipe **{plain(str(run.get('recipe')))}** · model {plain(str(run.get('model_id')))} · "
        f"seed {plain(str(learned.get('seed', '–')))}"
    )
    with st.expander("All epochs"):
        st.dataframe(history, hide_index=True)


def _beside(analyses: Mapping[str, Path]) -> None:
    """Lay the curves of all runs over each other, one for each model."""
    folders, _ = open_each(analyses)
    models: dict[str, str] = {}
    histories: dict[str, pd.DataFrame] = {}
    for name, folder in folders.items():
        history = _history(folder)
        model = str(folder.manifest["run"].get("model_id"))
        if history is not None and model not in models:
            models[model], histories[name] = name, history
    if len(histories) < 2:
        return
    st.subheader("All runs")
    shown = {
        column: title
        for column, title in _CURVES.items()
        if any(
            column in history and history[column].notna().any() for history in histories.values()
        )
    }
    column = linked_choice(
        st.selectbox,
        "What is shown",
        list(shown),
        "curve",
        format_func=lambda name: shown[name],
    )
    st.altair_chart(comparison_charts.runs_chart(histories, column, shown[column]))
    st.caption("A curve per model; rings mark the epoch whose weights are analysed.")
    rows = []
    for name, history in histories.items():
        best = history[history["kept"]].iloc[0]
        learned = folders[name].manifest["run"].get("training") or {}
        rows.append(
            {
                "analysis": name,
                "recipe": run_name(folders[name]),
                "best_mae_months": float(best["val_mae_months"]),
                "best_epoch": int(best["epoch"]),
                "epochs": len(history),
                "n_validation": learned.get("n_validation"),
                "data": str(learned.get("fingerprint") or "–")[:12],
            }
        )
    st.dataframe(
        rows,
        hide_index=True,
        column_config={
            "best_mae_months": st.column_config.NumberColumn(
                "validation MAE of the kept epoch, months", format="%.2f"
            ),
            "best_epoch": "at epoch",
            "n_validation": "validation cases",
        },
    )
    if len({(row["data"], row["n_validation"]) for row in rows}) > 1:
        st.warning(
            "Not all of these runs were validated on the same cases: their errors cannot be "
            "compared. The page Compare sets analyses of the same cases side by side."
        )
