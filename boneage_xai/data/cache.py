"""The pixel cache: every radiograph of a cohort decoded once, memory-mapped from then on.

A cache folder is named by a hash of the preprocessing settings and of the source: case ids, names,
sizes and modification times of the images, and some bytes of up to 64 of them, which tell apart two
data sets that agree in all else. So a changed setting or image makes another folder; only an image
changed in place without a change of its size and its time goes unseen. A folder holds
``pixels.npy``, ``geometry.npy``, ``intensity.npy`` and ``cache.json``, appears whole, and may be
deleted at any time. Digests of what was written are compared each time it is opened; a damaged
cache is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from boneage_xai.data.decoding import Decoded, Progress, decode_images
from boneage_xai.data.preprocess import INTENSITY_NAMES, PreprocessSettings, SourceMap
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.files import file_sha256, read_json, staged_folder, write_json
from boneage_xai.types import Cohort

FORMAT = "boneage_xai.pixels"
VERSION = 3
"""Raised whenever the same settings would give other pixels."""

CACHE_VARIABLE = "BONEAGE_XAI_CACHE"
_SAMPLED_IMAGES = 64
_SAMPLED_BYTES = 4096
_SMALL_FILES = ("geometry.npy", "intensity.npy")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PixelCache:
    """The prepared images of a cohort, one row per case in the cohort's order.

    Args:
        path: folder it lies in.
        case_ids: n ids.
        settings: preprocessing that made the pixels.
        fingerprint: hash of the source alone, the same for every setting.
        pixels: (n, S, S) uint8, memory-mapped, read-only.
        intensity: (n, 9) float32, ``INTENSITY_NAMES`` of the unprocessed pixels in [0, 1].
        geometry: (n, 10) int32: source height and width, crop, content (see ``SourceMap``).
    """

    path: Path
    case_ids: tuple[str, ...]
    settings: PreprocessSettings
    fingerprint: str
    pixels: npt.NDArray[np.uint8]
    intensity: npt.NDArray[np.float32]
    geometry: npt.NDArray[np.int32]
    _index: Mapping[str, int]
    _digests: Sequence[str]

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self.case_ids)

    def rows(self, case_ids: Sequence[str]) -> npt.NDArray[np.intp]:
        """Return the rows of these cases.

        Args:
            case_ids: m ids.

        Returns:
            (m,) row numbers.

        Raises:
            DataError: an id that the cache does not hold.
        """
        try:
            return np.array([self._index[case_id] for case_id in case_ids], dtype=np.intp)
        except KeyError as error:
            raise DataError(
                f"{self.path}: expected a cached image of case {error.args[0]}, found none"
            ) from None

    def digests(self) -> list[str]:
        """Return a hash of each case's prepared pixels, n strings in the order of the rows.

        It tells the same image again in other tables, folders and orders.
        """
        return list(self._digests)

    def source_map(self, case_id: str) -> SourceMap:
        """Return the way from this case's prepared image back to its source pixels.

        Raises:
            DataError: an id that the cache does not hold.
        """
        h, w, *boxes = (int(value) for value in self.geometry[self.rows([case_id])[0]])
        return SourceMap(
            source_shape=(h, w),
            size_px=self.settings.size_px,
            crop_px=(boxes[0], boxes[1], boxes[2], boxes[3]),
            content_px=(boxes[4], boxes[5], boxes[6], boxes[7]),
        )


def default_cache_folder() -> Path:
    """Return where caches go unless told otherwise.

    Returns:
        ``$BONEAGE_XAI_CACHE`` when set, else ``boneage_xai`` in the user's cache folder.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    # XDG: a relative path in the variable is to be ignored.
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):
        return Path(xdg) / "boneage_xai"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "boneage_xai"
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "boneage_xai"
    return Path.home() / ".cache" / "boneage_xai"


def source_fingerprint(cohort: Cohort) -> str:
    """Return a hash of a cohort's ids and images, without reading the images.

    Args:
        cohort: the cases, whose order counts.

    Returns:
        32 hexadecimal digits, from each case's id and its image's name, size and modification
        time; moving the whole folder changes nothing.
    """
    digest = hashlib.sha256()
    for case in cohort:
        try:
            stat = case.image.stat()
            seen = (stat.st_size, stat.st_mtime_ns)
        except OSError:
            seen = (-1, -1)
        digest.update(json.dumps([case.case_id, case.image.name, *seen]).encode())
    return digest.hexdigest()[:32]


def label_fingerprint(cohort: Cohort) -> str | None:
    """Return a hash of what a cohort's cases are labelled with.

    Args:
        cohort: the cases, whose order counts.

    Returns:
        32 hexadecimal digits, from each case's id, sex and bone age; None where no case has a
        bone age.
    """
    if not len(cohort.labelled()):
        return None
    digest = hashlib.sha256()
    for case in cohort:
        age = None if case.bone_age_months is None else round(case.bone_age_months, 3)
        digest.update(json.dumps([case.case_id, case.sex.value, age]).encode())
    return digest.hexdigest()[:32]


