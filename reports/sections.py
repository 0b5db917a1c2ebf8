"""The sections of a report; a new one is a function and a line in ``SECTIONS``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd

from boneage_xai.figures.cohort import bone_age_by_sex
from boneage_xai.figures.training import learning_curve
from boneage_xai.store import AnalysisFolder
from reports.attribution_sections import activations, attributions, regions
from reports.blocks import Block, Drawing, Headline, HeadlineNumber, Section, Table, Text
from reports.clinical_section import clinical
from reports.failure_section import failures
from reports.groups_section import calibration, groups
from reports.intervals_section import intervals
from reports.intervention_section import interventions
from reports.learning import shown_history
from reports.occlusion_section import occlusion
from reports.performance_sections import agreement, performance, subgroups
from reports.profile_section import region_profiles
from reports.provenance import provenance
from reports.scoreboard_section import scoreboard
from reports.sex_section import sex_effect
from reports.shortcut_section import shortcuts
from reports.stress_section import stress
from reports.summary import explanation_sentences
from reports.wording import (
    RESEARCH_USE,
    SEX_PLURALS,
    estimate_text,
    months,
    optimism,
    performance_sentences,
    run_name,
    split_sentence,
)


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
            partial(bone_age_by_sex, predictions["reference_months"], predictions["sex"]),
            "Histograms of reference bone age, girls above and boys below",
            "How many girls and boys of which reference bone age were analysed.",
            predictions[["case_id", "sex", "reference_months"]],
        ),
    ]
    return Section("data", "Who was analysed", tuple(blocks))


def training(folder: AnalysisFolder) -> Section | None:
    """Show how the network was trained."""
    history = folder.history()
    if history is None or history.empty or history["val_mae_months"].isna().all():
        return None
    history = shown_history(history, folder.manifest["run"])
    kept = int(history.loc[history["kept"], "epoch"].iloc[0])
    figure = Drawing(
        partial(learning_curve, history, kept),
        "Training and validation MAE per epoch",
        "The ring marks the epoch whose weights are analysed: that with the lowest validation "
        "error, of those at full input size where inputs grew in stages.",
        history.drop(columns="kept"),
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
