from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from boneage_xai.analysis.neighbours import nearest_training, reference_pixels, training_features
from boneage_xai.analysis.recorded_run import load_recorded_run, recorded_settings
from boneage_xai.analysis.region_occlusion import occlude_case
from boneage_xai.analysis.single_reading import (
    Answer,
    HandSeen,
    answer_of,
    erase_in_turn,
    explain_single,
    located_regions,
    months_by_region,
    part_of,
    read_single,
    regions_seen,
    see_hand,
)
from boneage_xai.attribution.integrated_gradients import integrated_gradients
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.interventions import run_predictor
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.data.preprocess import preprocess
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.errors import CheckpointError, ConfigError, DataError
from boneage_xai.models.checkpoint import TrainedRun, load_run
from boneage_xai.predict import as_images, predict_pixels
from boneage_xai.regions.locator import locate
from boneage_xai.regions.pose import HandPose
from boneage_xai.regions.removable import removables
from boneage_xai.store import AnalysisFolder
from boneage_xai.types import Case, Cohort, Radiograph, Sex
from reports.wording import hand_warning

SETTINGS = AttributionSettings(max_nodes=65)


@pytest.fixture(scope="module")
def run(sex_run: Path) -> TrainedRun:
    return load_run(sex_run)


@pytest.fixture(scope="module")
def cohort(phantoms: Path) -> Cohort:
    return select_cohort(read_source(phantoms))


@pytest.fixture(scope="module")
def radiograph(cohort: Cohort) -> Radiograph:
    return read_radiograph(cohort.cases[0].image)


def test_reading_is_what_the_network_predicts_for_both_sexes(
    run: TrainedRun, radiograph: Radiograph
) -> None:
    read = read_single(run, radiograph, Sex.MALE)
    pixels = preprocess(radiograph, run.preprocessing).pixels
    both = predict_pixels(run.network, np.stack([pixels] * 2), np.array([True, False]))
    assert read.answer.months == pytest.approx(both[0], abs=1e-3)
    assert read.other_sex_months == pytest.approx(both[1], abs=1e-3)
    assert read.sex_effect_months == pytest.approx(both[1] - both[0], abs=2e-3)
    assert read.answer.interval is None
    assert read.corrected is None
    assert answer_of(100.0, Sex.MALE, None) == Answer(100.0)


@pytest.mark.parametrize(("turns", "mirrored"), [(0, False), (1, False), (0, True), (2, True)])
def test_a_hand_that_lies_unusually_is_read_as_it_usually_lies(
    run: TrainedRun, radiograph: Radiograph, turns: int, mirrored: bool
) -> None:
    # A square picture, so that turning it changes nothing else.
    side = min(radiograph.pixels.shape)
    usual = replace(radiograph, pixels=np.ascontiguousarray(radiograph.pixels[:side, :side]))
    mirror = usual.pixels[:, ::-1] if mirrored else usual.pixels
    lies = replace(usual, pixels=np.ascontiguousarray(np.rot90(mirror, -turns)))
    seen = see_hand(run, lies, Sex.MALE, locate(lies))
    assert seen.found
    assert seen.pose is not None
    assert (seen.pose.quarter_turns, seen.pose.looks_right) == (turns, mirrored)
    expected = read_single(run, usual, Sex.MALE).answer.months if turns or mirrored else None
    assert seen.usually_months == expected
    assert (hand_warning(seen) is None) == (expected is None)


def test_a_picture_without_a_hand_says_so(run: TrainedRun) -> None:
    blank = Radiograph(np.zeros((60, 60), dtype=np.float32), Path("blank"))
    seen = see_hand(run, blank, Sex.MALE, locate(blank))
    assert seen == HandSeen(False)
    assert "No hand" in str(hand_warning(seen))


def test_what_is_said_of_a_hand_that_lies_unusually() -> None:
    assert hand_warning(HandSeen(True, HandPose(3.0, False))) is None
    assert hand_warning(HandSeen(True)) is None
    turned = hand_warning(HandSeen(True, HandPose(-95.0, False), 100.0))
    assert "(fingers pointing to the left)." in str(turned)
    both = hand_warning(HandSeen(True, HandPose(170.0, True), 100.04))
    assert str(both).startswith(
        "The hand seems to be turned (fingers pointing down) and to be a right one"
    )
    assert "it is read as 100.0 months" in str(both)


def test_own_radiographs_are_recognised_by_their_pixels(run: TrainedRun, cohort: Cohort) -> None:
    known = run.splits().set_index("case_id")["split"]
    for case in cohort.cases[:6]:
        pixels = preprocess(read_radiograph(case.image), run.preprocessing).pixels
        assert part_of(run, pixels) == known[case.case_id]
    assert part_of(run, 255 - pixels) is None


