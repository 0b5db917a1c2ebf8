"""Attribution of a whole cohort into an analysis folder, one case at a time."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import zarr
from torch import nn

from boneage_xai.attribution.activations import default_layers, layer_activations
from boneage_xai.attribution.interface import AttributedMap, AttributionSettings
from boneage_xai.attribution.methods import method_named
from boneage_xai.errors import AttributionError, ConfigError, DataError
from boneage_xai.regions.aggregation import aggregate
from boneage_xai.store import write_table
from boneage_xai.types import FloatImage, RegionMap

logger = logging.getLogger(__name__)

MAPS_FOLDER = "attributions.zarr"
ATTRIBUTION_TABLE = "attributions.parquet"
REGION_TABLE = "regions.parquet"

_HIGHEST_LABEL = 255


def attribute_cohort(
    network: nn.Module,
    *,
    case_ids: Sequence[str],
    pixels: npt.NDArray[np.uint8],
    is_male: npt.NDArray[np.bool_],
    out: Path,
    rows: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
    methods: Sequence[str] = ("integrated_gradients",),
    layers: Sequence[str] | None = None,
    settings: AttributionSettings | None = None,
    mean_image: FloatImage | None = None,
    regions_of: Callable[[str], RegionMap | None] | None = None,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Attribute every case with every method and write maps, activations and tables.

    Cases are read, attributed and written one by one, so memory does not grow with the
    cohort. Everything is prepared in a temporary folder inside ``out`` and moved into
    place at the end, ``attributions.zarr`` last: where it exists, all is complete.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months,
            on the device to compute on.
        case_ids: (n,) unique ids.
        pixels: (m, H, W) prepared images, may be memory-mapped.
        is_male: (n,) True for boys.
        out: analysis folder; made if need be, other commands' files in it are not touched.
        rows: (n,) row of ``pixels`` for each case; None where they correspond one to one.
        methods: names in ``METHODS``.
        layers: module names for activation maps; None chooses them, empty writes none.
        settings: of the methods.
        mean_image: (H, W) in [0, 1], for the baseline ``mean``.
        regions_of: returns a case's region map on the input grid (H, W), None where the
            case has none; called once per case.
        replace: whether an earlier attribution in ``out`` gives way, once this is complete.
        progress: called with (cases done, cases in all) after each case.

    Returns:
        Summary: n, methods, layers, n_with_regions, and by method
        median_absolute_gap_months (None without completeness) and median_seconds.

    Raises:
        ConfigError: an unknown method or layer, or an attribution that is there already.
        DataError: cases, pixels, sexes or region maps that do not fit together.
        AttributionError: a network or method that gives no valid map for a case.
    """
    settings = settings or AttributionSettings()
    positions = _checked_rows(case_ids, pixels, is_male, rows)
    chosen = {name: method_named(name) for name in methods}
    if not chosen:
        raise ConfigError("attribution: expected at least one method, found none")
    if (out / MAPS_FOLDER).exists() and not replace:
        raise ConfigError(
            f"{out / MAPS_FOLDER}: expected no attribution yet, found one; "
            "choose another folder or ask to replace it"
        )
    if layers is None:
        layers = default_layers(network, size_px=max(pixels.shape[1:]))
    first = next(network.parameters(), torch.zeros(0))
    out.mkdir(parents=True, exist_ok=True)
    attribution_rows: list[dict[str, Any]] = []
    region_sums = _RegionSums()
    with tempfile.TemporaryDirectory(prefix=".attribute.", dir=out) as staging:
        maps = _MapsWriter(
            Path(staging) / MAPS_FOLDER, case_ids, pixels.shape[1:], list(chosen), layers
        )
        for index, (case_id, row) in enumerate(zip(case_ids, positions, strict=True)):
            prepared = np.array(pixels[row])
            image = torch.tensor(prepared / 255.0, dtype=first.dtype, device=first.device)
            image = image[None, None]
            sex = torch.tensor([float(is_male[index])], dtype=first.dtype, device=first.device)
            regions = None if regions_of is None else regions_of(case_id)
            maps.write_input(index, prepared)
            if regions is not None:
                maps.write_regions(index, case_id, regions)
            for name, method in chosen.items():
                started = time.perf_counter()
                try:
                    attributed = method(network, image, sex, settings, mean_image)
                except AttributionError as error:
                    raise AttributionError(f"case {case_id}, {name}: {error}") from error
                seconds = time.perf_counter() - started
                maps.write_map(index, name, attributed.map_months)
                attribution_rows.append(_attribution_row(case_id, name, attributed, seconds))
                if regions is not None:
                    region_sums.add(case_id, name, aggregate(attributed.map_months, regions))
            if layers:
                for layer, values in layer_activations(network, image, sex, layers).items():
                    maps.write_activation(index, layer, values[0])
            if progress is not None:
                progress(index + 1, len(case_ids))
        maps.finish()
        attributions = pd.DataFrame(attribution_rows).astype(_ATTRIBUTION_TYPES)
        _move_into_place(Path(staging), out, attributions, region_sums.frame())
    logger.info("attributed %d cases into %s", len(case_ids), out)
    by_method = {name: attributions[attributions["method"] == name] for name in chosen}
    return {
        "n": len(case_ids),
        "methods": list(chosen),
        "layers": list(layers),
        "n_with_regions": len(maps.with_regions),
        "median_absolute_gap_months": {
            name: _median(table["completeness_gap_months"].abs())
            for name, table in by_method.items()
        },
        "median_seconds": {name: _median(table["seconds"]) for name, table in by_method.items()},
    }


