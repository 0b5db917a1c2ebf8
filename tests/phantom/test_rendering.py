from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from boneage_xai import anatomy
from boneage_xai.anatomy import PART_LABELS, REGION_LABELS
from boneage_xai.phantom import nuisances
from boneage_xai.phantom.cohorts import draw_cases, render_case
from boneage_xai.phantom.collimation import draw_collimation
from boneage_xai.phantom.film import scattered_share
from boneage_xai.phantom.growth import Hand, median_hand, sample_hand
from boneage_xai.phantom.rendering import attenuation, draw, expose, render
from boneage_xai.phantom.settings import NUISANCES, PhantomSettings
from boneage_xai.phantom.shapes import Frame, Solid, locate, mineral_mm
from boneage_xai.phantom.windows import whole
from boneage_xai.types import Sex

CLEAN = PhantomSettings.clean(192)


def hand_of(age_months: float, sex: Sex = Sex.MALE, seed: int = 0) -> Hand:
    return sample_hand(sex, age_months, np.random.default_rng(seed))


def test_image_and_labels_share_the_grid() -> None:
    image = render(hand_of(100), PhantomSettings(), seed=4)
    assert image.pixels.dtype == np.float32
    assert image.pixels.shape == image.regions.labels.shape
    assert max(image.pixels.shape) == 256
    assert 0 <= image.pixels.min() < image.pixels.max() <= 1
    assert image.regions.labels.dtype == np.uint8


@pytest.mark.parametrize("age_months", [12, 72, 132, 216])
def test_labels_cover_what_is_drawn(age_months: float) -> None:
    image = render(median_hand(Sex.FEMALE, age_months), CLEAN)
    labels, pixels = image.regions.labels, image.pixels
    background = labels == REGION_LABELS[anatomy.BACKGROUND]
    far = ndimage.distance_transform_edt(background) > 2
    assert pixels[far].max() - pixels[far].min() < 1e-3
    hand = ~ndimage.binary_dilation(background, iterations=2)
    assert pixels[hand].min() > pixels[far].max() + 0.005
    expected = set(REGION_LABELS.values()) - {REGION_LABELS[anatomy.MARKER]}
    assert set(np.unique(labels)) == expected


@pytest.mark.parametrize("bone", ["PP3", "MC3", "DP2", "radius", "ulna", "capitate"])
@pytest.mark.parametrize("age_months", [40, 120, 200])
def test_bones_are_brighter_than_the_tissue_around_them(bone: str, age_months: float) -> None:
    image = render(median_hand(Sex.MALE, age_months), CLEAN)
    parts = image.parts.labels
    inside = parts == PART_LABELS[bone]
    around = ndimage.binary_dilation(inside, iterations=3)
    tissue = around & (parts == PART_LABELS[anatomy.SOFT_TISSUE])
    background = parts == PART_LABELS[anatomy.BACKGROUND]
    assert image.pixels[inside].mean() > image.pixels[tissue].mean() + 0.04
    assert image.pixels[tissue].mean() > image.pixels[background].mean() + 0.05


def test_joints_lie_where_readers_box_them() -> None:
    # Medians measured on annotated radiographs, as shares of the image.
    measured = {
        "DIP": (0.44, 0.22, 0.06, 0.06),
        "PIP": (0.50, 0.33, 0.07, 0.07),
        "MCP": (0.49, 0.46, 0.09, 0.08),
        "wrist": (0.50, 0.69, 0.30, 0.15),
        "radius": (0.51, 0.77, 0.16, 0.09),
        "ulna": (0.40, 0.77, 0.10, 0.07),
    }
    boxes: dict[str, list[tuple[float, ...]]] = {name: [] for name in measured}
    for case in draw_cases(24, seed=2):
        image = render_case(case, PhantomSettings(size_px=64))
        height, width = image.pixels.shape
        for box in image.boxes:
            boxes[box.region].append(
                (
                    box.x_px / width,
                    box.y_px / height,
                    box.width_px / width,
                    box.height_px / height,
                )
            )
    for name, expected in measured.items():
        assert np.median(boxes[name], axis=0) == pytest.approx(expected, abs=0.05), name


