"""The failure atlas: the worst cases of a network, what they share, and what they look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from boneage_xai.analysis.failure_cards import (
    CARDS_FILE,
    N_SHOWN_NEIGHBOURS,
    FailureCard,
    make_cards,
    write_cards,
)
from boneage_xai.analysis.failure_clusters import N_PERMUTATIONS, find_clusters
from boneage_xai.analysis.failure_descriptors import describe_cases, descriptor_of
from boneage_xai.analysis.failure_traits import LEVEL, compare_traits, worst_cases
from boneage_xai.analysis.metrics import bootstrap_mean
from boneage_xai.analysis.neighbours import neighbour_table, pooled_features
from boneage_xai.analysis.predictions import prediction_table
from boneage_xai.analysis.run_analysis import RunOnCohort
from boneage_xai.analysis.stages import with_stages
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.files import write_json, write_table
from boneage_xai.models.regressor import BoneAgeRegressor
from boneage_xai.predict import Progress
from boneage_xai.regions.label_maps import read_region_map, regions_on_input
from boneage_xai.store import AnalysisFolder, check_same_analysis
from boneage_xai.types import Cohort, RegionMap

FAILURE_TABLE = "failures.parquet"
RESULT_FILE = "failures.json"

N_PICTURES = 8

_COLUMNS = ("case_id", "sex", "reference_months", "predicted_months", "error_months")


def build_atlas(
    cases: pd.DataFrame,
    descriptors: pd.DataFrame,
    *,
    worst: int | None = None,
    seed: int = 0,
    n_permutations: int = N_PERMUTATIONS,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Find the worst cases and what they share.

    Args:
        cases: case_id, sex, reference_months, predicted_months and error_months per case.
        descriptors: case_id and the traits of ``describe_cases``, in the same order.
        worst: how many cases are the worst; None as in ``worst_cases``.
        seed: of random draws and the bootstrap.
        n_permutations: random draws of the test of groups.

    Returns:
        The table: the columns of ``cases``, stage, worst, direction (``over``, ``under`` or
        empty), cluster (position in ``clusters``, −1 for none) and the traits. The findings:
        n, n_worst, n_over, n_under, least_error_months (of the worst), mean_absolute_error_months
        of the worst and of the rest with intervals; ``traits`` (rows of ``compare_traits`` that
        were tested), ``not_tested`` (trait to why), ``clusters`` (of ``find_clusters``), ``rules``.

    Raises:
        DataError: no cases, tables of other cases, or an error that is not finite.
        ConfigError: ``worst`` out of range.
    """
    if list(cases["case_id"].astype(str)) != list(descriptors["case_id"].astype(str)):
        raise DataError("failure atlas: expected descriptors of the same cases, found others")
    columns = [column for column in descriptors.columns if column != "case_id"]
    staged = with_stages(cases.loc[:, list(_COLUMNS)])
    errors = cases["error_months"].to_numpy(dtype=np.float64)
    marked = worst_cases(errors, worst)
    table = staged.drop(columns=["age_months", "age_source"]).assign(
        case_id=cases["case_id"].astype(str),
        worst=marked,
        direction=np.where(marked, np.where(errors > 0, "over", "under"), ""),
    )
    for column in columns:
        table[column] = descriptors[column].to_numpy(dtype=np.float64)
    traits = compare_traits(table, columns, list(zip(table["sex"], table["stage"], strict=True)))
    clusters, labels = find_clusters(table, columns, seed=seed, n_permutations=n_permutations)
    table.insert(list(table.columns).index("direction") + 1, "cluster", labels)
    tested = traits.dropna(subset=["p_value"])
    sizes = np.abs(errors)
    findings = {
        "n": len(table),
        "n_worst": int(marked.sum()),
        "n_over": int((table["direction"] == "over").sum()),
        "n_under": int((table["direction"] == "under").sum()),
        "least_error_months": float(sizes[marked].min()),
        "mean_absolute_error_months": {
            "worst": bootstrap_mean(sizes[marked], seed=seed),
            "rest": bootstrap_mean(sizes[~marked], seed=seed),
        },
        "traits": tested.to_dict("records"),
        "not_tested": {
            column: _why_not(table, column)
            for column in columns
            if column not in set(tested["descriptor"])
        },
        "labels": {column: descriptor_of(column).label for column in columns},
        "clusters": clusters,
        "rules": {"level": LEVEL, "n_permutations": n_permutations, "seed": seed},
    }
    return table, findings


def _why_not(table: pd.DataFrame, column: str) -> str:
    known = table.loc[table[column].notna(), [column, "worst"]]
    if known.empty:
        return "known for no case"
    if known[column].nunique() == 1:
        return "the same for every case for which it is known"
    return f"known for {int(known['worst'].sum())} of the worst cases, too few to compare"


