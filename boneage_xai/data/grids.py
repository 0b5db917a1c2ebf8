"""Cells of a CSV, TSV or XLSX file as trimmed text, whatever its encoding and line ends."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import ParseError
from zipfile import ZipFile

import openpyxl
from openpyxl.utils.exceptions import InvalidFileException

from boneage_xai.errors import DataError
from boneage_xai.files import ARCHIVE_ERRORS

MAX_RECORDS = 1_200_000
"""Tables of more rows are refused; the largest published set has some 15,000. They fit in 2 GB."""

MAX_TABLE_BYTES = 32_000_000
"""Larger text tables are refused before they are read."""

MAX_WORKBOOK_BYTES = 128_000_000
"""Workbooks that unpack to more are refused before they are unpacked."""

_WORKBOOK_ERRORS = (*ARCHIVE_ERRORS, InvalidFileException, ParseError)

_SENTINEL = "end of table"
_DELIMITERS = (",", "\t", ";", "|")
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


@dataclass(frozen=True)
class Grid:
    """One table or one sheet, all cells trimmed text, rows without any text left out.

    Args:
        header: the first row.
        records: the other rows, each with its line number in the file.
    """

    header: tuple[str, ...]
    records: tuple[tuple[int, tuple[str, ...]], ...]


def read_grids(path: Path) -> list[Grid]:
    """Read the cells of a table: one grid, or one per sheet of an XLSX workbook.

    Text is UTF-8 or, with a byte order mark, UTF-16 or UTF-32; cells are separated by comma,
    tab, semicolon or vertical bar (the one that splits the first line into most); lines end in LF,
    CRLF or CR.

    Args:
        path: XLSX by its suffix, any other file is read as text.

    Raises:
        DataError: the file cannot be read, decoded or split into cells.
    """
    return _read_xlsx(path) if path.suffix.lower() == ".xlsx" else [_read_text(path)]


def _read_text(path: Path) -> Grid:
    text = _decode(path)
    # Read as a whole so that CR, LF and CRLF end lines alike and quoted cells may hold them.
    first_line = next((line for line in io.StringIO(text, newline=None) if line.strip()), "")
    # Lenient, so that blanks around a quoted cell do no harm; the sentinel then shows whether a
    # quote was left open, which would silently swallow all rows behind it.
    records: list[tuple[int, tuple[str, ...]]] = []
    lines = list(io.StringIO(f"{text}\n{_SENTINEL}\n", newline=""))
    line = 0
    try:
        delimiter = max(
            _DELIMITERS, key=lambda mark: len(next(csv.reader([first_line], delimiter=mark), []))
        )
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        for row in reader:
            # One that reaches the sentinel is told of below.
            if line + 1 < reader.line_num < len(lines):
                _refuse_stray_quote(path, lines[line : reader.line_num], line + 1, delimiter)
            line = reader.line_num
            cells = tuple(cell.strip() for cell in row)
            if any(cells):
                _refuse_long(path, len(records) - 1)
                records.append((line, cells))
    except csv.Error as error:
        raise DataError(
            f"{path}: expected a table, found text that cannot be split into cells "
            f"after line {line} ({error})"
        ) from error
    if records.pop()[1] != (_SENTINEL,):
        raise DataError(f"{path}: expected a table, found a quote that is never closed")
    return _grid(records)


def _refuse_stray_quote(path: Path, lines: Sequence[str], first: int, delimiter: str) -> None:
    """Refuse a record of several lines in which text follows a closing quote: two rows in one."""
    closed = re.compile(rf'"[^\S\r\n]+(?=[{re.escape(delimiter)}\r\n]|$)')
    record = [closed.sub('"', line) for line in lines]
    try:
        list(csv.reader(record, delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path}: expected a row on each line, found a quote in lines {first} to "
            f"{first + len(lines) - 1} that is closed in the middle of a cell"
        ) from error


def _decode(path: Path) -> str:
    try:
        _refuse_large(path, path.stat().st_size, MAX_TABLE_BYTES)
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read the table ({error.strerror})") from error
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeError as error:
        raise DataError(
            f"{path}: expected a text table in {encoding.removesuffix('-sig').upper()}, "
            f"found bytes that are none (save it as UTF-8 CSV or as XLSX)"
        ) from error
    if "\0" in text:
        raise DataError(f"{path}: expected a text table, found a binary file")
    return text


def _read_xlsx(path: Path) -> list[Grid]:
    try:
        with ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        _refuse_large(path, size, MAX_WORKBOOK_BYTES)
        workbook = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            sheets = []
            for sheet in workbook.worksheets:
                # Rows beyond the extent that a sheet states of itself would be left out.
                sheet.reset_dimensions()
                records: list[tuple[int, tuple[str, ...]]] = []
                for number, values in enumerate(sheet.iter_rows(values_only=True), start=1):
                    cells = tuple(_cell_text(value) for value in values)
                    if any(cells):
                        _refuse_long(path, len(records))
                        records.append((number, cells))
                sheets.append(records)
        finally:
            workbook.close()
    except _WORKBOOK_ERRORS as error:
        raise DataError(
            f"{path}: expected an XLSX workbook, found a file that cannot be opened as one"
        ) from error
    return [_square(_grid(records)) for records in sheets]


def _refuse_large(path: Path, size: int, limit: int) -> None:
    if size > limit:
        raise DataError(
            f"{path}: expected a table of at most {limit / 1e6:.0f} MB, found {size / 1e6:.0f} MB"
        )


def _refuse_long(path: Path, n_records: int) -> None:
    if n_records > MAX_RECORDS:
        raise DataError(f"{path}: expected a table of at most {MAX_RECORDS} rows, found more")


def _cell_text(value: object) -> str:
    if value is None:
        return ""
    # A spreadsheet keeps every number as a float: 1377.0 stands for the id 1377.
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _grid(records: Sequence[tuple[int, tuple[str, ...]]]) -> Grid:
    filled = [(number, cells) for number, cells in records if any(cells)]
    if not filled:
        return Grid((), ())
    return Grid(filled[0][1], tuple(filled[1:]))


def _square(grid: Grid) -> Grid:
    """Cut or fill spreadsheet rows to the header: trailing empty cells are not stored there."""
    width = max((i + 1 for i, name in enumerate(grid.header) if name), default=0)

    def fit(cells: tuple[str, ...]) -> tuple[str, ...]:
        surplus = any(cells[width:])
        return cells if surplus else (cells + ("",) * width)[:width]

    return Grid(grid.header[:width], tuple((n, fit(cells)) for n, cells in grid.records))
