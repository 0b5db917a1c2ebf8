"""Cohorts from disk: label rows matched to radiographs, and every problem found on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from boneage_xai.data.folder_index import FolderIndex, index_folder
from boneage_xai.data.inspection import ImageInspection
from boneage_xai.data.layouts import KNOWN_SETS, ImageSet, find_sets, plain_name, set_name
from boneage_xai.data.matching import Matching, images_without_row, match_headers, match_rows
from boneage_xai.data.problems import Problem, require_no_errors
from boneage_xai.data.radiograph import IMAGE_SUFFIXES
from boneage_xai.data.tables import LabelTable, read_label_table
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.types import Cohort


@dataclass(frozen=True)
class CohortReading:
    """All that was read from one source.

    Args:
        source: the folder or table.
        layout: names of the layouts found, joined by ``+``.
        cohorts: one per set, in the order found.
        problems: everything that was wrong, errors and notes.
        tables: the label table of each cohort, None where the images state sex and age.
        n_rows: the rows, or DICOM files, that each cohort was read from; more than it has cases
            where some have problems.
        of_set: the errors and notes of each cohort alone, without those of the others.
    """

    source: Path
    layout: str
    cohorts: tuple[Cohort, ...]
    problems: tuple[Problem, ...]
    tables: tuple[Path | None, ...] = ()
    n_rows: tuple[int, ...] = ()
    of_set: tuple[tuple[Problem, ...], ...] = ()


def read_source(source: Path, columns: Mapping[str, str] | None = None) -> CohortReading:
    """Read every set of cases in a folder of any known layout, or the one set of a table.

    Radiographs are found, not decoded (``inspect_images`` does that); of DICOM files the
    headers are read.

    Args:
        source: folder, or label table (its radiographs are looked for as in its layout).
        columns: role to header, for tables whose header is not known; see
            ``read_label_table``.

    Returns:
        A cohort per set, and every problem: no case is dropped without one.

    Raises:
        ConfigError: ``columns`` names a role that does not exist.
        DataError: there is no such source, or nothing in it can be read as a cohort.
    """
    source = Path(source)
    if source.is_dir():
        index = index_folder(source)
        tables, notes = _read_tables(index, columns)
        if not tables:
            _require_dicom(index, notes)
        return _read_sets(source, index, tables, notes, only=None)
    if not source.is_file():
        raise DataError(f"{source}: expected a folder or a label table, found nothing there")
    if source.suffix.lower() in IMAGE_SUFFIXES:
        raise DataError(f"{source}: expected a folder or a label table, found an image")
    table = read_label_table(source, columns)
    index, tables = _index_around(table)
    return _read_sets(source, index, tables, [], only=tables[0])


def select_cohort(reading: CohortReading, name: str | None = None) -> Cohort:
    """Return the set called by name, or the only one.

    Raises:
        ConfigError: no set of that name, or several sets and no name.
    """
    names = [cohort.name for cohort in reading.cohorts]
    if name is not None:
        if name not in names:
            raise ConfigError(
                f"{reading.source}: no set called {name!r}, expected one of {', '.join(names)}"
            )
        return reading.cohorts[names.index(name)]
    if len(names) != 1:
        tables = list(reading.tables) or [None] * len(names)
        listed = ", ".join(
            f"{cohort_name} ({table})" if table else cohort_name
            for cohort_name, table in zip(names, tables, strict=True)
        )
        raise ConfigError(
            f"{reading.source}: holds {len(names)} sets: {listed}; "
            "point SOURCE at the table of the one that is meant"
        )
    return reading.cohorts[0]


def require_clean(
    problems: CohortReading | ImageInspection | Iterable[Problem], source: Path | str | None = None
) -> None:
    """Refuse a data set with problems of severity ``error``; notes are let pass.

    Args:
        problems: a reading, an inspection, or the problems themselves.
        source: what was read, as the user named it; known for a reading.

    Raises:
        DataError: one sentence that counts the errors, quotes the first and names the command
            that lists all.
    """
    if isinstance(problems, CohortReading):
        require_no_errors(problems.problems, source or problems.source)
    elif isinstance(problems, ImageInspection):
        require_no_errors(problems.problems, source or "SOURCE")
    else:
        require_no_errors(problems, source or "SOURCE")


def _read_tables(
    index: FolderIndex, columns: Mapping[str, str] | None
) -> tuple[list[LabelTable], list[Problem]]:
    tables: list[LabelTable] = []
    notes: list[Problem] = []
    for path in index.tables:
        try:
            tables.append(read_label_table(path, columns))
        except DataError as refusal:
            notes.append(Problem("unrecognised_table", "note", str(refusal), None, path))
    return tables, notes


def _require_dicom(index: FolderIndex, notes: Sequence[Problem]) -> None:
    """Refuse a folder without label table unless its images are DICOM."""
    if find_sets(index, ()):
        return
    if notes:
        raise DataError(notes[0].message)
    n_images = sum(len(names) for f in index.image_folders for names in f.files.values())
    if n_images:
        images = "1 image" if n_images == 1 else f"{n_images} images"
        raise DataError(
            f"{index.root}: expected radiographs with a label table (CSV, TSV or XLSX with columns "
            f"for case id, sex and bone age), or DICOM files, found {images} and no table"
        )
    raise DataError(
        f"{index.root}: expected a label table and radiographs, found neither in this folder"
    )


def _index_around(table: LabelTable) -> tuple[FolderIndex, list[LabelTable]]:
    """Index the surroundings of a table; it is the first of the tables returned."""

    def read_others(index: FolderIndex) -> list[LabelTable]:
        # Only so that images which their rows name do not count as images without a row.
        others = []
        for path in index.tables:
            if path != table.path:
                try:
                    others.append(read_label_table(path))
                except DataError:
                    continue
        return others

    index = index_folder(table.path.parent)
    tables = [table, *read_others(index)]
    if any(s.table is table and s.folders for s in find_sets(index, tables)):
        return index, tables
    # RSNA keeps tables in a folder of their own: look in the known folders next to it.
    home = table.path.absolute().parent
    known = {name for known_set in KNOWN_SETS.values() for name in known_set.folders}
    try:
        wide = index_folder(
            home.parent, only=lambda name: name == home.name or plain_name(name) in known
        )
    except DataError:
        return index, tables
    table = replace(table, path=home / table.path.name)
    wide_tables = [table, *read_others(wide)]
    if any(s.table is table and s.folders for s in find_sets(wide, wide_tables)):
        return wide, wide_tables
    return index, tables


def _read_sets(
    source: Path,
    index: FolderIndex,
    tables: Sequence[LabelTable],
    notes: Sequence[Problem],
    only: LabelTable | None,
) -> CohortReading:
    sets = find_sets(index, tables)
    problems: list[Problem] = []
    if only is None:
        sets, spare_tables = _without_spare_tables(sets)
        notes = [*notes, *spare_tables]
    matching = Matching()
    kept: list[tuple[ImageSet, Cohort]] = []
    of_set: list[tuple[Problem, ...]] = []
    # Sets that were not asked for are matched too: it shows which images their rows name.
    for image_set in sets:
        table = image_set.table
        matching.problems = []
        if table is None:
            cases = match_headers(index, image_set.folders, matching)
        else:
            cases = match_rows(index, image_set, table, matching)
        if only is None or table is only:
            of_set.append((*(table.problems if table is not None else ()), *matching.problems))
            problems.extend(of_set[-1])
            name = set_name(index, only.path) if only is not None else image_set.name
            kept.append((image_set, Cohort(name, tuple(cases))))
    problems.extend(images_without_row(index, [s for s, _ in kept], sets, matching, only is None))
    problems.extend(notes)
    problems.extend(index.unlisted)
    return CohortReading(
        source=source,
        layout="+".join(dict.fromkeys(image_set.layout for image_set, _ in kept)),
        cohorts=tuple(cohort for _, cohort in kept),
        problems=tuple(problems),
        tables=tuple(s.table.path if s.table else None for s, _ in kept),
        n_rows=tuple(s.table.n_rows if s.table else s.n_files for s, _ in kept),
        of_set=tuple(of_set),
    )


def _without_spare_tables(
    sets: Sequence[ImageSet],
) -> tuple[tuple[ImageSet, ...], list[Problem]]:
    """Set aside generic tables about the images of a published set, with a note for each.

    Such are lists of extra facts or results beside a data set, and tables whose own images were
    never downloaded; as sets they would stand in the way of the one that is there.
    """
    owners = {
        folder.path: image_set.name
        for image_set in sets
        if image_set.layout != "table"
        for folder in image_set.folders
    }
    kept: list[ImageSet] = []
    notes: list[Problem] = []
    for image_set in sets:
        table = image_set.table
        owned = [owners[f.path] for f in image_set.folders if f.path in owners]
        if (
            table is None
            or image_set.layout != "table"
            or not owned
            or len(owned) < len(image_set.folders)
        ):
            kept.append(image_set)
            continue
        sentence = (
            f"{table.path}: not read as a set, for the radiographs around it belong to "
            f"{' and '.join(dict.fromkeys(owned))}; point SOURCE at this table to read it"
        )
        notes.append(Problem("spare_table", "note", sentence, None, table.path))
    return tuple(kept), notes
