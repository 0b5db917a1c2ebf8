"""Folder layouts: which label tables a data set holds and where their radiographs lie.

A layout is a function that picks, among label tables already recognised by their headers,
those it knows and names the image folders of each. To add one, write it and add its line
to ``LAYOUTS``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from boneage_xai.data.folder_index import FolderIndex, ImageFolder, distinct_files
from boneage_xai.data.tables import LabelTable, normalise_header

DICOM_SUFFIXES = (".dcm", ".dicom", ".dic")
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


def plain_name(name: str) -> str:
    """Return a file or folder name without case, spaces and punctuation (``+`` is a space)."""
    return normalise_header(name)


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
