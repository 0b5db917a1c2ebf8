"""The sections of a report; a new one is a function and a line in ``SECTIONS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from boneage_xai.figures.cohort import bone_age_by_sex
from boneage_xai.figures.performance import (
    bland_altman,
    error_distribution,
    mae_against_baselines,
    predicted_against_reference,
)
from boneage_xai.figures.subgroups import error_by_subgroup
from boneage_xai.figures.training import learning_curve
from boneage_xai.store import AnalysisFolder
from reports.attribution_sections import activations, attributions, regions
from reports.blocks import Block, Drawing, Headline, HeadlineNumber, Section, Table, Text
from reports.clinical_section import clinical
from reports.failure_section import failures
from reports.groups_section import calibration, groups
from reports.intervals_section import intervals
from reports.intervention_section import interventions
from reports.occlusion_section import occlusion
from reports.profile_section import region_profiles
from reports.provenance import provenance
from reports.scoreboard_section import scoreboard
from reports.sex_section import sex_effect
from reports.shortcut_section import shortcuts
from reports.stress_section import stress
from reports.summary import explanation_sentences
from reports.wording import (
    BASELINE_NAMES,
    RESEARCH_USE,
    SEX_PLURALS,
    estimate_cell,
    estimate_text,
    group_name,
    months,
    optimism,
    performance_sentences,
    run_name,
    split_sentence,
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


def _has(folder: AnalysisFolder, *names: str) -> bool:
    return all((folder.path / name).is_file() for name in names)


def summary(folder: AnalysisFolder) -> Section:
    """Say in plain words what was found."""
    blocks: list[Block] = []
    if _has(folder, "metrics.json"):
        metrics = folder.metrics()
        overall = metrics["overall"]
        numbers = []
        for metric, label in (
            ("mae_months", "Mean absolute error, months"),
            ("bias_months", "Bias, months"),
            ("within_12_months", "Within 12 months"),
        ):
            value, interval = estimate_text(metric, overall[metric])
            numbers.append(
                HeadlineNumber(label, value, f"95% interval {interval}" if interval else "")
            )
        numbers.append(HeadlineNumber("Cases", f"{overall['n']:,}", split_sentence_tail(folder)))
        blocks.append(Headline(tuple(numbers)))
        blocks.append(Text(performance_sentences(metrics, run_name(folder))))
        if warning := optimism(folder):
            blocks.append(Text((warning,), notice=True))
        if overall["few_cases"]:
            few = "Fewer than 20 cases: the intervals are narrower than they should be."
            blocks.append(Text((few,), notice=True))
    if sentences := explanation_sentences(folder):
        blocks.append(Text(sentences))
    if not blocks:
        blocks.append(Text(("This analysis holds no results yet.",)))
    blocks.append(Text((RESEARCH_USE,), notice=True))
    return Section("summary", "Summary", tuple(blocks))


def split_sentence_tail(folder: AnalysisFolder) -> str:
    """Return what is to be known about the cases analysed, without their number."""
    return split_sentence(folder).partition(", ")[2]


def data(folder: AnalysisFolder) -> Section | None:
    """Say who was analysed."""
    if not _has(folder, "predictions.parquet"):
        return None
    predictions = folder.predictions()
    record = folder.manifest["data"]
    rows = []
    for name, part in [
        *((SEX_PLURALS[sex].capitalize(), predictions[predictions["sex"] == sex]) for sex in "FM"),
        ("All", predictions),
    ]:
        ages = part["reference_months"]
        if part.empty:
            continue
        rows.append(
            (
                name,
                f"{len(part):,}",
                months(float(ages.mean())),
                months(float(ages.std(ddof=0))),
                months(float(ages.median())),
                f"{ages.min():.0f} to {ages.max():.0f}",
            )
        )
    columns = ("", "Cases", "Mean", "SD", "Median", "Range")
    blocks: list[Block] = [
        Text(
            (f"Source: {record.get('source') or record.get('cohort')}; {split_sentence(folder)}.",)
        ),
        Table(
            "Reference bone age in months.",
            columns,
            tuple(rows),
            pd.DataFrame(rows, columns=["group", *columns[1:]]),
        ),
        Drawing(
            bone_age_by_sex(predictions["reference_months"], predictions["sex"]),
            "Histograms of reference bone age, girls above and boys below",
            "How many girls and boys of which reference bone age were analysed.",
            predictions[["case_id", "sex", "reference_months"]],
        ),
    ]
    return Section("data", "Who was analysed", tuple(blocks))


def performance(folder: AnalysisFolder) -> Section | None:
    """Give the errors over all cases beside baselines and quoted values."""
    if not _has(folder, "metrics.json"):
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
    blocks: list[Block] = [
        Table(
            "Mean absolute error (MAE), root mean square error (RMSE) and bias in months, shares "
            "of cases within 6, 12 and 24 months of the reference; below each value its bootstrap "
            "95% interval.",
            ("Model", "Cases", *METRIC_NAMES.values()),
            tuple(rows),
            long,
        ),
        Drawing(
            mae_against_baselines(metrics, run_name(folder)),
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
    if not _has(folder, "predictions.parquet", "metrics.json"):
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
            predicted_against_reference(predictions),
            "Scatter plot of predicted against reference bone age in months",
            "Each point is a case. On the line the prediction equals the reference.",
            predictions,
            narrow=True,
        ),
        Drawing(
            bland_altman(predictions),
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
            error_distribution(predictions),
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
    if not _has(folder, "metrics.json"):
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
                    error_by_subgroup(groups, metric),
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


def training(folder: AnalysisFolder) -> Section | None:
    """Show how the network was trained."""
    history = folder.history()
    if history is None or history.empty or history["val_mae_months"].isna().all():
        return None
    # Counted from 1, as the command line does.
    history = history.assign(epoch=history["epoch"] + 1)
    figure = Drawing(
        learning_curve(history),
        "Training and validation MAE per epoch",
        "The weights analysed here are those of the epoch with the lowest validation error.",
        history,
    )
    return Section("training", "Training", (figure,))


SECTIONS: dict[str, Callable[[AnalysisFolder], Section | None]] = {
    "summary": summary,
    "data": data,
    "performance": performance,
    "agreement": agreement,
    "calibration": calibration,
    "subgroups": subgroups,
    "groups": groups,
    "clinical": clinical,
    "intervals": intervals,
    "training": training,
    "attributions": attributions,
    "activations": activations,
    "regions": regions,
    "region-profile": region_profiles,
    "occlusion": occlusion,
    "interventions": interventions,
    "scoreboard": scoreboard,
    "sex_effect": sex_effect,
    "failures": failures,
    "stress": stress,
    "shortcuts": shortcuts,
    "provenance": provenance,
}

EVALUATE = "`boneage-xai evaluate RUN --data SOURCE --out {folder}`"
ATTRIBUTE = "`boneage-xai attribute RUN --data SOURCE --out {folder}`"
ADDED_BY: dict[str, tuple[str, str]] = {
    "data": ("Who was analysed", EVALUATE),
    "performance": ("Performance", EVALUATE),
    "agreement": ("Agreement with the reference", EVALUATE),
    "subgroups": ("By sex and age", EVALUATE),
    "calibration": ("Calibration", EVALUATE),
    "groups": ("By stage and other groups", EVALUATE),
    "clinical": ("Errors that matter to a diagnosis", EVALUATE),
    "intervals": ("How sure a single prediction is", f"{EVALUATE} on at least 100 labelled cases"),
    "training": ("Training", f"{EVALUATE} on a run that was trained with `boneage-xai train`"),
    "attributions": ("What the network looks at", ATTRIBUTE),
    "activations": ("Activation maps by layer", ATTRIBUTE),
    "regions": ("Months per hand region", f"{ATTRIBUTE} on a source with region maps (`labels/`)"),
    "region-profile": (
        "Which regions drive the prediction, by age and sex",
        f"{EVALUATE} and then {ATTRIBUTE} on a source with region maps (`labels/`)",
    ),
    "occlusion": (
        "Does each region matter?",
        "`boneage-xai occlude RUN --data SOURCE --out {folder}` on a source with region maps",
    ),
    "interventions": (
        "What each region causes",
        "`boneage-xai intervene RUN --data PHANTOMS --out {folder}` on phantoms",
    ),
    "scoreboard": (
        "How far the methods can be trusted",
        "`boneage-xai benchmark-methods RUN --data PHANTOMS --out {folder}` on phantoms",
    ),
    "sex_effect": (
        "What the sex does",
        "`boneage-xai sex-effect RUN --data SOURCE --out {folder}`",
    ),
    "failures": ("The worst cases", "`boneage-xai failures RUN --data SOURCE --out {folder}`"),
    "stress": ("Changes of appearance", "`boneage-xai stress RUN --data SOURCE --out {folder}`"),
    "shortcuts": (
        "Shortcuts: is it the hand?",
        "`boneage-xai shortcuts RUN --data SOURCE --out {folder}`",
    ),
}
"""Title of each section that can be missing, and the step that would add it."""
