"""Region profiles in plain words: every sentence is made of the profile's own numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from boneage_xai.analysis.random_control import control_of, random_weights_of
from boneage_xai.analysis.region_profile import (
    AGREE,
    ALL,
    CANNOT_TELL,
    DIFFER,
    FEW_CASES,
    LESS,
    MORE,
    RegionProfile,
    against_literature,
    compare_with_control,
    region_profile,
)
from boneage_xai.analysis.stages import STAGES
from boneage_xai.anatomy import DIP, MCP, OUTSIDE_HAND, PIP, SOFT_TISSUE
from boneage_xai.errors import DataError, ReportError
from boneage_xai.store import CONTROL_FOLDER, AnalysisFolder
from reports.wording import SEX_PLURALS, counted, method_name, months, percent

_JOINTS = (DIP, PIP, MCP)
_VERDICT_WORDS = {
    AGREE: "it agrees for",
    DIFFER: "it differs for",
    CANNOT_TELL: "nothing can be told for",
}


@dataclass(frozen=True, eq=False)
class Profiled:
    """A profile with what it is held against.

    Args:
        profile: of the network.
        literature: of ``against_literature``; with the column against_control where there is one.
        control: profile of the control, None without one.
        difference: of ``compare_with_control``, None without a control.
        seed: of the control's weights.
        problem: why a control that is there was not used.
    """

    profile: RegionProfile
    literature: pd.DataFrame
    control: RegionProfile | None = None
    difference: pd.DataFrame | None = None
    seed: int | None = None
    problem: str | None = None


def profiled(folder: AnalysisFolder, method: str) -> Profiled | None:
    """Return the profile of a method in an analysis, None where it lacks what is needed.

    Needed are region sums and an evaluated case with attribution inside its hand.
    """
    regions = folder.regions()
    if regions is None or not (folder.path / "predictions.parquet").is_file():
        return None
    ours, cases = regions[regions["method"] == method], folder.predictions()
    if ours.empty:
        return None
    try:
        profile = region_profile(ours, cases)
    except DataError:
        # No case is known well enough, as where other cases were evaluated than attributed.
        return None
    literature = against_literature(profile)
    try:
        control = control_of(folder)
        sums = None if control is None else control.regions()
        if control is None or sums is None:
            return Profiled(profile, literature)
        theirs = sums[sums["method"] == method]
        difference = compare_with_control(ours, theirs, cases)
        verdicts = difference[["stage", "sex", "region", "against_control"]]
        return Profiled(
            profile,
            literature.merge(verdicts, on=["stage", "sex", "region"], how="left"),
            region_profile(theirs, cases),
            difference,
            int((random_weights_of(control) or {}).get("seed", 0)),
        )
    except (DataError, ReportError) as error:
        return Profiled(profile, literature, problem=str(error))


def region_words(region: str) -> str:
    """Return how a region is called in a sentence."""
    return f"{region} joints" if region in _JOINTS else region.replace("_", " ")


def stage_sentences(found: Profiled) -> tuple[str, ...]:
    """Return what the profile says of each stage with enough cases, from its numbers alone."""
    sentences = []
    for stage_id, stage in STAGES.items():
        groups = []
        for sex in ("F", "M"):
            cell = found.profile.cell(stage_id, sex)
            if cell.empty or bool(cell["few_cases"].iloc[0]):
                continue
            whose = f"{SEX_PLURALS[sex].capitalize()} ({int(cell['n'].iloc[0]):,})"
            expected = _expected(found.literature, stage_id, sex)
            groups.append(f"{whose}: {_strongest(cell)}. {expected}")
        if groups:
            sentences.append(f"{stage.name} – {' '.join(groups)}".rstrip())
    if not sentences:
        return (
            f"No stage holds {FEW_CASES} girls or {FEW_CASES} boys, so that nothing is concluded; "
            "the figures show what there is.",
        )
    return tuple(sentences)


def _strongest(cell: pd.DataFrame) -> str:
    inside = cell[~cell["region"].isin((*OUTSIDE_HAND, SOFT_TISSUE))]
    above = inside[inside["enrichment_low"] > 1].sort_values("share_of_hand", ascending=False)
    if above.empty:
        return "no region holds more of the magnitude inside the hand than its area would give"
    named = [
        (
            f"{region_words(str(row['region']))} {percent(row['share_of_hand'])} "
            f"({span(row, 'share_of_hand', as_percent=True)})",
            f"{months(row['enrichment'])} times",
        )
        for row in above.head(2).to_dict("records")
    ]
    (share, times), others = named[0], named[1:]
    words = f"{share} of the magnitude inside the hand, {times} what the area would give"
    return words + "".join(f"; {share}, {times}" for share, times in others)


def _expected(literature: pd.DataFrame, stage: str, sex: str) -> str:
    rows = literature[
        (literature["stage"] == stage)
        & (literature["sex"] == sex)
        & (literature["kind"] == "readers")
    ].drop_duplicates("region")
    if rows.empty:
        return ""
    by_verdict = {
        verdict: [region_words(str(one)) for one in rows.loc[rows["verdict"] == verdict, "region"]]
        for verdict in (AGREE, DIFFER, CANNOT_TELL)
    }
    told = "; ".join(
        f"{_VERDICT_WORDS[verdict]} {' and '.join(names)}"
        for verdict, names in by_verdict.items()
        if names
    )
    sentence = f"Against what readers are taught to look at: {told}."
    if "against_control" in rows:
        idle = rows[(rows["verdict"] == AGREE) & (rows["against_control"] != MORE)]
        if len(idle):
            names = " and ".join(region_words(str(one)) for one in idle["region"])
            sentence += f" Not seen to be more than with random weights: {names}."
    return sentence


def how_it_reads(profile: RegionProfile) -> str:
    """Return what was measured, on whom, and by which rule verdicts are given."""
    cell = profile.cell()
    by = " and ".join(f"{number:,} by {name} age" for name, number in profile.age_sources.items())
    left = "".join(
        f" Left out: {counted(number, 'case')} {why}." for why, number in profile.left_out.items()
    )
    return (
        f"{method_name(profile.method)} of {counted(int(cell['n'].iloc[0]), 'case')}, staged "
        f"{by}.{left} A region's share of the magnitude inside the hand over its share of the "
        "hand's area is how many times more it holds than its area alone would give. One rule: "
        "an expected region agrees where the whole 95% interval of that number lies above 1, "
        f"differs where it lies below; else, or with fewer than {FEW_CASES} cases, nothing can be "
        "told. Magnitude says that the network uses a region, not that it reads there what a "
        "reader would."
    )


def control_sentence(found: Profiled, folder: AnalysisFolder) -> str:
    """Return what a network with random weights does on the same cases, or how to find out."""
    difference = found.difference
    if difference is None:
        return (
            "There is no control yet: part of this could come from the images alone. `boneage-xai "
            "attribute RUN --data SOURCE --random-weights --out "
            f"{folder.path / CONTROL_FOLDER}` explains a copy with random weights on the same "
            "cases, and is then shown here."
        )
    rows = difference[(difference["stage"] == ALL) & (difference["sex"] == ALL)]
    parts = []
    for verdict, words in ((MORE, "more than the control"), (LESS, "less")):
        named = [
            f"{region_words(str(row['region']))} ({points(row['difference'])}, "
            f"{points(row['difference_low'])} to {points(row['difference_high'])})"
            for row in rows.sort_values("difference", key=abs, ascending=False).to_dict("records")
            if row["against_control"] == verdict
        ]
        if named:
            parts.append(f"{words} – {', '.join(named)}")
    told = "; ".join(parts) or "no region differs from the control beyond its interval"
    return (
        f"Control: a copy of the network with random weights (seed {found.seed}) on the same "
        f"{int(rows['n'].iloc[0]):,} cases. Shares of the magnitude inside the hand in percentage "
        f"points, paired by case: {told}. What both share comes from the images and not from "
        "training. It is one draw of random weights; the intervals are over cases only."
    )


def span(row: dict[Any, Any], name: str, *, as_percent: bool = False) -> str:
    """Return the interval of a measure in a row as text."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if pd.isna(low) or pd.isna(high):
        return "no interval"
    if as_percent:
        return f"{100 * low:.0f}–{100 * high:.0f}"
    return f"{months(low, digits=2)} to {months(high, digits=2)}"


def points(share: float) -> str:
    """Return a difference of shares in percentage points, signed."""
    return "–" if pd.isna(share) else months(100 * share, signed=True)
