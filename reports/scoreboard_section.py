"""Report section on the scoreboard: how far attribution methods can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from boneage_xai.analysis.scoreboard import summarise_scores
from boneage_xai.figures.scoreboard import scoreboard as scoreboard_figure
from boneage_xai.store import AnalysisFolder
from reports.blocks import Block, Drawing, Section, Table, Text
from reports.wording import months

COLUMNS = {
    "region_correlation": "Regions",
    "mass_accuracy": "Mass",
    "rank_accuracy": "Rank",
    "deletion_months": "Deletion",
    "absolute_gap_months": "Gap",
    "randomised_similarity": "Random weights",
    "seconds": "Seconds",
}


def scoreboard(folder: AnalysisFolder) -> Section | None:
    """Give the scores of each method against the truth of phantoms, and what they say."""
    scores = folder.scores()
    if scores is None or scores.empty:
        return None
    step = folder.manifest["steps"].get("benchmark_methods", {})
    summary = summarise_scores(scores)
    wide = summary.pivot(index="method", columns="score", values="value")
    methods = list(dict.fromkeys(summary["method"]))
    blocks: list[Block] = [
        Text(
            (
                "On phantoms it is known where age shows and what each region does to the "
                "prediction, so that maps can be right or wrong.",
                *_verdicts(summary, float(step.get("too_similar", 0.5))),
            )
        ),
        Drawing(
            partial(scoreboard_figure, summary),
            "Points with intervals: four scores of every attribution method",
            "The methods whose regions agree best with the true effects are on top.",
            summary,
        ),
        Table(
            "Regions: rank correlation of months per region with the true effects (−1 to 1). "
            "Mass and rank: share of |map|, and of its largest pixels, where age shows. Deletion: "
            "months that the prediction moves beyond deletion in random order. Gap: |sum of the "
            "map − what it should add up to|, months. Random weights: rank correlation with the "
            "map of a network that has learnt nothing; high is bad. Seconds per case.",
            ("Method", *COLUMNS.values()),
            tuple(
                (
                    method.replace("_", " "),
                    *(_cell(score, float(wide.loc[method, score])) for score in COLUMNS),
                )
                for method in methods
            ),
            scores,
        ),
    ]
    if refused := step.get("refused"):
        blocks.append(
            Text(tuple(f"{name.replace('_', ' ')}: {why}." for name, why in refused.items()))
        )
    return Section("scoreboard", "How far the methods can be trusted", tuple(blocks))


def _verdicts(summary: pd.DataFrame, too_similar: float) -> list[str]:
    agreement = summary[summary["score"] == "region_correlation"].dropna(subset=["value"])
    random = summary[summary["score"] == "randomised_similarity"]
    sentences = []
    if not agreement.empty:
        best = agreement.to_dict("records")[0]
        sentences.append(
            f"Nearest to the true effects of regions is {_spoken([best['method']])} (rank "
            f"correlation {months(best['value'], signed=True, digits=2)}{_interval(best)})."
        )
    if doubtful := agreement[~(agreement["low"] > 0)]["method"].tolist():
        sentences.append(
            f"No agreement with the true effects could be shown for {_spoken(doubtful)}."
        )
    alike = random[random["value"] >= too_similar]
    if not alike.empty:
        sentences.append(
            "Maps that hardly change when the network forgets everything (rank correlation "
            f"{too_similar:g} or more in the mean over at most {alike['n'].max()} cases): "
            f"{_spoken(alike['method'].tolist())}."
        )
    return sentences


def _spoken(methods: Sequence[str]) -> str:
    return ", ".join(method.replace("_", " ") for method in methods)


def _interval(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["low"]):
        return ""
    low, high = (months(row[end], signed=True, digits=2) for end in ("low", "high"))
    return f", 95% interval {low} to {high}"


def _cell(score: str, value: float) -> str:
    if math.isnan(value):
        return "–"
    signed = score in ("region_correlation", "deletion_months", "randomised_similarity")
    return months(value, signed=signed, digits=2)
