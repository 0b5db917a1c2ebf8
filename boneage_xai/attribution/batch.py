"""Attribution of a whole cohort into an analysis folder, block by block, which no kill undoes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import nn

from boneage_xai.attribution.activations import default_layers
from boneage_xai.attribution.baselines import SameSexReferences
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.methods import method_named
from boneage_xai.attribution.work.claim import Claim
from boneage_xai.attribution.work.engines import Engine, LocalEngine
from boneage_xai.attribution.work.folder import (
    ATTRIBUTION_TABLE,
    MAPS_FOLDER,
    REGION_TABLE,
    Journal,
    WorkPaths,
    begin_anew,
    counts,
    locked,
    move_into_place,
)
from boneage_xai.attribution.work.job import Job, check_rows, digest, identity
from boneage_xai.attribution.work.parts import (
    Part,
    RegionNames,
    part_path,
    read_part,
    write_tables,
)
from boneage_xai.attribution.writers import MapsWriter
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.files import read_json, read_table, write_json
from boneage_xai.stored_maps import StoredMaps
from boneage_xai.types import FloatImage, RegionMap

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
Record = Callable[[dict[str, Any]], None]


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
    regions_id: str | None = None,
    model_id: str | None = None,
    replace: bool = False,
    resume: bool = False,
    engine: Engine | None = None,
    record: Record | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Attribute every case with every method and write maps, activations and tables.

    Cases are read, attributed and written in blocks, so memory does not grow with the
    cohort; those of a block share the batches of path methods. Everything is prepared in the
    hidden folder ``.attribute`` inside ``out``, which also survives a kill, and moved into place at
    the end, ``attributions.zarr`` last: where it exists, all is complete. A resumed attribution
    ends with the same maps, to the bit, and the same tables but for measured seconds.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months,
            on the device to compute on.
        case_ids: (n,) unique ids.
        pixels: (m, H, W) prepared images, may be memory-mapped.
        is_male: (n,) True for boys.
        out: analysis folder; made if need be, other commands' files in it are not touched.
        rows: (n,) row of ``pixels`` for each case; None where they correspond one to one.
        methods: names in ``METHODS``; one that is named twice is computed once.
        layers: module names for activation maps, likewise; None chooses them, empty writes none.
        settings: of the methods.
        mean_image: (H, W) in [0, 1], for the baseline ``mean``.
        references: for the baseline ``expected``.
        regions_of: returns a case's region map on the input grid (H, W), None where the
            case has none; called once per case, in another thread or process.
        regions_id: tells one set of region maps from another, since they are not read in advance.
        model_id: tells one network from another where its tensors do not.
        replace: whether an earlier attribution in ``out`` gives way, once this is complete; an
            unfinished one gives way at once, unless ``resume`` is given too.
        resume: whether an unfinished attribution goes on; without one, this begins.
        engine: what computes the blocks; None computes in this process.
        record: called with the summary before results move into place, also again by a resume.
        progress: called with (cases done, cases in all), at first with those done before.

    Returns:
        Summary: n, methods, layers, n_with_regions, and by method
        median_absolute_gap_months (None without completeness), median_seconds, and for path
        methods median_map_error_fraction, median_nodes, n_not_converged and how they were
        integrated; ``work`` tells of
        starts and blocks. Just ``{"already_complete": True}`` where a resume finds nothing to do.

    Raises:
        ConfigError: an unknown method or layer, an attribution that is there already, one that is
            unfinished, that another process is at work on, or that does not fit the resume.
        DataError: cases, pixels, sexes or region maps that do not fit together.
        AttributionError: a network or method that gives no valid map for a case.
    """
    settings = settings or AttributionSettings()
    positions = check_rows(case_ids, pixels, is_male, rows)
    if not methods:
        raise ConfigError("attribution: expected at least one method, found none")
    for name in methods:
        method_named(name)
    if layers is None:
        layers = default_layers(network, size_px=max(pixels.shape[1:]))
    job = Job(
        network,
        tuple(case_ids),
        pixels,
        positions,
        np.asarray(is_male, dtype=bool),
        tuple(dict.fromkeys(methods)),
        tuple(dict.fromkeys(layers)),
        settings,
        mean_image,
        references,
        regions_of,
        regions_id,
        model_id,
    )
    engine = engine or LocalEngine()
    paths = WorkPaths(out)
    try:
        with locked(paths):
            return _attribute(job, paths, engine, replace, resume, record, progress)
    finally:
        engine.close()


