"""The main job on phantoms: train, evaluate, attribute; what lands in the analysis folder."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from boneage_xai.analysis.run_analysis import (
    choose_cases,
    evaluate_run,
    prepare_run,
)
from boneage_xai.analysis.run_attribution import attribute_run
from boneage_xai.attribution.baselines import draw_references
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.errors import CheckpointError, ConfigError, DataError, ReportError
from boneage_xai.models.checkpoint import TrainedRun, load_run
from boneage_xai.phantom.cohorts import write_cohort
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.types import Case, Cohort, Sex
from trainers.engine import train
from trainers.recipe import load_recipe

TINY = (
    "preprocessing.size_px=48",
    "architecture.backbone=squeezenet1_1",
    "training.batch_size=8",
    "training.epochs=1",
    "training.stages=[]",
    "training.precision=float32",
)


@pytest.fixture(scope="module")
def cohort(phantoms: Path) -> Cohort:
    return select_cohort(read_source(phantoms))


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(cohort: Cohort, cache_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    out = tmp_path_factory.mktemp("run") / "run"
    return train(load_recipe("demo", TINY), cohort, out, cache_folder=cache_folder)


def test_held_out_leaves_out_exactly_the_training_cases(
    run: TrainedRun, cohort: Cohort, cache_folder: Path
) -> None:
    held_out = prepare_run(run, cohort, cache_folder=cache_folder)
    trained_on = prepare_run(run, cohort, split="train", cache_folder=cache_folder)
    assert len(held_out.cohort) == 8
    assert len(trained_on.cohort) == 32
    ids = {case.case_id for case in held_out.cohort} | {c.case_id for c in trained_on.cohort}
    assert ids == {case.case_id for case in cohort}
    validation = prepare_run(run, cohort, split="validation", cache_folder=cache_folder)
    assert validation.cohort == held_out.cohort
    assert len(prepare_run(run, cohort, split="all", cache_folder=cache_folder).cohort) == 40


def test_training_cases_are_known_by_their_pixels(
    run: TrainedRun, cohort: Cohort, cache_folder: Path, tmp_path: Path
) -> None:
    renamed = []
    for number, one in enumerate(reversed(cohort.cases)):
        image = tmp_path / f"copy{number}.png"
        shutil.copyfile(one.image, image)
        renamed.append(replace(one, case_id=f"copy{number}", image=image))
    copies = Cohort("copies", tuple(renamed))
    assert len(prepare_run(run, copies, cache_folder=cache_folder).cohort) == 8
    assert len(prepare_run(run, copies, split="train", cache_folder=cache_folder).cohort) == 32


def test_the_same_ids_in_other_data_are_other_children(
    run: TrainedRun, cache_folder: Path, tmp_path: Path
) -> None:
    settings = PhantomSettings(size_px=96)
    write_cohort(tmp_path / "other", 10, seed=2, settings=settings, workers=1)
    other = select_cohort(read_source(tmp_path / "other"))
    assert len(prepare_run(run, other, cache_folder=cache_folder).cohort) == 10
    with pytest.raises(DataError, match="expected cases of split validation, found none"):
        prepare_run(run, other, split="validation", cache_folder=cache_folder)


@pytest.mark.parametrize("damage", ["case_id\n1\n", "case_id,split,pixels_digest\n1,train,a\n", ""])
def test_a_damaged_record_of_the_training_cases_is_refused(
    run: TrainedRun, cohort: Cohort, cache_folder: Path, tmp_path: Path, damage: str
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy, ignore=shutil.ignore_patterns("engine"))
    (copy / "splits.csv").write_text(damage)
    with pytest.raises(CheckpointError, match=r"splits\.csv"):
        prepare_run(load_run(copy), cohort, cache_folder=cache_folder)


def test_evaluate_then_attribute_fill_a_new_folder(
    run: TrainedRun, cohort: Cohort, cache_folder: Path, tmp_path: Path
) -> None:
    prepared = prepare_run(run, cohort, source="phantoms", cache_folder=cache_folder)
    out = tmp_path / "analysis"
    folder = evaluate_run(prepared, out)
    predictions, metrics = folder.predictions(), folder.metrics()
    errors = predictions["predicted_months"] - predictions["reference_months"]
    assert np.allclose(predictions["error_months"], errors)
    assert metrics["overall"]["mae_months"]["value"] == pytest.approx(errors.abs().mean())
    assert set(metrics["baselines"]) == {"mean", "sex_mean", "intensity_ridge"}
    assert folder.history() is not None
    # All that the run was not trained on are its validation cases.
    step = folder.manifest["steps"]["evaluate"]
    assert (step["n_training"], step["n_validation"], len(predictions)) == (0, 8, 8)
    assert not folder.has_training_cases()
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}

    settings = AttributionSettings(baseline="mean")
    folder = attribute_run(prepared, out, limit=4, settings=settings, layers=[])
    attributions, regions, maps = folder.attributions(), folder.regions(), folder.maps()
    assert attributions is not None
    assert regions is not None
    assert maps is not None
    assert len(attributions) == 4
    assert set(attributions["baseline"]) == {"mean"}
    for index, case_id in enumerate(maps.attrs["case_ids"]):
        total = float(np.asarray(maps["integrated_gradients"][index], dtype=np.float64).sum())
        assert regions.loc[regions["case_id"] == case_id, "signed_months"].sum() == pytest.approx(
            total, abs=1e-6
        )
        row = attributions.set_index("case_id").loc[case_id]
        change = row["prediction_months"] - row["baseline_prediction_months"]
        assert total - change == pytest.approx(row["completeness_gap_months"], abs=1e-3)
    assert set(folder.manifest["steps"]) == {"evaluate", "attribute"}
    assert all(
        (out / name).stat().st_mtime_ns == when
        for name, when in before.items()
        if name != "analysis.json"
    )


def test_expected_gradients_take_training_cases_of_the_same_sex(
    run: TrainedRun, cohort: Cohort, cache_folder: Path, tmp_path: Path
) -> None:
    prepared = prepare_run(run, cohort, cache_folder=cache_folder)
    settings = AttributionSettings(n_references=2, reference_seed=1)
    folder = attribute_run(
        prepared,
        tmp_path / "a",
        limit=2,
        settings=settings,
        layers=[],
        methods=["expected_gradients"],
    )
    found = folder.attributions()
    assert found is not None
    cache = prepared.cache
    rows = cache.rows(prepared.train_ids)
    male = np.array([cohort[case_id].sex is Sex.MALE for case_id in prepared.train_ids])
    assert np.array_equal(male, prepared.train_is_male)
    references = draw_references(cache.pixels, rows, male, 2, 1)
    for row in found.to_dict("records"):
        sex = cohort[row["case_id"]].sex is Sex.MALE
        images = torch.from_numpy(references.of(is_male=sex))[:, None]
        with torch.no_grad():
            mean = run.network(images, torch.full((2,), float(sex))).mean()
        assert row["baseline_prediction_months"] == pytest.approx(float(mean), abs=0.01)
        assert row["baseline"] == "expected"
    detail = folder.manifest["steps"]["attribute"]
    assert detail["references"] == {"girls": 2, "boys": 2}
    assert detail["settings"]["reference_seed"] == 1
    assert detail["integration"]["expected_gradients"]["precision"] == "float32"


@pytest.mark.parametrize("baseline", ["mean", "expected"])
def test_baselines_from_training_cases_need_them(
    run: TrainedRun, cohort: Cohort, cache_folder: Path, tmp_path: Path, baseline: str
) -> None:
    prepared = prepare_run(run, cohort, cache_folder=cache_folder)
    foreign = replace(prepared, train_ids=(), train_is_male=np.zeros(0, dtype=bool))
    settings = AttributionSettings(baseline=baseline)
    with pytest.raises(ConfigError, match=f"baseline '{baseline}': expected the run's own"):
        attribute_run(foreign, tmp_path / "a", limit=1, settings=settings)


def test_mistakes_leave_nothing_behind(
    run: TrainedRun, cohort: Cohort, cache_folder: Path, tmp_path: Path
) -> None:
    prepared = prepare_run(run, cohort, cache_folder=cache_folder)
    with pytest.raises(ConfigError, match="no_such_method"):
        attribute_run(prepared, tmp_path / "a", methods=["no_such_method"])
    with pytest.raises(ConfigError, match="no_such_layer"):
        attribute_run(prepared, tmp_path / "a", layers=["no_such_layer"], limit=1)
    assert not (tmp_path / "a").exists() or os.listdir(tmp_path / "a") == []
    evaluate_run(prepared, tmp_path / "b")
    everything = prepare_run(run, cohort, split="all", cache_folder=cache_folder)
    with pytest.raises(ReportError, match="split held-out, not all"):
        attribute_run(everything, tmp_path / "b", limit=1)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.doc").write_text("mine")
    with pytest.raises(ReportError, match="expected an analysis folder"):
        evaluate_run(prepared, tmp_path / "foreign")
    assert os.listdir(tmp_path / "foreign") == ["thesis.doc"]


def test_chosen_cases_span_sex_and_age() -> None:
    cases = tuple(
        Case(f"{sex.value}{age}", Path("x.png"), sex, float(age))
        for age in range(0, 200, 2)
        for sex in Sex
    )
    chosen = choose_cases(Cohort("c", cases), 10)
    for sex in Sex:
        ages = chosen.where(sex=sex).bone_ages_months()
        assert len(ages) == 5
        assert ages.min() < 40
        assert ages.max() > 150
    assert choose_cases(Cohort("c", cases), None).cases == cases
    with pytest.raises(ConfigError, match="at least 1"):
        choose_cases(Cohort("c", cases), 0)
