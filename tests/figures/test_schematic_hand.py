"""Schematic hands: every region of the anatomy is drawn, where it belongs, in its colour."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from boneage_xai import anatomy
from boneage_xai.analysis.region_profile import ALL, region_profile
from boneage_xai.analysis.stages import STAGES
from boneage_xai.anatomy import OUTSIDE_HAND
from boneage_xai.errors import ReportError
from boneage_xai.figures.hand_outlines import hand_outlines
from boneage_xai.figures.region_profile import share_by_stage
from boneage_xai.figures.schematic_hand import (
    MEASURES,
    UNMEASURED,
    labelled_hand,
    schematic_hands,
)
from boneage_xai.figures.style import figure_bytes
from boneage_xai.types import Sex

REGIONS = list(anatomy.REGION_NAMES.values())


def profile_table(n: int = 12, left_out: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return the profile of n girls and two boys before puberty."""
    rng = np.random.default_rng(0)
    rows, cases = [], []
    for case in range(n + 2):
        for region in REGIONS:
            if region in left_out:
                continue
            value = float(rng.uniform(1, 9))
            rows.append((str(case), "gradient", region, value - 5, value, 1 / len(REGIONS)))
        cases.append((str(case), "F" if case < n else "M", 60.0, 61.0))
    regions = pd.DataFrame(
        rows,
        columns=[
            "case_id",
            "method",
            "region",
            "signed_months",
            "absolute_months",
            "area_fraction",
        ],
    )
    frame = pd.DataFrame(cases, columns=["case_id", "sex", "reference_months", "predicted_months"])
    return region_profile(regions, frame, resamples=50).table


def patches(figure: Figure, panel: int) -> dict[str, list[PathPatch]]:
    found: dict[str, list[PathPatch]] = {}
    for patch in figure.axes[panel].patches:
        if isinstance(patch, PathPatch) and patch.get_gid():
            found.setdefault(str(patch.get_gid()), []).append(patch)
    return found


GIRLS_BEFORE_PUBERTY = list(STAGES).index("pre_puberty")
BOYS_BEFORE_PUBERTY = len(STAGES) + GIRLS_BEFORE_PUBERTY


@pytest.mark.parametrize("sex", list(Sex))
@pytest.mark.parametrize("stage", list(STAGES))
def test_every_region_is_there_at_every_stage_and_inside_the_skin(sex: Sex, stage: str) -> None:
    outlines = hand_outlines(sex, STAGES[stage].typical_months.of(sex))
    assert set(outlines.regions()) == set(REGIONS) - set(OUTSIDE_HAND)
    skin = Outline.make_compound_path(
        *(Outline(np.vstack([one, one[:1]]), closed=True) for one in outlines.skin)
    )
    for shape in outlines.areas:
        assert skin.contains_point(shape.points.mean(axis=0)), shape.region
    # Fourteen joints, each with its finger; wrist, radius and ulna.
    joints = [one for one in outlines.areas if not one.is_bone]
    assert len(joints) == 14 + 3
    _, right, bottom, top = outlines.box_mm
    # A left hand as radiographs are hung: fingers up, the thumb's knuckle to the right.
    knuckles = [one.points.mean(axis=0) for one in joints if one.region == anatomy.MCP]
    assert max(x for x, _ in knuckles) > 0.5 * right
    assert min(y for _, y in knuckles) > 0 > bottom
    assert top > -bottom


def test_bones_appear_and_fuse_with_age() -> None:
    young, middle, old = (len(hand_outlines(Sex.MALE, age).bones) for age in (7.0, 138.0, 240.0))
    # Nineteen tubular bones, radius and ulna, seven carpals, pisiform and sesamoid.
    assert old == 19 + 2 + 8 + 1
    assert young == 19 + 2 + 2
    assert middle > old


