"""The scoreboard of attribution methods: each against the truth of phantoms, on one network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from boneage_xai.analysis.interventions import intervene_run, phantoms_of
from boneage_xai.analysis.metrics import N_RESAMPLES, bootstrap_mean
from boneage_xai.analysis.run_analysis import (
    RunOnCohort,
    choose_cases,
)
from boneage_xai.analysis.run_attribution import attribute_run, training_references
from boneage_xai.anatomy import OUTSIDE_HAND
from boneage_xai.attribution.baselines import SameSexReferences
from boneage_xai.attribution.faithfulness import deletion
from boneage_xai.attribution.interface import AttributionMethod, AttributionSettings
from boneage_xai.attribution.methods import METHODS, method_named
from boneage_xai.attribution.randomisation import TOO_SIMILAR, randomise_parameters
from boneage_xai.attribution.requirements import check_methods
from boneage_xai.attribution.truth import amounts_on_input, localisation, region_agreement
from boneage_xai.errors import AttributionError, ConfigError, DataError
from boneage_xai.files import write_table
from boneage_xai.phantom.cohorts import PhantomCase
from boneage_xai.phantom.manifest import PhantomManifest
from boneage_xai.phantom.rendering import draw
from boneage_xai.phantom.sensitivity import sensitivity_of
from boneage_xai.predict import Progress
from boneage_xai.store import AnalysisFolder
from boneage_xai.types import FloatImage

SCORE_TABLE = "scoreboard.parquet"

RANDOMISED_CASES = 8
"""Cases, spread over sex and age, whose maps are compared with those of random networks."""

SCORES = (
    "region_correlation",
    "mass_accuracy",
    "rank_accuracy",
    "deletion_months",
    "absolute_gap_months",
    "randomised_similarity",
    "seconds",
)
"""Columns of the scoreboard that are averaged over cases."""

_DELETION_STEPS = 10
_DELETION_ORDERS = 4


def benchmark_run(
    prepared: RunOnCohort,
    manifest: PhantomManifest,
    phantoms: Sequence[PhantomCase],
    out: Path,
    *,
    methods: Sequence[str] | None = None,
    settings: AttributionSettings | None = None,
    limit: int | None = None,
    replace: bool = False,
    on_attribute: Progress | None = None,
    on_intervene: Progress | None = None,
    on_score: Progress | None = None,
) -> AnalysisFolder:
    """Score attribution methods on phantoms, where it is known what the maps should show.

    Attributions and interventions of the same cases are written first, then the scores.

    Args:
        prepared: run and phantoms, with region maps.
        manifest: record of the phantoms, as from ``phantom.cohorts.read_phantom_cohort``.
        phantoms: the cases of that record.
        out: analysis folder, new or of the same run and data.
        methods: names in ``METHODS``; None takes all that the run and its data allow.
        settings: of the methods.
        limit: at most so many cases, chosen evenly over sex and age.
        replace: whether earlier attributions in ``out`` give way.
        on_attribute: called with (done, total) cases attributed.
        on_intervene: called with (done, total) cases moved in age.
        on_score: called with (done, total) cases scored.

    Returns:
        The analysis folder with ``scoreboard.parquet``: a row per case and method with
        ``SCORES`` and the chance levels of the first two. ``region_correlation`` is Spearman's
        between months per region and the true effects; ``deletion_months`` the area between
        deletion in the map's order and in random order; ``randomised_similarity`` the rank
        correlation with the map of the network under random weights, on a few cases, NaN on
        the others. Hands that are fully grown do not change with age, and have no
        ``mass_accuracy`` and ``rank_accuracy``. Methods that cannot explain this network are
        left out; why is recorded.

    Raises:
        ConfigError: unknown methods, or attributions that are there already.
        DataError: cases that the record does not give, or without region maps.
        ReportError: ``out`` holds another analysis.
    """
    settings = settings or AttributionSettings()
    cohort = choose_cases(prepared.cohort, limit)
    if missing := [case.case_id for case in cohort if case.region_file is None]:
        raise DataError(
            f"{prepared.source}: expected a region map of every phantom, found none of {missing[0]}"
        )
    cases = phantoms_of(cohort, phantoms, prepared.source)
    named = {name: method_named(name) for name in methods or METHODS}
    allowed, refused, mean_image = _allowed(prepared, cohort.cases[0].case_id, named, settings)
    if not allowed:
        raise ConfigError(
            "scoreboard: expected a method that is valid for this network, found none: "
            + "; ".join(f"{name}: {why}" for name, why in refused.items())
        )
    attribute_run(
        prepared,
        out,
        methods=list(allowed),
        layers=(),
        settings=settings,
        limit=limit,
        replace=replace,
        progress=on_attribute,
    )
    folder = intervene_run(prepared, manifest, phantoms, out, limit=limit, progress=on_intervene)
    randomised = {case.case_id for case in choose_cases(cohort, RANDOMISED_CASES)}
    rows: list[dict[str, Any]] = []
    maps = _StoredMaps(folder)
    for done, (case, phantom) in enumerate(zip(cohort, cases, strict=True), start=1):
        hand = maps.hand(case.case_id)
        drawing = draw(
            phantom.hand,
            manifest.settings,
            phantom.seed,
            planted=phantom.planted(manifest.faults),
        )
        sensitivity = amounts_on_input(
            sensitivity_of(drawing).whole, prepared.cache.source_map(case.case_id)
        )
        image, sex = _input(prepared, case.case_id, case.sex.is_male)
        for name, method in allowed.items():
            values = maps.of(case.case_id, name)
            placed = localisation(values, sensitivity, hand) if sensitivity.any() else None
            removed = deletion(
                prepared.run.network,
                image,
                sex,
                values,
                n_steps=_DELETION_STEPS,
                n_random=_DELETION_ORDERS,
            )
            similarity = math.nan
            if case.case_id in randomised:
                similarity = _similarity(
                    method, prepared.run.network, image, sex, hand, settings, mean_image
                )
            rows.append(
                {
                    "case_id": case.case_id,
                    "sex": case.sex.value,
                    "age_months": phantom.hand.age_months,
                    "method": name,
                    "mass_accuracy": math.nan if placed is None else placed.mass_accuracy,
                    "mass_chance": math.nan if placed is None else placed.chance_hand_mass,
                    "rank_accuracy": math.nan if placed is None else placed.rank_accuracy,
                    "rank_chance": math.nan if placed is None else placed.chance_hand_rank,
                    "deletion_months": removed.area_change_months,
                    "randomised_similarity": similarity,
                }
            )
        if on_score is not None:
            on_score(done, len(cohort))
    scores = _with_regions_and_gaps(pd.DataFrame(rows), folder)
    run, data = prepared.record()
    detail = {
        "n": len(cohort),
        "limit": limit,
        "methods": list(allowed),
        "refused": refused,
        "randomised_cases": sorted(randomised),
        "too_similar": TOO_SIMILAR,
        "settings": settings.model_dump(mode="json"),
    }
    folder = AnalysisFolder.add_step(
        out, run=run, data=data, step="benchmark_methods", detail=detail
    )
    write_table(out / SCORE_TABLE, scores)
    return folder


def summarise_scores(
    scores: pd.DataFrame, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> pd.DataFrame:
    """Average the scores of each method, with bootstrap 95% intervals over cases.

    Args:
        scores: as ``benchmark_run`` writes them.
        seed: of the resampling.
        n_resamples: number of resamples of cases.

    Returns:
        Per method and score: method, score, n (cases that have it), value, low, high and chance
        (NaN where there is none). Limits are NaN for a single case. Methods come with the
        highest mean ``region_correlation`` first.

    Raises:
        DataError: no rows.
    """
    if scores.empty:
        raise DataError("scoreboard: expected at least one case, found none")
    rows: list[dict[str, Any]] = []
    for method, group in scores.groupby("method", sort=False):
        for score in SCORES:
            known = group[score].dropna()
            chance = score.replace("accuracy", "chance")
            row: dict[str, Any] = {"method": method, "score": score, "n": len(known)}
            row |= dict.fromkeys(("value", "low", "high", "chance"), math.nan)
            if len(known):
                mean = bootstrap_mean(known, seed=seed, n_resamples=n_resamples)
                row |= {key: mean[key] for key in ("value", "low", "high") if mean[key] is not None}
                if chance != score:
                    row["chance"] = float(group[chance].mean())
            rows.append(row)
    table = pd.DataFrame(rows)
    leading = table[table["score"] == "region_correlation"].set_index("method")["value"]
    places = leading.rank(ascending=False, method="first", na_option="bottom")
    order = table["method"].map(places).to_numpy()
    return table.iloc[np.argsort(order, kind="stable")].reset_index(drop=True)


class _StoredMaps:
    """The maps and region labels that ``attribute`` wrote, by case."""

    def __init__(self, folder: AnalysisFolder) -> None:
        group = folder.maps()
        if group is None:
            raise DataError(f"{folder.path}: expected the maps of attributions, found none")
        self.group = group
        case_ids: Any = group.attrs["case_ids"]
        self.index = {case_id: index for index, case_id in enumerate(case_ids)}
        names: Any = group["regions"].attrs["names"]
        self.outside = [int(v) for v, name in names.items() if name in OUTSIDE_HAND]

    def of(self, case_id: str, name: str) -> npt.NDArray[Any]:
        """Return a map (H, W)."""
        array: Any = self.group[name]
        return np.asarray(array[self.index[case_id]])

    def hand(self, case_id: str) -> npt.NDArray[np.bool_]:
        """Return (H, W) True on bones and soft tissue."""
        return ~np.isin(self.of(case_id, "regions"), self.outside)


def _allowed(
    prepared: RunOnCohort,
    case_id: str,
    named: dict[str, AttributionMethod],
    settings: AttributionSettings,
) -> tuple[dict[str, AttributionMethod], dict[str, str], FloatImage | None]:
    """Try every method on one case; return those that work, why others do not, a mean image."""
    allowed: dict[str, AttributionMethod] = {}
    refused: dict[str, str] = {}
    mean_image: FloatImage | None = None
    image, sex = _input(prepared, case_id, prepared.cohort[case_id].sex.is_male)
    for name, method in named.items():
        try:
            check_methods(prepared.run.network, [name])
            own_mean, references = training_references(prepared, settings, [name])
            mean_image = mean_image if own_mean is None else own_mean
            bound = _bound(method, references)
            bound(prepared.run.network, image, sex, settings, mean_image)
        except (AttributionError, ConfigError) as error:
            refused[name] = str(error)
        else:
            allowed[name] = bound
    return allowed, refused, mean_image


def _bound(method: AttributionMethod, references: SameSexReferences | None) -> AttributionMethod:
    """Return the method with the references that it needs, None for those that need none."""
    if references is None:
        return method
    taking_references: Callable[..., Any] = method
    return partial(taking_references, references=references)


def _input(prepared: RunOnCohort, case_id: str, is_male: bool) -> tuple[Tensor, Tensor]:
    pixels = np.asarray(prepared.cache.pixels[prepared.cache.rows([case_id])[0]])
    like = next(prepared.run.network.parameters(), torch.zeros(0))
    image = torch.tensor(pixels / 255.0, dtype=like.dtype, device=like.device)[None, None]
    return image, torch.tensor([float(is_male)], dtype=like.dtype, device=like.device)


def _similarity(
    method: AttributionMethod,
    network: nn.Module,
    image: Tensor,
    is_male: Tensor,
    hand: npt.NDArray[np.bool_],
    settings: AttributionSettings,
    mean_image: FloatImage | None,
) -> float:
    """Return the similarity to the map under random weights, NaN where there is no such map."""
    try:
        return randomise_parameters(
            method,
            network,
            image,
            is_male,
            hand,
            settings=settings,
            mean_image=mean_image,
            n_depths=1,
            n_seeds=1,
        ).at_full_depth()
    # A network of random weights may saturate, for which some methods have no valid map.
    except AttributionError:
        return math.nan


def _with_regions_and_gaps(scores: pd.DataFrame, folder: AnalysisFolder) -> pd.DataFrame:
    """Add what the other commands wrote: agreement with interventions, gaps, seconds."""
    attributions, regions = folder.attributions(), folder.regions()
    interventions = folder.interventions()
    if attributions is None or regions is None or interventions is None:
        raise DataError(f"{folder.path}: expected attributions, regions and interventions")
    agreements = [
        region_agreement(group, interventions)
        .by_case[["case_id", "spearman"]]
        .assign(method=method)
        .rename(columns={"spearman": "region_correlation"})
        for method, group in regions.groupby("method", sort=False)
    ]
    measured = attributions[["case_id", "method", "completeness_gap_months", "seconds"]].assign(
        absolute_gap_months=lambda table: table["completeness_gap_months"].abs()
    )
    keys = ["case_id", "method"]
    return scores.merge(pd.concat(agreements), on=keys, how="left").merge(
        measured.drop(columns="completeness_gap_months"), on=keys, how="left"
    )
