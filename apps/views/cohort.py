"""Who was analysed."""

from __future__ import annotations

import streamlit as st

from apps.views import charts, reading
from apps.views.cards import EVALUATE, cards, missing
from apps.views.links import plain
from boneage_xai.store import AnalysisFolder
from reports.wording import SEX_PLURALS, months, optimism, split_sentence


def show(folder: AnalysisFolder) -> None:
    """Show how many girls and boys of which age, and where they come from."""
    st.header("Who was analysed")
    data = folder.manifest["data"]
    st.markdown(
        f"{plain(split_sentence(folder))}. Source: {plain(str(data.get('source') or '–'))} "
        f"· data fingerprint {plain(str(data.get('fingerprint'))[:16])}"
    )
    if warning := optimism(folder):
        st.warning(warning)
    if not reading.has(folder, "predictions.parquet"):
        missing(folder, "The table of cases", EVALUATE)
        return
    predictions = reading.predictions(folder)
    ages = predictions["reference_months"]
    cards(
        [
            ("Cases", f"{len(predictions):,}", ""),
            *(
                (SEX_PLURALS[sex].capitalize(), f"{int((predictions['sex'] == sex).sum()):,}", "")
                for sex in "FM"
            ),
        ]
    )
    st.markdown(
        f"Reference bone age: {months(float(ages.mean()))} ± {months(float(ages.std(ddof=0)))} "
        f"months (mean ± SD), {ages.min():.0f} to {ages.max():.0f} months."
    )
    for chart in charts.age_charts(predictions):
        st.altair_chart(chart)
    with st.expander("All cases"):
        st.dataframe(predictions, hide_index=True)