def _attribute(
    job: Job,
    paths: WorkPaths,
    engine: Engine,
    replace: bool,
    resume: bool,
    record: Record | None,
    progress: Progress | None,
) -> dict[str, Any]:
    unfinished = paths.claim.exists()
    target = paths.out / MAPS_FOLDER
    if unfinished and not resume and not replace:
        raise ConfigError(
            f"{paths.out}: expected no unfinished attribution, found one; continue it with "
            "--resume or begin anew with --replace"
        )
    going_on = unfinished and resume
    if target.exists() and not replace and not resume:
        raise ConfigError(_there_already(target))
    ours = identity(job, engine.machine(job))
    if going_on:
        claim = Claim.read(paths.claim)
        claim.check(ours, paths.folder)
    else:
        if resume and target.exists():
            if StoredMaps(target).attrs.get("claim") == digest(ours):
                return {"already_complete": True}
            if not replace:
                raise ConfigError(_there_already(target))
        claim = _begin(job, paths, ours, engine)
    journal = Journal(paths.journal)
    journal.note("start", engine=engine.name)
    if not paths.summary.exists():
        try:
            _compute(job, claim, paths, engine, progress)
        except BaseException:
            if not any(part_path(paths.parts, n).exists() for n in range(len(claim.blocks))):
                # Nothing that a resume could build on.
                paths.claim.unlink()
            raise
        _merge(job, claim, paths, engine)
    summary: dict[str, Any] = read_json(paths.summary)
    if record is not None:
        record(summary)
    move_into_place(paths, regions=summary["n_with_regions"] > 0)
    paths.claim.unlink()
    logger.info("attributed %d cases into %s", len(job.case_ids), paths.out)
    return summary


def _there_already(target: Path) -> str:
    return (
        f"{target}: expected no attribution yet, found one; "
        "choose another folder or ask to replace it"
    )


def _begin(job: Job, paths: WorkPaths, ours: dict[str, Any], engine: Engine) -> Claim:
    """Decide what is to be decided once, and make everything that blocks are written into."""
    claim = Claim(ours, engine.decide(job))
    begin_anew(paths)
    MapsWriter.create(
        paths.maps,
        job.case_ids,
        job.pixels.shape[1:],
        job.methods,
        claim.decisions["layer_shapes"],
        regions=job.regions_of is not None,
        claim=digest(ours),
    )
    claim.write(paths.claim)
    return claim


def _compute(
    job: Job, claim: Claim, paths: WorkPaths, engine: Engine, progress: Progress | None
) -> None:
    """Compute the blocks that no whole part tells of."""
    names = RegionNames()
    pending: list[int] = []
    done = 0
    for block, members in enumerate(claim.blocks):
        part = read_part(paths.parts, block, claim.digest, claim.case_ids(block), paths.maps)
        if part is None:
            pending.append(block)
        else:
            names.add(part.region_names)
            done += len(members)

    def finished(part: Part) -> None:
        names.add(part.region_names)

    def computed(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, len(job.case_ids))

    computed(0)
    if pending:
        engine.compute(job, claim, paths, pending, finished, computed)


def _merge(job: Job, claim: Claim, paths: WorkPaths, engine: Engine) -> None:
    """Merge all parts into tables and write the summary."""
    names, with_regions = RegionNames(), list[str]()

    def parts() -> Iterator[Part]:
        for block in range(len(claim.blocks)):
            part = read_part(paths.parts, block, claim.digest, claim.case_ids(block), paths.maps)
            if part is None:
                raise DataError(
                    f"{part_path(paths.parts, block)}: expected the block's results, found damage; "
                    "--resume computes the block again"
                )
            names.add(part.region_names)
            with_regions.extend(part.with_regions)
            yield part

    table = paths.folder / ATTRIBUTION_TABLE
    write_tables(parts(), table, paths.folder / REGION_TABLE)
    MapsWriter(paths.maps).finish(names.names, with_regions)
    work = {"engine": engine.name, "blocks": len(claim.blocks), **counts(paths)}
    summary = _summary(job, claim, read_table(table), len(with_regions)) | {"work": work}
    write_json(paths.summary, summary)


def _summary(job: Job, claim: Claim, table: pd.DataFrame, n_with_regions: int) -> dict[str, Any]:
    by_method = {name: table[table["method"] == name] for name in job.methods}
    integrated = claim.decisions["integration"]
    return {
        "n": len(job.case_ids),
        "methods": list(job.methods),
        "layers": list(job.layers),
        "n_with_regions": n_with_regions,
        "median_absolute_gap_months": {
            name: _median(rows["completeness_gap_months"].abs()) for name, rows in by_method.items()
        },
        "median_map_error_fraction": {
            name: _median(by_method[name]["map_error_fraction"]) for name in integrated
        },
        "median_seconds": {name: _median(rows["seconds"]) for name, rows in by_method.items()},
        "median_nodes": {name: _median(by_method[name]["nodes"]) for name in integrated},
        "n_not_converged": {
            name: int((~by_method[name]["converged"]).sum()) for name in integrated
        },
        "integration": dict(integrated),
    }


def _median(values: pd.Series[float]) -> float | None:
    known = values.dropna()
    return float(known.median()) if len(known) else None