def open_cache(
    cohort: Cohort,
    settings: PreprocessSettings,
    folder: Path,
    workers: int | None = None,
    progress: Progress | None = None,
) -> PixelCache:
    """Open the pixel cache of a cohort, decoding every image when there is none yet.

    Args:
        cohort: the cases; row i of the cache is the i-th case.
        settings: preprocessing.
        folder: where caches lie; this one goes in a subfolder named by its key.
        workers: processes that decode; 1 decodes in this process, None uses all usable cores.
        progress: called with (images done, images in all) while decoding.

    Returns:
        The cache, memory-mapped.

    Raises:
        DataError: no cases, images that cannot be read, no room for the cache, or one that is
            damaged and cannot be made again.
        ConfigError: fewer than one worker.
    """
    if not len(cohort):
        raise DataError(f"cohort {cohort.name}: expected cases to cache, found none")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers: expected at least 1, found {workers}")
    fingerprint = source_fingerprint(cohort)
    path = folder / _key(settings, fingerprint, cohort)
    if path.exists():
        try:
            return _open(path, cohort, settings, fingerprint)
        except DataError as error:
            logger.warning("%s; it is made again", error)
            _put_away(path)
    logger.info("decoding %d images into %s", len(cohort), path)
    try:
        _build(cohort, settings, fingerprint, path, workers, progress)
    except OSError as error:
        raise DataError(f"{path}: expected room for the pixel cache, found {error}") from error
    except DataError:
        # Another process may have finished the same cache first, which serves as well.
        if not path.exists():
            raise
    return _open(path, cohort, settings, fingerprint)


def _put_away(path: Path) -> None:
    """Remove a damaged cache, but not one that another process has made in its place since."""
    aside = path.with_name(f".{path.name}.damaged-{os.getpid()}")
    with contextlib.suppress(OSError):
        path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _key(settings: PreprocessSettings, fingerprint: str, cohort: Cohort) -> str:
    parts = [FORMAT, VERSION, settings.model_dump(mode="json"), fingerprint, _sampled(cohort)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _sampled(cohort: Cohort) -> str:
    """Return a hash of the bytes in the middle of some images, evenly over the cohort."""
    digest = hashlib.sha256()
    for case in cohort.cases[:: -(-len(cohort) // _SAMPLED_IMAGES)]:
        with contextlib.suppress(OSError), case.image.open("rb") as file:
            file.seek(max(0, (case.image.stat().st_size - _SAMPLED_BYTES) // 2))
            digest.update(file.read(_SAMPLED_BYTES))
    return digest.hexdigest()


def _build(
    cohort: Cohort,
    settings: PreprocessSettings,
    fingerprint: str,
    path: Path,
    workers: int | None,
    progress: Progress | None,
) -> None:
    with staged_folder(path) as staged:
        target = staged / "pixels.npy"
        shape = (len(cohort), settings.size_px, settings.size_px)
        open_memmap(target, mode="w+", dtype=np.uint8, shape=shape)
        # A full disk would otherwise kill the process when it first touches a page.
        if hasattr(os, "posix_fallocate"):
            with target.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, target.stat().st_size)
        decoded = decode_images(
            [case.image for case in cohort], settings, target, workers, progress
        )
        _refuse_unreadable(cohort, decoded)
        np.save(staged / "geometry.npy", _geometry(decoded), allow_pickle=False)
        intensity = np.array([one.intensity for one in decoded], dtype=np.float32)
        np.save(staged / "intensity.npy", intensity, allow_pickle=False)
        write_json(
            staged / "cache.json",
            {
                "format": FORMAT,
                "version": VERSION,
                "fingerprint": fingerprint,
                "settings": settings.model_dump(mode="json"),
                "intensity": list(INTENSITY_NAMES),
                "case_ids": [case.case_id for case in cohort],
                "pixels_digests": _digests(np.load(target, mmap_mode="r", allow_pickle=False)),
                "sha256": {name: file_sha256(staged / name) for name in _SMALL_FILES},
            },
        )


def _digests(pixels: npt.NDArray[np.uint8]) -> list[str]:
    return [hashlib.blake2b(image, digest_size=8).hexdigest() for image in pixels]


def _refuse_unreadable(cohort: Cohort, decoded: Sequence[Decoded]) -> None:
    failures = [one for one in decoded if one.source_map is None]
    if failures:
        first = failures[0]
        raise DataError(
            f"cohort {cohort.name}: {len(failures)} of {len(cohort)} images cannot be read, "
            f"the first is case {cohort.cases[first.row].case_id}: {first.reason}"
        )


def _geometry(decoded: Sequence[Decoded]) -> npt.NDArray[np.int32]:
    maps = [one.source_map for one in decoded if one.source_map is not None]
    return np.array(
        [(*one.source_shape, *one.crop_px, *one.content_px) for one in maps], dtype=np.int32
    )


def _open(path: Path, cohort: Cohort, settings: PreprocessSettings, fingerprint: str) -> PixelCache:
    case_ids = tuple(case.case_id for case in cohort)
    n, size = len(case_ids), settings.size_px
    try:
        manifest = read_json(path / "cache.json")
        pixels = np.load(path / "pixels.npy", mmap_mode="r", allow_pickle=False)
        geometry = np.load(path / "geometry.npy", allow_pickle=False)
        intensity = np.load(path / "intensity.npy", allow_pickle=False)
        stored = PreprocessSettings.model_validate(manifest["settings"])
        stored_ids = tuple(manifest["case_ids"])
        digests = manifest["pixels_digests"]
        whole = digests == _digests(pixels) and all(
            manifest["sha256"][name] == file_sha256(path / name) for name in _SMALL_FILES
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, DataError) as error:
        raise DataError(f"{path}: expected a whole pixel cache, found damage ({error})") from error
    if not whole:
        raise DataError(f"{path}: expected the pixels that were written, found others")
    shapes = (pixels.shape, geometry.shape, intensity.shape)
    expected = ((n, size, size), (n, 10), (n, len(INTENSITY_NAMES)))
    if shapes != expected or stored != settings or stored_ids != case_ids:
        raise DataError(
            f"{path}: expected the pixel cache of cohort {cohort.name}, found another's"
        )
    index = {case_id: row for row, case_id in enumerate(case_ids)}
    return PixelCache(
        path, case_ids, settings, fingerprint, pixels, intensity, geometry, index, digests
    )