@pytest.mark.parametrize(
    ("age_months", "finger", "wrist", "gap"),
    [(21, 0.66, 1.23, 0.42), (94, 0.58, 1.09, 0.38), (168, 0.57, 0.98, 0.33)],
)
def test_young_hands_have_the_proportions_of_young_hands(
    age_months: float, finger: float, wrist: float, gap: float
) -> None:
    # Medians measured on annotated radiographs, in units of the distance from the wrist's
    # centre to the knuckles: knuckle to middle joint, width of the wrist, wrist to radius.
    found = []
    for seed in range(12):
        hand = hand_of(age_months, list(Sex)[seed % 2], seed)
        boxes = draw(hand, PhantomSettings.clean(96)).boxes()
        at = {
            region: np.mean(
                [(b.x_px, b.y_px) for b in boxes if b.region == region and b.finger in fingers],
                axis=0,
            )
            for region, fingers in (
                ("MCP", (2, 3, 4, 5)),
                ("PIP", (2, 3, 4, 5)),
                ("wrist", (None,)),
                ("radius", (None,)),
            )
        }
        unit = math.dist(at["MCP"], at["wrist"])
        width = next(b.width_px for b in boxes if b.region == "wrist")
        down = at["radius"][1] - at["wrist"][1]
        found.append((math.dist(at["MCP"], at["PIP"]) / unit, width / unit, down / unit))
    assert np.median(found, axis=0) == pytest.approx((finger, wrist, gap), rel=0.1)


def test_scatter_and_enhancement_act_as_they_should() -> None:
    hand = hand_of(120, seed=1)
    drawing = draw(hand, CLEAN)
    size = whole(drawing.film.shape)

    def exposed(**changes: float) -> np.ndarray:
        exposure = dataclasses.replace(drawing.film.exposure, **changes)
        thickness = drawing.thickness_mm
        scattered = scattered_share(thickness, exposure)
        film = dataclasses.replace(drawing.film, exposure=exposure, scattered=scattered)
        shadow = attenuation(thickness, drawing.bones, None, exposure, False, size)
        return expose(shadow, film, size)

    bone = drawing.parts().labels == PART_LABELS["MC3"]
    plain, scattered, sharp = exposed(), exposed(scatter=0.5), exposed(enhancement=1.0)
    background = drawing.parts().labels == 0
    # Scatter fills in: less contrast, and never a brighter film than before.
    assert scattered[bone].mean() - scattered[background].mean() < 0.9 * (
        plain[bone].mean() - plain[background].mean()
    )
    assert scattered.max() <= plain.max()
    # Enhancement raises edges and leaves an even background as it is.
    assert np.abs(np.diff(sharp, axis=1)).mean() > 1.2 * np.abs(np.diff(plain, axis=1)).mean()
    assert sharp[:20, :20] == pytest.approx(plain[:20, :20], abs=1e-6)


def test_ossified_area_grows_with_region_age() -> None:
    hand = hand_of(110)
    ages = [1, 12, 30, 60, 84, 110, 130, 150, 175]
    light = [
        render(hand, CLEAN, region_ages=dict.fromkeys(anatomy.AGE_REGIONS, a)).pixels.sum()
        for a in ages
    ]
    assert all(np.diff(light) > 0)


def test_moved_region_changes_nothing_far_from_it() -> None:
    settings = PhantomSettings(collimation=False)
    hand = hand_of(120, seed=2)
    own = render(hand, settings, seed=9)
    moved = render(hand, settings, seed=9, region_ages={anatomy.CARPALS: 40})
    changed = own.pixels != moved.pixels
    region = own.regions.labels == REGION_LABELS[anatomy.CARPALS]
    assert changed[region].any()
    distance = ndimage.distance_transform_edt(~region)
    # Bones of the region reach a little beyond its label map.
    assert distance[changed].max() <= draw(hand, settings, 9).film.reach_px + 4


def test_rendering_is_repeatable_and_leaves_global_randomness_alone() -> None:
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    hand = hand_of(90)
    first, second = render(hand, seed=3), render(hand, seed=3)
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.regions.labels, second.regions.labels)
    assert not np.array_equal(first.pixels, render(hand, seed=4).pixels)
    assert np.array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("switch", NUISANCES)
def test_a_switch_leaves_the_draws_of_all_others(switch: str) -> None:
    on = PhantomSettings()
    off = on.model_copy(update={switch: False})
    frame = Frame(64, 48, 1.0, 0.0, 0.0)
    depth = np.full((128, 96), -1, dtype=np.float32)

    def draws(settings: PhantomSettings, seed: int) -> dict[str, object]:
        exposure = dataclasses.asdict(nuisances.draw_exposure(settings, seed))
        blur = exposure.pop("blur_px")
        texture = nuisances.texture_field(settings, seed, frame)
        noise = nuisances.noise_field(settings, seed, (64, 48))
        uneven = nuisances.irregularity(settings, seed, frame)
        return {
            "pose": nuisances.draw_pose(settings, seed),
            "framing": nuisances.draw_framing(settings, seed),
            "texture": None if texture is None else texture.tobytes(),
            "exposure": exposure,
            "blur": blur,
            "noise": None if noise is None else noise.tobytes(),
            "heel_effect": nuisances.heel_gradient(settings, seed, (64, 48)).tobytes(),
            "collimation": draw_collimation(settings, seed),
            "marker": nuisances.draw_marker(settings, seed, depth, frame),
            "shape": None if uneven is None else uneven.shift_x.tobytes(),
        }

    assert set(draws(on, 0)) == set(NUISANCES)
    differing: set[str] = set()
    for seed in range(6):
        with_it, without_it = draws(on, seed), draws(off, seed)
        differing |= {name for name in with_it if with_it[name] != without_it[name]}
    assert differing == {switch}


