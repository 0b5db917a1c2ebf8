"""Report section on the worst cases: what they share, whether chance would do, how they look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from boneage_xai.analysis.failure_cards import CARDS_FILE, FailureCard, read_cards
from boneage_xai.analysis.failure_descriptors import STAGE_PREFIX, descriptor_of
from boneage_xai.figures.failure_atlas import (
    GROUP_NAMES,
    card_heading,
    card_limit_months,
    failure_cards,
    failure_map,
    trait_forest,
)
from boneage_xai.store import AnalysisFolder
from reports.attribution_sections import figure_text
from reports.blocks import Block, Drawing, Section, Table, Text
from reports.groups_section import p_text
from reports.wording import months, percent

_NAMED = 6
_DIRECTION_WORDS = {"over": "too old", "under": "too young"}


def failures(folder: AnalysisFolder) -> Section | None:
    """Give the worst cases, the traits in which they differ, their groups and their cards."""
    table, found = folder.failures(), folder.failure_findings()
    if table is None or found is None or table.empty:
        return None
    traits = pd.DataFrame(found["traits"])
    clusters: list[dict[str, Any]] = found["clusters"]
    blocks: list[Block] = [
        Text((_who(found), *trait_sentences(found), cluster_sentence(found))),
        Drawing(
            partial(failure_map, table, clusters),
            "Scatter plot of errors against reference bone age, the worst cases marked",
            "Each point is a case. Worst cases are marked by the pattern that they belong to.",
            table,
        ),
    ]
    if len(traits):
        blocks.append(
            Drawing(
                partial(trait_forest, traits, found["labels"], found["rules"]["level"]),
                "Points with intervals: difference of worst cases from the rest in each trait",
                "Each row is a trait; points with 95% intervals compare the worst cases with all "
                "cases that are none. Filled: p < "
                f"{found['rules']['level']:g} after Holm's correction over all {len(traits)} "
                "comparisons. Only filled points are evidence.",
                traits.assign(label=traits["descriptor"].map(found["labels"])),
            )
        )
    blocks.append(_cluster_table(clusters))
    if len(traits):
        blocks.append(_trait_table(traits, found))
    file = folder.path / CARDS_FILE
    cards = read_cards(file) if file.is_file() else []
    blocks += _card_blocks(cards)
    if left := _not_compared(found):
        blocks.append(Text((left,)))
    return Section("failures", "The worst cases", tuple(blocks))


def _who(found: Mapping[str, Any]) -> str:
    worst, rest = (found["mean_absolute_error_months"][one] for one in ("worst", "rest"))
    return (
        f"The {found['n_worst']:,} worst of {found['n']:,} cases err by "
        f"{months(found['least_error_months'])} months or more, by {months(worst['value'])} on "
        f"average (the rest by {months(rest['value'])}); {found['n_over']:,} are read too old and "
        f"{found['n_under']:,} too young."
    )


def trait_sentences(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Return in which traits the worst cases differ, or that none sets them apart."""
    traits = found["traits"]
    level = found["rules"]["level"]
    if not traits:
        return ("There are too few worst cases to compare them with the rest.",)
    tested = f"{len(traits)} comparisons, p < {level:g} after Holm's correction"
    differing = [row for row in traits if row["p_holm"] < level]
    if not differing:
        return (
            f"Nothing that was measured sets the worst cases apart from the rest ({tested}): what "
            "may look alike in the pictures below is no more than chance would give, or is not "
            "among the traits.",
        )
    sentences = []
    for group, name in GROUP_NAMES.items():
        rows = sorted(
            (row for row in differing if row["group"] == group), key=lambda row: row["p_holm"]
        )
        if rows:
            named = "; ".join(_trait_words(row) for row in rows[:_NAMED])
            more = len(rows) - _NAMED
            tail = f"; and {more} more in the table" if more > 0 else ""
            first = "All worst cases together" if group == "all" else f"Those {name}"
            sentences.append(f"{first} differ from the rest ({tested}): {named}{tail}.")
    checked = [row for row in differing if row["adjusted"] is not None]
    kept = [row for row in checked if _agrees(row, level)]
    if checked:
        lost = len(checked) - len(kept)
        sentences.append(
            "Much of a picture depends on age. Among children of the same sex and stage "
            f"{len(kept)} of {len(checked)} such differences in pictures or attribution remain"
            + (f"; the other {lost} may be no more than age and sex." if lost else ".")
        )
    return tuple(sentences)


