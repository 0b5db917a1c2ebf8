"""The cases of an analysis as exports need them: radiograph, maps, regions, one grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from boneage_xai.attribution.methods import method_named
from boneage_xai.data.preprocess import PreprocessSettings, SourceMap, preprocess
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.errors import ConfigError, DataError, ReportError, first_problem
from boneage_xai.export.source_grid import (
    held_by_source,
    months_in_padding,
    spread_over_source,
)
from boneage_xai.regions.label_maps import BACKGROUND, read_region_map, regions_on_input
from boneage_xai.store import AnalysisFolder
from boneage_xai.types import Case, Cohort, FloatImage, LabelImage, Radiograph, RegionMap

PER_INTENSITY = frozenset({"gradient", "smoothgrad"})
"""Methods whose maps are in months per unit of intensity, black to white."""

PER_PATCH = frozenset({"occlusion"})
"""Methods whose values are effects of a patch around the pixel, and do not add up over pixels."""

# Another version of a decoder may round a level differently; another radiograph differs far more.
_LEVELS_APART = 0.5


@dataclass(frozen=True, eq=False)
class ExportedCase:
    """What is known of one attributed case.

    Args:
        case: id, image and sex.
        radiograph: as read.
        source_map: the geometry of the network's input.
        maps: by method, (S, S) float32 on the input grid, in the unit of ``unit_of``.
        regions: (H, W) labels on the source grid, None where no regions are known.
        attributes: by method the row of ``attributions.parquet``.
    """

    case: Case
    radiograph: Radiograph
    source_map: SourceMap
    maps: Mapping[str, FloatImage]
    regions: RegionMap | None
    attributes: Mapping[str, Mapping[str, Any]]


def unit_of(method: str) -> str:
    """Return the unit of a method's map on the source grid, in words."""
    if method in PER_PATCH:
        return "months per patch"
    if method in PER_INTENSITY:
        return "months per unit of intensity (black to white) per pixel"
    return "months per pixel"


def on_source(method: str, values: FloatImage, source_map: SourceMap) -> FloatImage:
    """Return a method's map (H, W) on the source grid, in the unit of :func:`unit_of`."""
    bring = held_by_source if method in PER_PATCH else spread_over_source
    return bring(values, source_map).astype(np.float32)


def sums_of(method: str, values: FloatImage, source_map: SourceMap) -> dict[str, float]:
    """Return the sum of a map and how much of it lies in the padding, if its values add up."""
    if method in PER_PATCH:
        return {}
    return {
        "sum": float(values.sum(dtype=np.float64)),
        "in_padding": months_in_padding(values, source_map),
    }


