"""Errors, agreement and groups: the sections on how near predictions come."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd

from boneage_xai.analysis.sex_check import sex_warning
from boneage_xai.figures.performance import (
    bland_altman,
    error_distribution,
    mae_against_baselines,
    predicted_against_reference,
)
from boneage_xai.figures.subgroups import error_by_subgroup
from boneage_xai.store import AnalysisFolder
from reports.blocks import Block, Drawing, Section, Table, Text
from reports.wording import (
    BASELINE_NAMES,
    estimate_cell,
    estimate_text,
    group_name,
    months,
    run_name,
)

METRIC_NAMES = {
    "mae_months": "MAE",
    "rmse_months": "RMSE",
    "bias_months": "Bias",
    "within_6_months": "Within 6",
    "within_12_months": "Within 12",
    "within_24_months": "Within 24",
}

FITTED = "The baselines were fitted on the training cases and see the same cases as the model. "


def performance(folder: AnalysisFolder) -> Section | None:
    """Give the errors over all cases beside baselines and quoted values."""
    if not (folder.path / "metrics.json").is_file():
        return None
    metrics = folder.metrics()
    entries = {run_name(folder): metrics["overall"]}
    entries |= {BASELINE_NAMES.get(k, k): entry for k, entry in metrics["baselines"].items()}
    rows = [
        (
            name,
            f"{entry['n']:,}",
            *(estimate_cell(metric, entry[metric]) for metric in METRIC_NAMES),
        )
        for name, entry in entries.items()
    ]
    long = pd.DataFrame([_flat({"model": name}, entry) for name, entry in entries.items()])
    # Analyses of earlier versions hold no check.
    check = metrics.get("sex_check")
    warning = sex_warning(check) if check else None
    blocks: list[Block] = [Text((f"Warning: {warning}.",), notice=True)] if warning else []
    blocks += [
        Table(
            "Mean absolute error (MAE), root mean square error (RMSE) and bias in months, shares "
            "of cases within 6, 12 and 24 months of the reference; below each value its 95% "
            "interval (Wilson's for shares, else bootstrap).",
            ("Model", "Cases", *METRIC_NAMES.values()),
            tuple(rows),
            long,
        ),
        Drawing(
            partial(mae_against_baselines, metrics, run_name(folder)),
            "Mean absolute error of the model beside baselines and quoted values",
            f"{FITTED if metrics['baselines'] else ''}Quoted values come from another test set and "
            "cannot be compared.",
            long[["model", "n", "mae_months", "mae_months_low", "mae_months_high"]],
        ),
    ]
    if quoted := metrics.get("reference_values"):
        blocks.append(
            Table(
                "Quoted, not measured here.",
                ("Who", "MAE, months", "Source"),
                tuple(
                    (str(entry["name"]), months(entry["mae_months"]), str(entry["source"]))
                    for entry in quoted
                ),
                words=(0, 2),
            )
        )
    return Section("performance", "Performance", tuple(blocks))


def _flat(keys: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a group as one row of a CSV."""
    row = {**keys, "n": entry["n"]}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            row |= {
                name: value["value"],
                f"{name}_low": value["low"],
                f"{name}_high": value["high"],
            }
    return row


def agreement(folder: AnalysisFolder) -> Section | None:
    """Show predicted against reference and how they agree."""
    needed = ("predictions.parquet", "metrics.json")
    if not all((folder.path / name).is_file() for name in needed):
        return None
    predictions = folder.predictions()
    found = folder.metrics()["agreement"]
    numbers = (
        ("Bias", *estimate_text("bias_months", found["intervals"]["bias_months"])),
        (
            "Lower limit of agreement",
            *estimate_text("bias_months", found["intervals"]["lower_months"]),
        ),
        (
            "Upper limit of agreement",
            *estimate_text("bias_months", found["intervals"]["upper_months"]),
        ),
        ("Slope, months per month", *_three_digits(found["slope"], signed=True)),
        ("Correlation (Pearson)", *_three_digits(found["correlation"])),
        ("Concordance (Lin)", *_three_digits(found["concordance"])),
    )
    mean = (predictions["reference_months"] + predictions["predicted_months"]) / 2
    plotted = predictions.assign(mean_months=mean)
    blocks = (
        Drawing(
            partial(predicted_against_reference, predictions),
            "Scatter plot of predicted against reference bone age in months",
            "Each point is a case. On the line the prediction equals the reference.",
            predictions,
            narrow=True,
        ),
        Drawing(
            partial(bland_altman, predictions),
            "Bland–Altman plot: predicted minus reference against the mean of both",
            "A falling line means that the network reads towards the middle age.",
            plotted,
        ),
        Table(
            "Agreement of predicted with reference bone age; differences in months.",
            ("", "Value", "95% interval"),
            numbers,
            pd.DataFrame(numbers, columns=["what", "value", "interval_95"]),
        ),
        Drawing(
            partial(error_distribution, predictions),
            "Histogram of signed errors and cumulative shares of absolute errors",
            "How large the errors are.",
            predictions[["case_id", "sex", "error_months"]],
        ),
    )
    return Section("agreement", "Agreement with the reference", blocks)


def _three_digits(estimate: Mapping[str, float | None], *, signed: bool = False) -> tuple[str, str]:
    value, low, high = (
        months(estimate.get(key), signed=signed, digits=3) for key in ("value", "low", "high")
    )
    return value, "" if estimate.get("low") is None else f"{low} to {high}"


def subgroups(folder: AnalysisFolder) -> Section | None:
    """Give the errors by sex and age."""
    if not (folder.path / "metrics.json").is_file():
        return None
    groups = folder.metrics()["subgroups"]
    shown = ("mae_months", "bias_months", "within_12_months")
    rows = tuple(
        (
            group_name(group).capitalize() + (" †" if group["few_cases"] else ""),
            f"{group['n']:,}",
            *(" (".join(filter(None, estimate_text(m, group[m]))) for m in shown),
        )
        for group in groups
    )
    rows = tuple(
        (*row[:2], *(f"{cell})" if " (" in cell else cell for cell in row[2:])) for row in rows
    )
    flat = pd.DataFrame(
        [
            _flat(
                {
                    "by": group["by"],
                    "sex": group.get("sex"),
                    "age_from_months": (group.get("age_months") or [None, None])[0],
                    "age_to_months": (group.get("age_months") or [None, None])[1],
                },
                group,
            )
            for group in groups
        ]
    )
    blocks: list[Block] = []
    if any("age_months" in group for group in groups):
        for metric, sentence in (
            ("mae_months", "Mean absolute error by sex and age."),
            ("bias_months", "Bias by sex and age: above 0 the network reads too old."),
        ):
            blocks.append(
                Drawing(
                    partial(error_by_subgroup, groups, metric),
                    f"{METRIC_NAMES[metric]} per age bin for girls, boys and both",
                    sentence,
                    flat,
                )
            )
    few = any(group["few_cases"] for group in groups)
    note = " † Fewer than 20 cases: read the value with care, its interval is too narrow."
    blocks.append(
        Table(
            "MAE and bias in months, with 95% intervals." + (note if few else ""),
            ("Group", "Cases", "MAE", "Bias", "Within 12 months"),
            rows,
            flat,
        )
    )
    return Section("subgroups", "By sex and age", tuple(blocks))