_REGION_VALUES = ["signed_months", "absolute_months", "area_fraction"]
# Columns of nothing but None would otherwise be written without a type.
_ATTRIBUTION_TYPES = {
    "case_id": "string",
    "method": "string",
    "baseline": "string",
    "prediction_months": "float64",
    "baseline_prediction_months": "float64",
    "completeness_gap_months": "float64",
    "seconds": "float64",
}


class _RegionSums:
    """Region sums of many maps, kept as bare numbers, since a data frame each takes 100 kB."""

    def __init__(self) -> None:
        self.keys: list[tuple[str, str, tuple[str, ...]]] = []
        self.values: list[npt.NDArray[np.float64]] = []
        self.known: dict[tuple[str, ...], tuple[str, ...]] = {}

    def add(self, case_id: str, method: str, table: pd.DataFrame) -> None:
        regions = tuple(table["region"])
        self.keys.append((case_id, method, self.known.setdefault(regions, regions)))
        self.values.append(np.array(table[_REGION_VALUES], dtype=np.float64))

    def frame(self) -> pd.DataFrame | None:
        if not self.keys:
            return None
        rows = [
            (case_id, method, region) for case_id, method, names in self.keys for region in names
        ]
        keys = pd.DataFrame(rows, columns=["case_id", "method", "region"], dtype="string")
        values = pd.DataFrame(np.concatenate(self.values), columns=_REGION_VALUES)
        return pd.concat([keys, values], axis=1)


