"""The attribution of a network's predictions on a cohort, written into an analysis folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boneage_xai.analysis.run_analysis import RunOnCohort, choose_cases
from boneage_xai.attribution.baselines import (
    SameSexReferences,
    draw_references,
    mean_of_pixels,
)
from boneage_xai.attribution.batch import attribute_cohort
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.methods import BASELINE_METHODS, PATH_METHODS
from boneage_xai.attribution.requirements import check_methods, usable_layers
from boneage_xai.attribution.work.engines import Engine
from boneage_xai.data.preprocess import SourceMap
from boneage_xai.errors import ConfigError
from boneage_xai.regions.label_maps import read_region_map, region_maps_id, regions_on_input
from boneage_xai.store import AnalysisFolder, check_same_analysis
from boneage_xai.types import FloatImage, RegionMap


def attribute_run(
    prepared: RunOnCohort,
    out: Path,
    *,
    methods: Sequence[str] = ("integrated_gradients",),
    layers: Sequence[str] | None = None,
    settings: AttributionSettings | None = None,
    limit: int | None = None,
    replace: bool = False,
    resume: bool = False,
    engine: Engine | None = None,
    on_complete: Callable[[], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AnalysisFolder:
    """Explain the predictions of a run and write maps, activations and region tables.

    Args:
        prepared: run and cases.
        out: analysis folder, new or of the same run and data.
        methods: names of attribution methods.
        layers: layers whose activation maps are kept; None chooses them over the depth, where
            the network shows its layers.
        settings: of the methods.
        limit: at most so many cases, chosen evenly over sex and age.
        replace: whether an earlier attribution in ``out`` gives way.
        resume: whether an unfinished attribution goes on; a complete one stays as it is.
        engine: what computes; None computes in this process.
        on_complete: called where a resume finds all done.
        progress: called with (done, total) cases, at first with those done before.

    Returns:
        The analysis folder with ``attributions.zarr`` and ``attributions.parquet``, and
        ``regions.parquet`` where cases have region maps.

    Raises:
        ConfigError: unknown method or layer, attributions that are there already or unfinished,
            or a resume that does not fit them.
        AttributionError: a method or layers for which the network is not made.
        ReportError: ``out`` holds another analysis.
    """
    settings = settings or AttributionSettings()
    run, data = prepared.record()
    check_same_analysis(out, run=run, data=data)
    check_methods(prepared.run.network, methods)
    layers = usable_layers(prepared.run.network, layers)
    cohort = choose_cases(prepared.cohort, limit)
    cache = prepared.cache
    mean_image, references = training_references(prepared, settings, methods)

    files = {case.case_id: case.region_file for case in cohort if case.region_file is not None}
    size_px = prepared.run.preprocessing.size_px
    regions_of = _RegionMaps(files, {one: cache.source_map(one) for one in files}, size_px)
    extra: dict[str, Any] = {"settings": settings.model_dump(mode="json"), "limit": limit}
    if references is not None:
        extra["references"] = {"girls": len(references.girls), "boys": len(references.boys)}

    def record(summary: dict[str, Any]) -> None:
        AnalysisFolder.add_step(
            out, run=run, data=data, step="attribute", detail={**summary, **extra}
        )

    case_ids = [case.case_id for case in cohort]
    found = attribute_cohort(
        prepared.run.network,
        case_ids=case_ids,
        pixels=cache.pixels,
        is_male=cohort.is_male(),
        out=out,
        rows=cache.rows(case_ids),
        methods=methods,
        layers=layers,
        settings=settings,
        mean_image=mean_image,
        references=references,
        regions_of=regions_of if files else None,
        regions_id=region_maps_id(files) if files else None,
        model_id=prepared.run.model_id,
        replace=replace,
        resume=resume,
        engine=engine,
        # Recorded before the results, so that a kill between them leaves a folder to go on in.
        record=record,
        progress=progress,
    )
    if found.get("already_complete") and on_complete is not None:
        on_complete()
    return AnalysisFolder.open(out)


@dataclass(frozen=True, eq=False)
class _RegionMaps:
    """Reads region maps on the input grid, also in another process."""

    files: Mapping[str, Path]
    source_maps: Mapping[str, SourceMap]
    size_px: int

    def __call__(self, case_id: str) -> RegionMap | None:
        if case_id not in self.files:
            return None
        found = read_region_map(self.files[case_id])
        return regions_on_input(found, self.source_maps[case_id], self.size_px)


def training_references(
    prepared: RunOnCohort, settings: AttributionSettings, methods: Sequence[str]
) -> tuple[FloatImage | None, SameSexReferences | None]:
    """Return the mean training image and the same-sex references, each where it is needed."""
    needed = {PATH_METHODS[name](settings).baseline for name in methods if name in PATH_METHODS}
    if BASELINE_METHODS & set(methods):
        if settings.baseline == "expected":
            raise ConfigError(
                "baseline 'expected': expected Integrated or expected gradients alone, found "
                f"{', '.join(sorted(BASELINE_METHODS & set(methods)))}, which need one image"
            )
        needed.add(settings.baseline)
    cache, ids = prepared.cache, prepared.train_ids
    for baseline in ("mean", "expected"):
        if baseline in needed and not ids:
            raise ConfigError(
                f"baseline '{baseline}': expected the run's own training data as the source, "
                "found another"
            )
    mean_image = mean_of_pixels(cache.pixels, cache.rows(ids)) if "mean" in needed else None
    if "expected" not in needed:
        return mean_image, None
    return mean_image, draw_references(
        cache.pixels,
        cache.rows(ids),
        prepared.train_is_male,
        settings.n_references,
        settings.reference_seed,
    )
