"""Folder layouts: which label tables a data set holds and where their radiographs lie.

A layout is a function that picks, among label tables already recognised by their headers,
those it knows and names the image folders of each. To add one, write it and add its line
to ``LAYOUTS``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from boneage_xai.data.problems import Problem
from boneage_xai.data.tables import (
    TABLE_SUFFIXES,
    LabelTable,
    image_stem,
    normalise_header,
    strip_image_suffix,
)
from boneage_xai.errors import DataError

MAX_DEPTH = 6
DICOM_SUFFIXES = (".dcm", ".dicom", ".dic")
LABELS_FILE = "labels.json"
LABEL_MAPS = "labels"
"""Folder of label maps: it is no namesake of a table called like it."""


@dataclass(frozen=True)
class KnownSet:
    """Names under which a published set goes, in the form that ``plain_name`` gives.

    Args:
        tables: names of its label table, without suffix.
        folders: names of folders that hold its radiographs, at any depth.
    """

    tables: tuple[str, ...]
    folders: tuple[str, ...]


KNOWN_SETS: dict[str, KnownSet] = {
    "training": KnownSet(
        tables=("boneagetrainingdataset", "train", "training"),
        folders=("boneagetrainingdataset", "boneagetrainingset", "train", "training"),
    ),
    "validation": KnownSet(
        tables=("validationdataset", "boneagevalidationdataset", "validation", "val"),
        folders=(
            "boneagevalidationset",
            "boneagevalidationdataset",
            "boneagevalidationdataset1",
            "boneagevalidationdataset2",
            "validation",
            "val",
        ),
    ),
    "test": KnownSet(
        tables=("boneagegroundtruth", "boneagetestdataset", "boneagetestset", "test"),
        folders=("testsetimages", "boneagetestset", "boneagetestdataset", "test"),
    ),
}


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


@dataclass(frozen=True)
class ImageSet:
    """A set of cases before its rows are matched to files.

    Args:
        name: training, validation, test, or the stem of its table.
        table: its label table, None when the images themselves state sex and age.
        folders: where its radiographs lie.
        layout: the key of ``LAYOUTS`` that found it.
    """

    name: str
    table: LabelTable | None
    folders: tuple[ImageFolder, ...]
    layout: str = ""

    @property
    def n_files(self) -> int:
        """How many files its folders hold, by whatever paths."""
        paths = (f.path / n for f in self.folders for names in f.files.values() for n in names)
        return len(distinct_files(paths))


Layout = Callable[[FolderIndex, Sequence[LabelTable]], tuple[ImageSet, ...]]


def distinct_files(paths: Iterable[Path]) -> list[Path]:
    """Return one path for each file: a folder and a link to it hold one file under two paths."""
    first: dict[str, Path] = {}
    for path in paths:
        first.setdefault(os.path.realpath(path), path)
    return list(first.values())


def plain_name(name: str) -> str:
    """Return a file or folder name without case, spaces and punctuation (``+`` is a space)."""
    return normalise_header(name)


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


def set_name(index: FolderIndex, table: Path) -> str:
    """Return what a table's set is: training, validation or test, else the table's stem."""
    known = _known_name(index, table)
    return known if known is not None else table.stem


def _known_name(index: FolderIndex, table: Path) -> str | None:
    stem = plain_name(table.stem)
    for name, known in KNOWN_SETS.items():
        if stem in known.tables:
            return name
    for part in reversed(index.parts(table.parent)):
        for name, known in KNOWN_SETS.items():
            if plain_name(part) in known.folders:
                return name
    return None


def _starts_with(parts: tuple[str, ...], head: tuple[str, ...]) -> bool:
    return parts[: len(head)] == head


def _scopes(index: FolderIndex, table: Path) -> list[tuple[str, ...]]:
    """Return the table's folder and those above it, up to the root, as parts."""
    parts = index.parts(table.parent)
    return [parts[:depth] for depth in range(len(parts), -1, -1)]


def find_kaggle(index: FolderIndex, tables: Sequence[LabelTable]) -> tuple[ImageSet, ...]:
    """Find tables with a folder of the same name beside them, doubled inside or not."""
    found = []
    for table in tables:
        home = index.parts(table.path.parent)
        namesake = plain_name(table.path.stem)
        folders = tuple(
            folder
            for folder in index.image_folders
            if len(folder.parts) > len(home)
            and _starts_with(folder.parts, home)
            and plain_name(folder.parts[len(home)]) == namesake != LABEL_MAPS
        )
        if folders:
            found.append(ImageSet(set_name(index, table.path), table, folders))
    return tuple(found)