@pytest.mark.parametrize("measure", list(MEASURES))
def test_regions_have_the_colour_of_their_value_on_one_scale(measure: str) -> None:
    table = profile_table()
    settings = dict(mpl.rcParams)
    figure = schematic_hands(table, measure)
    assert dict(mpl.rcParams) == settings
    found = patches(figure, GIRLS_BEFORE_PUBERTY)
    assert set(found) == set(REGIONS) - set(OUTSIDE_HAND)
    shown = MEASURES[measure]
    cell = table[(table["stage"] == "pre_puberty") & (table["sex"] == "F")].set_index("region")
    enough = cell.drop(index=list(OUTSIDE_HAND))[shown.column].to_numpy()
    # Two boys are few: they do not set the scale, and are paler.
    scale = shown.scale(enough)
    pale = patches(figure, BOYS_BEFORE_PUBERTY)
    boys = table[(table["stage"] == "pre_puberty") & (table["sex"] == "M")].set_index("region")
    for region, drawn in found.items():
        colour = shown.colours(scale(cell.loc[region, shown.column]))[:3]
        for patch in drawn:
            np.testing.assert_allclose(patch.get_facecolor()[:3], colour, atol=1e-6)
        mixed = 0.45 + 0.55 * np.array(shown.colours(scale(boys.loc[region, shown.column]))[:3])
        np.testing.assert_allclose(pale[region][0].get_facecolor()[:3], mixed, atol=1e-6)
    assert "n = 12 ·" in figure.axes[GIRLS_BEFORE_PUBERTY].get_xlabel()
    assert "n = 2, few" in figure.axes[BOYS_BEFORE_PUBERTY].get_xlabel()
    assert "no case" in figure.axes[0].get_xlabel()
    # Skin alone, and bones as lines.
    assert set(patches(figure, 0)) == {anatomy.SOFT_TISSUE}


def test_what_was_not_measured_has_no_colour_of_a_value() -> None:
    figure = schematic_hands(profile_table(left_out=("carpals", "ulna")))
    found = patches(figure, GIRLS_BEFORE_PUBERTY)
    for region in ("carpals", "ulna"):
        assert {patch.get_facecolor()[:3] for patch in found[region]} == {to_rgb(UNMEASURED)}
    assert found["radius"][0].get_facecolor()[:3] != to_rgb(UNMEASURED)


def test_labelled_hand_names_every_region_with_its_value() -> None:
    table = profile_table()
    cell = table[(table["stage"] == ALL) & (table["sex"] == ALL)]
    texts = [text.get_text() for text in labelled_hand(cell, "share").axes[0].texts]
    inside = cell[~cell["region"].isin(OUTSIDE_HAND)]
    expected = {
        f"{region.replace('_', ' ')}\n{100 * share:.0f}%"
        for region, share in zip(inside["region"], inside["share_of_hand"], strict=True)
    }
    assert set(texts) == expected
    with pytest.raises(ReportError, match="one stage and sex"):
        labelled_hand(table)


def test_chart_has_a_panel_per_region_of_the_hand_and_the_control_beside() -> None:
    table = profile_table()
    figure = share_by_stage(table, table)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert set(titles) == {name.replace("_", " ") for name in set(REGIONS) - set(OUTSIDE_HAND)}
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["random weights", "girls", "boys", "share of the hand's area"]
    assert "random weights" not in share_by_stage(table).axes[0].get_legend_handles_labels()[1]
    assert figure_bytes(figure, "svg") == figure_bytes(share_by_stage(table, table), "svg")


def test_nothing_to_draw_is_refused() -> None:
    table = profile_table()
    everyone = table[table["stage"] == ALL]
    for draw in (schematic_hands, share_by_stage):
        with pytest.raises(ReportError, match="found none"):
            draw(everyone)
    with pytest.raises(ReportError, match="expected a measure among enrichment, share, signed"):
        schematic_hands(table, "beauty")


def test_a_region_without_any_attribution_has_the_colour_of_the_least() -> None:
    table = profile_table()
    table.loc[table["region"] == "ulna", "enrichment"] = 0.0
    found = patches(schematic_hands(table), GIRLS_BEFORE_PUBERTY)
    least = MEASURES["enrichment"].colours(0.0)[:3]
    np.testing.assert_allclose(found["ulna"][0].get_facecolor()[:3], least, atol=1e-6)


def test_the_control_lies_within_the_axes() -> None:
    table = profile_table()
    control = table.assign(share_of_hand=np.where(table["region"] == "radius", 0.9, 0.05))
    assert share_by_stage(table, control).axes[0].get_ylim()[1] > 0.9
