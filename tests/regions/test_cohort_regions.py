from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.errors import DataError
from boneage_xai.files import read_table
from boneage_xai.regions.cohort_regions import COLUMNS, with_regions, write_regions
from boneage_xai.regions.label_maps import read_region_map
from boneage_xai.regions.user_regions import read_user_regions


def test_a_cohorts_regions_come_back_as_its_region_files(phantoms: Path, tmp_path: Path) -> None:
    cohort = select_cohort(read_source(phantoms))
    images = [(case.case_id, case.image) for case in cohort.cases[:3]]
    out = tmp_path / "regions"
    seen: list[str] = []
    table = write_regions(
        images, out, on_located=lambda case_id, radiograph, found: seen.append(case_id)
    )
    assert seen == [case_id for case_id, _ in images]
    assert list(table.columns) == list(COLUMNS)
    written = read_table(out / "regions.csv")
    np.testing.assert_allclose(written["x_px"], table["x_px"])
    assert written["case_id"].tolist() == table["case_id"].tolist()
    assert len(table) >= 3 * 15
    with_maps = with_regions(cohort, out)
    for case in with_maps.cases[:3]:
        assert case.region_file == out / "labels" / f"{case.case_id}.png"
        assert read_region_map(case.region_file).names[10] == "marker"
    # Others keep none: maps of two origins must not be mixed in one table.
    assert all(case.region_file is None for case in with_maps.cases[3:])
    assert all(case.region_file is not None for case in cohort)


def test_own_regions_win_over_the_locator(phantoms: Path, tmp_path: Path) -> None:
    cohort = select_cohort(read_source(phantoms))
    images = [(case.case_id, case.image) for case in cohort.cases[:2]]
    first = images[0][0]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / f"{first}.xml").write_text(
        "<annotation><size><width>10</width><height>10</height></size><object><name>thumb</name>"
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"
        "</annotation>",
        encoding="utf-8",
    )
    own = read_user_regions(tmp_path / "own", [case_id for case_id, _ in images])
    table = write_regions(images, tmp_path / "out", user_regions=own)
    mine = table[table["case_id"] == first]
    assert mine["region"].tolist() == ["thumb"]
    assert mine["confidence"].tolist() == [1.0]
    assert "DIP" in set(table[table["case_id"] != first]["region"])
    labels = read_region_map(tmp_path / "out" / "labels" / f"{first}.png")
    assert {labels.names[int(v)] for v in np.unique(labels.labels)} == {"background", "thumb"}


@pytest.mark.parametrize("case_id", ["", "../1", "a/b", ".hidden"])
def test_ids_that_name_no_file_are_refused(tmp_path: Path, case_id: str) -> None:
    with pytest.raises(DataError, match="case ids that can name files"):
        write_regions([(case_id, tmp_path / "x.png")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_radiograph_that_cannot_be_read_leaves_nothing(phantoms: Path, tmp_path: Path) -> None:
    case = select_cohort(read_source(phantoms)).cases[0]
    with pytest.raises(DataError, match=r"missing\.png"):
        write_regions([("1", case.image), ("2", tmp_path / "missing.png")], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_folders_without_maps_of_the_cases_are_refused(phantoms: Path, tmp_path: Path) -> None:
    cohort = select_cohort(read_source(phantoms))
    with pytest.raises(DataError, match=r"found no labels\.json"):
        with_regions(cohort, tmp_path)
    (tmp_path / "labels.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="none for any of them"):
        with_regions(cohort, tmp_path)
