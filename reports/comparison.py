"""A page that sets two or more analyses side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from boneage_xai import __version__
from boneage_xai.analysis.comparison import Comparison, compare
from boneage_xai.analysis.metrics import bootstrap_mean
from boneage_xai.analysis.multiplicity import difference_shown
from boneage_xai.analysis.subgroups import SEX_BY_AGE
from boneage_xai.errors import ReportError
from boneage_xai.figures.comparison import paired_errors
from boneage_xai.files import write_table, write_text
from boneage_xai.store import AnalysisFolder
from reports.blocks import Block, Drawing, Section, Table, Text
from reports.report import render_page
from reports.wording import RESEARCH_USE, SEX_PLURALS, method_name, months, percent

PAGE, CASES, GROUPS = "comparison.html", "comparison.parquet", "comparison_groups.parquet"


def write_comparison(folders: Sequence[Path], out: Path, *, seed: int = 0) -> Comparison:
    """Compare analyses and write a page and tables that need nothing else.

    Args:
        folders: two or more analysis folders of the same data.
        out: folder for ``comparison.html``, ``comparison.parquet`` (a row per model and case) and
            ``comparison_groups.parquet``; or the name of an HTML file, beside which the tables get
            its name.
        seed: of the bootstrap.

    Returns:
        What was found.

    Raises:
        ReportError: folders that are no analyses of the same data, or an ``out`` that is a file.
        DataError: no common case, or damaged files.
    """
    if out.suffix.lower() in (".html", ".htm"):
        parent, stem = out.parent, out.stem
        page = out
    else:
        parent, stem = out, "comparison"
        page = out / PAGE
    if page.is_dir() or (parent.exists() and not parent.is_dir()):
        raise ReportError(f"{out}: expected a folder or the name of an HTML file, found another")
    analyses = [AnalysisFolder.open(folder) for folder in folders]
    found = compare(analyses, seed=seed)
    text = render_comparison(found, analyses)
    write_table(parent / f"{stem}.parquet", found.cases)
    write_table(parent / f"{stem}_groups.parquet", found.groups)
    write_text(page, text)
    return found


def render_comparison(found: Comparison, folders: Sequence[AnalysisFolder]) -> str:
    """Return the page of a comparison as HTML."""
    sections = [_summary(found, folders), *(_errors(found, pair) for pair in _pairs(found))]
    sections += [section for section in (_maps(found), _regions(found)) if section is not None]
    n = found.cases["case_id"].nunique()
    return render_page(
        title=f"Comparison: {', '.join(found.names)}",
        subtitle=f"{n:,} cases, each read by every network",
        toolkit_version=__version__,
        sections=sections,
    )


def _pairs(found: Comparison) -> list[tuple[str, str]]:
    pairs = found.groups[["model_a", "model_b"]].drop_duplicates()
    return [(str(a), str(b)) for a, b in pairs.itertuples(index=False)]


def _of(table: pd.DataFrame, pair: tuple[str, str]) -> pd.DataFrame:
    return table[(table["model_a"] == pair[0]) & (table["model_b"] == pair[1])]


def comparison_sentences(found: Comparison) -> tuple[str, ...]:
    """Return what a comparison says on errors, in sentences with the numbers filled in."""
    sentences = []
    for pair in _pairs(found):
        groups = _of(found.groups, pair)
        overall = groups[groups["by"] == "all"].to_dict("records")[0]
        sentences.append(_verdict(pair, overall))
        cells = groups[groups["by"] == SEX_BY_AGE]
        found_cells = cells[difference_shown(cells["p_holm"], cells["low"], cells["high"])]
        for winner, shown in (
            (pair[0], found_cells[found_cells["mae_difference_months"] < 0]),
            (pair[1], found_cells[found_cells["mae_difference_months"] > 0]),
        ):
            if not shown.empty:
                named = "; ".join(_group(row) for row in shown.to_dict("records"))
                sentences.append(f"{winner} is closer in: {named}.")
        if found_cells.empty:
            sentences.append(
                f"In none of {len(cells)} groups by sex and age could a difference between "
                f"{pair[0]} and {pair[1]} be shown after Holm's correction."
            )
    return tuple(sentences)


def _verdict(pair: tuple[str, str], overall: dict[Any, Any]) -> str:
    value, low, high = (overall[key] for key in ("mae_difference_months", "low", "high"))
    interval = (
        ""
        if pd.isna(low)
        else (
            f", 95% interval {months(low, signed=True, digits=2)} to "
            f"{months(high, signed=True, digits=2)}"
        )
    )
    numbers = (
        f"{months(overall['mae_a_months'], digits=2)} against "
        f"{months(overall['mae_b_months'], digits=2)} months, difference "
        f"{months(value, signed=True, digits=2)}{interval}, p {_p(overall['p_holm'])}"
    )
    if not difference_shown(overall["p_holm"], low, high):
        return f"No difference between {pair[0]} and {pair[1]} could be shown ({numbers})."
    closer, other = pair if value < 0 else pair[::-1]
    return f"{closer} is closer than {other} (mean absolute error of {pair[0]} {numbers})."


def _group(row: dict[Any, Any]) -> str:
    years = f"{row['age_from_months'] / 12:g} to {row['age_to_months'] / 12:g} years"
    return (
        f"{SEX_PLURALS[str(row['sex'])]} of {years} (by "
        f"{months(abs(row['mae_difference_months']))} months, n = {row['n']:,})"
    )


def _summary(found: Comparison, folders: Sequence[AnalysisFolder]) -> Section:
    overall = found.cases.groupby("model", sort=False)["error_months"]
    rows = []
    for name, folder, left_out in zip(found.names, folders, found.left_out, strict=True):
        errors = overall.get_group(name)
        run = folder.manifest["run"]
        architecture = run.get("architecture") or {}
        sex = architecture.get("sex_features")
        rows.append(
            (
                name,
                str(run.get("recipe") or "–"),
                "–" if sex is None else "given" if sex else "not given",
                months(float(errors.abs().mean()), digits=2),
                months(float(errors.mean()), signed=True, digits=2),
                f"{len(errors):,}",
                f"{left_out:,}",
            )
        )
    blocks: list[Block] = [Text(comparison_sentences(found))]
    blocks.append(
        Table(
            "The networks on their common cases, months.",
            ("Analysis", "Network", "Sex", "MAE", "Bias", "Cases", "Left out"),
            tuple(rows),
            words=(0, 1, 2),
        )
    )
    if any(found.left_out):
        blocks.append(
            Text(
                ("Cases that another analysis lacks are left out of the comparison.",), notice=True
            )
        )
    blocks.append(Text((RESEARCH_USE,), notice=True))
    return Section("summary", "Summary", tuple(blocks))


def _errors(found: Comparison, pair: tuple[str, str]) -> Section:
    groups = _of(found.groups, pair)
    number = _pairs(found).index(pair) + 1
    return Section(
        f"errors-{number}",
        f"Errors: {pair[0]} and {pair[1]}",
        (
            Drawing(
                partial(paired_errors, groups),
                "Points with intervals: difference of the errors of two networks by sex and age",
                f"Below 0, {pair[0]} is closer to the reference on the same cases.",
                groups,
            ),
            Table(
                "Mean absolute errors and their difference in months with 95% interval; p by "
                "Wilcoxon's signed-rank test, corrected after Holm within groups of a kind.",
                ("Group", "Cases", pair[0], pair[1], "Difference", "p"),
                tuple(_error_row(row) for row in groups.to_dict("records")),
                groups,
            ),
        ),
    )


def _error_row(row: dict[Any, Any]) -> tuple[str, ...]:
    words = [SEX_PLURALS[str(row["sex"])]] if row["sex"] in SEX_PLURALS else []
    if not pd.isna(row["age_from_months"]):
        words.append(f"{row['age_from_months'] / 12:g}–{row['age_to_months'] / 12:g} years")
    difference = months(row["mae_difference_months"], signed=True, digits=2)
    if not pd.isna(row["low"]):
        difference += "\n" + " to ".join(
            months(row[end], signed=True, digits=2) for end in ("low", "high")
        )
    return (
        ", ".join(words) or "all",
        f"{row['n']:,}",
        months(row["mae_a_months"], digits=2),
        months(row["mae_b_months"], digits=2),
        difference,
        _p(row["p_holm"]),
    )


def _p(value: float) -> str:
    return "–" if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _maps(found: Comparison) -> Section | None:
    if found.maps.empty:
        return None
    rows = []
    for (a, b, method), group in found.maps.groupby(["model_a", "model_b", "method"], sort=False):
        known = group.dropna(subset=["rank_correlation"])
        if known.empty:
            continue
        mean = bootstrap_mean(known["rank_correlation"])
        interval = (
            ""
            if mean["low"] is None
            else f"\n{months(mean['low'], digits=2)} to {months(mean['high'], digits=2)}"
        )
        rows.append(
            (
                f"{a} and {b}",
                method_name(str(method)),
                f"{len(known):,}",
                months(mean["value"], signed=True, digits=2) + interval,
                months(float(known["chance"].mean()), signed=True, digits=2)
                if known["chance"].notna().any()
                else "–",
            )
        )
    if not rows:
        return None
    return Section(
        "maps",
        "Do they look at the same places?",
        (
            Text(
                (
                    "For each case the maps of two networks are correlated by rank, sign included, "
                    "over squares of the image: 1 means the same places in the same order, 0 "
                    "nothing in common. Chance is the correlation with the other network's map of "
                    "another case: what hands have in common anyway.",
                )
            ),
            Table(
                "Rank correlation of maps of the same case, mean with 95% interval.",
                ("Networks", "Method", "Cases", "Correlation", "Chance"),
                tuple(rows),
                found.maps,
                words=(0, 1),
            ),
        ),
    )


def _regions(found: Comparison) -> Section | None:
    if found.regions.empty:
        return None
    tables = [
        Table(
            f"{method_name(str(method))}, {a} and {b}: share of the summed magnitudes and mean "
            "signed months per region.",
            ("Region", "Cases", f"Share, {a}", f"Share, {b}", f"Months, {a}", f"Months, {b}"),
            tuple(
                (
                    str(row["region"]).replace("_", " "),
                    f"{row['n']:,}",
                    percent(row["share_a"]),
                    percent(row["share_b"]),
                    months(row["signed_a_months"], signed=True),
                    months(row["signed_b_months"], signed=True),
                )
                for row in group.sort_values("share_a", ascending=False).to_dict("records")
            ),
            group,
        )
        for (a, b, method), group in found.regions.groupby(
            ["model_a", "model_b", "method"], sort=False
        )
    ]
    return Section("regions", "Where each finds its months", tuple(tables))