def _agrees(row: Mapping[str, Any], level: float) -> bool:
    neutral = 1.0 if row["measure"] == "risk" else 0.0
    same_side = (row["adjusted"] - neutral) * (row["effect"] - neutral) > 0
    return bool(same_side and row["adjusted_p"] < level)


def _trait_words(row: Mapping[str, Any]) -> str:
    trait = descriptor_of(row["descriptor"])
    if row["measure"] == "risk":
        if row["effect"] < 1 and row["descriptor"].startswith(STAGE_PREFIX):
            value, low, high = _ends(row)
            return f"seldom {trait.high} ({value:.2f} times as often, {low:.2f} to {high:.2f})"
        word = trait.high if row["effect"] >= 1 else trait.low
        times = [one if row["effect"] >= 1 else 1 / one for one in _ends(row)]
        low, high = sorted(times[1:])
        return f"{word} ({times[0]:.1f} times as often, {low:.1f} to {high:.1f})"
    word = trait.high if row["effect"] > 0 else trait.low
    ends = " to ".join(months(one, signed=True, digits=2) for one in _ends(row)[1:])
    return f"{word} (effect {months(row['effect'], signed=True, digits=2)}, {ends})"


def _ends(row: Mapping[str, Any]) -> list[float]:
    return [float(row[key]) for key in ("effect", "low", "high")]


def cluster_sentence(found: Mapping[str, Any]) -> str:
    """Return which groups of worst cases are patterns, or that none is."""
    clusters = found["clusters"]
    patterns = [one for one in clusters if one["pattern"]]
    drawn = found["rules"]["n_permutations"]
    if not patterns:
        return (
            f"The worst cases fall into {len(clusters)} group{'s' * (len(clusters) != 1)} by "
            "likeness, none of which gathers more of them than groups of as many cases drawn at "
            f"random do ({drawn} draws): none is called a pattern."
        )
    named = "; ".join(
        f"{one['name']} – {one['n_matching_worst']} of the {one['n_matching']:,} such cases are "
        f"among the worst read {_DIRECTION_WORDS[one['direction']]} "
        f"({percent(one['rate'])}, elsewhere {percent(one['rate_elsewhere'])})"
        for one in patterns
    )
    return (
        f"{len(patterns)} of {len(clusters)} groups of worst cases gather more of them than groups "
        f"of cases drawn at random do (p < {found['rules']['level']:g} over {drawn} draws): "
        f"{named}."
    )


def _cluster_table(clusters: Sequence[Mapping[str, Any]]) -> Table:
    rows = tuple(
        (
            (one["name"] if one["pattern"] else "No pattern")
            + ("" if one["pattern"] or not one["terms"] else f"\n{one['name']}"),
            _DIRECTION_WORDS[one["direction"]],
            f"{one['n']:,}",
            _interval(one["mean_error_months"]),
            f"{one['n_matching_worst']:,} of {one['n_matching']:,}\n{percent(one['rate'])}"
            if one["terms"]
            else "–",
            percent(one["rate_elsewhere"]),
            p_text(one["p_value"]) if one["terms"] else "–",
        )
        for one in clusters
    )
    flat = pd.DataFrame(
        [
            {
                **{key: one[key] for key in ("name", "direction", "pattern", "p_value", "n")},
                **{f"mean_error_{key}": one["mean_error_months"][key] for key in ("value", "low",
                   "high")},
                **{key: one[key] for key in ("n_matching", "n_matching_worst", "rate",
                   "rate_elsewhere", "typical_case_id")},
                **{f"matching_error_{key}": one["matching_error_months"][key] for key in ("value",
                   "low", "high")},
                "case_ids": " ".join(one["case_ids"]),
            }
            for one in clusters
        ]
    )  # fmt: skip
    return Table(
        "Groups of worst cases by likeness, named by the rule that tells them best. Mean error in "
        "months with 95% interval; how many of all cases that fulfil the rule are among the worst "
        "of that direction, and the share among all others; p by repeating the whole search on "
        "cases drawn at random. Words below “No pattern” describe, no more.",
        ("Rule", "Read", "Cases", "Mean error", "Among the worst", "Elsewhere", "p"),
        rows,
        flat,
        words=(0, 1),
    )  # fmt: skip


