"""Attribution of a whole cohort into an analysis folder, a block of cases at a time."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from boneage_xai.attribution.activations import default_layers, layer_activations
from boneage_xai.attribution.baselines import SameSexReferences
from boneage_xai.attribution.forward import sex_effects
from boneage_xai.attribution.integrated_gradients import (
    Integrator,
    attribute_batch,
    attributed_map,
    make_integrator,
)
from boneage_xai.attribution.interface import AttributedMap, AttributionSettings
from boneage_xai.attribution.methods import PATH_METHODS, method_named
from boneage_xai.attribution.path_integration import PathIntegral
from boneage_xai.attribution.precision import GATE_CASES
from boneage_xai.attribution.writers import MapsWriter, RegionSums
from boneage_xai.errors import AttributionError, ConfigError, DataError
from boneage_xai.regions.aggregation import aggregate
from boneage_xai.store import write_table
from boneage_xai.types import FloatImage, RegionMap

logger = logging.getLogger(__name__)

MAPS_FOLDER = "attributions.zarr"
ATTRIBUTION_TABLE = "attributions.parquet"
REGION_TABLE = "regions.parquet"

_SMALLEST_BLOCK = 8


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
    references: SameSexReferences | None = None,
    regions_of: Callable[[str], RegionMap | None] | None = None,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Attribute every case with every method and write maps, activations and tables.

    Cases are read, attributed and written in blocks, so memory does not grow with the
    cohort; those of a block share the batches of path methods. Everything is prepared in a
    temporary folder inside ``out`` and moved into place at the end, ``attributions.zarr`` last:
    where it exists, all is complete.

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
        references: for the baseline ``expected``.
        regions_of: returns a case's region map on the input grid (H, W), None where the
            case has none; called once per case.
        replace: whether an earlier attribution in ``out`` gives way, once this is complete.
        progress: called with (cases done, cases in all) after each case.

    Returns:
        Summary: n, methods, layers, n_with_regions, and by method
        median_absolute_gap_months (None without completeness), median_seconds, and for path
        methods median_nodes, n_not_converged and how they were integrated.

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
    region_sums = RegionSums()
    with tempfile.TemporaryDirectory(prefix=".attribute.", dir=out) as staging:
        maps = MapsWriter(
            Path(staging) / MAPS_FOLDER, case_ids, pixels.shape[1:], list(chosen), layers
        )
        # Prepared in here, so that a network that fails leaves nothing but what is cleared away.
        integrators = _integrators(
            network,
            *_inputs(pixels, positions, is_male, _spread(len(positions)), first),
            {name: PATH_METHODS[name](settings) for name in chosen if name in PATH_METHODS},
            len(positions),
            mean_image,
            references,
        )
        block = max([_SMALLEST_BLOCK, *(one.batch_size for one in integrators.values())])
        for start in range(0, len(case_ids), block):
            members = range(start, min(start + block, len(case_ids)))
            images, sexes = _inputs(pixels, positions, is_male, members, first)
            effects = sex_effects(network, images, sexes)
            integrals = {
                name: _integrals(integrator, images, sexes, [case_ids[i] for i in members], name)
                for name, integrator in integrators.items()
            }
            for offset, index in enumerate(members):
                case_id = case_ids[index]
                image, sex = images[offset : offset + 1], sexes[offset : offset + 1]
                regions = None if regions_of is None else regions_of(case_id)
                maps.write_input(index, np.array(pixels[positions[index]]))
                if regions is not None:
                    maps.write_regions(index, case_id, regions)
                for name, method in chosen.items():
                    started = time.perf_counter()
                    try:
                        if name in integrals:
                            integral, precision = integrals[name][offset]
                            baseline = integrators[name].settings.baseline
                            attributed = attributed_map(integral, precision, baseline)
                            seconds = integral.seconds
                        else:
                            attributed = method(network, image, sex, settings, mean_image)
                            seconds = time.perf_counter() - started
                    except AttributionError as error:
                        raise AttributionError(f"case {case_id}, {name}: {error}") from error
                    maps.write_map(index, name, attributed.map_months)
                    attribution_rows.append(
                        _attribution_row(case_id, name, attributed, effects[offset], seconds)
                    )
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
        "median_nodes": {name: _median(by_method[name]["nodes"]) for name in integrators},
        "n_not_converged": {
            name: int((~by_method[name]["converged"]).sum()) for name in integrators
        },
        "integration": {name: integrator.record() for name, integrator in integrators.items()},
    }


# Columns of nothing but None would otherwise be written without a type.
_ATTRIBUTION_TYPES = {
    "case_id": "string",
    "method": "string",
    "baseline": "string",
    "prediction_months": "float64",
    "baseline_prediction_months": "float64",
    "completeness_gap_months": "float64",
    "nodes": "Int64",
    "converged": "boolean",
    "precision": "string",
    "sex_effect_months": "float64",
    "seconds": "float64",
}


def _spread(n: int) -> list[int]:
    """Return up to four positions evenly over n cases."""
    return sorted(set(np.linspace(0, n - 1, GATE_CASES).round().astype(int).tolist()))


def _inputs(
    pixels: npt.NDArray[np.uint8],
    positions: Sequence[int],
    is_male: npt.NDArray[np.bool_],
    members: Sequence[int],
    like: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return images (k, 1, H, W) in [0, 1] and sexes (k,) of some cases."""
    prepared = np.stack([pixels[positions[index]] for index in members]) / 255.0
    images = torch.tensor(prepared, dtype=like.dtype, device=like.device)[:, None]
    sexes = np.array([float(is_male[index]) for index in members])
    return images, torch.tensor(sexes, dtype=like.dtype, device=like.device)


def _integrators(
    network: nn.Module,
    images: Tensor,
    sexes: Tensor,
    settings_of: Mapping[str, AttributionSettings],
    n_cases: int,
    mean_image: FloatImage | None,
    references: SameSexReferences | None,
) -> dict[str, Integrator]:
    return {
        name: make_integrator(
            network,
            images,
            sexes,
            settings,
            n_cases=n_cases,
            mean_image=mean_image,
            references=references,
        )
        for name, settings in settings_of.items()
    }


def _integrals(
    integrator: Integrator, images: Tensor, sexes: Tensor, case_ids: Sequence[str], name: str
) -> list[tuple[PathIntegral, str]]:
    try:
        return attribute_batch(integrator, images, sexes)
    except AttributionError as error:
        raise AttributionError(f"cases {case_ids[0]} to {case_ids[-1]}, {name}: {error}") from error


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
    case_id: str, method: str, attributed: AttributedMap, sex_effect_months: float, seconds: float
) -> dict[str, Any]:
    return {
        "case_id": case_id,
        "method": method,
        "baseline": attributed.baseline,
        "prediction_months": attributed.prediction_months,
        "baseline_prediction_months": attributed.baseline_prediction_months,
        "completeness_gap_months": attributed.completeness_gap_months,
        "nodes": attributed.nodes,
        "converged": attributed.converged,
        "precision": attributed.precision,
        "sex_effect_months": sex_effect_months,
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
