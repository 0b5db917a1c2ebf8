"""Every bone and epiphysis under its own label, in line with regions, growth and the table."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boneage_xai import anatomy
from boneage_xai.anatomy import CENTRES, PART_LABELS, PART_NAMES, REGION_LABELS, epiphysis_id
from boneage_xai.phantom.growth import maturities, median_hand, region_maturities, sample_hand
from boneage_xai.phantom.labelling import label_parts, outline
from boneage_xai.phantom.nuisances import Framing
from boneage_xai.phantom.rendering import Drawing, attenuation, draw, frame_of, render
from boneage_xai.phantom.settings import NUISANCES, PhantomSettings
from boneage_xai.phantom.skeleton import Pose, build_skeleton
from boneage_xai.phantom.windows import whole
from boneage_xai.types import LabelImage, Sex

CLEAN = PhantomSettings.clean(256)


def test_part_table_names_every_bone_and_epiphysis_once() -> None:
    assert list(PART_NAMES.values())[:4] == ["background", "soft_tissue", "DP1", "DP1_epiphysis"]
    assert PART_NAMES[255] == anatomy.MARKER
    assert len(PART_LABELS) == len(PART_NAMES) == 3 + 30 + 21
    assert set(PART_NAMES) == {*range(53), 255}
    assert {name for name in PART_LABELS if name.endswith("_epiphysis")} == {
        epiphysis_id(bone_id) for bone_id, centre in CENTRES.items() if centre.site != "whole"
    }


@pytest.mark.parametrize("age_months", [8, 60, 150, 225])
def test_parts_are_there_when_their_centres_are(age_months: float) -> None:
    hand = sample_hand(Sex.FEMALE, age_months, np.random.default_rng(3))
    image = render(hand, CLEAN)
    present = {image.parts.names[value] for value in np.unique(image.parts.labels).tolist()}
    expected = {anatomy.BACKGROUND, anatomy.SOFT_TISSUE}
    for centre_id, maturity in maturities(hand).items():
        if CENTRES[centre_id].site != "whole":
            expected.add(centre_id)
            expected |= {epiphysis_id(centre_id)} if 0 < maturity < 1 else set()
        elif maturity > 0:
            expected.add(centre_id)
    assert present == expected


def test_parts_lie_in_the_regions_of_their_bones() -> None:
    image = render(median_hand(Sex.MALE, 120), PhantomSettings(), seed=5)
    parts, regions = image.parts.labels, image.regions.labels
    for name, region in (
        ("radius", anatomy.RADIUS),
        ("radius_epiphysis", anatomy.RADIUS),
        ("ulna", anatomy.ULNA),
        ("capitate", anatomy.CARPALS),
        ("MC3_epiphysis", anatomy.MCP),
        ("PP3_epiphysis", anatomy.MCP),
        ("MP2_epiphysis", anatomy.PIP),
        ("DP4_epiphysis", anatomy.DIP),
    ):
        inside = regions[parts == PART_LABELS[name]]
        assert np.mean(inside == REGION_LABELS[region]) > 0.8, name
    assert np.array_equal(
        parts == PART_LABELS[anatomy.MARKER], regions == REGION_LABELS[anatomy.MARKER]
    )


@pytest.mark.parametrize(
    ("size_px", "age_months", "least"),
    [
        (64, 60, 0.5),
        (64, 120, 0.8),
        (128, 60, 0.5),
        (128, 120, 0.6),
        (256, 60, 0.6),
        (256, 120, 0.8),
    ],
)
def test_a_bone_at_the_zone_of_the_wrist_keeps_its_pixels(
    size_px: int, age_months: int, least: float
) -> None:
    # The base of the thumb's metacarpal is small, and lies beside the zone of the carpals.
    image = render(median_hand(Sex.MALE, age_months), PhantomSettings.clean(size_px))
    parts, regions = image.parts.labels, image.regions.labels
    inside = regions[parts == PART_LABELS["MC1_epiphysis"]]
    assert inside.size
    assert np.mean(inside == REGION_LABELS[anatomy.METACARPAL_SHAFTS]) >= least


def test_labels_cost_no_pixel() -> None:
    hand = median_hand(Sex.MALE, 90)
    bare, full = draw(hand, seed=2), render(hand, seed=2)
    assert np.array_equal(bare.pixels, full.pixels)
    assert bare.boxes() == full.boxes


def test_maturity_of_a_region_is_the_mean_over_its_centres() -> None:
    hand = median_hand(Sex.MALE, 14.5)
    found = region_maturities(hand)
    assert tuple(found) == anatomy.AGE_REGIONS
    # The radius appears at 13 months, reaches 0.55 at 108: 1.5 of 95 months have passed.
    assert found[anatomy.RADIUS] == pytest.approx(0.55 * 1.5 / 95)
    # Of eight carpals capitate (3) and hamate (4 months) are there.
    carpals = 0.55 * (11.5 / 105 + 10.5 / 104) / 8
    assert found[anatomy.CARPALS] == pytest.approx(carpals)
    assert found[anatomy.ULNA] == 0
    moved = region_maturities(hand, {anatomy.ULNA: 240})
    assert moved[anatomy.ULNA] == 1
    assert moved[anatomy.CARPALS] == found[anatomy.CARPALS]


def drawn_at(sex: Sex, seed: int, ages: tuple[float, float]) -> list[Drawing]:
    """Draw one individual at two ages, its size held: every centre only matures."""
    hand = sample_hand(sex, ages[0], np.random.default_rng(seed))
    small = PhantomSettings.clean(128)
    return [draw(hand, small, 0, dict.fromkeys(anatomy.AGE_REGIONS, age)) for age in ages]


def mineral(drawing: Drawing) -> float:
    """Return the attenuation of the bones alone, summed over the image."""
    film = drawing.film
    none = np.zeros_like(drawing.thickness_mm)
    return float(
        attenuation(none, drawing.bones, None, film.exposure, False, whole(film.shape)).sum()
    )


def bone_px(drawing: Drawing) -> int:
    return int((drawing.parts().labels > PART_LABELS[anatomy.SOFT_TISSUE]).sum())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(Sex)), st.floats(1, 220), st.floats(0.5, 60), st.integers(0, 1000))
def test_older_is_never_less_ossified(sex: Sex, age_months: float, step: float, seed: int) -> None:
    before, after = drawn_at(sex, seed, (age_months, age_months + step))
    # What closes the ends of shaft and epiphysis is given up as they fuse: at most 0.51% of the
    # mineral in 220 hands looked at every six months.
    assert mineral(after) >= mineral(before) * (1 - 0.01)
    # Bones that fuse overlap their own outlines: a pixel here and there changes hands.
    assert bone_px(after) >= bone_px(before) * (1 - 0.01)
    younger, older = (
        {PART_NAMES[v].removesuffix("_epiphysis") for v in np.unique(one.parts().labels).tolist()}
        for one in (before, after)
    )
    assert younger <= older


# Scatter, which comes with exposure, is interpolated, and that rounds.
@pytest.mark.parametrize(("more", "rounding"), [((), 0.0), (("exposure", "blur"), 1e-6)])
def test_left_is_the_mirror_of_right(more: tuple[str, ...], rounding: float) -> None:
    names = ("pose", "framing", "texture", "shape", *more)
    hand_only = PhantomSettings.clean(192).model_copy(update=dict.fromkeys(names, True))
    hand = sample_hand(Sex.MALE, 110, np.random.default_rng(4))
    left = render(hand, hand_only, seed=8)
    right = render(hand, hand_only.model_copy(update={"side": "right"}), seed=8)
    np.testing.assert_allclose(left.pixels, right.pixels[:, ::-1], rtol=0, atol=rounding)
    for one, other in (
        (left.regions.labels, right.regions.labels),
        (left.parts.labels, right.parts.labels),
    ):
        assert np.array_equal(one[:, ::-1], other)
        assert not np.array_equal(one, other)
    width = left.pixels.shape[1]
    for one_box, other_box in zip(left.boxes, right.boxes, strict=True):
        mirrored = dataclasses.replace(one_box, x_px=width - one_box.x_px)
        assert dataclasses.asdict(mirrored) == pytest.approx(dataclasses.asdict(other_box))


def test_nuisances_of_the_film_are_not_mirrored() -> None:
    hand = sample_hand(Sex.MALE, 110, np.random.default_rng(4))
    on = PhantomSettings(size_px=128, texture=False)
    left, right = (draw(hand, on.model_copy(update={"side": s}), 4) for s in ("left", "right"))
    assert left.film.noise is not None
    assert np.array_equal(left.film.noise, right.film.noise)
    plates = left.film.collimation, right.film.collimation
    assert None not in plates
    # A plate's edges keep their share of the room beside the hand, which is mirrored.
    assert len({dataclasses.replace(plate, inset=()) for plate in plates}) == 1
    assert left.marker is not None
    assert right.marker is not None
    assert (left.marker.side, right.marker.side) == ("L", "R")
    assert (left.marker.turn_deg, left.marker.initials) == (
        right.marker.turn_deg,
        right.marker.initials,
    )


@pytest.mark.parametrize("nuisance", NUISANCES)
def test_a_nuisance_can_be_left_out_of_either_side(nuisance: str) -> None:
    assert nuisance in PhantomSettings.model_fields
    off = PhantomSettings(size_px=96, side="right").model_copy(update={nuisance: False})
    assert render(median_hand(Sex.FEMALE, 80), off, seed=1).pixels.max() > 0.2


# Ages at which parts are looked for, 2% apart.
LADDER = 0.8 * 1.02 ** np.arange(290)
INDIVIDUALS = 21


def clean_parts(sex: Sex, seed: int, age_months: float) -> LabelImage:
    """Label the parts as a clean image has them, bones only, which is all that is asked."""
    hand = sample_hand(sex, age_months, np.random.default_rng(seed))
    skeleton = build_skeleton(hand, maturities(hand), Pose())
    fine = frame_of(skeleton, Framing(), 256).finer(2)
    found = [outline(part, fine) for part in skeleton.parts]
    nothing = np.zeros((fine.height_px, fine.width_px), dtype=np.float32)
    return label_parts([one for one in found if one is not None], nothing).labels


@pytest.mark.parametrize("sex", Sex)
def test_appearance_and_fusion_reproduce_the_table(sex: Sex) -> None:
    appears: dict[str, list[float]] = {centre: [] for centre in CENTRES}
    fuses: dict[str, list[float]] = {c: [] for c in CENTRES if CENTRES[c].site != "whole"}
    for seed in range(INDIVIDUALS):

        @cache
        def present(rung: int, seed: int = seed) -> frozenset[str]:
            values = np.unique(clean_parts(sex, seed, float(LADDER[rung]))).tolist()
            return frozenset(PART_NAMES[value] for value in values)

        def change_months(part: str, there: bool, low: int, high: int) -> float:
            """Return the age between the rungs at which the part comes (or goes)."""
            while low < high:
                middle = (low + high) // 2
                if (part in present(middle)) is there:
                    high = middle
                else:
                    low = middle + 1
            return float(np.sqrt(LADDER[low - 1] * LADDER[low]))

        for centre_id, centre in CENTRES.items():
            # Well after its appearance and well before its fusion.
            between = int(np.searchsorted(LADDER, 0.85 * centre.complete_months.of(sex)))
            part = centre_id if centre.site == "whole" else epiphysis_id(centre_id)
            appears[centre_id].append(change_months(part, True, 1, between))
            if centre_id in fuses:
                end = change_months(part, False, between, len(LADDER) - 1)
                fuses[centre_id].append(end)
    for centre_id, centre in CENTRES.items():
        found = float(np.median(appears[centre_id]))
        assert found == pytest.approx(centre.appears_months.of(sex), rel=0.05), centre_id
        if centre_id in fuses:
            found = float(np.median(fuses[centre_id]))
            assert found == pytest.approx(centre.complete_months.of(sex), rel=0.05), centre_id