def _interval(estimate: Mapping[str, float | None]) -> str:
    text = months(estimate["value"], signed=True)
    if estimate["low"] is None:
        return text
    low, high = (months(estimate[end], signed=True) for end in ("low", "high"))
    return f"{text}\n{low} to {high}"


def _trait_table(traits: pd.DataFrame, found: Mapping[str, Any]) -> Table:
    ordered = traits.sort_values(["p_holm", "p_value"], kind="stable").head(2 * _NAMED)
    return Table(
        f"The {len(ordered)} comparisons with the smallest p of {len(traits)} (the CSV has all): "
        "medians, or shares with the trait; effect (rank-biserial correlation, or × for a risk "
        "ratio) with 95% interval; the same among children of the same sex and stage; p after "
        "Holm.",
        ("Trait", "Group", "Worst", "Rest", "Effect", "Same sex and stage", "p"),
        tuple(_trait_row(row, found["labels"]) for row in ordered.to_dict("records")),
        traits,
        words=(0, 1),
    )


def _trait_row(row: Mapping[Any, Any], labels: Mapping[str, str]) -> tuple[str, ...]:
    risk = row["measure"] == "risk"
    shown = percent if risk else lambda value: f"{value:.3g}".replace("-", "−")
    return (
        labels[row["descriptor"]],
        GROUP_NAMES[row["group"]],
        shown(row["worst_value"]),
        shown(row["rest_value"]),
        _effect(row, ("effect", "low", "high"), risk=risk),
        _effect(row, ("adjusted", "adjusted_low", "adjusted_high"), risk=risk),
        p_text(row["p_holm"]),
    )


def _effect(row: Mapping[Any, Any], keys: tuple[str, str, str], *, risk: bool) -> str:
    if pd.isna(row[keys[0]]):
        return "–"
    value, low, high = (months(float(row[key]), signed=not risk, digits=2) for key in keys)
    return f"{'× ' if risk else ''}{value}\n{low} to {high}"


def _card_blocks(cards: Sequence[FailureCard]) -> list[Block]:
    blocks: list[Block] = []
    limit = card_limit_months(cards)
    for direction, words in _DIRECTION_WORDS.items():
        ours = [one for one in cards if (one.error_months > 0) == (direction == "over")]
        if not ours:
            continue
        maps = any(one.map_months is not None for one in ours)
        near = any(one.neighbours for one in ours)
        caption = f"The largest errors among cases read {words}; ages in months."
        if maps:
            caption += (
                " Integrated Gradients against a black image, on one scale for all cards: orange "
                "makes the prediction older, blue younger."
            )
        if near:
            caption += (
                " Beside it the training radiographs of the same sex that the network finds most "
                "like it, with their reference ages."
            )
        blocks.append(
            Drawing(
                partial(
                    failure_cards,
                    ours,
                    [card_heading(one, figure_text(one.case_id)) for one in ours],
                    limit_months=limit,
                ),
                f"Rows of pictures of cases read {words}, with attribution and neighbours",
                caption,
                _card_data(ours),
                vector=False,
            )
        )
    return blocks


def _card_data(cards: Sequence[FailureCard]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "case_id": one.case_id,
                "sex": one.sex,
                "reference_months": one.reference_months,
                "predicted_months": one.predicted_months,
                "error_months": one.error_months,
                "attribution_months": None
                if one.map_months is None
                else float(one.map_months.sum(dtype="float64")),
                "completeness_gap_months": one.gap_months,
                "neighbour_ids": " ".join(near.case_id for near in one.neighbours),
                "neighbour_months": " ".join(f"{near.months:g}" for near in one.neighbours),
            }
            for one in cards
        ]
    )


def _not_compared(found: Mapping[str, Any]) -> str:
    by_reason: dict[str, list[str]] = {}
    for column, why in found["not_tested"].items():
        by_reason.setdefault(why, []).append(found["labels"][column])
    if not by_reason:
        return ""
    named = "; ".join(f"{', '.join(names)} ({why})" for why, names in by_reason.items())
    return f"Not compared: {named}."
