"""Cells, tables and verdicts of a reproduction, for its page and for the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boneage_xai.analysis.multiplicity import difference_shown
from boneage_xai.analysis.published import PublishedError, published_error
from reports.groups_section import p_text
from reports.wording import estimate_text, months

SET_WORDS = {
    "test": "official test set (200)",
    "validation": "its own validation cases",
    "not stated": "not stated",
}
Record = Mapping[str, Any]


def measured_sets(record: Record) -> list[str]:
    """Return the sets that arms were measured on."""
    return ["validation"] if record.get("test") is None else ["validation", "test"]


def set_name(record: Record, name: str) -> str:
    """Return what a set is called."""
    return "validation cases" if name == "validation" else f"test set {record['test']['source']}"


def our_columns(record: Record) -> list[str]:
    """Return the headings of what was measured here, a set each."""
    return [f"ours: {set_name(record, name)}" for name in measured_sets(record)]


def our_cells(record: Record, arm: Record) -> list[str]:
    """Return an arm's errors, a cell per set."""
    return [estimate_cell(arm["measured"].get(name)) for name in measured_sets(record)]


def estimate_cell(block: Record | None) -> str:
    """Return an error with its interval, '–' where nothing was measured."""
    if block is None:
        return "–"
    value, interval = estimate_text("mae_months", block["mae_months"])
    return f"{value} ({interval})" if interval else value


def difference_text(estimate: Record) -> str:
    """Return a signed value with its interval."""
    value, *bounds = (
        months(estimate[key], signed=True, digits=2) for key in ("value", "low", "high")
    )
    return value if estimate["low"] is None else f"{value} ({' to '.join(bounds)})"


def published_text(one: PublishedError | None) -> str:
    """Return a published number or range as it was published."""
    if one is None:
        return "–"
    text = f"{one.mae_months:g}" if one.mae_months % 1 else f"{one.mae_months:.1f}"
    return text if one.highest_mae_months is None else f"{text} to {one.highest_mae_months:g}"


def arm_words(arm: Record) -> str:
    """Return the arm in words."""
    return f"`{arm['twin']}`, {'with the sex' if arm['with_sex'] else 'image only'}"


def state_text(arm: Record) -> str:
    """Say how far an arm was trained."""
    done, planned = arm["epochs"], arm["epochs_planned"]
    best = "" if arm["best_epoch"] is None else f", best {arm['best_epoch'] + 1}"
    if arm["status"] == "complete":
        why = "**diverged**" if arm.get("diverged") else "stopped early by the recipe"
        ended = "" if done == planned and not arm.get("diverged") else f" of {planned} ({why})"
        text = f"{done} epoch{'s' if done != 1 else ''}{ended}{best}"
    elif arm["status"] == "partial":
        text = f"**after {done} of {planned} epochs**{best}"
    else:
        text = f"**{arm['status']}**"
    scratch = any(
        one["key"] == "initialisation.weights" and one["used"] == "none"
        for one in arm["departures"]
    )
    return f"{text}; from scratch" if scratch else text


def reasons(arms: Sequence[Record]) -> list[str]:
    """Return a sentence per arm that says why it was trained no further, home left unnamed."""
    return [
        f"{arm['name']}, {arm['status']}: {without_home(arm['reason'])}"
        for arm in arms
        if arm["reason"]
    ]


def without_home(text: str) -> str:
    """Return a text with ``~`` in place of the user's home folder."""
    return text.replace(str(Path.home()), "~")


def setting_text(value: Any) -> str:
    """Return the value of a setting as code."""
    return f"`{without_home(value if isinstance(value, str) else json.dumps(value))}`"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def sex_sentences(record: Record) -> list[str]:
    """Say per set and pair of arms what the sex gives, for the command line."""
    return [
        f"{pair['twin']}, {set_name(record, name)}: with the sex "
        f"{months(pair['with_sex_months'], digits=2)}, image only "
        f"{months(pair['image_only_months'], digits=2)} months, difference "
        f"{difference_text(pair['difference_months'])}, p (Holm) {p_text(pair['p_holm'])}: "
        f"{sex_verdict(pair)}"
        for name in measured_sets(record)
        for pair in record["sex"].get(name) or []
    ]


def arm_rows(record: Record) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of all arms beside the studies, for the command line."""
    columns = ["arm", "sex", f"study: {SET_WORDS['test']}", *our_columns(record), "training"]
    rows = []
    for arm in record["arms"]:
        known = published_error(arm["study"], arm["network"], arm["with_sex"], "test")
        begin = [arm["twin"], "yes" if arm["with_sex"] else "no", published_text(known)]
        rows.append([*begin, *our_cells(record, arm), state_text(arm).replace("*", "")])
    return columns, rows


def sex_verdict(pair: Record) -> str:
    """Say in a word or two what a pair of arms shows: the interval and the test must agree."""
    difference, p = pair["difference_months"], pair["p_holm"]
    low, high = difference["low"], difference["high"]
    words = "helps" if difference["value"] < 0 else "harms"
    if p is None or low is None or not difference_shown(p, low, high):
        words = "no difference shown"
    return f"{words} (unfinished arms)" if pair["unfinished"] else words
