from __future__ import annotations

import pytest

from boneage_xai import anatomy
from boneage_xai.anatomy import BONES, CENTRES, REGION_LABELS, REGION_NAMES, BySex, centres_of
from boneage_xai.types import Sex


def test_hand_has_its_bones() -> None:
    rows = [bone.row for bone in BONES.values()]
    counts = {row: rows.count(row) for row in dict.fromkeys(rows)}
    assert counts == {
        "distal": 5,
        "middle": 4,
        "proximal": 5,
        "metacarpal": 5,
        "carpal": 8,
        "sesamoid": 1,
        "forearm": 2,
    }


@pytest.mark.parametrize("centre", CENTRES.values(), ids=lambda centre: centre.centre_id)
def test_centre_appears_before_it_is_complete_and_girls_are_first(
    centre: anatomy.OssificationCentre,
) -> None:
    for sex in Sex:
        assert 0 < centre.appears_months.of(sex) < centre.complete_months.of(sex) <= 228
    assert centre.appears_months.girls <= centre.appears_months.boys
    assert centre.complete_months.girls <= centre.complete_months.boys
    assert BONES[centre.bone_id].bone_id == centre.bone_id


def test_ids_are_keys() -> None:
    assert all(key == bone.bone_id for key, bone in BONES.items())
    assert all(key == centre.centre_id for key, centre in CENTRES.items())
    # A repeated row of the table would vanish in a dict: count them by hand.
    assert len(BONES) == len(CENTRES) == 30


def test_epiphyses_lie_at_their_true_ends() -> None:
    heads = {c.bone_id for c in CENTRES.values() if c.site == "head"}
    bases = {c.bone_id for c in CENTRES.values() if c.site == "base"}
    assert heads == {"MC2", "MC3", "MC4", "MC5"}
    assert bases == {b for b in BONES if b[:2] in {"PP", "MP", "DP"}} | {"MC1"}


@pytest.mark.parametrize(
    ("region", "members"),
    [
        (anatomy.DIP, {"DP2", "DP3", "DP4", "DP5"}),
        (anatomy.PIP, {"DP1", "MP2", "MP3", "MP4", "MP5"}),
        (
            anatomy.MCP,
            {"PP1", "PP2", "PP3", "PP4", "PP5", "MC2", "MC3", "MC4", "MC5", "sesamoid"},
        ),
        (anatomy.METACARPAL_SHAFTS, {"MC1"}),
        (anatomy.RADIUS, {"radius"}),
        (anatomy.ULNA, {"ulna"}),
        (anatomy.SOFT_TISSUE, set()),
    ],
)
def test_centres_of_region(region: str, members: set[str]) -> None:
    assert {centre.centre_id for centre in centres_of(region)} == members


def test_region_names_are_numbered_from_the_background() -> None:
    assert REGION_NAMES[0] == anatomy.BACKGROUND
    assert list(REGION_NAMES) == list(range(11))
    assert {name: value for value, name in REGION_NAMES.items()} == REGION_LABELS
    for entry in (*BONES.values(), *CENTRES.values()):
        assert entry.region in REGION_LABELS


def test_carpals_appear_in_order() -> None:
    order = [
        "capitate",
        "hamate",
        "triquetral",
        "lunate",
        "scaphoid",
        "trapezium",
        "trapezoid",
        "pisiform",
    ]
    for sex in Sex:
        ages = [CENTRES[bone].appears_months.of(sex) for bone in order]
        assert ages == sorted(ages)


def test_by_sex() -> None:
    pair = BySex(boys=2.0, girls=1.0)
    assert (pair.of(Sex.MALE), pair.of(Sex.FEMALE)) == (2.0, 1.0)
    assert BONES["MC2"].adult_length_mm.boys == 68
    assert BONES["MC2"].adult_length_mm.girls < 68
