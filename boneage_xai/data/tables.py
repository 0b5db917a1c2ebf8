"""Label tables: CSV, TSV or XLSX rows of case id, sex and age, as the field writes them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from boneage_xai.data.dicom_child import MAX_CHRONOLOGICAL_AGE_MONTHS
from boneage_xai.data.grids import Grid, read_grids
from boneage_xai.data.label_checks import label_suspicions
from boneage_xai.data.problems import Problem
from boneage_xai.data.radiograph import IMAGE_SUFFIXES
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.types import Sex

TABLE_SUFFIXES = (".csv", ".tsv", ".xlsx")

MAX_BONE_AGE_MONTHS = 240.0

# Role to the headers known for it, in the form that ``normalise_header`` gives.
KNOWN_COLUMNS: dict[str, tuple[str, ...]] = {
    "id": ("id", "imageid", "caseid"),
    "sex": ("sex", "gender"),
    "male": ("male", "ismale"),
    "age": ("boneage", "boneagemonths", "groundtruthboneage", "groundtruthboneagemonths"),
    "chronological_age": ("chronologicalagemonths",),
    "image": ("image", "imagefile", "imagename", "imagepath", "filename", "filepath"),
    "dir": ("dir",),
}

# No other value is read: a `male` column that says M, or a `sex` column that says 1, is ambiguous.
SEX_VALUES: dict[str, dict[str, Sex]] = {
    "sex": {"m": Sex.MALE, "male": Sex.MALE, "f": Sex.FEMALE, "female": Sex.FEMALE},
    "male": {"true": Sex.MALE, "1": Sex.MALE, "false": Sex.FEMALE, "0": Sex.FEMALE},
}

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class LabelRow:
    """One row of a label table that is sound in itself.

    Args:
        case_id: the id without folder and image suffix; leading zeros kept.
        sex: sex of the child.
        bone_age_months: reference reading, None when the table has no such column.
        chronological_age_months: age at the radiograph, None when not given.
        image: the radiograph as the table names it: folders (with ``/``) and suffix as far as
            it gives them, at least the id.
        attributes: header to cell of the columns that have no role.
    """

    case_id: str
    sex: Sex
    bone_age_months: float | None
    chronological_age_months: float | None
    image: str
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class LabelTable:
    """A label table as read.

    Args:
        path: the file.
        columns: role (a key of ``KNOWN_COLUMNS``) to the column's header in the file.
        rows: sound rows in the file's order; their case ids are unique.
        problems: one per row that is not among ``rows``.
        refused_images: the images that rows with problems name, so that these are not taken
            for images without a row.
        n_rows: rows behind the header, sound or not.
    """

    path: Path
    columns: Mapping[str, str]
    rows: tuple[LabelRow, ...]
    problems: tuple[Problem, ...]
    refused_images: tuple[str, ...]
    n_rows: int


def read_label_table(path: Path, columns: Mapping[str, str] | None = None) -> LabelTable:
    """Read a label table with a known header, or with columns named by the caller.

    Text may be UTF-8 or, with a byte order mark, UTF-16 or UTF-32; fields are separated by
    comma, tab, semicolon or vertical bar; lines end in LF, CRLF or CR. Ages are in months.

    Args:
        path: CSV, TSV or XLSX file.
        columns: role (a key of ``KNOWN_COLUMNS``) to the header of its column; roles left out
            are found by their known headers.

    Returns:
        The sound rows, and a problem for each other row.

    Raises:
        ConfigError: a role that does not exist, or both ``sex`` and ``male`` given.
        DataError: the file cannot be read, is empty, or its header is not recognised.
    """
    wanted = dict(columns or {})
    _check_roles(wanted)
    filled = [grid for grid in read_grids(path) if grid.header]
    if not filled:
        raise DataError(f"{path}: expected a label table, found an empty file")
    recognised = []
    first_refusal: DataError | None = None
    for grid in filled:
        try:
            recognised.append((grid, _find_columns(path, grid.header, wanted)))
        except DataError as refusal:
            first_refusal = first_refusal or refusal
    if len(recognised) > 1:
        raise DataError(f"{path}: {len(recognised)} sheets hold a label table, expected one")
    if not recognised:
        raise first_refusal or DataError(f"{path}: expected a label table, found none")
    return _read_rows(path, *recognised[0])


def normalise_header(text: str) -> str:
    """Return a header without case, spaces, underscores and punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if character.isalnum())


def strip_image_suffix(name: str) -> str:
    """Return a file name without its image suffix; a name without one comes back as it is."""
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else name


def image_stem(name: str) -> str:
    """Return a file name without its image suffix, composed (NFC), to compare it with others."""
    return unicodedata.normalize("NFC", strip_image_suffix(name))


def _check_roles(wanted: Mapping[str, str]) -> None:
    for role in wanted:
        if role not in KNOWN_COLUMNS:
            raise ConfigError(
                f"--column {role}=…: no such role, expected one of {', '.join(KNOWN_COLUMNS)}"
            )
    if "sex" in wanted and "male" in wanted:
        raise ConfigError("--column: sex=… and male=… exclude each other, expected one of them")


