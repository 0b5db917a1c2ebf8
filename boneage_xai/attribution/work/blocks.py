"""Blocks: the cases that share batches, read, computed and written together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from boneage_xai.attribution.activations import layer_activations
from boneage_xai.attribution.forward import sex_effects
from boneage_xai.attribution.integrated_gradients import (
    Integrator,
    attribute_batch,
    attributed_map,
    make_integrator,
    restore_integrator,
)
from boneage_xai.attribution.interface import AttributedMap
from boneage_xai.attribution.methods import PATH_METHODS, method_named
from boneage_xai.attribution.path_cases import PathIntegral
from boneage_xai.attribution.precision import GATE_CASES
from boneage_xai.attribution.work.claim import Claim
from boneage_xai.attribution.work.folder import Journal, WorkPaths
from boneage_xai.attribution.work.job import Job
from boneage_xai.attribution.work.parts import (
    ATTRIBUTION_TYPES,
    REGION_TYPES,
    Part,
    RegionNames,
    columns_of,
    write_part,
)
from boneage_xai.attribution.writers import MapsWriter, check_regions, labels_of
from boneage_xai.errors import AttributionError
from boneage_xai.files import sync
from boneage_xai.regions.aggregation import aggregate
from boneage_xai.types import FloatImage, RegionMap

_SMALLEST_BLOCK = 8


@dataclass(frozen=True, eq=False)
class BlockInput:
    """A block as it is read: its number, cases, pixels (k, H, W) and region maps."""

    block: int
    members: range
    pixels: npt.NDArray[np.uint8]
    regions: tuple[RegionMap | None, ...]


@dataclass(frozen=True, eq=False)
class BlockResult:
    """A block as it is computed: per case its maps by method, activations and table rows."""

    source: BlockInput
    maps: tuple[dict[str, FloatImage], ...]
    activations: tuple[dict[str, FloatImage], ...]
    rows: tuple[dict[str, Any], ...]


def decide(job: Job) -> dict[str, Any]:
    """Measure and decide, once for a whole attribution, what a resume must not decide anew.

    Args:
        job: what is to be attributed, its network where it will compute.

    Returns:
        Threads, cases in a block, shapes of activation maps, and by path method what
        :func:`restore_integrator` needs.

    Raises:
        ConfigError: a layer that does not exist, or a baseline without what it needs.
        AttributionError: a network for which attributions are not defined.
    """
    n = len(job.case_ids)
    some = sorted(set(np.linspace(0, n - 1, GATE_CASES).round().astype(int).tolist()))
    images, sexes = job.tensors(job.pixels_of(some), some)
    integrators = {
        name: make_integrator(
            job.network,
            images,
            sexes,
            PATH_METHODS[name](job.settings),
            n_cases=n,
            mean_image=job.mean_image,
            references=job.references,
        )
        for name in job.methods
        if name in PATH_METHODS
    }
    layers = layer_activations(job.network, images[:1], sexes[:1], job.layers) if job.layers else {}
    return {
        "threads": torch.get_num_threads(),
        "block": max([_SMALLEST_BLOCK, *(one.batch_size for one in integrators.values())]),
        "layer_shapes": {name: list(values.shape[1:]) for name, values in layers.items()},
        "integrators": {name: one.decisions() for name, one in integrators.items()},
        "integration": {name: one.record() for name, one in integrators.items()},
    }


class BlockWorker:
    """A network made ready, and the three steps of a block.

    Reading, computing and writing may run in three threads at once, each for another block.

    Args:
        job: what is to be attributed.
        claim: of the work, with what was decided.
        paths: of the work.
    """

    def __init__(self, job: Job, claim: Claim, paths: WorkPaths) -> None:
        self.job = job
        self.claim = claim
        self.paths = paths
        self.journal = Journal(paths.journal)
        self.journal.note("worker")
        self.maps = MapsWriter(paths.maps)
        self.integrators: dict[str, Integrator] = {
            name: restore_integrator(
                job.network,
                decisions,
                PATH_METHODS[name](job.settings),
                mean_image=job.mean_image,
                references=job.references,
            )
            for name, decisions in claim.decisions["integrators"].items()
        }

    def read(self, block: int) -> BlockInput:
        """Read a block.

        Raises:
            DataError: a region map that does not fit.
        """
        members = self.claim.members(block)
        regions = []
        for index in members:
            case_id = self.job.case_ids[index]
            found = None if self.job.regions_of is None else self.job.regions_of(case_id)
            if found is not None:
                check_regions(case_id, found, self.job.pixels.shape[1:])
            regions.append(found)
        return BlockInput(block, members, self.job.pixels_of(members), tuple(regions))

    def compute(self, source: BlockInput) -> BlockResult:
        """Attribute the cases of a block.

        Raises:
            AttributionError: a network or method that gives no valid map for a case.
        """
        job, members = self.job, source.members
        case_ids = [job.case_ids[index] for index in members]
        images, sexes = job.tensors(source.pixels, members)
        effects = sex_effects(job.network, images, sexes)
        integrals = {
            name: _integrals(one, images, sexes, case_ids, name)
            for name, one in self.integrators.items()
        }
        maps: list[dict[str, FloatImage]] = []
        activations: list[dict[str, FloatImage]] = []
        rows: list[dict[str, Any]] = []
        for offset, case_id in enumerate(case_ids):
            image, sex = images[offset : offset + 1], sexes[offset : offset + 1]
            mine: dict[str, FloatImage] = {}
            with _own_random_numbers(members[offset], images.device):
                for name in job.methods:
                    started = time.perf_counter()
                    try:
                        if name in integrals:
                            integral, precision = integrals[name][offset]
                            baseline = self.integrators[name].settings.baseline
                            attributed = attributed_map(integral, precision, baseline)
                            seconds = integral.seconds
                        else:
                            attributed = method_named(name)(
                                job.network, image, sex, job.settings, job.mean_image
                            )
                            seconds = time.perf_counter() - started
                    except AttributionError as error:
                        raise AttributionError(f"case {case_id}, {name}: {error}") from error
                    mine[name] = attributed.map_months
                    rows.append(_row(case_id, name, attributed, effects[offset], seconds))
                found = layer_activations(job.network, image, sex, job.layers) if job.layers else {}
            maps.append(mine)
            activations.append({layer: values[0] for layer, values in found.items()})
        return BlockResult(source, tuple(maps), tuple(activations), tuple(rows))

    def note_computed(self, result: BlockResult) -> None:
        """Note in the journal that a block was computed."""
        members = result.source.members
        self.journal.note("computed", block=result.source.block, cases=len(members))

    def write(self, result: BlockResult) -> Part:
        """Write the maps of a block, then its part.

        Raises:
            DataError: region maps that contradict each other.
        """
        source, job = result.source, self.job
        names, first_names = RegionNames(), dict[str, tuple[str, str]]()
        chunks: dict[str, int] = {}
        region_rows: list[dict[str, Any]] = []
        with_regions: list[str] = []
        for offset, index in enumerate(source.members):
            case_id, regions = job.case_ids[index], source.regions[offset]
            arrays: dict[str, npt.NDArray[Any]] = {"inputs": source.pixels[offset]}
            arrays |= result.maps[offset]
            for layer, values in result.activations[offset].items():
                arrays[f"activations/{layer}"] = values
            if regions is not None:
                found = {str(value): (name, case_id) for value, name in regions.names.items()}
                names.add(found)
                first_names = found | first_names
                with_regions.append(case_id)
                arrays["regions"] = labels_of(regions)
                for method, map_months in result.maps[offset].items():
                    region_rows += _region_rows(case_id, method, map_months, regions)
            for name, values in arrays.items():
                chunks |= self.maps.write(name, index, values)
        for folder in {(self.paths.maps / name).parent for name in chunks}:
            sync(folder)
        part = Part(
            self.claim.digest,
            source.block,
            [job.case_ids[index] for index in source.members],
            columns_of(result.rows, ATTRIBUTION_TYPES),
            columns_of(region_rows, REGION_TYPES),
            first_names,
            with_regions,
            chunks,
        )
        write_part(self.paths.parts, part)
        return part


@contextmanager
def computing(threads: int) -> Iterator[None]:
    """Compute as was decided, so that results do not depend on who computes; then restore.

    Args:
        threads: of torch, which decide how sums are rounded.
    """
    before = torch.get_num_threads()
    cudnn = torch.backends.cudnn
    flags = (cudnn.deterministic, cudnn.benchmark)
    try:
        if threads != before:
            torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = flags
        if threads != before:
            torch.set_num_threads(before)


@contextmanager
def _own_random_numbers(index: int, device: torch.device) -> Iterator[None]:
    """Let what a method draws depend on the case alone, not on the cases before."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(index)
        yield


def _integrals(
    integrator: Integrator, images: Tensor, sexes: Tensor, case_ids: Sequence[str], name: str
) -> list[tuple[PathIntegral, str]]:
    try:
        return attribute_batch(integrator, images, sexes)
    except AttributionError as error:
        raise AttributionError(f"cases {case_ids[0]} to {case_ids[-1]}, {name}: {error}") from error


def _row(
    case_id: str, method: str, attributed: AttributedMap, sex_effect_months: float, seconds: float
) -> dict[str, Any]:
    found = {name: value for name, value in vars(attributed).items() if name in ATTRIBUTION_TYPES}
    measured = {"sex_effect_months": sex_effect_months, "seconds": seconds}
    return {"case_id": case_id, "method": method, **found, **measured}


def _region_rows(
    case_id: str, method: str, map_months: FloatImage, regions: RegionMap
) -> list[dict[str, Any]]:
    table = aggregate(map_months, regions)
    table.insert(0, "method", method)
    table.insert(0, "case_id", case_id)
    rows = zip(*(table[name].tolist() for name in REGION_TYPES), strict=True)
    return [dict(zip(REGION_TYPES, row, strict=True)) for row in rows]
