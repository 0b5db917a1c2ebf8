"""Ossification of a long bone: shaft, growth plate and epiphysis, until they are one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from boneage_xai.anatomy import epiphysis_id
from boneage_xai.phantom.growth import MATURITY_AT_FUSION, MATURITY_AT_PUBERTY
from boneage_xai.phantom.shapes import Solid

# Width of the growth plate in an adult-sized hand, young and when fusion begins.
_PLATE_MM = (1.3, 0.8)
# From this maturity epiphysis and shaft interlock.
_INTERLOCKING_FROM = 0.45
# Width of a mature epiphysis against its shaft's end.
_CAPPED = 1.05
# Height of the line that a fused plate leaves, and its density against cortical bone.
_SCAR_MM = 0.7
_SCAR_DENSITY = 0.32
# The epiphysis is nearly as wide as the shaft, and as high as it will be, at this maturity.
_FULL_AT = 0.45


@dataclass(frozen=True)
class Part:
    """A piece of bone to draw.

    Args:
        part_id: the bone or epiphysis it shows, see ``anatomy.PART_NAMES``.
        solid: its shape.
        region: the region it belongs to.
        presence: share of it that is there, in [0, 1]: a fusing bone is a blend of its
            separate pieces and the whole, and a scar may be faint.
        labelled: whether it has a place in label maps: a bone that is still fusing has it as
            its separate pieces, and scars have none.
    """

    part_id: str
    solid: Solid
    region: str
    presence: float = 1.0
    labelled: bool = True


@dataclass(frozen=True)
class EpiphysisSite:
    """Where and how large a bone's epiphysis is.

    Args:
        bone_id: the bone.
        at_head: at the head of the bone (metacarpals 2-5, forearm), or else at its base.
        height_mm: its extent along the bone when mature.
        scale: size of the hand against the median adult man's.
        shaft_region: region of the shaft, and of the whole once fused.
        region: region of the epiphysis.
        plate_scale: width of its growth plate relative to the median.
        scar: how dense the line is that the plate leaves once fused, in [0, 1].
        interlock: share of the whole bone that shows through the plate when fusion begins:
            epiphysis and shaft interlock, so that rays meet some bone of either.
        domed: whether its joint surface is a dome.
    """

    bone_id: str
    at_head: bool
    height_mm: float
    scale: float
    shaft_region: str
    region: str
    plate_scale: float
    interlock: float
    scar: float
    domed: bool = True

    @property
    def ball(self) -> bool:
        """Whether the epiphysis is a ball, as the heads of metacarpals are."""
        return self.at_head and self.domed


def ossify(whole: Solid, site: EpiphysisSite, maturity: float) -> list[Part]:
    """Split a bone into shaft and epiphysis, or blend them with the whole as they fuse.

    The epiphysis appears as a dot, widens to a disc as wide as the shaft, thickens, caps the
    shaft and fuses with it.

    Args:
        whole: the bone as it is when fused.
        site: its epiphysis.
        maturity: of the centre, in [0, 1].
    """
    young, mature = _PLATE_MM
    plate = young + (mature - young) * ramp(maturity, 0.1, 0.7)
    plate *= site.plate_scale * math.sqrt(site.scale) * (0.7 if site.ball else 1.0)
    zone = min(1.06 * site.height_mm + plate, 0.4 * whole.length_mm)
    fused = site.interlock * ramp(maturity, _INTERLOCKING_FROM, MATURITY_AT_FUSION)
    fused += (1 - site.interlock) * ramp(maturity, MATURITY_AT_FUSION, 1.0)
    parts = []
    scar = site.scar * ramp(maturity, MATURITY_AT_FUSION, 1.0)
    if scar > 0:
        parts.append(Part(site.bone_id, _scar(whole, site, zone), site.shaft_region, scar, False))
    if fused > 0:
        grown = _with_grown_end(whole, site.at_head, zone / whole.length_mm)
        parts.append(Part(site.bone_id, grown, site.shaft_region, fused, labelled=fused == 1))
    if fused < 1:
        shaft = _shaft(whole, site.at_head, zone)
        parts.append(Part(site.bone_id, shaft, site.shaft_region, 1 - fused))
        if maturity > 0:
            epiphysis = _epiphysis(whole, site, maturity, zone, plate)
            parts.append(Part(epiphysis_id(site.bone_id), epiphysis, site.region, 1 - fused))
    return parts


def _scar(whole: Solid, site: EpiphysisSite, zone_mm: float) -> Solid:
    """Return the line of dense bone that a growth plate leaves."""
    thickness = _SCAR_MM * math.sqrt(site.scale)
    x, y = whole.point(whole.length_mm - zone_mm if site.at_head else zone_mm - thickness)
    half = 0.96 * (whole.head_mm if site.at_head else whole.base_mm)
    return Solid(
        x,
        y,
        whole.angle_rad,
        thickness,
        half,
        half,
        half,
        base_round_mm=0.1,
        head_round_mm=0.1,
        base_bow_mm=0.08 * half if site.at_head else 0.0,
        head_bow_mm=0.0 if site.at_head else 0.08 * half,
        marrow=1.0,
        mineral=_SCAR_DENSITY * whole.mineral,
        flat=whole.flat,
    )


def _with_grown_end(whole: Solid, at_head: bool, share: float) -> Solid:
    """Return the fused bone, as wide over its former growth zone as the epiphysis was."""
    if at_head:
        return replace(
            whole, head_mm=_CAPPED * whole.head_mm, head_plateau=max(whole.head_plateau, share)
        )
    return replace(
        whole, base_mm=_CAPPED * whole.base_mm, base_plateau=max(whole.base_plateau, share)
    )


def _shaft(whole: Solid, at_head: bool, zone_mm: float) -> Solid:
    """Return the bone without its growing end: flat there, with rounded corners."""
    length = whole.length_mm - zone_mm
    if at_head:
        return replace(
            whole,
            length_mm=length,
            head_round_mm=0.25 * whole.head_mm,
            head_bow_mm=0.06 * whole.head_mm,
            head_tilt=0.0,
        )
    x, y = whole.point(zone_mm)
    return replace(
        whole,
        x_mm=x,
        y_mm=y,
        length_mm=length,
        base_round_mm=0.25 * whole.base_mm,
        base_bow_mm=0.06 * whole.base_mm,
        base_tilt=0.0,
    )


def _epiphysis(
    whole: Solid, site: EpiphysisSite, maturity: float, zone_mm: float, plate_mm: float
) -> Solid:
    growth = ramp(maturity, 0.0, _FULL_AT) ** 0.5
    cap = ramp(maturity, MATURITY_AT_PUBERTY, MATURITY_AT_FUSION)
    wide = (
        0.2 + 0.8 * growth + (_CAPPED - 1) * ramp(maturity, MATURITY_AT_PUBERTY, MATURITY_AT_FUSION)
    )
    half = (whole.head_mm if site.at_head else whole.base_mm) * wide
    # It ossifies close to its shaft: metacarpal heads as balls upon it.
    least, apart = (0.5, 0.04) if site.ball else (0.34, 0.2)
    thickness = min((zone_mm - plate_mm) * (least + (1 - least) * growth), 2 * half)
    space = plate_mm + apart * (zone_mm - plate_mm - thickness)
    # The rim of the cap grows towards the shaft.
    hollow = 0.14 * half * cap
    thickness += 0.6 * hollow
    space -= 0.6 * hollow

    corner = 0.48 * thickness
    tilt = (whole.head_tilt if site.at_head else whole.base_tilt) * wide
    joint_bow = min(0.28 * thickness, 0.3 * half) if site.ball else -0.06 * half * wide
    joint_round = max(corner, 0.55 * min(thickness, half)) if site.ball else corner
    start = whole.length_mm - zone_mm + space if site.at_head else zone_mm - space - thickness
    x, y = whole.point(start)
    epiphysis = Solid(
        x,
        y,
        whole.angle_rad,
        thickness,
        half,
        half,
        half * (0.95 if site.at_head else 1.0),
        cortex_mm=whole.shell_mm,
        shell_mm=whole.shell_mm,
        end_plate=whole.end_plate,
        marrow=0.24,
        mineral=whole.mineral,
        flat=whole.flat,
    )
    if site.at_head:
        return replace(
            epiphysis,
            base_bow_mm=-hollow,
            base_round_mm=0.7 * corner,
            head_bow_mm=joint_bow,
            head_round_mm=joint_round,
            head_tilt=tilt,
        )
    return replace(
        epiphysis,
        head_bow_mm=-hollow,
        head_round_mm=0.7 * corner,
        base_bow_mm=joint_bow,
        base_round_mm=joint_round,
        base_tilt=tilt,
    )


def ramp(value: float, low: float, high: float) -> float:
    """Return how far a value has come from low to high, in [0, 1]."""
    return min(max((value - low) / (high - low), 0.0), 1.0)
