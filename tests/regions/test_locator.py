from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from boneage_xai.anatomy import REGION_LABELS, REGION_NAMES
from boneage_xai.errors import CheckpointError
from boneage_xai.phantom.rendering import PhantomImage
from boneage_xai.regions.aggregation import aggregate
from boneage_xai.regions.boxes import LocatedRegion
from boneage_xai.regions.locator import (
    HandRegions,
    find_peaks,
    load_locator,
    locate,
    save_locator,
    shipped_weights,
)
from boneage_xai.regions.locator_network import LANDMARKS, TIP, LocatorNetwork, local_contrast
from boneage_xai.types import FloatImage, Radiograph

N_REGIONS = len([landmark for landmark in LANDMARKS if landmark[0] != TIP])
Truth = dict[tuple[str, int | None], tuple[float, float]]


def look(pixels: FloatImage) -> HandRegions:
    return locate(Radiograph(pixels, Path("drawn.png")))


def centres(hand: PhantomImage) -> Truth:
    return {(box.region, box.finger): (box.x_px, box.y_px) for box in hand.boxes}


def worst_miss(boxes: tuple[LocatedRegion, ...], truth: Truth) -> float:
    """Largest distance from the truth in halves of the box found there; the boxes are of use
    as long as the truth lies well inside."""
    assert len({(box.region, box.finger) for box in boxes}) == len(boxes)
    return max(
        max(
            abs(box.x_px - truth[box.region, box.finger][0]) / (box.width_px / 2),
            abs(box.y_px - truth[box.region, box.finger][1]) / (box.height_px / 2),
        )
        for box in boxes
    )


def test_every_region_of_unseen_phantoms_is_found(hands: list[PhantomImage]) -> None:
    for hand in hands:
        found = look(hand.pixels)
        assert len(found.boxes) == N_REGIONS
        assert worst_miss(found.boxes, centres(hand)) < 1
        assert all(0.4 <= box.confidence <= 1 for box in found.boxes)


def test_a_right_hand_is_the_mirror_image_of_a_left_one(hands: list[PhantomImage]) -> None:
    for hand in hands[:4]:
        width = hand.pixels.shape[1]
        left = {(b.region, b.finger): b for b in look(hand.pixels).boxes}
        right = look(np.ascontiguousarray(hand.pixels[:, ::-1])).boxes
        assert len(right) == len(left)
        for box in right:
            twin = left[box.region, box.finger]
            assert width - box.x_px == pytest.approx(twin.x_px, abs=0.05 * width)
            assert box.y_px == pytest.approx(twin.y_px, abs=0.05 * width)


@pytest.mark.parametrize("degrees", [-28.0, 28.0])
def test_turned_hands_are_found(hands: list[PhantomImage], degrees: float) -> None:
    for hand in hands[:4]:
        turned = np.clip(ndimage.rotate(hand.pixels, degrees, order=1), 0, 1).astype(np.float32)
        (height, width), (tall, wide) = hand.pixels.shape, turned.shape
        sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
        truth = {}
        for key, (x, y) in centres(hand).items():
            dx, dy = x - width / 2, y - height / 2
            truth[key] = (wide / 2 + dx * cosine + dy * sine, tall / 2 + dy * cosine - dx * sine)
        found = look(turned).boxes
        assert len(found) >= N_REGIONS - 2
        assert worst_miss(found, truth) < 1.5


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_hands_that_lie_in_quarter_turns_are_found(hands: list[PhantomImage], turns: int) -> None:
    for hand in hands[:2]:
        height, width = hand.pixels.shape
        turned = np.ascontiguousarray(np.rot90(hand.pixels, turns))
        moved = {
            1: lambda x, y, w, h: (y, w - x),
            2: lambda x, y, w, h: (w - x, h - y),
            3: lambda x, y, w, h: (h - y, x),
        }[turns]
        truth = {key: moved(x, y, width, height) for key, (x, y) in centres(hand).items()}
        found = look(turned)
        assert len(found.boxes) >= N_REGIONS - 2
        assert worst_miss(found.boxes, truth) < 1.2
        carpals = np.argwhere(found.labels.labels == REGION_LABELS["carpals"]).mean(axis=0)
        wrist = next(box for box in found.boxes if box.region == "wrist")
        assert abs(carpals[1] - wrist.x_px) < wrist.width_px / 2
        assert abs(carpals[0] - wrist.y_px) < wrist.height_px / 2


def test_a_squashed_image_and_another_size_move_with_the_hand(hands: list[PhantomImage]) -> None:
    hand = hands[1]
    height, width = hand.pixels.shape
    squashed = np.asarray(Image.fromarray(hand.pixels).resize((520, 520)))
    found = look(np.clip(squashed, 0, 1)).boxes
    truth = {key: (x * 520 / width, y * 520 / height) for key, (x, y) in centres(hand).items()}
    assert len(found) == N_REGIONS
    assert worst_miss(found, truth) < 1.2