class _MapsWriter:
    """The Zarr group of one cohort, filled chunk by chunk."""

    def __init__(
        self,
        path: Path,
        case_ids: Sequence[str],
        shape: tuple[int, ...],
        methods: Sequence[str],
        layers: Sequence[str],
    ) -> None:
        self.n = len(case_ids)
        self.shape = shape
        self.names: dict[int, str] = {}
        self.with_regions: list[str] = []
        self.group = zarr.create_group(
            store=path,
            zarr_format=3,
            attributes={
                "case_ids": list(case_ids),
                "methods": list(methods),
                "layers": list(layers),
            },
        )
        self.arrays = {"inputs": self._array("inputs", shape, "uint8")}
        for method in methods:
            self.arrays[method] = self._array(method, shape, "float32")

    def _array(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        return self.group.create_array(
            name, shape=(self.n, *shape), chunks=(1, *shape), dtype=dtype
        )

    def write_input(self, index: int, pixels: npt.NDArray[np.uint8]) -> None:
        self.arrays["inputs"][index] = pixels

    def write_map(self, index: int, method: str, map_months: FloatImage) -> None:
        self.arrays[method][index] = map_months

    def write_activation(self, index: int, layer: str, values: FloatImage) -> None:
        # The size of a layer's map is known once the first case has run.
        name = f"activations/{layer}"
        if name not in self.arrays:
            self.arrays[name] = self._array(name, values.shape, "float32")
        self.arrays[name][index] = values

    def write_regions(self, index: int, case_id: str, regions: RegionMap) -> None:
        if regions.labels.shape != self.shape:
            raise DataError(
                f"case {case_id}: expected a region map on the input grid {self.shape}, "
                f"found {regions.labels.shape}"
            )
        if not 0 <= regions.labels.min() <= regions.labels.max() <= _HIGHEST_LABEL:
            raise DataError(
                f"case {case_id}: expected region labels from 0 to {_HIGHEST_LABEL}, "
                f"found {regions.labels.min()} to {regions.labels.max()}"
            )
        for value, name in regions.names.items():
            if self.names.setdefault(value, name) != name:
                raise DataError(
                    f"case {case_id}: expected label {value} to be {self.names[value]} as in "
                    f"the cases before, found {name}"
                )
        if "regions" not in self.arrays:
            self.arrays["regions"] = self._array("regions", self.shape, "uint8")
        self.arrays["regions"][index] = regions.labels.astype(np.uint8)
        self.with_regions.append(case_id)

    def finish(self) -> None:
        if self.with_regions:
            self.arrays["regions"].attrs.update(
                {
                    "names": {str(value): name for value, name in sorted(self.names.items())},
                    "case_ids": self.with_regions,
                }
            )


def _checked_rows(
    case_ids: Sequence[str],
    pixels: npt.NDArray[np.uint8],
    is_male: npt.NDArray[np.bool_],
    rows: Sequence[int] | npt.NDArray[np.integer[Any]] | None,
) -> list[int]:
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise DataError(
            f"attribution: expected pixels (m, H, W) of uint8, found {pixels.shape} "
            f"of {pixels.dtype}"
        )
    positions = list(range(len(pixels))) if rows is None else [int(row) for row in rows]
    if not len(case_ids) == len(is_male) == len(positions) or not positions:
        raise DataError(
            "attribution: expected one sex and one image for each of at least one case, found "
            f"{len(case_ids)} cases, {len(is_male)} sexes and {len(positions)} images"
        )
    if len(set(case_ids)) != len(case_ids):
        raise DataError("attribution: expected unique case ids, found one more than once")
    if not 0 <= min(positions) <= max(positions) < len(pixels):
        raise DataError(
            f"attribution: expected rows from 0 to {len(pixels) - 1}, "
            f"found {min(positions)} to {max(positions)}"
        )
    return positions


def _attribution_row(
    case_id: str, method: str, attributed: AttributedMap, seconds: float
) -> dict[str, Any]:
    return {
        "case_id": case_id,
        "method": method,
        "baseline": attributed.baseline,
        "prediction_months": attributed.prediction_months,
        "baseline_prediction_months": attributed.baseline_prediction_months,
        "completeness_gap_months": attributed.completeness_gap_months,
        "seconds": seconds,
    }


def _move_into_place(
    staging: Path, out: Path, attributions: pd.DataFrame, regions: pd.DataFrame | None
) -> None:
    """Put the tables, then the maps, where readers look; at no moment is half of one there."""
    # All is on disk before anything moves, so a full disk leaves the earlier results alone.
    write_table(staging / ATTRIBUTION_TABLE, attributions)
    if regions is not None:
        write_table(staging / REGION_TABLE, regions)
    target = out / MAPS_FOLDER
    if target.exists():
        # A folder cannot be renamed over another one. Moved aside, it goes with the staging.
        target.rename(staging / f"replaced-{MAPS_FOLDER}")
    (staging / ATTRIBUTION_TABLE).replace(out / ATTRIBUTION_TABLE)
    if regions is not None:
        (staging / REGION_TABLE).replace(out / REGION_TABLE)
    else:
        (out / REGION_TABLE).unlink(missing_ok=True)
    (staging / MAPS_FOLDER).rename(target)


def _median(values: pd.Series[float]) -> float | None:
    known = values.dropna()
    return float(known.median()) if len(known) else None
