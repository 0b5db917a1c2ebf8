"""Proportions of the hand: where bones lie and how wide they are, for an adult man in mm.

Origin is the centre of the carpus, x to the right (the thumb's side), y up to the fingers.
They are the phantom's own, fitted by eye and by the typical places of joints on radiographs.
"""

from __future__ import annotations

from collections.abc import Mapping

from boneage_xai import anatomy

# Carpometacarpal joints from the centre of the carpus, and directions of the rays.
RAY_BASE_MM = {1: (28.5, 12.0), 2: (12.6, 15.4), 3: (0.8, 16.4), 4: (-9.6, 14.6), 5: (-18.6, 11.6)}
METACARPAL_DEG = {1: 47.0, 2: 11.0, 3: -1.5, 4: -13.0, 5: -24.0}
FINGER_DEG = {1: 40.0, 2: 14.0, 3: 1.0, 4: -13.0, 5: -30.0}
# The palm is hollow, so metacarpals are seen a little short; the thumb's more so.
METACARPAL_TILT = {1: 0.90, 2: 0.91, 3: 0.91, 4: 0.91, 5: 0.91}
# Joint spaces before metacarpals and proximal, middle and distal phalanges.
JOINT_GAP_MM = {"metacarpal": 1.2, "proximal": 1.8, "middle": 1.35, "distal": 1.15}
# Ends of the metacarpals towards the carpus: hollow (mm, negative: hollow) and slope.
METACARPAL_BASE = {1: (-0.8, 0.0), 2: (-2.2, -0.25), 3: (0.6, 0.25), 4: (0.4, 0.1), 5: (0.5, 0.35)}

# Half-widths of an adult man's bones at base, waist and head, and height of the epiphysis.
HALF_WIDTHS_MM = {
    "MC1": (7.4, 4.4, 6.9, 4.6),
    "MC2": (7.6, 3.6, 7.4, 8.6),
    "MC3": (6.8, 3.6, 7.4, 8.6),
    "MC4": (5.7, 3.1, 6.5, 8.0),
    "MC5": (5.9, 3.3, 6.4, 7.4),
    "PP1": (7.0, 4.2, 5.6, 4.4),
    "DP1": (6.2, 3.1, 4.4, 3.8),
    "PP": (7.0, 3.7, 5.1, 4.5),
    "MP": (6.1, 3.2, 4.6, 3.7),
    "DP": (5.0, 2.3, 3.4, 3.2),
}
# Thickness under the beam against width.
FLAT = {"metacarpal": 0.85, "proximal": 0.82, "middle": 0.78, "distal": 0.68}
FINGER_WIDTH = {1: 1.0, 2: 1.0, 3: 1.05, 4: 0.96, 5: 0.85}

# Carpals: centre x, y; direction (degrees); length; half-widths base, middle, head; corner
# radius base, head; bulge base, head. Base is proximal.
CARPALS_MM: Mapping[str, tuple[float, ...]] = {
    "capitate": (-0.8, 3.2, 4, 25, 6.6, 6.6, 8.4, 6.2, 3.6, 1.4, -0.5),
    "hamate": (-13.0, 4.6, -16, 21.5, 4.2, 7.4, 8.8, 3.8, 3.2, 0.5, 0.4),
    "triquetral": (-19.4, -6.4, -42, 15.5, 6.4, 7.4, 6.4, 5.4, 5.4, 0.5, 0.5),
    "lunate": (-5.6, -10.6, -8, 12.6, 9.2, 8.6, 7.8, 5.2, 3.6, 1.8, -1.8),
    "scaphoid": (11.2, -6.2, 46, 23.0, 7.6, 6.2, 6.8, 6.6, 5.8, 1.5, 0.8),
    "trapezium": (21.8, 4.8, 38, 14.0, 7.4, 7.8, 8.6, 5.2, 4.2, 0.8, -0.8),
    "trapezoid": (13.0, 9.0, 12, 12.5, 5.2, 6.0, 7.2, 4.0, 3.4, 0.5, 0.4),
    "pisiform": (-22.4, -8.6, 0, 10.5, 5.0, 5.2, 5.0, 4.6, 4.6, 0.0, 0.0),
}

# Distal ends of radius and ulna: x, y of the joint surface, direction (degrees), half-widths
# at elbow, waist and wrist, height of the epiphysis, slope of the joint surface.
FOREARM_MM: Mapping[str, tuple[float, ...]] = {
    "radius": (3.5, -17.4, -1.5, 8.0, 6.6, 16.4, 8.0, -0.28),
    "ulna": (-24.0, -20.8, 1.5, 9.0, 5.4, 9.2, 6.0, 0.25),
}
FOREARM_FLAT = {"radius": 0.62, "ulna": 0.75}
FOREARM_HEAD_FLARE = {"radius": 0.18, "ulna": 0.13}

# Boxes that readers draw: half extents across and along, adult man, in mm.
JOINT_BOX_MM = {anatomy.DIP: (7.4, 8.4), anatomy.PIP: (8.4, 9.6), anatomy.MCP: (10.0, 11.5)}
WRIST_BOX_MM = (0.5, -2.5, 35.0, 23.5)
FOREARM_BOX_MM = {
    anatomy.RADIUS: (3.0, -28.0, 18.5, 14.0),
    anatomy.ULNA: (-23.5, -29.5, 11.5, 11.5),
}
