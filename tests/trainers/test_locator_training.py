from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from boneage_xai.anatomy import REGION_LABELS
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.regions.locator import load_locator
from boneage_xai.regions.locator_network import LANDMARKS
from trainers.locator.examples import NOT_EXPOSED, Examples, read_examples
from trainers.locator.placement import draw_placement, place
from trainers.locator.recipe import (
    LocatorRecipe,
    LocatorTrainingSettings,
    RandomisationSettings,
    load_locator_recipe,
)
from trainers.locator.run import train_locator
from trainers.locator.training import draw_batch, landmark_loss

TINY = ["training.stages=[{steps=3,size_px=64}]", "training.batch_size=4"]


@pytest.fixture(scope="module")
def examples(phantoms: Path) -> Examples:
    return read_examples(phantoms)


def test_the_shipped_recipe_is_what_the_shipped_weights_say() -> None:
    from boneage_xai.files import file_sha256, read_json
    from boneage_xai.regions.locator import shipped_weights

    card = read_json(shipped_weights().with_suffix(".json"))
    assert LocatorRecipe.model_validate(card["recipe"]) == load_locator_recipe()
    assert card["weights_sha256"] == file_sha256(shipped_weights())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.speed=3", "unknown key training.speed"),
        ("training.stages=[{steps=3,size_px=50}]", "training.stages"),
        ("randomisation.zoom=[2.0,1.0]", "zoom: expected 0 < low"),
        ("training", "expected section.key=value"),
    ],
)
def test_wrong_recipes_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_locator_recipe(None, [override])


def test_a_recipe_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a TOML file, found none"):
        load_locator_recipe(tmp_path / "none.toml")


def test_examples_hold_landmarks_in_their_own_regions(examples: Examples) -> None:
    side = examples.images.shape[1]
    checked = 0
    for labels, points in zip(examples.labels, examples.points, strict=True):
        for (region, finger), (x, y) in zip(LANDMARKS, points * side, strict=True):
            if finger is not None and region in REGION_LABELS:
                checked += 1
                found = labels[int(y), int(x)]
                # A marker or a neighbouring joint may lie over it.
                assert found not in (REGION_LABELS["background"], NOT_EXPOSED)
    assert checked == 14 * len(examples)


def test_placement_moves_pixels_labels_and_landmarks_together() -> None:
    size, generator = 96, torch.Generator().manual_seed(3)
    points = torch.tensor([[0.35, 0.4], [0.6, 0.3], [0.55, 0.7]]).expand(16, -1, -1).clone()
    images = torch.zeros(16, size, size, dtype=torch.uint8)
    labels = torch.ones(16, size, size, dtype=torch.uint8)
    for x, y in points[0].tolist():
        rows = slice(int(y * size) - 3, int(y * size) + 4)
        columns = slice(int(x * size) - 3, int(x * size) + 4)
        images[:, rows, columns] = 255
        labels[:, rows, columns] = 5
    forward = draw_placement(points, RandomisationSettings(shift=0.0), generator)
    placed = place(images, labels, points, forward, size, 2)
    inside = 0
    for n in range(16):
        for x, y in placed.points[n].tolist():
            if 0.1 < x < 0.9 and 0.1 < y < 0.9:
                inside += 1
                assert placed.images[n, 0, int(y * size), int(x * size)] > 0.5
                assert placed.labels[n, int(y * size / 2), int(x * size / 2)] == 5
    assert inside > 30
    assert (torch.linalg.det(forward[:, :, :2]) < 0).any(), "some hands are mirrored"
    assert (torch.linalg.det(forward[:, :, :2]) > 0).any()


def test_batches_depend_on_the_seed_alone_and_leave_the_examples(examples: Examples) -> None:
    settings = RandomisationSettings(no_hand_share=0.4)
    before, state = examples.images.copy(), torch.get_rng_state()

    def draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(5)
        return draw_batch(examples, np.arange(24), 96, settings, generator)

    images, points, labels = draw()
    for ours, theirs in zip((images, points, labels), draw(), strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=0, atol=0)
    assert images.shape == (24, 1, 96, 96)
    assert images.min() >= 0
    assert images.max() <= 1
    assert labels.max() < len(REGION_LABELS)
    empty = points.isnan().all(dim=(1, 2))
    assert 0 < empty.sum() < 24
    assert (labels[empty] == 0).all()
    np.testing.assert_array_equal(examples.images, before)
    assert torch.equal(state, torch.get_rng_state())


def test_the_loss_is_the_cross_entropy_of_place_and_absence() -> None:
    settings = LocatorTrainingSettings(stages=[{"steps": 1, "size_px": 32}], landmark_sd=0.1)
    places = torch.zeros(1, 2, 2, 2)
    places[0, 0, 1, 0] = 2.0
    absence = torch.tensor([[0.0, 3.0]])
    # The first lies in the third cell (row 1, column 0), the second is not in the image.
    points = torch.tensor([[[0.25, 0.75], [1.5, 0.5]]])
    expected = (math.log(4 + math.exp(2)) - 2 + math.log(4 + math.exp(3)) - 3) / 2
    loss = landmark_loss(places, absence, points, settings)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    gone = landmark_loss(places, absence, torch.full((1, 2, 2), torch.nan), settings)
    assert gone.item() == pytest.approx(
        (math.log(4 + math.exp(2)) + math.log(4 + math.exp(3)) - 3) / 2, rel=1e-5
    )


def test_training_writes_a_locator_that_loads(phantoms: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    reports: list[dict[str, float]] = []
    recipe = load_locator_recipe(None, [*TINY, "training.validation_fraction=0.1"])
    card = train_locator(recipe, phantoms, tmp_path / "locator", on_report=reports.append)
    assert torch.equal(state, torch.get_rng_state())
    assert card["held_out_phantoms"]["n"] == 4
    network = load_locator(tmp_path / "locator" / "locator.safetensors")
    assert any(
        not torch.equal(a, b)
        for a, b in zip(network.parameters(), load_locator().parameters(), strict=True)
    )
    again = train_locator(recipe, phantoms, tmp_path / "again")
    assert again["weights_sha256"] == card["weights_sha256"]
    with pytest.raises(DataError, match="exists already"):
        train_locator(recipe, phantoms, tmp_path / "locator")


def test_a_folder_that_holds_no_phantoms_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"phantom\.json"):
        train_locator(load_locator_recipe(None, TINY), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