def attributed_cases(
    folder: AnalysisFolder,
    cohort: Cohort,
    *,
    methods: Sequence[str] | None = None,
    case_ids: Sequence[str] | None = None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the cases and the methods to export, checked before anything is read.

    Args:
        folder: an analysis with attributions.
        cohort: the cases of the data set.
        methods: names; None takes all that were computed.
        case_ids: ids; None takes all that were attributed.

    Raises:
        ReportError: no attributions in the folder.
        ConfigError: a method or a case that was not attributed.
        DataError: a case that the data set does not hold.
    """
    maps = folder.maps()
    if maps is None:
        raise ReportError(
            f"{folder.path}: expected attributions (from `boneage-xai attribute`), found none"
        )
    known_methods: list[str] = [str(name) for name in maps.attrs["methods"]]
    known_cases: list[str] = [str(name) for name in maps.attrs["case_ids"]]
    for what, wanted, known in (
        ("method", methods, known_methods),
        ("case", case_ids, known_cases),
    ):
        for name in wanted or ():
            if name not in known:
                raise ConfigError(
                    f"{folder.path}: expected the attributions of {what} {name}, found "
                    + (f"{', '.join(known)}" if what == "method" else f"{len(known)} other cases")
                )
    # Methods name files, so they are held against those there are, whatever the folder says.
    names = tuple(dict.fromkeys(methods or known_methods))
    for name in names:
        method_named(name)
    chosen = tuple(dict.fromkeys(case_ids or known_cases))
    for case_id in chosen:
        cohort[case_id]
    return chosen, names


def read_cases(
    folder: AnalysisFolder, cohort: Cohort, case_ids: Sequence[str], methods: Sequence[str]
) -> Iterator[ExportedCase]:
    """Read cases one by one and check that they are those that were attributed.

    Args:
        folder: an analysis with attributions.
        cohort: the cases of the data set, with their region maps where they have any.
        case_ids: which cases, as from ``attributed_cases``.
        methods: which methods.

    Yields:
        The cases in this order.

    Raises:
        DataError: a radiograph that cannot be read, or another radiograph or region map than the
            one that was attributed.
        ReportError: an analysis without the preprocessing of its network.
    """
    settings = _preprocessing(folder)
    maps: Any = folder.maps()
    table = folder.attributions()
    rows = {str(case_id): row for row, case_id in enumerate(maps.attrs["case_ids"])}
    for case_id in case_ids:
        case = cohort[case_id]
        radiograph = read_radiograph(case.image)
        prepared = preprocess(radiograph, settings)
        seen = np.asarray(maps["inputs"][rows[case_id]])
        if prepared.pixels.shape != seen.shape or _levels_apart(prepared.pixels, seen) > (
            _LEVELS_APART
        ):
            raise DataError(
                f"case {case_id}: expected the radiograph that was attributed, found another in "
                f"{case.image}"
            )
        attributes: dict[str, Mapping[str, Any]] = {}
        if table is not None:
            of_case = table[table["case_id"] == case_id]
            attributes = {str(row["method"]): row for row in of_case.to_dict("records")}  # type: ignore[misc]
        yield ExportedCase(
            case,
            radiograph,
            prepared.source_map,
            {name: np.asarray(maps[name][rows[case_id]], np.float32) for name in methods},
            _regions(case, prepared.source_map, maps, rows[case_id]),
            attributes,
        )


def _preprocessing(folder: AnalysisFolder) -> PreprocessSettings:
    try:
        return PreprocessSettings.model_validate(folder.manifest["run"].get("preprocessing"))
    except ValidationError as error:
        raise ReportError(
            f"{folder.path}: expected its network's preprocessing, found {first_problem(error)}"
        ) from error


def _levels_apart(ours: LabelImage, theirs: LabelImage) -> float:
    return float(np.abs(ours.astype(np.int16) - theirs.astype(np.int16)).mean())


def _regions(case: Case, source_map: SourceMap, maps: Any, row: int) -> RegionMap | None:
    """Return the regions on the source grid: of the file where they were drawn, else enlarged."""
    stored: RegionMap | None = None
    if "regions" in maps and case.case_id in maps["regions"].attrs["case_ids"]:
        array = maps["regions"]
        names = {int(value): str(name) for value, name in array.attrs["names"].items()}
        stored = RegionMap(np.asarray(array[row]), {0: BACKGROUND} | names)
    if case.region_file is None:
        if stored is None:
            return None
        return RegionMap(held_by_source(stored.labels, source_map), stored.names)
    drawn = read_region_map(case.region_file)
    if drawn.labels.shape != source_map.source_shape:
        raise DataError(
            f"case {case.case_id}: expected a region map of {source_map.source_shape} pixels like "
            f"its radiograph, found {drawn.labels.shape} in {case.region_file}"
        )
    if stored is not None:
        on_input = regions_on_input(drawn, source_map, source_map.size_px)
        if not _same_regions(on_input, stored):
            raise DataError(
                f"case {case.case_id}: expected the region map that was attributed, found another "
                f"in {case.region_file}"
            )
    return drawn


def _same_regions(ours: RegionMap, theirs: RegionMap) -> bool:
    values = np.unique(ours.labels).tolist()
    return np.array_equal(ours.labels, theirs.labels) and all(
        ours.names[value] == theirs.names.get(value) for value in values
    )
