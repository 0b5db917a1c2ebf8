"""Decoding every radiograph of a cohort, to see which cannot be read and what the others state."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from boneage_xai.data.decoding import can_start_processes, usable_cores
from boneage_xai.data.matching import sex_disagrees
from boneage_xai.data.problems import Problem
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.data.repeats import pixels_digest
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.types import Case, Cohort, Sex


@dataclass(frozen=True)
class ImageInspection:
    """What decoding every radiograph of a cohort showed.

    Args:
        n: number of radiographs tried.
        problems: unreadable files, and files that state another sex than the table.
        width_px: smallest and largest width, None when none could be read.
        height_px: smallest and largest height, None when none could be read.
        with_pixel_spacing: number of files that state their pixel spacing.
        digests: case id to a hash of its radiograph's pixels, of those that could be read.
    """

    n: int
    problems: tuple[Problem, ...]
    width_px: tuple[int, int] | None
    height_px: tuple[int, int] | None
    with_pixel_spacing: int = 0
    digests: Mapping[str, str] = field(default_factory=dict)


def inspect_images(
    cohort: Cohort,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImageInspection:
    """Decode every radiograph of a cohort and report what cannot be read.

    Args:
        cohort: the cases.
        workers: processes to decode with; 1 decodes in this process, None takes one per core
            where there are images enough to keep them busy.
        progress: called as ``progress(done, total)`` while decoding.

    Returns:
        Problems in the cohort's order, and the range of sizes.

    Raises:
        ConfigError: fewer than one worker.
        DataError: a worker process died.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers: expected 1 or more, found {workers}")
    total = len(cohort)
    if workers is None:
        workers = min(usable_cores(), total // _IMAGES_WORTH_A_PROCESS + 1)
    problems: list[Problem] = []
    sizes: list[tuple[int, int]] = []
    with_spacing, digests = 0, dict[str, str]()
    for done, (case, seen) in enumerate(_decode_all(cohort, workers), start=1):
        if isinstance(seen, str):
            problems.append(Problem("unreadable_file", "error", seen, case.case_id, case.image))
        else:
            sizes.append((seen.height_px, seen.width_px))
            with_spacing += seen.has_spacing
            digests[case.case_id] = seen.digest
            if seen.sex is not None and seen.sex is not case.sex:
                problems.append(sex_disagrees(case.case_id, case.image, case.sex, seen.sex))
        if progress is not None:
            progress(done, total)
    heights, widths = [h for h, _ in sizes], [w for _, w in sizes]
    return ImageInspection(
        n=total,
        problems=tuple(problems),
        width_px=(min(widths), max(widths)) if sizes else None,
        height_px=(min(heights), max(heights)) if sizes else None,
        with_pixel_spacing=with_spacing,
        digests=digests,
    )


# Starting a process costs about as much as decoding this many radiographs.
_IMAGES_WORTH_A_PROCESS = 200


@dataclass(frozen=True)
class _Seen:
    height_px: int
    width_px: int
    has_spacing: bool
    sex: Sex | None
    digest: str


def _decode(image: Path) -> _Seen | str:
    """Return what one image shows, or why it cannot be read; runs in a worker process."""
    try:
        radiograph = read_radiograph(image)
    except DataError as error:
        return str(error)
    spaced, digest = radiograph.pixel_spacing_mm is not None, pixels_digest(radiograph.pixels)
    height, width = radiograph.pixels.shape
    return _Seen(height, width, spaced, radiograph.sex, digest)


def _decode_here(cohort: Cohort) -> Iterator[tuple[Case, _Seen | str]]:
    for case in cohort:
        yield case, _decode(case.image)


def _decode_all(cohort: Cohort, workers: int) -> Iterator[tuple[Case, _Seen | str]]:
    if workers == 1 or not can_start_processes():
        yield from _decode_here(cohort)
        return
    # Spawned, not forked: a fork of a process that runs torch threads may hang.
    context = multiprocessing.get_context("spawn")
    images = [case.image for case in cohort]
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        pool.submit(usable_cores).result()
    except BrokenProcessPool:
        # Such is a script without a main guard: no process comes to life.
        yield from _decode_here(cohort)
        return
    try:
        yield from zip(cohort, pool.map(_decode, images, chunksize=32), strict=True)
    except BrokenProcessPool as error:
        raise DataError(
            f"cohort {cohort.name}: a process that decoded its images died; "
            "decode with workers=1 to see at which image"
        ) from error
    finally:
        # Not `with`: after an interrupt that would first decode all that is left.
        pool.shutdown(cancel_futures=True)
