"""Label tables in XLSX workbooks."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest

from boneage_xai.data.tables import LabelTable, read_label_table
from boneage_xai.errors import DataError
from boneage_xai.types import Sex


def write_xlsx(path: Path, rows: list[list[object]], more: dict[str, list[list[object]]]) -> Path:
    workbook = openpyxl.Workbook()
    assert workbook.active is not None
    for row in rows:
        workbook.active.append(row)
    for title, sheet_rows in more.items():
        sheet = workbook.create_sheet(title)
        for row in sheet_rows:
            sheet.append(row)
    workbook.save(path)
    return path


def facts(table: LabelTable) -> list[tuple[str, Sex, float | None]]:
    return [(row.case_id, row.sex, row.bone_age_months) for row in table.rows]


def test_xlsx_numbers_become_ids_without_fraction(tmp_path: Path) -> None:
    rows: list[list[object]] = [
        ["Case ID", "Sex", "Ground truth bone age (months)", None],
        [1377.0, "F", 180, None],
        [None, None, None, None],
        [1378, "M", 12.0],
    ]
    more: dict[str, list[list[object]]] = {"notes": [["free text"], ["more"]], "empty": []}
    table = read_label_table(write_xlsx(tmp_path / "Bone age ground truth.xlsx", rows, more))
    assert facts(table) == [("1377", Sex.FEMALE, 180.0), ("1378", Sex.MALE, 12.0)]
    assert table.problems == ()


def test_xlsx_booleans_are_male_values(tmp_path: Path) -> None:
    rows: list[list[object]] = [["id", "male", "boneage"], ["007", False, 180.25], [8, True, 12]]
    table = read_label_table(write_xlsx(tmp_path / "t.xlsx", rows, {}))
    assert facts(table) == [("007", Sex.FEMALE, 180.25), ("8", Sex.MALE, 12.0)]


def test_xlsx_empty_cell_at_the_end_is_empty_not_malformed(tmp_path: Path) -> None:
    rows: list[list[object]] = [["id", "male", "boneage"], [1, True], [2, True, 12, "surplus"]]
    table = read_label_table(write_xlsx(tmp_path / "t.xlsx", rows, {}))
    assert [problem.kind for problem in table.problems] == ["missing_age", "malformed_row"]


def test_two_sheets_with_labels_are_refused(tmp_path: Path) -> None:
    rows: list[list[object]] = [["id", "male"], [1, True]]
    path = write_xlsx(tmp_path / "t.xlsx", rows, {"again": rows})
    with pytest.raises(DataError, match="2 sheets hold a label table"):
        read_label_table(path)


@pytest.mark.parametrize("content", [b"id,male\n1,True\n", b"PK\x03\x04 cut off"])
def test_file_that_is_no_workbook_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.xlsx"
    path.write_bytes(content)
    with pytest.raises(DataError, match="expected an XLSX workbook"):
        read_label_table(path)
