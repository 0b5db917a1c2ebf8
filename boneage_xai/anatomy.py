"""The hand as one table: bones, ossification centres and the regions they belong to.

Phantom, regions and figures share this table. The median ages are approximate: they follow
the orders of magnitude of Garn et al. (Medical Radiography and Photography, 1967) for the
first appearance of a centre and of Greulich and Pyle (1959) for complete fusion, and serve to
draw phantoms, not to read bone age.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from boneage_xai.types import Sex

BACKGROUND = "background"
SOFT_TISSUE = "soft_tissue"
DIP = "DIP"
PIP = "PIP"
MCP = "MCP"
PHALANGEAL_SHAFTS = "phalangeal_shafts"
METACARPAL_SHAFTS = "metacarpal_shafts"
CARPALS = "carpals"
RADIUS = "radius"
ULNA = "ulna"
MARKER = "marker"

OUTSIDE_HAND = (BACKGROUND, MARKER)
"""Regions that are no part of the hand."""
NOT_BONE = (*OUTSIDE_HAND, SOFT_TISSUE)
"""Regions without bone, which have no control and which no method is held against."""

REGION_NAMES: Mapping[int, str] = MappingProxyType(
    dict(
        enumerate(
            (
                BACKGROUND,
                SOFT_TISSUE,
                DIP,
                PIP,
                MCP,
                PHALANGEAL_SHAFTS,
                METACARPAL_SHAFTS,
                CARPALS,
                RADIUS,
                ULNA,
                MARKER,
            )
        )
    )
)
"""Label value to region name, as written in label maps."""

REGION_LABELS: Mapping[str, int] = MappingProxyType(
    {name: value for value, name in REGION_NAMES.items()}
)
"""Region name to label value: the inverse of ``REGION_NAMES``."""

FINGERS: tuple[int, ...] = (1, 2, 3, 4, 5)
"""Fingers, counted from the thumb."""


@dataclass(frozen=True)
class BySex:
    """One number for boys and one for girls."""

    boys: float
    girls: float

    def of(self, sex: Sex) -> float:
        """Return the number for this sex."""
        return self.boys if sex is Sex.MALE else self.girls


@dataclass(frozen=True)
class Bone:
    """A bone of the hand or forearm.

    Args:
        bone_id: short id, e.g. ``MC2`` or ``capitate``.
        name: what it is called.
        row: ``distal``, ``middle``, ``proximal``, ``metacarpal``, ``carpal``, ``sesamoid``
            or ``forearm``; bones of a row mature together.
        finger: 1 (thumb) to 5, None for carpals and forearm.
        adult_length_mm: longest dimension in adults.
        region: region of its shaft, or of the whole bone when it has no shaft.
    """

    bone_id: str
    name: str
    row: str
    finger: int | None
    adult_length_mm: BySex
    region: str


@dataclass(frozen=True)
class OssificationCentre:
    """A centre that ossifies after birth.

    Args:
        centre_id: id, unique; that of the bone, since every bone here has one such centre.
        bone_id: the bone that it is a part of.
        site: ``base``, ``head`` or ``distal`` end of a long bone, or ``whole`` for a small one.
        region: region of the hand in which it changes the radiograph.
        appears_months: median age at which it is first seen.
        complete_months: median age at which it is fused, or has its adult shape where it
            never fuses.
    """

    centre_id: str
    bone_id: str
    site: str
    region: str
    appears_months: BySex
    complete_months: BySex


# Girls' adult bones are shorter by this factor (approximate).
_GIRLS_LENGTH = 0.92

# Lengths are those of boys in mm, those of carpals and forearm are the phantom's layout's; ages in
# months.
_DISTAL, _MIDDLE, _PROXIMAL = "distal phalanx", "middle phalanx", "proximal phalanx"
_ROWS: tuple[tuple[str, str, str, int | None, float, float, float, str, str, str], ...] = (
    # id, name, row, finger, length, appears boys, girls, site, centre's region, shaft's region
    ("DP1", _DISTAL, "distal", 1, 22, 18, 12, "base", PIP, PHALANGEAL_SHAFTS),
    ("DP2", _DISTAL, "distal", 2, 16, 38, 30, "base", DIP, PHALANGEAL_SHAFTS),
    ("DP3", _DISTAL, "distal", 3, 17, 29, 18, "base", DIP, PHALANGEAL_SHAFTS),
    ("DP4", _DISTAL, "distal", 4, 17, 29, 18, "base", DIP, PHALANGEAL_SHAFTS),
    ("DP5", _DISTAL, "distal", 5, 16, 39, 24, "base", DIP, PHALANGEAL_SHAFTS),
    ("MP2", _MIDDLE, "middle", 2, 23, 26, 16, "base", PIP, PHALANGEAL_SHAFTS),
    ("MP3", _MIDDLE, "middle", 3, 27, 24, 15, "base", PIP, PHALANGEAL_SHAFTS),
    ("MP4", _MIDDLE, "middle", 4, 26, 25, 15, "base", PIP, PHALANGEAL_SHAFTS),
    ("MP5", _MIDDLE, "middle", 5, 18, 41, 24, "base", PIP, PHALANGEAL_SHAFTS),
    ("PP1", _PROXIMAL, "proximal", 1, 32, 36, 20, "base", MCP, PHALANGEAL_SHAFTS),
    ("PP2", _PROXIMAL, "proximal", 2, 40, 17, 11, "base", MCP, PHALANGEAL_SHAFTS),
    ("PP3", _PROXIMAL, "proximal", 3, 45, 16, 10, "base", MCP, PHALANGEAL_SHAFTS),
    ("PP4", _PROXIMAL, "proximal", 4, 42, 18, 11, "base", MCP, PHALANGEAL_SHAFTS),
    ("PP5", _PROXIMAL, "proximal", 5, 33, 22, 14, "base", MCP, PHALANGEAL_SHAFTS),
    ("MC1", "metacarpal", "metacarpal", 1, 46, 31, 19, "base", METACARPAL_SHAFTS, ""),
    ("MC2", "metacarpal", "metacarpal", 2, 68, 19, 13, "head", MCP, METACARPAL_SHAFTS),
    ("MC3", "metacarpal", "metacarpal", 3, 66, 21, 14, "head", MCP, METACARPAL_SHAFTS),
    ("MC4", "metacarpal", "metacarpal", 4, 58, 24, 15, "head", MCP, METACARPAL_SHAFTS),
    ("MC5", "metacarpal", "metacarpal", 5, 53, 26, 16, "head", MCP, METACARPAL_SHAFTS),
    ("capitate", "capitate", "carpal", None, 25, 3, 2, "whole", CARPALS, ""),
    ("hamate", "hamate", "carpal", None, 21, 4, 2, "whole", CARPALS, ""),
    ("triquetral", "triquetral", "carpal", None, 14, 29, 20, "whole", CARPALS, ""),
    ("lunate", "lunate", "carpal", None, 16, 49, 31, "whole", CARPALS, ""),
    ("scaphoid", "scaphoid", "carpal", None, 24, 68, 49, "whole", CARPALS, ""),
    ("trapezium", "trapezium", "carpal", None, 16, 71, 49, "whole", CARPALS, ""),
    ("trapezoid", "trapezoid", "carpal", None, 13, 75, 50, "whole", CARPALS, ""),
    ("pisiform", "pisiform", "carpal", None, 10, 144, 108, "whole", CARPALS, ""),
    ("sesamoid", "adductor sesamoid", "sesamoid", 1, 5, 153, 129, "whole", MCP, ""),
    ("radius", "radius", "forearm", None, 240, 13, 10, "distal", RADIUS, ""),
    ("ulna", "ulna", "forearm", None, 255, 85, 64, "distal", ULNA, ""),
)

_COMPLETE_BY_ROW = {
    "distal": BySex(186, 162),
    "middle": BySex(198, 174),
    "proximal": BySex(192, 174),
    "metacarpal": BySex(198, 180),
    # Carpals and sesamoid never fuse: the age at which they have their adult shape.
    "carpal": BySex(186, 162),
    "sesamoid": BySex(198, 174),
}
_COMPLETE_BY_BONE = {
    "MC1": BySex(192, 174),
    "radius": BySex(222, 204),
    "ulna": BySex(210, 198),
}

BONES: Mapping[str, Bone] = MappingProxyType(
    {
        bone_id: Bone(
            bone_id=bone_id,
            name=name if finger is None or row == "sesamoid" else f"{name} {finger}",
            row=row,
            finger=finger,
            adult_length_mm=BySex(length, round(length * _GIRLS_LENGTH, 1)),
            region=shaft_region or region,
        )
        for bone_id, name, row, finger, length, _, _, _, region, shaft_region in _ROWS
    }
)
"""Every bone by id."""

CENTRES: Mapping[str, OssificationCentre] = MappingProxyType(
    {
        bone_id: OssificationCentre(
            centre_id=bone_id,
            bone_id=bone_id,
            site=site,
            region=region,
            appears_months=BySex(boys, girls),
            complete_months=_COMPLETE_BY_BONE.get(bone_id) or _COMPLETE_BY_ROW[row],
        )
        for bone_id, _, row, _, _, boys, girls, site, region, _ in _ROWS
    }
)
"""Every ossification centre by id."""


def epiphysis_id(bone_id: str) -> str:
    """Return the id of a bone's epiphysis as a part of its own, until it is fused."""
    return f"{bone_id}_epiphysis"


_MARKER_PART = 255


def _part_names() -> dict[int, str]:
    parts = [BACKGROUND, SOFT_TISSUE]
    for bone_id, centre in CENTRES.items():
        parts.append(bone_id)
        if centre.site != "whole":
            parts.append(epiphysis_id(bone_id))
    # The marker lies over everything, and parts that are added later leave its value alone.
    return {**dict(enumerate(parts)), _MARKER_PART: MARKER}


PART_NAMES: Mapping[int, str] = MappingProxyType(_part_names())
"""Label value to bone or epiphysis, as written in the maps of single parts."""

PART_LABELS: Mapping[str, int] = MappingProxyType(
    {name: value for value, name in PART_NAMES.items()}
)
"""Bone or epiphysis to label value: the inverse of ``PART_NAMES``."""

AGE_REGIONS: tuple[str, ...] = tuple(dict.fromkeys(c.region for c in CENTRES.values()))
"""Regions that hold ossification centres, and so can have an age of their own."""


def centres_of(region: str) -> tuple[OssificationCentre, ...]:
    """Return the ossification centres that change a region, none for a region without any."""
    return tuple(centre for centre in CENTRES.values() if centre.region == region)
