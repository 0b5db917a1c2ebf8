"""What the explanations of a model come to, in sentences with the numbers filled in."""

from __future__ import annotations

import pandas as pd

from boneage_xai.anatomy import MARKER, OUTSIDE_HAND
from boneage_xai.regions.aggregation import summarise
from boneage_xai.store import AnalysisFolder
from reports.profile_wording import region_words
from reports.wording import baseline_words, counted, method_name, months, percent, preferred_method

_NAMED_REGIONS = 3


def explanation_sentences(folder: AnalysisFolder) -> tuple[str, ...]:
    """Return what attributions and regions say; nothing before ``attribute``."""
    found = folder.attributions()
    if found is None or found.empty:
        return ()
    method = preferred_method(list(dict.fromkeys(found["method"])))
    ours = found[found["method"] == method]
    were = "was" if len(ours) == 1 else "were"
    sentence = f"{counted(len(ours), 'case')} {were} explained with {method_name(method).lower()}"
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
        sums = regions[regions["method"] == method]
        sentences.append(region_sentence(sums, signed=bool(len(gaps))))
    return tuple(sentences)


def region_sentence(regions: pd.DataFrame, *, signed: bool = False) -> str:
    """Return which hand regions weigh most.

    Args:
        regions: the rows of one method.
        signed: say the mean signed months of each, too, which add up where the method is complete.
    """
    table = summarise(regions)
    total = float(table["absolute_months"].sum())
    if total <= 0:
        return "No region adds anything."
    table = table.assign(share=table["absolute_months"] / total)
    outside = table["region"].isin(OUTSIDE_HAND)
    inside = table[~outside].sort_values("share", ascending=False)
    named = ", ".join(
        f"{region_words(str(row['region']))} ({percent(float(row['share']))}"
        + (f", {months(float(row['signed_months']), signed=True)} months" if signed else "")
        + ")"
        for row in inside.head(_NAMED_REGIONS).to_dict("records")
    )
    marker = float(table.loc[table["region"] == MARKER, "share"].sum())
    return (
        f"By the sum of magnitudes the attribution lies most in: {named}; "
        f"{percent(float(table.loc[outside, 'share'].sum()))} of it lies outside of the hand"
        + (f", {percent(marker)} on the marker" if marker > 0 else "")
        + "."
        + " Months are means over cases: above 0 a region makes the prediction older." * signed
    )
