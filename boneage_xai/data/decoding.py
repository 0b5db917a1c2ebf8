"""Decoding many radiographs in parallel, each once, into one array on disk.

Apart from the cache because worker processes import this module: it stays clear of pandas and
Zarr, which would cost every worker seconds to load.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from numpy.lib.format import open_memmap

from boneage_xai.data.preprocess import PreprocessSettings, SourceMap, preprocess
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.errors import DataError

Progress = Callable[[int, int], None]
"""Called with the number of images done and the number there are."""

logger = logging.getLogger(__name__)

_CHUNK = 32
# Starting a pool takes about a second, which so few images do not repay.
_FEWEST_FOR_POOL = 64


@dataclass(frozen=True)
class Decoded:
    """What became of one image: either its geometry and intensity, or the reason it has none."""

    row: int
    source_map: SourceMap | None = None
    intensity: tuple[float, ...] = ()
    reason: str = ""


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def decode_images(
    paths: Sequence[Path],
    settings: PreprocessSettings,
    target: Path,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[Decoded]:
    """Preprocess images into the rows of an array on disk.

    Args:
        paths: n images.
        settings: preprocessing of every image.
        target: .npy file of (n, S, S) uint8, which exists already.
        workers: processes; 1 decodes in this process, None uses every usable core.
        progress: told after each batch of images.

    Returns:
        One result per image, in order. Rows of images that cannot be read stay as they are.
    """
    chunks = [range(low, min(low + _CHUNK, len(paths))) for low in range(0, len(paths), _CHUNK)]
    workers = min(usable_cores() if workers is None else workers, len(chunks))
    results: dict[int, Decoded] = {}
    if workers > 1 and len(paths) >= _FEWEST_FOR_POOL and can_start_processes():
        for decoded in _decode_in_pool(paths, chunks, settings, target, workers):
            results.update((one.row, one) for one in decoded)
            _tell(progress, len(results), len(paths))
    for chunk in chunks:
        if chunk[0] not in results:
            decoded = decode_rows(chunk, [paths[row] for row in chunk], settings, target)
            results.update((one.row, one) for one in decoded)
            _tell(progress, len(results), len(paths))
    return [results[row] for row in range(len(paths))]


def decode_rows(
    rows: Sequence[int], paths: Sequence[Path], settings: PreprocessSettings, target: Path
) -> list[Decoded]:
    """Preprocess a few images into their rows of the array on disk, in this process.

    Args:
        rows: row of each image.
        paths: as many images.
        settings: preprocessing of every image.
        target: .npy file of (n, S, S) uint8.

    Returns:
        One result per image.
    """
    array = open_memmap(target, mode="r+")
    results = []
    for row, path in zip(rows, paths, strict=True):
        try:
            prepared = preprocess(read_radiograph(path), settings)
        except DataError as error:
            results.append(Decoded(row, reason=str(error)))
            continue
        array[row] = prepared.pixels
        intensity = tuple(float(value) for value in prepared.intensity)
        results.append(Decoded(row, prepared.source_map, intensity))
    return results


def _decode_in_pool(
    paths: Sequence[Path],
    chunks: Sequence[range],
    settings: PreprocessSettings,
    target: Path,
    workers: int,
) -> Iterator[list[Decoded]]:
    # Spawned, never forked: a fork of a process that runs torch's threads can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        futures = [
            pool.submit(decode_rows, chunk, [paths[row] for row in chunk], settings, target)
            for chunk in chunks
        ]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        logger.warning("worker processes ended early; the rest is decoded in this process")
    finally:
        pool.shutdown(cancel_futures=True)


def can_start_processes() -> bool:
    """Whether spawned processes can import the main module of this one."""
    if multiprocessing.current_process().daemon:
        return False
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    return file is None or getattr(main, "__spec__", None) is not None or Path(file).is_file()


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