def _find_columns(path: Path, header: tuple[str, ...], wanted: Mapping[str, str]) -> dict[str, int]:
    """Return role to column position; raise DataError when no case can be read from it."""
    found = ", ".join(repr(name) for name in header if name)
    plain = [normalise_header(name) for name in header]
    positions: dict[str, int] = {}
    for role, name in wanted.items():
        exact = [i for i, cell in enumerate(header) if cell == name.strip()]
        near = exact or [i for i, cell in enumerate(plain) if cell == normalise_header(name)]
        if len(near) != 1:
            amount = "none" if not near else f"{len(near)}"
            raise DataError(
                f"{path}: expected one column {name!r} for the {role}, found {amount} "
                f"among the columns {found}"
            )
        positions[role] = near[0]
    for role, spellings in KNOWN_COLUMNS.items():
        if role in positions or (role in ("sex", "male") and {"sex", "male"} & set(wanted)):
            continue
        matches = [
            i for i, cell in enumerate(plain) if cell in spellings and i not in positions.values()
        ]
        if len(matches) > 1:
            rivals = " and ".join(repr(header[i]) for i in matches)
            raise DataError(
                f"{path}: columns {rivals} could both be the {role}, choose with --column {role}=…"
            )
        if matches:
            positions[role] = matches[0]
    if "sex" in positions and "male" in positions:
        rivals = f"{header[positions['sex']]!r} and {header[positions['male']]!r}"
        raise DataError(
            f"{path}: columns {rivals} both tell the sex, choose with --column sex=… or male=…"
        )
    if not ({"id", "image"} & positions.keys() and {"sex", "male"} & positions.keys()):
        raise DataError(
            f"{path}: expected columns for case id and sex, found {found} "
            "(say which is which with --column id=… --column sex=… --column age=…)"
        )
    return positions


def _read_rows(path: Path, grid: Grid, positions: Mapping[str, int]) -> LabelTable:
    rows: list[LabelRow] = []
    problems: list[Problem] = []
    refused: list[str] = []
    lines: dict[str, list[int]] = defaultdict(list)
    named, taken = Counter(grid.header), set(positions.values())
    further = {
        name: i
        for i, name in enumerate(grid.header)
        if name and i not in taken and named[name] == 1
    }

    for line, cells in grid.records:
        if len(cells) != len(grid.header):
            case_id, image = _name_row(
                {role: cells[i] for role, i in positions.items() if i < len(cells)}
            )
            problems.append(
                Problem(
                    "malformed_row",
                    "error",
                    f"{path}, line {line}: expected {len(grid.header)} cells as in the header, "
                    f"found {len(cells)}",
                    case_id or None,
                    path,
                )
            )
            refused.append(image)
            continue
        values = {role: cells[i] for role, i in positions.items()}
        case_id, image = _name_row(values)
        # Control and direction marks would forge what a terminal or a page shows.
        if case_id in ("", ".", "..") or not case_id.isprintable():
            problems.append(
                Problem(
                    "missing_id",
                    "error",
                    f"{path}, line {line}: expected a case id, "
                    f"found {values.get('id', values.get('image', ''))!r}",
                    None,
                    path,
                )
            )
            continue
        lines[case_id].append(line)
        row, row_problems = _interpret(path, line, case_id, image, values)
        problems.extend(row_problems)
        if row is None:
            refused.append(image)
        else:
            attributes = {name: cells[i] for name, i in further.items()}
            rows.append(replace(row, attributes=attributes) if further else row)

    doubled = {case_id: where for case_id, where in lines.items() if len(where) > 1}
    for case_id, where in doubled.items():
        problems.append(
            Problem(
                "duplicate_id",
                "error",
                f"{path}: case {case_id} stands in lines {', '.join(map(str, where))}, "
                "expected one row per case",
                case_id,
                path,
            )
        )
    refused.extend(row.image for row in rows if row.case_id in doubled)
    if not grid.records:
        problems.append(
            Problem(
                "empty_table", "error", f"{path}: expected rows, found a header alone", None, path
            )
        )
    sound = tuple(row for row in rows if row.case_id not in doubled)
    problems.extend(label_suspicions(path, [row.bone_age_months for row in sound]))
    return LabelTable(
        path=path,
        columns={role: grid.header[i] for role, i in positions.items()},
        rows=sound,
        problems=tuple(problems),
        refused_images=tuple(refused),
        n_rows=len(grid.records),
    )


def _name_row(values: Mapping[str, str]) -> tuple[str, str]:
    """Return a row's case id and the image it names."""
    given_id = values.get("id", "").replace("\\", "/")
    image = values.get("image", "").replace("\\", "/") or given_id
    case_id = strip_image_suffix((given_id or image).rpartition("/")[2])
    folder = values.get("dir", "").replace("\\", "/")
    return case_id, str(PurePosixPath(folder, image)) if folder else image


def _interpret(
    path: Path, line: int, case_id: str, image: str, values: Mapping[str, str]
) -> tuple[LabelRow | None, list[Problem]]:
    problems: list[Problem] = []

    def report(kind: str, what: str) -> None:
        sentence = f"{path}, line {line}: case {case_id} {what}"
        problems.append(Problem(kind, "error", sentence, case_id, path))

    role = "sex" if "sex" in values else "male"
    sex = SEX_VALUES[role].get(values[role].casefold())
    if sex is None:
        expected = "M or F" if role == "sex" else "True or False"
        report("unknown_sex", f"has the {role} {_quote(values[role])}, expected {expected}")

    ages: dict[str, float | None] = {"age": None, "chronological_age": None}
    limits = {"age": MAX_BONE_AGE_MONTHS, "chronological_age": MAX_CHRONOLOGICAL_AGE_MONTHS}
    for role, noun in (("age", "bone age"), ("chronological_age", "chronological age")):
        if role not in values:
            continue
        cell = values[role]
        if not cell:
            if role == "age":
                report("missing_age", "has an empty bone age, expected months")
            continue
        months = float(cell) if _NUMBER.fullmatch(cell) else None
        if months is None or not 0.0 <= months <= limits[role]:
            report(
                "impossible_age",
                f"has the {noun} {_quote(cell)}, expected 0 to {limits[role]:g} months",
            )
        else:
            ages[role] = months

    if sex is None or problems:
        return None, problems
    return LabelRow(case_id, sex, ages["age"], ages["chronological_age"], image), problems


def _quote(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else f"{cell[:40]}…")
