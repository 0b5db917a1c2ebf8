"""Interventions of a trained run on a cohort of phantoms: intervals and the analysis folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from boneage_xai.analysis.metrics import N_RESAMPLES, bootstrap_mean
from boneage_xai.analysis.run_analysis import RunOnCohort, choose_cases
from boneage_xai.analysis.subgroups import AGE_BINS_MONTHS, age_bin_indices
from boneage_xai.attribution.interventions import DELTA_MONTHS, intervene, run_predictor
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.files import write_table
from boneage_xai.phantom.cohorts import PhantomCase, render_case
from boneage_xai.phantom.manifest import MANIFEST_FILE, PhantomManifest
from boneage_xai.predict import Progress
from boneage_xai.store import AnalysisFolder, check_same_analysis
from boneage_xai.types import Cohort

Grouping = Literal["sex", "age"]

INTERVENTION_TABLE = "interventions.parquet"

# A picture drawn on another machine may differ by rounding, here and there.
_ROUNDING = 1.01 / 255
_ROUNDED_SHARE = 1e-3


def summarise_interventions(
    table: pd.DataFrame,
    by: Sequence[Grouping] = (),
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> pd.DataFrame:
    """Average the effect of each region over cases, with bootstrap 95% intervals.

    Args:
        table: as from ``attribution.interventions.intervene``.
        by: ``sex`` and ``age`` (bins of ``AGE_BINS_MONTHS``) are summarised apart.
        seed: of the resampling.
        n_resamples: number of resamples of cases.

    Returns:
        Per group and region: sex and age_from_months, age_to_months where asked for, region,
        n, n_changed (cases whose picture the region changes), slope_months_per_month, low,
        high, maturity_change. The limits are NaN for a single case.

    Raises:
        ConfigError: an unknown grouping.
        DataError: an empty table, or an age outside the bins.
    """
    if not set(by) <= {"sex", "age"}:
        raise ConfigError(f"interventions: expected groups by sex or age, found {', '.join(by)}")
    if table.empty:
        raise DataError("interventions: expected at least one case, found none")
    keys: list[str] = []
    if "sex" in by:
        keys.append("sex")
    if "age" in by:
        bins = age_bin_indices(table["age_months"])
        if (bins < 0).any():
            raise DataError(
                f"interventions: expected ages from {AGE_BINS_MONTHS[0]:g} to "
                f"{AGE_BINS_MONTHS[-1]:g} months, found {table['age_months'][bins < 0].iloc[0]:g}"
            )
        edges = np.asarray(AGE_BINS_MONTHS)
        table = table.assign(age_from_months=edges[bins], age_to_months=edges[bins + 1])
        keys += ["age_from_months", "age_to_months"]
    order = {region: place for place, region in enumerate(dict.fromkeys(table["region"]))}
    rows: list[dict[str, Any]] = []
    for values, group in table.groupby([*keys, "region"], sort=False):
        mean = bootstrap_mean(group["slope_months_per_month"], seed=seed, n_resamples=n_resamples)
        rows.append(
            {
                **dict(zip([*keys, "region"], values, strict=True)),
                "n": len(group),
                "n_changed": int((group["changed_px"] > 0).sum()),
                "slope_months_per_month": mean["value"],
                "low": np.nan if mean["low"] is None else mean["low"],
                "high": np.nan if mean["high"] is None else mean["high"],
                "maturity_change": float(group["maturity_change"].mean()),
            }
        )
    summary = pd.DataFrame(rows)
    summary = summary.assign(_place=summary["region"].map(order)).sort_values([*keys, "_place"])
    return summary.drop(columns="_place").reset_index(drop=True)


def intervene_run(
    prepared: RunOnCohort,
    manifest: PhantomManifest,
    phantoms: Sequence[PhantomCase],
    out: Path,
    *,
    limit: int | None = None,
    delta_months: float = DELTA_MONTHS,
    progress: Progress | None = None,
) -> AnalysisFolder:
    """Measure the effect of each region's age on the predictions of a run.

    Args:
        prepared: run and cases.
        manifest: record of the phantoms, as from ``phantom.cohorts.read_phantom_cohort``.
        phantoms: the cases of that record.
        out: analysis folder, new or of the same run and data.
        limit: at most so many cases, chosen evenly over sex and age.
        delta_months: step in age to either side, in months.
        progress: called with (done, total) cases.

    Returns:
        The analysis folder with ``interventions.parquet``.

    Raises:
        ConfigError: a limit under 1 or a step that is not above 0.
        DataError: cases that the record does not give, or pictures drawn otherwise.
        ReportError: ``out`` holds another analysis.
    """
    run, data = prepared.record()
    check_same_analysis(out, run=run, data=data)
    cohort = choose_cases(prepared.cohort, limit)
    cases = phantoms_of(cohort, phantoms, prepared.source)
    _check_picture(cohort, cases[0], manifest)
    table = intervene(
        run_predictor(prepared.run),
        cases,
        preprocessing=prepared.run.preprocessing,
        settings=manifest.settings,
        faults=manifest.faults,
        delta_months=delta_months,
        progress=progress,
    )
    detail = {
        "n": len(cases),
        "limit": limit,
        "delta_months": delta_months,
        "phantoms": manifest.model_dump(mode="json"),
    }
    folder = AnalysisFolder.add_step(out, run=run, data=data, step="intervene", detail=detail)
    write_table(out / INTERVENTION_TABLE, table)
    return folder


def phantoms_of(
    cohort: Cohort, phantoms: Sequence[PhantomCase], source: str
) -> tuple[PhantomCase, ...]:
    """Return the phantom of each case, and make sure that it is the same child."""
    by_id = {case.case_id: case for case in phantoms}
    for case in cohort:
        phantom = by_id.get(case.case_id)
        found = (case.sex, case.bone_age_months)
        if phantom is None or found != (phantom.hand.sex, phantom.label_months):
            raise DataError(
                f"{source}: case {case.case_id}: expected sex and label as {MANIFEST_FILE} gives "
                "them, found another case"
            )
    return tuple(by_id[case.case_id] for case in cohort)


def _check_picture(cohort: Cohort, case: PhantomCase, manifest: PhantomManifest) -> None:
    """Refuse pictures that this version of the toolkit draws otherwise."""
    written = read_radiograph(cohort[case.case_id].image).pixels
    drawn = render_case(case, manifest.settings, manifest.faults).pixels
    if written.shape != drawn.shape or (
        np.mean(np.abs(written - drawn) > _ROUNDING) > _ROUNDED_SHARE
    ):
        raise DataError(
            f"{cohort[case.case_id].image}: expected the picture that {MANIFEST_FILE} gives, found "
            "another: changed, or drawn by another version of the toolkit"
        )