def test_marker_changes_its_own_place_only() -> None:
    settings = PhantomSettings(noise=False, collimation=False)
    hand = hand_of(100)
    marked = render(hand, settings, seed=2)
    plain = render(hand, settings.model_copy(update={"marker": False}), seed=2)
    place = marked.regions.labels == REGION_LABELS[anatomy.MARKER]
    assert place.any()
    changed = marked.pixels != plain.pixels
    assert changed.any()
    reach = draw(hand, settings, 2).film.reach_px
    assert ndimage.distance_transform_edt(~place)[changed].max() <= reach * math.sqrt(2)
    assert np.array_equal(marked.regions.labels[~place], plain.regions.labels[~place])


def test_noise_adds_nothing_but_noise() -> None:
    quiet = PhantomSettings(noise=False, collimation=False, exposure=False)
    hand = hand_of(100)
    noisy = render(hand, quiet.model_copy(update={"noise": True}), seed=1)
    plain = render(hand, quiet, seed=1)
    difference = noisy.pixels - plain.pixels
    assert 0 < difference.std() < 0.1
    assert abs(np.median(difference)) < 0.01
    assert np.array_equal(noisy.regions.labels, plain.regions.labels)


def test_pose_turns_the_hand() -> None:
    straight = render(median_hand(Sex.MALE, 150), CLEAN)
    wrist, finger = (
        next(b for b in straight.boxes if b.region == region and b.finger in (None, 3))
        for region in ("wrist", "MCP")
    )
    assert wrist.y_px > finger.y_px
    thumb, little = (
        next(b for b in straight.boxes if b.region == "MCP" and b.finger == number)
        for number in (1, 5)
    )
    assert thumb.x_px > little.x_px


def test_settings_refuse_unknown_names() -> None:
    with pytest.raises(ValidationError):
        PhantomSettings(nose=True)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        PhantomSettings(size_px=3)


def test_mineral_of_a_tube_is_that_of_a_ring() -> None:
    # Middle of a long shaft of radius 5, cortex 2, empty marrow: chord through a ring.
    tube = Solid(
        0, 0, 0, 100, 5, 5, 5, cortex_mm=2, shell_mm=2, marrow=0.0, mineral=1.0
    )  # fmt: skip
    x = np.array([[0.0, 1.0, 2.9, 4.0, 5.5]], dtype=np.float32)
    y = np.array([[50.0]], dtype=np.float32)
    inside = locate(tube, x, y)
    ring = [
        2 * math.sqrt(max(25 - v * v, 0)) - 2 * math.sqrt(max(9 - v * v, 0)) for v in x[0].tolist()
    ]
    assert mineral_mm(tube, inside)[0] == pytest.approx(ring, abs=1e-3)
    assert inside.edge_mm[0] == pytest.approx([5, 4, 2.1, 1, -0.5], abs=1e-5)


def test_solid_turns_about_its_base() -> None:
    solid = Solid(1, 2, math.pi / 2, 10, 2, 1, 2, base_tilt=0.1, head_bow_mm=1)
    # Pointing to +x: 4 mm along the axis lies at (5, 2); right of the axis is down.
    assert solid.point(4) == pytest.approx((5, 2))
    assert solid.point(4, 1) == pytest.approx((5, 1))
    x_min, x_max, y_min, y_max = solid.reach_mm()
    inside = locate(
        solid,
        np.linspace(-20, 30, 501, dtype=np.float32)[None],
        np.linspace(20, -20, 401, dtype=np.float32)[:, None],
    )
    rows, columns = np.nonzero(inside.edge_mm > 0)
    xs, ys = columns * 0.1 - 20, 20 - rows * 0.1
    assert x_min - 0.1 <= xs.min() < xs.max() <= x_max + 0.1
    assert y_min - 0.1 <= ys.min() < ys.max() <= y_max + 0.1


@pytest.mark.parametrize("age_months", [6, 60, 150])
def test_soft_tissue_has_no_edges_inside(age_months: float) -> None:
    drawing = draw(median_hand(Sex.MALE, age_months), PhantomSettings.clean(512))
    deep = drawing.depth_mm > 12 * drawing.skeleton.scale
    pitch_mm = drawing.frame.mm_per_px / 2
    rows, columns = np.gradient(drawing.thickness_mm, pitch_mm)
    slope = np.hypot(rows, columns)[deep]
    # Under the skin a round body is steep; so deep inside, thickness changes slowly.
    assert slope.max() < 1.6
