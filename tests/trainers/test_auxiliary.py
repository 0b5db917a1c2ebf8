"""Auxiliary targets: what they are, that they are learned, and that no run keeps their heads."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from apps.cli import main
from boneage_xai.anatomy import AGE_REGIONS, centres_of
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.models.checkpoint import load_run
from boneage_xai.models.regressor import BoneAgeRegressor
from boneage_xai.phantom.cohorts import read_phantom_cohort
from boneage_xai.types import Cohort
from trainers.auxiliary import AuxiliaryHeads, RegionAges, phantom_region_ages
from trainers.engine import train
from trainers.module import BoneAgeTraining
from trainers.recipe import AuxiliarySettings, Recipe, load_recipe
from trainers.starting_network import starting_network

TINY = (
    "preprocessing.size_px=32",
    "architecture.backbone=squeezenet1_1",
    "training.batch_size=8",
    "training.epochs=2",
    "training.precision=float32",
    "training.validation_fraction=0.2",
)


@pytest.fixture(scope="module")
def cohort(phantoms: Path) -> Cohort:
    return select_cohort(read_source(phantoms))


@pytest.fixture(scope="module")
def region_ages(phantoms: Path) -> RegionAges:
    return phantom_region_ages(phantoms)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("phantom-pretraining", TINY)


@pytest.fixture(scope="module")
def pretrained(
    cohort: Cohort,
    recipe: Recipe,
    region_ages: RegionAges,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("pretraining")
    train(recipe, cohort, folder / "run", cache_folder=folder / "cache", region_ages=region_ages)
    return folder


def test_every_phantom_has_the_ages_of_its_regions(phantoms: Path, cohort: Cohort) -> None:
    ages = phantom_region_ages(phantoms)
    assert set(ages) == {case.case_id for case in cohort}
    _, cases = read_phantom_cohort(phantoms)
    case = next(one for one in cases if one.hand.age_months > 100)
    carpals = ages[case.case_id][AGE_REGIONS.index("carpals")]
    by_hand = []
    for centre in centres_of("carpals"):
        own = case.hand.age_months * (1 + case.hand.pace[centre.centre_id])
        low, high = (
            centre.appears_months.of(case.hand.sex),
            centre.complete_months.of(case.hand.sex),
        )
        by_hand.append(min(max(own, low), high))
    assert carpals == pytest.approx(sum(by_hand) / len(by_hand))
    assert carpals != pytest.approx(case.hand.age_months, abs=0.1)


def test_the_losses_are_those_of_the_definition() -> None:
    torch.manual_seed(0)
    heads = AuxiliaryHeads(AuxiliarySettings(sex=0.5, region_ages=2.0), 4)
    features, is_male = torch.randn(3, 4), torch.tensor([1.0, 0.0, 1.0])
    ages = torch.randn(3, len(AGE_REGIONS))
    logits = heads.sex(features).squeeze(1).detach().double().numpy()
    told = 1 / (1 + np.exp(-logits))
    cross_entropy = -np.log(np.where(is_male.numpy() == 1, told, 1 - told)).mean()
    error = np.abs(heads.region_ages(features).detach().double().numpy() - ages.numpy()).mean()
    loss = heads.loss(features, is_male, ages)
    assert float(loss) == pytest.approx(0.5 * cross_entropy + 2.0 * error, rel=1e-5)


def test_the_features_learn_sex_and_ages_of_regions(recipe: Recipe) -> None:
    """Pictures whose brightness is the sex, and whose left half that of the regions."""
    torch.manual_seed(0)
    n = 64
    is_male = (torch.arange(n) % 2).float()
    ages = torch.linspace(20, 200, n)[torch.randperm(n)]
    pixels = torch.zeros(n, 32, 32)
    pixels[:, :, 16:] = 40 + 160 * is_male[:, None, None]
    pixels[:, :, :16] = ages[:, None, None]
    region_ages = ages[:, None].expand(n, len(AGE_REGIONS))
    batch = (pixels.to(torch.uint8), is_male, ages, region_ages)
    quick = load_recipe(
        "phantom-pretraining",
        [*TINY, "architecture.backbone=resnet18", "architecture.dropout=0"],
    )
    network = BoneAgeRegressor(quick.architecture, age_mean_months=110.0, age_sd_months=50.0)
    module = BoneAgeTraining(network, quick, 1)
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)

    def told() -> tuple[float, float]:
        images = module._prepared(batch[0])
        _, features = network.raw_and_features(images, is_male)
        right = (module.auxiliary.sex(features).squeeze(1) > 0) == is_male.bool()
        months = 110 + 50 * module.auxiliary.region_ages(features)
        return float(right.float().mean()), float((months - region_ages).abs().mean())

    before = told()
    assert before[0] < 0.8
    for step in range(1, 41):
        optimiser.zero_grad()
        raw, features = network.raw_and_features(module._prepared(batch[0]), is_male)
        module._measure("train", batch, raw, features).backward()
        optimiser.step()
        if step % 5 == 0:
            right, error = told()
            if right > 0.95 and error < 0.4 * before[1]:
                return
    pytest.fail(f"not learned in {step} steps: {right:.0%} right, {error:.1f} months")


def test_targets_change_what_is_learned_and_leave_no_trace_in_the_run(
    pretrained: Path, cohort: Cohort, recipe: Recipe
) -> None:
    state = load_file(pretrained / "run" / "model.safetensors")
    expected = BoneAgeRegressor(recipe.architecture).state_dict()
    assert set(state) == set(expected)
    alone = recipe.model_copy(update={"auxiliary": AuxiliarySettings()})
    other = pretrained / "age-alone"
    train(alone, cohort, other, cache_folder=pretrained / "cache")
    age_alone = load_file(other / "model.safetensors")
    assert any(not age_alone[key].equal(state[key]) for key in state if "backbone" in key)


def test_a_training_begins_from_the_pretrained_network(pretrained: Path, cohort: Cohort) -> None:
    weights = f"initialisation.weights={json.dumps(str(pretrained / 'run'))}"
    tuned = load_recipe(
        "cpu-small",
        [*TINY, "training.stages=[]", "training.epochs=1", "training.learning_rate=1e-9", weights],
    )
    before = load_run(pretrained / "run").network.state_dict()
    start = starting_network(tuned, cohort.bone_ages_months()).state_dict()
    assert all(value.equal(before[key]) for key, value in start.items())
    run = train(tuned, cohort, pretrained / "tuned", cache_folder=pretrained / "cache")
    after = run.network.state_dict()
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=1e-5)


class StopError(Exception):
    """Stands for anything that ends a training early."""


def test_a_stopped_pretraining_resumes_to_the_same_weights(
    pretrained: Path, cohort: Cohort, recipe: Recipe, region_ages: RegionAges, tmp_path: Path
) -> None:
    cache, epochs = pretrained / "cache", []

    def stop(row: dict[str, float]) -> None:
        epochs.append(row["epoch"])
        if len(epochs) == 2:
            raise StopError

    with pytest.raises(StopError):
        train(
            recipe,
            cohort,
            tmp_path / "run",
            cache_folder=cache,
            region_ages=region_ages,
            on_epoch=stop,
        )
    run = train(
        recipe,
        cohort,
        tmp_path / "run",
        cache_folder=cache,
        region_ages=region_ages,
        resume=True,
    )
    whole = load_run(pretrained / "run").network.state_dict()
    assert all(value.equal(whole[key]) for key, value in run.network.state_dict().items())


def test_ages_of_regions_that_are_not_known_are_refused(
    cohort: Cohort, recipe: Recipe, region_ages: RegionAges, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"found 40 cases without, first 1\b"):
        train(recipe, cohort, tmp_path / "run")
    some = {case_id: ages for case_id, ages in region_ages.items() if case_id != "7"}
    with pytest.raises(DataError, match="found 1 cases without, first 7"):
        train(recipe, cohort, tmp_path / "run", region_ages=some)
    assert not (tmp_path / "run").exists()


def test_radiographs_are_no_source_of_ages_of_regions(
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (copy := tmp_path / "radiographs").mkdir()
    for name in ("boneage-training-dataset.csv", "boneage-training-dataset"):
        (copy / name).symlink_to(phantoms / name)
    words = ["train", "phantom-pretraining", "--data", str(copy), "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["boneage-xai", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "phantom.json" in capsys.readouterr().err


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"auxiliary\.sex"):
        load_recipe("phantom-pretraining", ["auxiliary.sex=-1"])