def failures_run(
    prepared: RunOnCohort,
    training: Cohort,
    out: Path,
    *,
    worst: int | None = None,
    pictures: int = N_PICTURES,
    neighbours: bool = True,
    seed: int = 0,
    n_permutations: int = N_PERMUTATIONS,
    regions_from: str | None = None,
    on_note: Callable[[str], None] | None = None,
    on_describe: Progress | None = None,
    on_read: Progress | None = None,
) -> AnalysisFolder:
    """Make the failure atlas of a run and write it.

    Predictions, attributions by region and neighbours that the folder holds already are used.

    Args:
        prepared: run and cases.
        training: the cases of the source that the run was trained on; may be empty.
        out: analysis folder, new or of the same run and data.
        worst: how many cases are the worst; None as in ``worst_cases``.
        pictures: of how many of them pictures are kept, half over- and half under-estimated.
        neighbours: whether the nearest training radiographs are looked for.
        seed: of random draws and the bootstrap.
        n_permutations: random draws of the test of groups.
        regions_from: folder that region maps came from, for the record.
        on_note: called with what is left out and why.
        on_describe: called with (done, total) cases described.
        on_read: called with (done, total) radiographs read by the network for neighbours.

    Returns:
        The analysis folder with ``failures.parquet``, ``failures.json`` and, with pictures,
        ``failure_cards.safetensors``.

    Raises:
        DataError: no labelled cases, or a radiograph or label map that cannot be read.
        ConfigError: ``worst`` out of range, or fewer than 0 pictures.
        ReportError: ``out`` holds another analysis.
    """
    if pictures < 0:
        raise ConfigError(f"pictures: expected 0 or more, found {pictures}")
    run, data = prepared.record()
    check_same_analysis(out, run=run, data=data)
    cohort = prepared.cohort.labelled()
    if not len(cohort):
        raise DataError(f"{prepared.source}: expected cases with a bone age, found none")
    say = on_note or (lambda text: None)
    folder = AnalysisFolder.open(out) if (out / "analysis.json").is_file() else None
    cases = _predictions(prepared, cohort, folder)
    near = None
    if neighbours:
        near = _neighbours(prepared, cohort, training, folder, say, on_read)
    descriptors, hand_from = describe_cases(
        cases,
        prepared.cache,
        regions_of=_maps_of(prepared, cohort),
        regions=None if folder is None else folder.regions(),
        neighbours=near,
        progress=on_describe,
    )
    table, findings = build_atlas(
        cases, descriptors, worst=worst, seed=seed, n_permutations=n_permutations
    )
    findings |= {"hand_from": hand_from, "with_neighbours": near is not None}
    cards = make_cards(prepared, table, near, pictures, say) if pictures else []
    detail = {
        "n": len(table),
        "worst": worst,
        "n_worst": findings["n_worst"],
        "pictures": pictures,
        "neighbours": neighbours,
        "seed": seed,
        "regions": regions_from,
    }
    written = AnalysisFolder.add_step(out, run=run, data=data, step="failures", detail=detail)
    write_atlas(out, table, findings, cards)
    return written


def write_atlas(
    out: Path, table: pd.DataFrame, findings: Mapping[str, Any], cards: Sequence[FailureCard]
) -> None:
    """Write table, findings and cards of a failure atlas, each whole or not at all."""
    write_table(out / FAILURE_TABLE, table)
    write_json(out / RESULT_FILE, findings)
    if cards:
        write_cards(out / CARDS_FILE, cards)
    else:
        (out / CARDS_FILE).unlink(missing_ok=True)


def _predictions(
    prepared: RunOnCohort, cohort: Cohort, folder: AnalysisFolder | None
) -> pd.DataFrame:
    """Return the predictions that the folder holds, or else make them."""
    if folder is not None and (folder.path / "predictions.parquet").is_file():
        known = folder.predictions()
        known = known.assign(case_id=known["case_id"].astype(str))
        if set(known["case_id"]) == {case.case_id for case in cohort}:
            order = known.set_index("case_id", drop=False)
            return order.loc[[case.case_id for case in cohort]].reset_index(drop=True)
    return prediction_table(prepared.run, cohort, prepared.cache)


def _maps_of(prepared: RunOnCohort, cohort: Cohort) -> Callable[[str], RegionMap | None] | None:
    files = {case.case_id: case.region_file for case in cohort if case.region_file is not None}
    if not files:
        return None
    size_px = prepared.run.preprocessing.size_px

    def regions_of(case_id: str) -> RegionMap | None:
        if case_id not in files:
            return None
        source = prepared.cache.source_map(case_id)
        return regions_on_input(read_region_map(files[case_id]), source, size_px)

    return regions_of


def _neighbours(
    prepared: RunOnCohort,
    cohort: Cohort,
    training: Cohort,
    folder: AnalysisFolder | None,
    say: Callable[[str], None],
    progress: Progress | None,
) -> pd.DataFrame | None:
    known = None if folder is None else folder.neighbours()
    if known is not None:
        return known.assign(case_id=known["case_id"].astype(str))
    network = prepared.run.network
    if not isinstance(network, BoneAgeRegressor):
        say("no neighbours: they need a network that the toolkit trained")
        return None
    if not len(training):
        say("no neighbours: the source does not hold the run's training radiographs")
        return None
    if min(len(training.where(sex=sex)) for sex in {case.sex for case in cohort}) < 2:
        say("no neighbours: the source holds fewer than two training radiographs of a sex")
        return None
    every = [case.case_id for case in (*cohort, *training)]
    rows = prepared.cache.rows(every)
    features = pooled_features(network, prepared.cache.pixels, rows, progress=progress)
    n = len(cohort)
    return neighbour_table(cohort, features[:n], training, features[n:], N_SHOWN_NEIGHBOURS)
