from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import label

from boneage_xai.anatomy import REGION_LABELS, REGION_NAMES
from boneage_xai.regions.removable import (
    ALL_JOINTS,
    BACKGROUND_AND_MARKER,
    WHOLE_HAND,
    Removable,
    control_of,
    moved_region,
    removables,
)
from boneage_xai.types import RegionMap

_EIGHT = np.ones((3, 3), dtype=np.int64)


def hand(size: int = 80) -> RegionMap:
    """Draw a forearm with two bones, carpals, a shaft and two joints in soft tissue."""
    labels = np.full((size, size), REGION_LABELS["background"])

    def draw(name: str, top: int, bottom: int, left: int, right: int) -> None:
        labels[top:bottom, left:right] = REGION_LABELS[name]

    draw("soft_tissue", 4, 80, 20, 64)
    draw("metacarpal_shafts", 28, 44, 24, 60)
    draw("MCP", 22, 26, 26, 32)
    draw("MCP", 22, 26, 44, 50)
    draw("PIP", 10, 14, 26, 32)
    draw("carpals", 46, 52, 30, 50)
    draw("radius", 60, 80, 24, 32)
    draw("marker", 4, 10, 4, 10)
    return RegionMap(labels, dict(REGION_NAMES))


def by_name(areas: list[Removable]) -> dict[str, Removable]:
    assert len({area.name for area in areas}) == len(areas)
    return {area.name: area for area in areas}


def pieces(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int, bytes]]:
    """Return the shape of each connected piece, wherever it lies."""
    numbered, count = label(mask, _EIGHT)
    shapes = []
    for number in range(1, count + 1):
        y, x = np.nonzero(numbered == number)
        cut = (numbered == number)[y.min() : y.max() + 1, x.min() : x.max() + 1]
        shapes.append((*cut.shape, cut.tobytes()))
    return sorted(shapes)


def test_regions_composites_and_controls_of_a_hand() -> None:
    regions = hand()
    areas = by_name(removables(regions))
    present = {REGION_NAMES[int(value)] for value in np.unique(regions.labels)}
    assert {name for name, area in areas.items() if area.kind == "region"} == present
    joints = areas["MCP"].mask | areas["PIP"].mask
    np.testing.assert_array_equal(areas[ALL_JOINTS].mask, joints)
    np.testing.assert_array_equal(areas[WHOLE_HAND].mask, ~areas[BACKGROUND_AND_MARKER].mask)
    assert areas[BACKGROUND_AND_MARKER].hand_fraction == 0
    assert areas["MCP"].hand_fraction == 1
    controls = {name for name, area in areas.items() if area.kind == "control"}
    bones = present - {"background", "marker", "soft_tissue"}
    assert controls == {control_of(name) for name in bones}


def test_a_control_has_the_same_shapes_elsewhere_and_covers_no_growth() -> None:
    areas = by_name(removables(hand()))
    for name in ("MCP", "PIP", "carpals", "radius"):
        control, own = areas[control_of(name)], areas[name]
        assert control.mask.sum() == own.mask.sum()
        assert not (control.mask & own.mask).any()
        assert pieces(control.mask) == pieces(own.mask) or name == "MCP"
        growth = np.logical_or.reduce(
            [areas[other].mask for other in ("MCP", "PIP", "carpals", "radius", "marker")]
        )
        assert (control.mask & growth).sum() <= 0.02 * own.mask.sum()
    assert areas[control_of("MCP")].hand_fraction == 1
    # On the shafts there is room for it, and the nearest place is right below.
    assert (areas[control_of("MCP")].mask & areas["metacarpal_shafts"].mask).sum() >= 45


def test_a_region_without_room_has_no_control() -> None:
    masks = {"radius": np.ones((20, 20), dtype=np.bool_), "background": np.zeros((20, 20), bool)}
    masks["radius"][:, :4], masks["background"][:, :4] = False, True
    assert moved_region(masks, "radius") is None


def test_labels_that_share_a_name_are_removed_together() -> None:
    labels = np.zeros((40, 40), dtype=np.uint8)
    labels[4:8, 4:8], labels[20:24, 20:24] = 1, 2
    areas = by_name(removables(RegionMap(labels, {0: "background", 1: "wrist", 2: "wrist"})))
    assert areas["wrist"].mask.sum() == 32
    assert ALL_JOINTS not in areas


def test_no_hand_gives_nothing_to_remove() -> None:
    labels = np.zeros((20, 20), dtype=np.uint8)
    assert removables(RegionMap(labels, dict(REGION_NAMES))) == []
    full = RegionMap(np.ones((20, 20), dtype=np.uint8), {1: "soft_tissue"})
    assert removables(full) == []
