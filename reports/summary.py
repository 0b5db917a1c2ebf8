"""What the explanations of a model come to, in sentences with the numbers filled in."""

from __future__ import annotations

import pandas as pd

from boneage_xai.anatomy import BACKGROUND
from boneage_xai.regions.aggregation import summarise
from boneage_xai.store import AnalysisFolder
from reports.wording import baseline_words, method_name, months, percent, preferred_method

_NAMED_REGIONS = 3


def explanation_sentences(folder: AnalysisFolder) -> tuple[str, ...]:
    """Return what attributions and regions say; nothing before ``attribute``."""
    found = folder.attributions()
    if found is None or found.empty:
        return ()
    method = preferred_method(list(dict.fromkeys(found["method"])))
    ours = found[found["method"] == method]
    sentence = f"{len(ours):,} cases were explained with {method_name(method).lower()}"
    gaps = ours["completeness_gap_months"].abs().dropna()
    if len(gaps):
        baseline = str(next(iter(ours["baseline"].dropna()), "baseline"))
        sentence += (
            f", which divides the difference between the prediction and that for "
            f"{baseline_words(baseline)} among the pixels; what is left undivided (the "
            f"completeness gap) is {months(float(gaps.median()), digits=2)} "
            f"months in the median case and {months(float(gaps.max()), digits=2)} at most"
        )
    sentences = [sentence + "."]
    regions = folder.regions()
    if regions is not None and (regions["method"] == method).any():
        sentences.append(region_sentence(regions[regions["method"] == method]))
    return tuple(sentences)


def region_sentence(regions: pd.DataFrame) -> str:
    """Return which hand regions weigh most, from the rows of one method."""
    table = summarise(regions)
    total = float(table["absolute_months"].sum())
    if total <= 0:
        return "No region adds anything."
    table = table.assign(share=table["absolute_months"] / total)
    inside = table[table["region"] != BACKGROUND].sort_values("share", ascending=False)
    named = ", ".join(
        f"{str(row['region']).replace('_', ' ')} ({percent(float(row['share']))})"
        for row in inside.head(_NAMED_REGIONS).to_dict("records")
    )
    outside = float(table.loc[table["region"] == BACKGROUND, "share"].sum())
    return (
        f"By the sum of magnitudes the attribution lies most in: {named}; "
        f"{percent(outside)} of it lies in the background, outside of the hand."
    )
