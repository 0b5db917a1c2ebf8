"""The command lines that made an analysis folder, put together again from its record."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from boneage_xai.analysis.neighbours import N_NEIGHBOURS
from boneage_xai.analysis.stress_transforms import STRESS_TRANSFORMS
from boneage_xai.store import AnalysisFolder

Detail = Mapping[str, Any]

_ATTRIBUTE_OPTIONS = {
    "--baseline": "baseline",
    "--tolerance-months": "gap_tolerance_months",
    "--min-nodes": "min_nodes",
    "--max-nodes": "max_nodes",
    "--precision": "precision",
    "--references": "n_references",
}


def _evaluate(detail: Detail) -> list[str]:
    words = ["--seed", str(detail.get("seed", 0))]
    for column in detail.get("by", []):
        words += ["--by", str(column)]
    return words + ["--corrected"] * bool(detail.get("corrected"))


def _attribute(detail: Detail) -> list[str]:
    words: list[str] = []
    for method in detail.get("methods", []):
        words += ["--method", str(method)]
    for layer in detail.get("layers", []):
        words += ["--layer", str(layer)]
    settings = detail.get("settings") or {}
    for option, key in _ATTRIBUTE_OPTIONS.items():
        if key in settings:
            words += [option, str(settings[key])]
    if "gap_tolerance_fraction" in settings:
        words += ["--tolerance-percent", f"{100 * settings['gap_tolerance_fraction']:g}"]
    if "map_tolerance_fraction" in settings:
        words += ["--map-tolerance-percent", f"{100 * settings['map_tolerance_fraction']:g}"]
    if detail.get("limit") is not None:
        words += ["--limit", str(detail["limit"])]
    return words


def _intervene(detail: Detail) -> list[str]:
    words = ["--delta-months", f"{detail.get('delta_months', 12.0):g}"]
    if detail.get("limit") is not None:
        words += ["--limit", str(detail["limit"])]
    return words


def _occlude(detail: Detail) -> list[str]:
    words = []
    for fill in detail.get("fills", []):
        words += ["--fill", str(fill)]
    if detail.get("limit") is not None:
        words += ["--limit", str(detail["limit"])]
    if detail.get("regions") is not None:
        words += ["--regions", str(detail["regions"])]
    return words


def _benchmark_methods(detail: Detail) -> list[str]:
    words = []
    for method in detail.get("methods", []):
        words += ["--method", str(method)]
    if detail.get("limit") is not None:
        words += ["--limit", str(detail["limit"])]
    return words


def _stress(detail: Detail) -> list[str]:
    words = []
    if len(detail.get("transforms", STRESS_TRANSFORMS)) < len(STRESS_TRANSFORMS):
        for transform in detail["transforms"]:
            words += ["--transform", str(transform)]
    if detail.get("limit") is not None:
        words += ["--limit", str(detail["limit"])]
    return words


def _neighbours(detail: Detail) -> list[str]:
    return ["--k", str(detail.get("k", N_NEIGHBOURS))]


def _shortcuts(detail: Detail) -> list[str]:
    words = ["--seed", str(detail.get("seed", 0))]
    for option, key in (("--limit", "limit"), ("--data-limit", "data_limit")):
        if detail.get(key) is not None:
            words += [option, str(detail[key])]
    return words


def _failures(detail: Detail) -> list[str]:
    words = ["--seed", str(detail.get("seed", 0))]
    if detail.get("worst") is not None:
        words += ["--worst", str(detail["worst"])]
    if detail.get("pictures") is not None:
        words += ["--pictures", str(detail["pictures"])]
    if not detail.get("neighbours", True):
        words.append("--no-neighbours")
    if detail.get("regions") is not None:
        words += ["--regions", str(detail["regions"])]
    return words


_OPTIONS: dict[str, Callable[[Detail], list[str]]] = {
    "evaluate": _evaluate,
    "attribute": _attribute,
    "intervene": _intervene,
    "occlude": _occlude,
    "benchmark_methods": _benchmark_methods,
    "stress": _stress,
    "neighbours": _neighbours,
    "shortcuts": _shortcuts,
    "failures": _failures,
}


def commands(folder: AnalysisFolder) -> dict[str, str]:
    """Return the command of each step taken, quoted for a shell.

    Args:
        folder: the analysis.

    Returns:
        Step to command, in the order of the record, ``report`` last.
    """
    run, data = folder.manifest["run"], folder.manifest["data"]
    made = {}
    for step, detail in folder.manifest["steps"].items():
        model = ["--card"] * bool(run.get("card")) + [str(run.get("path"))]
        words = ["boneage-xai", str(step).replace("_", "-"), *model]
        words += ["--data", str(data.get("source"))]
        words += ["--out", str(folder.path)]
        if data.get("split"):
            words += ["--split", str(data["split"])]
        options = _OPTIONS[step](detail) if step in _OPTIONS else []
        if step == "attribute" and (random := run.get("random_weights")):
            options += ["--random-weights", "--seed", str(random.get("seed", 0))]
        made[str(step)] = shlex.join(words + options)
    return {**made, "report": shlex.join(["boneage-xai", "report", str(folder.path)])}