def test_explanation_is_that_of_the_method_and_adds_up(
    run: TrainedRun, radiograph: Radiograph
) -> None:
    pixels = preprocess(radiograph, run.preprocessing).pixels
    seen: list[tuple[int, int]] = []
    found = explain_single(
        run.network, pixels, Sex.FEMALE, SETTINGS, lambda *step: seen.append(step)
    )
    image = as_images(pixels[np.newaxis], torch.device("cpu"))
    expected = integrated_gradients(run.network, image, torch.zeros(1), SETTINGS)
    np.testing.assert_allclose(found.map_months, expected.map_months, atol=1e-5)
    assert found.nodes == seen[-1][0] == expected.nodes
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    table = months_by_region(found.map_months, regions_seen(pixels))
    assert table["signed_months"].sum() == pytest.approx(float(found.map_months.sum()), abs=1e-3)
    assert (table["area_fraction"] > 0).all()


def test_what_progress_raises_ends_the_work_and_leaves_the_network(
    run: TrainedRun, radiograph: Radiograph
) -> None:
    pixels = preprocess(radiograph, run.preprocessing).pixels
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    endless = SETTINGS.model_copy(
        update={
            "max_nodes": 10**6,
            "gap_tolerance_months": 0.0,
            "gap_tolerance_fraction": 0.0,
            "map_tolerance_fraction": 1e-12,
        }
    )
    steps = 0

    class StopNow(BaseException):
        pass

    def stop(done: int, total: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise StopNow

    with pytest.raises(StopNow):
        explain_single(run.network, pixels, Sex.MALE, endless, stop)
    assert steps == 3
    assert not run.network.training
    assert not any(parameter.requires_grad for parameter in run.network.parameters())
    assert not any(module._forward_hooks for module in run.network.modules())
    for name, value in run.network.state_dict().items():
        assert torch.equal(value, before[name])


def test_erasing_in_turn_is_occluding_together(run: TrainedRun, radiograph: Radiograph) -> None:
    prepared = preprocess(radiograph, run.preprocessing)
    _, regions = located_regions(radiograph, prepared)
    areas = removables(regions)[:4]
    assert areas
    done: list[tuple[int, int]] = []
    found = erase_in_turn(
        run, prepared.pixels, Sex.MALE, areas, "mean", lambda *step: done.append(step)
    )
    case = Case("any", Path(), Sex.MALE)
    together = occlude_case(run_predictor(run), case, prepared.pixels, areas, ["mean"])
    assert done == [(n, len(areas)) for n in range(1, len(areas) + 1)]
    assert list(found["region"]) == [row["region"] for row in together]
    expected = [row["delta_months"] for row in together]
    np.testing.assert_allclose(found["delta_months"], expected, atol=1e-3)


def test_nearest_training_radiographs(run: TrainedRun, phantoms: Path, tmp_path: Path) -> None:
    training = training_features(run, source=phantoms, cache_folder=tmp_path)
    assert len(training.cohort) == len(training.features) == 32
    own = training.cohort.cases[0]
    pixels = training.pixels(own.case_id)
    from_elsewhere = nearest_training(run, pixels, own.sex, training, k=3)
    assert from_elsewhere["neighbour_id"].iloc[0] == own.case_id
    assert from_elsewhere["distance"].iloc[0] == pytest.approx(0, abs=1e-4)
    itself = nearest_training(run, pixels, own.sex, training, case_id=own.case_id, k=3)
    assert own.case_id not in set(itself["neighbour_id"])
    read = reference_pixels(phantoms, None, [own.case_id, "../nobody"], run.preprocessing)
    assert list(read) == [own.case_id]
    np.testing.assert_array_equal(read[own.case_id], pixels)


def test_only_the_analysed_run_is_loaded(run: TrainedRun, tmp_path: Path) -> None:
    home = tmp_path / "moved"
    shutil.copytree(run.path, home / "run", ignore=shutil.ignore_patterns("engine"))
    record = run.record() | {"path": "run"}

    def analysis(name: str, **changes: object) -> AnalysisFolder:
        return AnalysisFolder.add_step(
            home / name,
            run=record | changes,
            data={"fingerprint": "0", "split": "all"},
            step="attribute",
            detail={"settings": {"baseline": "expected", "max_nodes": 99}},
        )

    # A relative path is found from the folders above, since they were moved together.
    found = load_recorded_run(analysis("a"))
    assert (found.path, found.model_id) == (home / "run", run.model_id)
    settings, replaced = recorded_settings(analysis("a"))
    assert (settings.baseline, settings.max_nodes, replaced) == ("black", 99, "expected")
    with pytest.raises(CheckpointError, match="the weights that were analysed"):
        load_recorded_run(analysis("b", model_id="0" * 12))
    with pytest.raises(CheckpointError, match="found none there"):
        load_recorded_run(analysis("c", path="../<script>"))
    with pytest.raises(ConfigError, match="executed"):
        load_recorded_run(analysis("d", card={"name": "x"}))
    weights = home / "run" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="changed or damaged"):
        load_recorded_run(analysis("a"))


def test_source_that_is_gone_is_told(run: TrainedRun, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        reference_pixels(tmp_path / "gone", None, ["1"], run.preprocessing)
