from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boneage_xai.errors import ConfigError, DataError
from boneage_xai.phantom import cohorts
from boneage_xai.phantom.cohorts import draw_cases, reader_sd, render_case, write_cohort
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.regions.label_maps import read_region_map
from boneage_xai.types import Sex

SMALL = PhantomSettings(size_px=96)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_layout_is_that_of_rsna(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    out = write_cohort(
        tmp_path / "hands", 5, seed=1, settings=SMALL, progress=lambda *at: seen.append(at)
    )
    assert out == tmp_path / "hands"
    assert seen[-1] == (5, 5)
    with (out / "boneage-training-dataset.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [list(row) for row in rows] == [["id", "boneage", "male"]] * 5
    cases = draw_cases(5, seed=1)
    for row, case in zip(rows, cases, strict=True):
        assert row == {
            "id": case.case_id,
            "boneage": str(case.label_months),
            "male": str(case.hand.sex is Sex.MALE),
        }
        image = render_case(case, SMALL)
        name = f"{case.case_id}.png"
        with Image.open(out / "boneage-training-dataset" / name) as picture:
            assert picture.mode == "L"
            grey = np.asarray(picture)
        assert np.abs(grey / 255 - image.pixels).max() <= 0.5 / 255 + 1e-6
        regions = read_region_map(out / "labels" / name)
        assert np.array_equal(regions.labels, image.regions.labels)
        assert regions.names == image.regions.names
    with (out / "truth.csv").open(encoding="utf-8") as stream:
        truth = list(csv.DictReader(stream))
    assert [float(row["age_months"]) for row in truth] == pytest.approx(
        [case.hand.age_months for case in cases], abs=1e-3
    )
    manifest = json.loads((out / "phantom.json").read_text(encoding="utf-8"))
    assert manifest["settings"] == SMALL.model_dump()
    assert (manifest["seed"], manifest["n"], manifest["reader_sd_months"]) == (1, 5, 6.0)


def test_bytes_do_not_depend_on_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohorts, "_CASES_PER_TASK", 2)
    one = content(write_cohort(tmp_path / "one", 5, seed=3, settings=SMALL, workers=1))
    two = content(write_cohort(tmp_path / "two", 5, seed=3, settings=SMALL, workers=2))
    assert one == two
    other = content(write_cohort(tmp_path / "other", 5, seed=4, settings=SMALL, workers=1))
    assert all(one[name] != other[name] for name in one if name.endswith("1.png"))


def test_smaller_cohort_begins_a_larger_one() -> None:
    assert draw_cases(3, seed=8) == draw_cases(9, seed=8)[:3]


def test_ages_are_distributed_as_in_rsna() -> None:
    cases = draw_cases(1500, seed=0)
    ages = np.array([case.hand.age_months for case in cases])
    assert ages.mean() == pytest.approx(127, abs=3)
    assert ages.std() == pytest.approx(41, abs=3)
    assert ages.min() >= 1
    assert ages.max() <= 228
    assert np.mean([case.hand.sex.is_male for case in cases]) == pytest.approx(0.54, abs=0.03)
    girls = [case.hand.age_months for case in cases if case.hand.sex is Sex.FEMALE]
    assert np.mean(girls) < ages.mean() - 3


def test_uniform_ages() -> None:
    ages = [case.hand.age_months for case in draw_cases(1000, ages="uniform")]
    assert np.histogram(ages, bins=4, range=(1, 228))[0] == pytest.approx([250] * 4, abs=60)


def test_labels_are_one_readers() -> None:
    cases = [case for case in draw_cases(1500, seed=5) if 60 < case.hand.age_months < 200]
    errors = np.array([case.label_months - case.hand.age_months for case in cases])
    assert errors.std() == pytest.approx(6.0, abs=0.3)
    assert abs(errors.mean()) < 0.4
    assert reader_sd(30) == 3.0
    assert reader_sd(120) == 6.0
    exact = draw_cases(50, seed=5, reader_sd_months=0)
    assert all(abs(case.label_months - case.hand.age_months) <= 0.5 for case in exact)
    # The reader sees the same hands however well he reads.
    assert [c.hand for c in exact] == [c.hand for c in draw_cases(50, seed=5)]


def test_an_existing_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="exists"):
        write_cohort(tmp_path, 1, settings=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_an_interrupted_cohort_is_absent(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path / "hands", 2, settings=SMALL, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kwargs", "found"),
    [
        ({"n": 0}, "0"),
        ({"n": 2, "seed": -1}, "-1"),
        ({"n": 2, "ages": "old"}, "old"),
        ({"n": 2, "reader_sd_months": -3.0}, "-3"),
        ({"n": 2, "workers": 0}, "worker"),
    ],
)
def test_impossible_cohorts_are_refused(
    tmp_path: Path, kwargs: dict[str, object], found: str
) -> None:
    with pytest.raises(ConfigError, match=found):
        write_cohort(tmp_path / "hands", **kwargs)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