@pytest.mark.parametrize("kind", ["black", "white", "noise", "gradient", "tiny"])
def test_nothing_is_found_where_there_is_no_hand(kind: str) -> None:
    rng = np.random.default_rng(4)
    pixels = {
        "black": np.zeros((300, 220)),
        "white": np.ones((300, 220)),
        "noise": rng.uniform(size=(300, 220)),
        "gradient": np.linspace(0, 1, 300)[:, None] * np.ones((1, 220)),
        "tiny": np.zeros((1, 3)),
    }[kind].astype(np.float32)
    found = look(pixels)
    assert found.boxes == ()
    inside = set(np.unique(found.labels.labels).tolist())
    assert inside <= {REGION_LABELS["background"], REGION_LABELS["marker"]}
    assert found.labels.labels.shape == pixels.shape


def test_labels_agree_with_the_drawing_and_sum_exactly(hands: list[PhantomImage]) -> None:
    rng = np.random.default_rng(0)
    for hand in hands:
        found = look(hand.pixels)
        labels = found.labels.labels
        assert labels.shape == hand.pixels.shape
        assert found.labels.names == dict(REGION_NAMES)
        for region in ("radius", "ulna", "carpals", "metacarpal_shafts"):
            ours, true = (m == REGION_LABELS[region] for m in (labels, hand.regions.labels))
            assert (ours & true).sum() / (ours | true).sum() > 0.5, region
        signed = rng.integers(-8, 9, size=labels.shape).astype(np.float32)
        table = aggregate(signed, found.labels)
        assert table["signed_months"].sum() == signed.sum()
        assert table["area_fraction"].sum() == pytest.approx(1, abs=1e-12)


def test_joints_are_labelled_in_their_boxes_and_nowhere_else(hands: list[PhantomImage]) -> None:
    found = look(hands[2].pixels)
    rows, columns = np.indices(found.labels.labels.shape) + 0.5
    for region in ("DIP", "PIP", "MCP"):
        near = np.zeros(found.labels.labels.shape, dtype=bool)
        for box in found.boxes:
            if box.region == region:
                across = np.abs(columns - box.x_px) <= box.width_px / 2 + 1
                near |= across & (np.abs(rows - box.y_px) <= box.height_px / 2 + 1)
        labelled = found.labels.labels == REGION_LABELS[region]
        assert labelled.any()
        assert not (labelled & ~near).any()


def test_locating_leaves_everything_as_found(hands: list[PhantomImage]) -> None:
    pixels = hands[0].pixels.copy()
    state = torch.get_rng_state()
    network = load_locator()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    first = locate(Radiograph(pixels, Path("a.png")), network)
    second = locate(Radiograph(pixels, Path("a.png")), network)
    assert first.boxes == second.boxes
    np.testing.assert_array_equal(pixels, hands[0].pixels)
    assert torch.equal(state, torch.get_rng_state())
    assert not network.training
    assert torch.is_grad_enabled()
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_weights_are_small_and_saving_them_is_identity(tmp_path: Path) -> None:
    assert shipped_weights().stat().st_size <= 4_000_000
    network = load_locator()
    save_locator(network, tmp_path / "again.safetensors")
    again = load_locator(tmp_path / "again.safetensors")
    for ours, theirs in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_other_files_are_no_locator(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors: expected the locator's weights"):
        load_locator(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(CheckpointError, match="expected the locator's weights"):
        load_locator(tmp_path / "text.safetensors")


def test_peaks_are_the_mean_about_the_likeliest_cell() -> None:
    places = np.zeros((2, 9, 9), dtype=np.float32)
    places[0, 4, 5], places[0, 4, 6] = 0.5, 0.25
    places[0, 0, 0] = 0.2  # far from the peak: counts for neither place nor confidence
    cells, confidence = find_peaks(places)
    np.testing.assert_allclose(cells[0], [(0.5 * 5.5 + 0.25 * 6.5) / 0.75, 4.5])
    np.testing.assert_allclose(confidence, [0.75, 0.0])


def test_local_contrast_is_the_same_for_every_exposure() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 1, 64, 64, generator=generator)
    brighter = 0.3 + 0.6 * images
    torch.testing.assert_close(
        local_contrast(images), local_contrast(brighter), atol=2e-4, rtol=1e-3
    )
    assert local_contrast(images).abs().max() <= 1


def test_the_network_tells_its_grids() -> None:
    with torch.random.fork_rng(devices=[]):
        network = LocatorNetwork().eval()
    with torch.inference_mode():
        places, absence, classes = network(torch.zeros(2, 1, 96, 96))
    assert places.shape == (2, len(LANDMARKS), 24, 24)
    assert absence.shape == (2, len(LANDMARKS))
    assert classes.shape == (2, len(REGION_NAMES), 48, 48)
