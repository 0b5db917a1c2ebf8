"""Skeleton of a phantom hand in the plane: bones, epiphyses, carpals, joints and landmarks.

The hand is a left one seen from the back of the hand, as radiographs are hung: fingers up,
thumb to the right. Lengths are those of an adult man in mm from the centre of the carpus,
scaled to the individual.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from boneage_xai import anatomy
from boneage_xai.anatomy import FINGERS
from boneage_xai.phantom.growth import (
    Hand,
    bone_length_mm,
    bone_width_scale,
    length_share,
    space_scale,
)
from boneage_xai.phantom.ossification import EpiphysisSite, Part, ossify, ramp
from boneage_xai.phantom.proportions import (
    CARPALS_MM,
    FINGER_DEG,
    FINGER_WIDTH,
    FLAT,
    FOREARM_BOX_MM,
    FOREARM_FLAT,
    FOREARM_HEAD_FLARE,
    FOREARM_MM,
    HALF_WIDTHS_MM,
    JOINT_BOX_MM,
    JOINT_GAP_MM,
    METACARPAL_BASE,
    METACARPAL_DEG,
    METACARPAL_TILT,
    RAY_BASE_MM,
    WRIST_BOX_MM,
)
from boneage_xai.phantom.shapes import Solid


@dataclass(frozen=True)
class Pose:
    """How the hand lies on the plate.

    Args:
        rotation_rad: turn of the whole hand, clockwise as seen.
        spread: factor on the angles between the fingers.
        finger_rad: extra angle of each finger, thumb first.
        bend: shortening of each finger's phalanges by bending, thumb first; 1 is straight.
        thumb_rad: extra abduction of the thumb.
        forearm_rad: turn of the forearm against the hand, at the wrist.
    """

    rotation_rad: float = 0.0
    spread: float = 1.0
    finger_rad: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    bend: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)
    thumb_rad: float = 0.0
    forearm_rad: float = 0.0


@dataclass(frozen=True)
class Landmark:
    """A place that readers look at: the box around a joint, the wrist or a forearm bone.

    Args:
        region: ``DIP``, ``PIP``, ``MCP``, ``wrist``, ``radius`` or ``ulna``.
        finger: 1 to 5, None for wrist and forearm.
        x_mm: x of the centre.
        y_mm: y of the centre.
        angle_rad: direction of the finger or forearm, from +y towards +x.
        half_across_mm: half the extent across that direction.
        half_along_mm: half the extent along it.
    """

    region: str
    finger: int | None
    x_mm: float
    y_mm: float
    angle_rad: float
    half_across_mm: float
    half_along_mm: float


@dataclass(frozen=True)
class Skeleton:
    """Everything that is placed before drawing.

    Args:
        parts: bones and epiphyses.
        landmarks: joints, wrist and distal forearm bones.
        rays: finger to the points (mm) from the carpometacarpal joint over the knuckles to
            the tip of the distal phalanx.
        rotation_rad: turn of the whole hand.
        forearm_rad: turn of the forearm against the hand.
        scale: size of the hand against the median adult man's.
    """

    parts: tuple[Part, ...]
    landmarks: tuple[Landmark, ...]
    rays: Mapping[int, tuple[tuple[float, float], ...]]
    rotation_rad: float
    forearm_rad: float
    scale: float


def build_skeleton(hand: Hand, maturity: Mapping[str, float], pose: Pose) -> Skeleton:
    """Place every bone of a hand.

    Args:
        hand: the individual; its own age sets the sizes of bones and hand.
        maturity: centre id to maturity in [0, 1], as from ``growth.maturities``; it changes
            pieces of bone, and neither rays nor scale.
        pose: how it lies.

    Returns:
        Bones with epiphyses in mm, landmarks and rays.
    """
    builder = _Builder(hand, maturity, pose)
    parts = [*builder.forearm(), *builder.carpals()]
    landmarks = builder.wrist_landmarks()
    rays: dict[int, tuple[tuple[float, float], ...]] = {}
    for finger in FINGERS:
        ray_parts, ray_landmarks, points = builder.ray(finger)
        parts += ray_parts
        landmarks += ray_landmarks
        rays[finger] = points
    return Skeleton(
        tuple(parts), tuple(landmarks), rays, pose.rotation_rad, pose.forearm_rad, builder.scale
    )


class _Builder:
    """The scales and the turn that all placements of one hand share."""

    def __init__(self, hand: Hand, maturity: Mapping[str, float], pose: Pose) -> None:
        self.hand, self.maturity, self.pose = hand, maturity, pose
        self.scale = space_scale(hand)
        self.width = bone_width_scale(hand)
        # Shafts of the young are hardly waisted.
        self.youth = 1.0 - ramp(length_share(hand.sex, hand.age_months), 0.33, 0.6)

    def place(self, x_mm: float, y_mm: float) -> tuple[float, float]:
        """Scale and turn a point given for an adult man's upright hand."""
        sine, cosine = math.sin(self.pose.rotation_rad), math.cos(self.pose.rotation_rad)
        x_mm, y_mm = x_mm * self.scale, y_mm * self.scale
        return x_mm * cosine + y_mm * sine, y_mm * cosine - x_mm * sine

    def turn_forearm(self, x_mm: float, y_mm: float) -> tuple[float, float]:
        """Turn a point of an adult man's upright forearm about the centre of the carpus."""
        sine, cosine = math.sin(self.pose.forearm_rad), math.cos(self.pose.forearm_rad)
        return x_mm * cosine + y_mm * sine, y_mm * cosine - x_mm * sine

    def ray(
        self, finger: int
    ) -> tuple[list[Part], list[Landmark], tuple[tuple[float, float], ...]]:
        """Place metacarpal and phalanges of one finger."""
        pose = self.pose
        rotation = pose.rotation_rad
        extra = pose.finger_rad[finger - 1] + (pose.thumb_rad if finger == 1 else 0.0)
        spread = 1.0 if finger == 1 else pose.spread
        angle = rotation + math.radians(METACARPAL_DEG[finger]) * (0.5 + 0.5 * spread)
        angle += 0.5 * extra
        bone_ids = [f"MC{finger}", f"PP{finger}", f"MP{finger}", f"DP{finger}"]
        if finger == 1:
            bone_ids.remove("MP1")
        parts: list[Part] = []
        landmarks: list[Landmark] = []
        x, y = self.place(*RAY_BASE_MM[finger])
        points = [(x, y)]
        for order, bone_id in enumerate(bone_ids):
            shortening = METACARPAL_TILT[finger]
            if order:
                shortening = pose.bend[finger - 1] if order > 1 else 1.0
                direction = math.radians(FINGER_DEG[finger]) * spread + extra
                angle = rotation + direction * (1.0 if order == 1 else 0.98)
                landmarks.append(self._joint(bone_ids, order, finger, points[-1], angle))
            length = bone_length_mm(self.hand, bone_id) * shortening
            gap = JOINT_GAP_MM[anatomy.BONES[bone_id].row] * self.hand.joint_scale * self.scale
            start = (x + gap * math.sin(angle), y + gap * math.cos(angle))
            parts += self._tubular(bone_id, finger, start, angle, length)
            x += (length + gap) * math.sin(angle)
            y += (length + gap) * math.cos(angle)
            points.append((x, y))
            if bone_id == "MC1":
                parts += self._sesamoid((x, y), angle)
        return parts, landmarks, tuple(points)

    def _joint(
        self,
        bone_ids: list[str],
        order: int,
        finger: int,
        point: tuple[float, float],
        angle: float,
    ) -> Landmark:
        region = {"PP": anatomy.MCP, "MP": anatomy.PIP, "DP": anatomy.DIP}[bone_ids[order][:2]]
        if bone_ids[order] == "DP1":
            region = anatomy.PIP
        half_across, half_along = JOINT_BOX_MM[region]
        # The metacarpal's epiphysis lies before the joint, so its box does too.
        back = -1.5 * self.scale if region == anatomy.MCP else 0.0
        size = self.scale * (0.5 + 0.5 * FINGER_WIDTH[finger])
        return Landmark(
            region,
            finger,
            point[0] + back * math.sin(angle),
            point[1] + back * math.cos(angle),
            angle,
            half_across * size,
            half_along * size,
        )

    def _tubular(
        self, bone_id: str, finger: int, start: tuple[float, float], angle: float, length: float
    ) -> list[Part]:
        bone = anatomy.BONES[bone_id]
        centre = anatomy.CENTRES[bone_id]
        widths = HALF_WIDTHS_MM.get(bone_id) or HALF_WIDTHS_MM[bone_id[:2]]
        thick = self.width * (FINGER_WIDTH[finger] if bone_id[:2] != "MC" else 1.0)
        base, waist, head = (thick * w for w in widths[:3])
        waist *= self.hand.waist_scale * (1.06 + 0.24 * self.youth)
        if bone_id[:2] == "MC":
            # The bases of young metacarpals stand apart.
            base *= 1 - 0.2 * self.youth
            head *= 1 - 0.08 * self.youth
        distal = bone.row == "distal"
        bow, tilt = (-0.08 * base, 0.0)
        if bone_id[:2] == "MC":
            bow, tilt = METACARPAL_BASE[finger]
            bow, tilt = bow * self.width, tilt * (1 - 0.7 * self.youth)
        whole = Solid(
            *start,
            angle,
            length,
            base,
            waist,
            head,
            base_flare=0.32 if not distal else 0.5,
            head_flare=0.24,
            base_plateau=0.07 if bone_id[:2] == "MC" else 0.04,
            head_plateau=0.07 if bone_id[:2] == "MC" else 0.04,
            base_round_mm=(0.45 if bone_id[:2] == "MC" else 0.35) * base,
            head_round_mm=(0.75 if bone_id[:2] == "MC" or distal else 0.5) * head,
            base_bow_mm=bow,
            base_tilt=tilt,
            head_bow_mm=0.3 * head if bone_id[:2] == "MC" else (0.0 if distal else -0.1 * head),
            cortex_mm=0.42 * waist * self.hand.cortex_scale,
            shell_mm=0.42 * math.sqrt(self.scale),
            end_plate=self.hand.end_plate,
            marrow=0.11,
            mineral=self.hand.mineral_scale,
            flat=FLAT[bone.row],
        )
        site = EpiphysisSite(
            bone_id,
            at_head=centre.site == "head",
            height_mm=widths[3] * self.scale * (1 - 0.2 * self.youth),
            scale=self.scale,
            shaft_region=bone.region,
            region=centre.region,
            plate_scale=self.hand.plate_scale,
            interlock=self.hand.interlock,
            scar=self.hand.scar,
        )
        return ossify(whole, site, self.maturity[bone_id])

    def _sesamoid(self, point: tuple[float, float], angle: float) -> list[Part]:
        maturity = self.maturity["sesamoid"]
        if maturity <= 0:
            return []
        radius = 2.6 * self.width * (0.4 + 0.6 * maturity**0.5)
        back, side = -7.0 * self.scale, -5.6 * self.scale
        x = point[0] + (back - radius) * math.sin(angle) + side * math.cos(angle)
        y = point[1] + (back - radius) * math.cos(angle) - side * math.sin(angle)
        solid = Solid(
            x,
            y,
            angle,
            2 * radius,
            radius,
            radius,
            radius,
            base_round_mm=0.95 * radius,
            head_round_mm=0.95 * radius,
            cortex_mm=0.5,
            marrow=0.6,
            mineral=self.hand.mineral_scale,
        )
        return [Part("sesamoid", solid, anatomy.MCP)]

    def carpals(self) -> list[Part]:
        """Place the carpals that have appeared, from round seeds to their adult shape."""
        parts = []
        for bone_id, numbers in CARPALS_MM.items():
            maturity = self.maturity[bone_id]
            if maturity <= 0:
                continue
            x, y, degrees, length, base, middle, head, r0, r1, bow0, bow1 = numbers
            size = self.scale * (0.14 + 0.86 * maturity**0.28)
            shape = ramp(maturity, 0.0, 0.7)
            mean = (base + middle + head) / 3
            equal = math.sqrt(mean * length / 2)
            base, middle, head = (
                size * _blend(equal, width, shape) for width in (base, middle, head)
            )
            length = size * _blend(2 * equal, length, shape)
            roundest = 0.5 * length
            angle = self.pose.rotation_rad + math.radians(degrees)
            x, y = self.place(x, y)
            solid = Solid(
                x - 0.5 * length * math.sin(angle),
                y - 0.5 * length * math.cos(angle),
                angle,
                length,
                base,
                middle,
                head,
                base_flare=0.6,
                head_flare=0.6,
                base_round_mm=min(_blend(0.98 * roundest, size * r0, shape), roundest, base),
                head_round_mm=min(_blend(0.98 * roundest, size * r1, shape), roundest, head),
                base_bow_mm=size * bow0 * shape,
                head_bow_mm=size * bow1 * shape,
                cortex_mm=0.65 * math.sqrt(self.scale),
                shell_mm=0.65 * math.sqrt(self.scale),
                marrow=0.22,
                mineral=self.hand.mineral_scale,
                flat=0.6,
            )
            parts.append(Part(bone_id, solid, anatomy.CARPALS))
        return parts

    def forearm(self) -> list[Part]:
        """Place radius and ulna; most of their shafts lies below the image."""
        parts = []
        for bone_id, numbers in FOREARM_MM.items():
            x, y, degrees, base, waist, head, height, slope = numbers
            angle = self.pose.rotation_rad + self.pose.forearm_rad + math.radians(degrees)
            length = bone_length_mm(self.hand, bone_id)
            x, y = self.place(*self.turn_forearm(x, y))
            whole = Solid(
                x - length * math.sin(angle),
                y - length * math.cos(angle),
                angle,
                length,
                base * self.width,
                waist * self.width,
                head * self.width,
                base_flare=0.2,
                head_flare=FOREARM_HEAD_FLARE[bone_id],
                head_round_mm=(0.22 if bone_id == "radius" else 0.5) * head * self.width,
                head_bow_mm=-0.06 * head * self.width,
                head_tilt=slope,
                cortex_mm=0.5 * waist * self.width * self.hand.cortex_scale,
                shell_mm=0.5 * math.sqrt(self.scale),
                end_plate=self.hand.end_plate,
                marrow=0.11,
                mineral=self.hand.mineral_scale,
                flat=FOREARM_FLAT[bone_id],
            )
            site = EpiphysisSite(
                bone_id,
                at_head=True,
                height_mm=height * self.scale,
                scale=self.scale,
                shaft_region=bone_id,
                region=bone_id,
                plate_scale=self.hand.plate_scale,
                interlock=self.hand.interlock,
                scar=self.hand.scar,
                domed=False,
            )
            parts += ossify(whole, site, self.maturity[bone_id])
        return parts

    def wrist_landmarks(self) -> list[Landmark]:
        """Return the boxes of wrist, radius and ulna."""
        boxes = {"wrist": WRIST_BOX_MM, **FOREARM_BOX_MM}
        return [
            Landmark(
                region,
                None,
                *self.place(*((x, y) if region == "wrist" else self.turn_forearm(x, y))),
                self.pose.rotation_rad,
                across * self.scale,
                along * self.scale,
            )
            for region, (x, y, across, along) in boxes.items()
        ]


def _blend(start: float, end: float, share: float) -> float:
    return start + (end - start) * share
