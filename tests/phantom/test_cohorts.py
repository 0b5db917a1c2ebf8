from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boneage_xai.anatomy import AGE_REGIONS
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.phantom import cohorts
from boneage_xai.phantom.cohorts import (
    draw_cases,
    read_phantom_cohort,
    reader_sd,
    render_case,
    write_cohort,
)
from boneage_xai.phantom.faults import Fault
from boneage_xai.phantom.growth import region_maturities
from boneage_xai.phantom.manifest import irreducible_error
from boneage_xai.phantom.sensitivity import DELTA_MONTHS, age_sensitivity
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
        parts = read_region_map(out / "parts" / name)
        assert np.array_equal(parts.labels, image.parts.labels)
        assert parts.names == image.parts.names
    with (out / "truth.csv").open(encoding="utf-8") as stream:
        truth = list(csv.DictReader(stream))
    assert [float(row["age_months"]) for row in truth] == pytest.approx(
        [case.hand.age_months for case in cases], abs=1e-3
    )
    for row, case in zip(truth, cases, strict=True):
        found = {name: float(row[f"maturity_{name}"]) for name in AGE_REGIONS}
        assert found == pytest.approx(region_maturities(case.hand), abs=1e-4)
    assert not (out / "sensitivity").exists()
    manifest = json.loads((out / "phantom.json").read_text(encoding="utf-8"))
    assert manifest["settings"] == SMALL.model_dump()
    assert (manifest["seed"], manifest["n"], manifest["reader_sd_months"]) == (1, 5, 6.0)


def test_bytes_do_not_depend_on_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohorts, "_CASES_PER_TASK", 2)

    def written(name: str, seed: int, workers: int) -> dict[str, bytes]:
        return content(
            write_cohort(
                tmp_path / name,
                5,
                seed=seed,
                settings=SMALL,
                workers=workers,
                faults=tuple(Fault),
                sensitivity=True,
            )
        )

    one, two, other = written("one", 3, 1), written("two", 3, 2), written("other", 4, 1)
    assert one == two
    assert sum(name.startswith("sensitivity/") for name in one) == 5
    common = [name for name in one if name.endswith((".png", ".npz")) and name in other]
    assert common
    assert all(one[name] != other[name] for name in common)


def test_sensitivity_on_disk_is_that_of_the_case(tmp_path: Path) -> None:
    faults = (Fault.BORDER_ENCODES_SEX, Fault.ID_ENCODES_BRIGHTNESS)
    out = write_cohort(
        tmp_path / "hands", 3, seed=2, settings=SMALL, faults=faults, sensitivity=True
    )
    _, cases = read_phantom_cohort(out)
    for case in cases:
        expected = age_sensitivity(case.hand, SMALL, case.seed, planted=case.planted(faults))
        with np.load(out / "sensitivity" / f"{case.case_id}.npz", allow_pickle=False) as found:
            assert set(found.files) == {"whole", "delta_months", *AGE_REGIONS}
            assert float(found["delta_months"]) == DELTA_MONTHS
            for name, values in {"whole": expected.whole, **expected.by_region}.items():
                assert found[name].dtype == np.float16
                np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4)
            if case.hand.sex is Sex.MALE:
                assert not found["whole"][0].any()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "hands"
    return write_cohort(
        folder,
        6,
        seed=9,
        settings=SMALL.model_copy(update={"side": "right", "heel_effect": False}),
        ages="uniform",
        reader_sd_months=2.5,
        faults=[Fault.ID_ENCODES_BRIGHTNESS, Fault.BORDER_ENCODES_SEX],
    )


def test_a_cohort_is_read_back(written: Path) -> None:
    manifest, cases = read_phantom_cohort(written)
    assert manifest.settings.side == "right"
    assert not manifest.settings.heel_effect
    assert manifest.faults == (Fault.BORDER_ENCODES_SEX, Fault.ID_ENCODES_BRIGHTNESS)
    assert cases == draw_cases(6, 9, "uniform", 2.5, manifest.faults)
    for case in cases:
        image = render_case(case, manifest.settings, manifest.faults)
        with Image.open(written / "boneage-training-dataset" / f"{case.case_id}.png") as picture:
            grey = np.asarray(picture)
        assert np.array_equal(grey, np.round(image.pixels * 255).astype(np.uint8))


def damage(folder: Path, change: str) -> None:
    manifest, truth = folder / "phantom.json", folder / "truth.csv"
    content = json.loads(manifest.read_text())
    if change == "no manifest":
        manifest.unlink()
    elif change == "version":
        manifest.write_text(json.dumps({**content, "version": 1}))
    elif change == "unknown key":
        manifest.write_text(json.dumps({**content, "mood": 1}))
    elif change == "seed":
        manifest.write_text(json.dumps({**content, "seed": 10}))
    elif change == "shorter truth":
        truth.write_text("\n".join(truth.read_text().splitlines()[:-1]) + "\n")
    elif change == "no truth":
        truth.unlink()
    elif change == "other truth":
        truth.write_text(truth.read_text().replace(",M,", ",F,", 1))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("no manifest", "no phantom.json"),
        ("version", "version 1"),
        ("unknown key", "mood"),
        ("seed", "changed"),
        ("shorter truth", "found 5"),
        ("no truth", "truth of 6 phantoms"),
        ("other truth", "changed"),
    ],
)
def test_a_damaged_cohort_is_refused(
    written: Path, tmp_path: Path, change: str, found: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(written, copy)
    damage(copy, change)
    with pytest.raises(DataError, match=found) as caught:
        read_phantom_cohort(copy)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_irreducible_error_is_that_of_a_perfect_reader(written: Path) -> None:
    cases = draw_cases(1500, seed=3)
    ages = np.array([case.hand.age_months for case in cases])
    labels = np.array([case.label_months for case in cases])
    sds = np.array([case.reader_sd_months for case in cases])
    error = irreducible_error(ages, labels, sds)
    assert error.mean_reader_sd_months == pytest.approx(sds.mean(), abs=1e-3)
    # Rounding adds little, the limits of the range take a little.
    assert error.expected_mae_months == pytest.approx(math.sqrt(2 / math.pi) * sds.mean(), rel=0.02)
    assert error.realised_mae_months == pytest.approx(np.abs(labels - ages).mean(), abs=1e-3)
    assert error.realised_mae_months == pytest.approx(error.expected_mae_months, rel=0.06)
    # An exact reader only rounds.
    exact = irreducible_error([100.25, 7.5], [100, 8], [0.0, 0.0])
    assert exact.expected_mae_months == pytest.approx((0.25 + 0.5) / 2)
    assert exact.realised_mae_months == pytest.approx((0.25 + 0.5) / 2)
    recorded = read_phantom_cohort(written)[0].irreducible_error
    _, drawn = read_phantom_cohort(written)
    errors = [abs(case.label_months - case.hand.age_months) for case in drawn]
    assert recorded.realised_mae_months == pytest.approx(np.mean(errors), abs=1e-3)


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
        ({"n": 2, "reader_sd_months": math.inf}, "inf"),
        ({"n": 2, "workers": 0}, "worker"),
    ],
)
def test_impossible_cohorts_are_refused(
    tmp_path: Path, kwargs: dict[str, object], found: str
) -> None:
    with pytest.raises(ConfigError, match=found):
        write_cohort(tmp_path / "hands", **kwargs)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
