"""What a folder holds: its tables, radiographs and label maps, found in one walk."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from boneage_xai.data.problems import Problem
from boneage_xai.data.tables import TABLE_SUFFIXES, image_stem, strip_image_suffix
from boneage_xai.errors import DataError

MAX_DEPTH = 6
LABELS_FILE = "labels.json"


@dataclass(frozen=True)
class ImageFolder:
    """The radiographs that lie directly in one folder.

    Args:
        path: the folder.
        parts: its path below the root of the index.
        files: file name without image suffix, composed (NFC), to the names that have it.
    """

    path: Path
    parts: tuple[str, ...]
    files: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class FolderIndex:
    """What a folder holds, found in one walk.

    Args:
        root: the folder.
        tables: files that may be label tables.
        image_folders: folders that hold radiographs.
        region_folders: folders with a ``labels.json``, to the names of their PNG label maps
            by the same composed (NFC).
        unlisted: a note for each folder below the root that cannot be listed.
    """

    root: Path
    tables: tuple[Path, ...]
    image_folders: tuple[ImageFolder, ...]
    region_folders: Mapping[Path, Mapping[str, str]]
    unlisted: tuple[Problem, ...] = ()

    def parts(self, path: Path) -> tuple[str, ...]:
        """Return the parts of a path below the root."""
        return path.relative_to(self.root).parts


def distinct_files(paths: Iterable[Path]) -> list[Path]:
    """Return one path for each file: a folder and a link to it hold one file under two paths."""
    first: dict[str, Path] = {}
    for path in paths:
        first.setdefault(os.path.realpath(path), path)
    return list(first.values())


def index_folder(
    root: Path, only: Callable[[str], bool] | None = None, max_depth: int = MAX_DEPTH
) -> FolderIndex:
    """Walk a folder once and sort its files into tables, radiographs and label maps.

    Hidden files, ``__MACOSX`` and lock files of spreadsheets are passed over, and links to a
    folder around them.

    Args:
        root: the folder.
        only: which folders directly below the root to enter, by name; None enters all.
        max_depth: how many folders deep to look.

    Raises:
        DataError: the root cannot be listed.
    """
    tables: list[Path] = []
    image_folders: list[ImageFolder] = []
    region_folders: dict[Path, Mapping[str, str]] = {}
    unlisted: list[Problem] = []

    def walk(folder: Path, parts: tuple[str, ...], around: frozenset[str]) -> None:
        try:
            names, below = _list(folder)
        except DataError as refusal:
            if not parts:
                raise
            unlisted.append(Problem("unlisted_folder", "note", str(refusal), None, folder))
            return
        around |= {os.path.realpath(folder)}
        # A folder of label maps holds PNG files that are no radiographs.
        if LABELS_FILE in names:
            maps = [name for name in names if name.lower().endswith(".png")]
            region_folders[folder] = {unicodedata.normalize("NFC", name): name for name in maps}
            names = [name for name in names if name not in maps]
        files: dict[str, tuple[str, ...]] = {}
        for name in names:
            if strip_image_suffix(name) != name:
                stem = image_stem(name)
                files[stem] = (*files.get(stem, ()), name)
            elif name.lower().endswith(TABLE_SUFFIXES):
                tables.append(folder / name)
        if files:
            image_folders.append(ImageFolder(folder, parts, files))
        if len(parts) < max_depth:
            for name in below:
                if (parts or only is None or only(name)) and (
                    os.path.realpath(folder / name) not in around
                ):
                    walk(folder / name, (*parts, name), around)

    walk(root, (), frozenset())
    return FolderIndex(root, tuple(tables), tuple(image_folders), region_folders, tuple(unlisted))


def _list(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the files and of the folders in a folder, each sorted."""
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith((".", "~$", "__MACOSX")):
                    continue
                # A link that leads to itself is neither.
                with contextlib.suppress(OSError):
                    if entry.is_dir():
                        folders.append(entry.name)
                    elif entry.is_file():
                        files.append(entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot list the folder ({error.strerror})") from error
    return sorted(files), sorted(folders)