def find_rsna(index: FolderIndex, tables: Sequence[LabelTable]) -> tuple[ImageSet, ...]:
    """Find tables of ``KNOWN_SETS`` with the set's folders nearest to the table."""
    found = []
    for table in tables:
        name = _known_name(index, table.path)
        if name is None:
            continue
        known = KNOWN_SETS[name].folders
        for scope in _scopes(index, table.path):
            folders = tuple(
                folder
                for folder in index.image_folders
                if _starts_with(folder.parts, scope)
                and any(plain_name(part) in known for part in folder.parts)
            )
            if folders:
                found.append(ImageSet(name, table, folders))
                break
    return tuple(found)


def find_deeplasia(index: FolderIndex, tables: Sequence[LabelTable]) -> tuple[ImageSet, ...]:
    """Find tables whose column ``dir`` says in which folder each radiograph lies."""
    found = []
    for table in tables:
        if "dir" not in table.columns:
            continue
        named = {row.image.rpartition("/")[0] for row in table.rows}
        folders = [folder for name in named for folder in folders_named(index, table.path, name)]
        unique = {folder.path: folder for folder in folders}
        found.append(
            ImageSet(set_name(index, table.path), table, tuple(unique[p] for p in sorted(unique)))
        )
    return tuple(found)


def find_beside(index: FolderIndex, tables: Sequence[LabelTable]) -> tuple[ImageSet, ...]:
    """Find, for any table, the radiographs beside or below it, else beside or below a parent.

    Folders to which another table lies nearer are left to that table.
    """
    homes = {index.parts(table.path.parent) for table in tables}
    found = []
    for table in tables:
        folders: tuple[ImageFolder, ...] = ()
        for scope in _scopes(index, table.path):
            nearer = [home for home in homes if len(home) > len(scope)]
            folders = tuple(
                folder
                for folder in index.image_folders
                if _starts_with(folder.parts, scope)
                and not any(_starts_with(folder.parts, home) for home in nearer)
            )
            if folders:
                break
        found.append(ImageSet(set_name(index, table.path), table, folders))
    return tuple(found)


def find_dicom(index: FolderIndex, tables: Sequence[LabelTable]) -> tuple[ImageSet, ...]:
    """Find DICOM files without a label table: their headers state sex and age."""
    if tables:
        return ()
    folders = []
    for folder in index.image_folders:
        files = {
            stem: kept
            for stem, names in folder.files.items()
            if (kept := tuple(n for n in names if n.lower().endswith(DICOM_SUFFIXES)))
        }
        if files:
            folders.append(replace(folder, files=files))
    return (ImageSet(index.root.resolve().name, None, tuple(folders)),) if folders else ()


# Asked in this order; each is given the tables that the ones before it left.
LAYOUTS: dict[str, Layout] = {
    "deeplasia": find_deeplasia,
    "kaggle": find_kaggle,
    "rsna": find_rsna,
    "table": find_beside,
    "dicom": find_dicom,
}


def find_sets(index: FolderIndex, tables: Sequence[LabelTable]) -> tuple[ImageSet, ...]:
    """Return the sets that the layouts find, each with a name of its own.

    Args:
        index: what the source holds.
        tables: its label tables; each becomes one set.
    """
    remaining = list(tables)
    sets: list[ImageSet] = []
    for name, layout in LAYOUTS.items():
        if sets and not remaining:
            break
        found = [replace(image_set, layout=name) for image_set in layout(index, remaining)]
        sets.extend(found)
        taken = {image_set.table.path for image_set in found if image_set.table}
        remaining = [table for table in remaining if table.path not in taken]
    return _with_unique_names(index, sets)


def _with_unique_names(index: FolderIndex, sets: Sequence[ImageSet]) -> tuple[ImageSet, ...]:
    """Rename sets that share a name to the table's stem, and if need be to its path."""

    def rename(sets: Sequence[ImageSet], to: Callable[[Path], str]) -> list[ImageSet]:
        names = [image_set.name for image_set in sets]
        return [
            replace(s, name=to(s.table.path)) if s.table and names.count(s.name) > 1 else s
            for s in sets
        ]

    by_stem = rename(sets, lambda table: table.stem)
    return tuple(rename(by_stem, lambda table: "/".join(index.parts(table))))


def folders_named(index: FolderIndex, table: Path, name: str) -> tuple[ImageFolder, ...]:
    """Return the image folders that a table means by a folder name.

    A doubled folder (``x/x``) goes by its single name. The folder beside the table comes
    first; else any folder of the index that ends in the name.

    Args:
        index: the index.
        table: the table, inside the root of the index.
        name: folders separated by ``/``.
    """
    wanted = _without_doubles(tuple(part for part in name.split("/") if part not in ("", ".")))
    home = index.parts(table.parent)
    beside = _without_doubles((*home, *wanted))
    exact = tuple(f for f in index.image_folders if _without_doubles(f.parts) == beside)
    if exact or not wanted:
        return exact
    return tuple(
        folder
        for folder in index.image_folders
        if _without_doubles(folder.parts)[-len(wanted) :] == wanted
    )


def _without_doubles(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for part, _ in itertools.groupby(parts))
