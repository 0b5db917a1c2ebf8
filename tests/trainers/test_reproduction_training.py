"""One arm of a reproduction: how far it is after a stop, a refusal or a divergence."""

from __future__ import annotations

from pathlib import Path

import pytest
from reproduction_fixture import cohort, recipes

from boneage_xai.types import Cohort
from trainers.reproduction.arms import arm_state, load_arms, train_arm

__all__ = ["cohort", "recipes"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_a_budget_that_ends_while_decoding_leaves_an_arm_not_begun(
    cohort: Cohort, recipes: list[str], tmp_path: Path
) -> None:
    decoded: list[int] = []
    state = train_arm(
        load_arms(recipes[:1], [])[0],
        cohort,
        tmp_path / "run",
        cache_folder=tmp_path / "cache",
        stop=lambda: bool(decoded),
        on_decode=lambda done, _: decoded.append(done),
    )
    assert decoded
    assert (state.status, state.reason) == ("not begun", None)


def test_the_best_epoch_so_far_stays_until_the_results_are_written(
    cohort: Cohort, recipes: list[str], cache: Path, tmp_path: Path
) -> None:
    (arm,) = load_arms(recipes[:1], [])
    folder = tmp_path / "run"
    state = train_arm(
        arm, cohort, folder, cache_folder=cache, stop=(folder / "history.csv").is_file
    )
    assert state.run == folder / "so-far"
    obstacle = folder / "learning_curve.png"
    obstacle.mkdir()
    with pytest.raises(OSError, match="learning_curve"):
        train_arm(arm, cohort, folder, cache_folder=cache)
    assert arm_state(arm, folder).run == folder / "so-far"
    obstacle.rmdir()
    assert train_arm(arm, cohort, folder, cache_folder=cache).status == "complete"
    assert not (folder / "so-far").exists()


def test_a_stop_before_the_full_size_leaves_nothing_to_measure(
    cohort: Cohort, recipes: list[str], cache: Path, tmp_path: Path
) -> None:
    stages = "training.stages=[{epochs=2,size_px=32},{epochs=1,size_px=48}]"
    (arm,) = load_arms(recipes[:1], [stages])
    asked: list[bool] = []

    def after_one_epoch() -> bool:
        asked.append(True)
        return len(asked) > 2

    state = train_arm(arm, cohort, tmp_path / "run", cache_folder=cache, stop=after_one_epoch)
    assert (state.status, state.epochs, state.run) == ("partial", 1, None)
    assert state.reason is not None
    assert state.reason.startswith("expected an epoch at the full input size")


def test_an_input_too_small_keeps_one_arm_from_beginning(
    cohort: Cohort, cache: Path, tmp_path: Path
) -> None:
    (arm,) = load_arms(["kimmel-inception-v3"], ["preprocessing.size_px=48"])
    state = train_arm(arm, cohort, tmp_path / "run", cache_folder=cache)
    assert state.status == "not run"
    assert "48 pixels" in str(state.reason)
    assert arm_state(arm, tmp_path / "run").status == "not begun"


def test_an_arm_that_diverges_has_failed(
    cohort: Cohort, recipes: list[str], cache: Path, tmp_path: Path
) -> None:
    (arm,) = load_arms(recipes[:1], ["training.learning_rate=99", "training.loss=mse"])
    state = train_arm(arm, cohort, tmp_path / "run", cache_folder=cache)
    assert (state.status, state.run) == ("failed", None)
    assert "diverged" in str(state.reason)
