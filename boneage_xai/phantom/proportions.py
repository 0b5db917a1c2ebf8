"""Proportions of the hand: where bones lie and how wide they are, for an adult man in mm.

Origin is the centre of the carpus, x to the right (the thumb's side), y up to the fingers.
They are the phantom's own, fitted by eye and by the typical places of joints on radiographs.
"""

from __future__ import annotations

from collections.abc import Mapping

from boneage_xai import anatomy

# Carpometacarpal joints from the centre of the carpus, and directions of the rays.
RAY_BASE_MM = {1: (28.5, 12.0), 2: (12.6, 15.4), 3: (0.8, 16.4), 4: (-9.6, 14.6), 5: (-18.6, 11.6)}
METACARPAL_DEG = {1: 43.0, 2: 9.0, 3: -1.5, 4: -11.5, 5: -21.0}
FINGER_DEG = {1: 34.0, 2: 11.0, 3: 0.0, 4: -11.5, 5: -26.0}
# The palm is hollow, so metacarpals are seen a little short; the thumb's more so.
METACARPAL_TILT = {1: 0.90, 2: 0.91, 3: 0.91, 4: 0.91, 5: 0.91}
JOINT_GAP_MM = 1.3

# Half-widths of an adult man's bones at base, waist and head, and height of the epiphysis.
HALF_WIDTHS_MM = {
    "MC1": (8.2, 5.4, 7.8, 4.6),
    "MC2": (8.4, 4.3, 8.4, 8.4),
    "MC3": (7.4, 4.3, 8.4, 8.4),
    "MC4": (6.0, 3.7, 7.4, 7.8),
    "MC5": (6.4, 3.9, 7.2, 7.2),
    "PP1": (8.2, 5.2, 6.8, 4.4),
    "DP1": (7.4, 3.8, 5.2, 3.8),
    "PP": (8.2, 4.6, 6.3, 4.5),
    "MP": (7.2, 4.0, 5.6, 3.7),
    "DP": (6.0, 2.8, 3.9, 3.2),
}
# Thickness under the beam against width.
FLAT = {"metacarpal": 0.85, "proximal": 0.82, "middle": 0.78, "distal": 0.68}
FINGER_WIDTH = {1: 1.0, 2: 1.0, 3: 1.05, 4: 0.96, 5: 0.85}

# Carpals: centre x, y; direction (degrees); length; half-widths base, middle, head; corner
# radius base, head; bulge base, head. Base is proximal.
CARPALS_MM: Mapping[str, tuple[float, ...]] = {
    "capitate": (-0.8, 3.6, 2, 26, 6.4, 7.0, 8.6, 5.8, 2.6, 1.0, 0.0),
    "hamate": (-13.4, 5.4, -14, 22, 4.6, 7.4, 9.0, 3.8, 2.8, 0.5, 0.0),
    "triquetral": (-19.6, -6.6, -42, 15.5, 7.0, 7.4, 6.0, 4.6, 4.2, 0.5, 0.5),
    "lunate": (-5.8, -11.2, -6, 13.0, 9.4, 9.0, 8.2, 4.6, 2.8, 1.5, -1.8),
    "scaphoid": (11.8, -7.0, 40, 24.5, 7.4, 6.4, 7.0, 5.8, 5.4, 0.5, 0.5),
    "trapezium": (22.6, 4.6, 46, 14.0, 7.8, 8.0, 8.8, 4.2, 3.0, 0.0, -0.8),
    "trapezoid": (13.2, 9.0, 8, 12.5, 5.4, 6.2, 7.4, 3.2, 2.4, 0.0, 0.0),
    "pisiform": (-22.4, -8.6, 0, 10.5, 5.0, 5.2, 5.0, 4.6, 4.6, 0.0, 0.0),
}

# Distal ends of radius and ulna: x, y of the joint surface, direction (degrees), half-widths
# at elbow, waist and wrist, height of the epiphysis, slope of the joint surface.
FOREARM_MM: Mapping[str, tuple[float, ...]] = {
    "radius": (4.5, -17.4, -1.5, 10.0, 7.8, 17.8, 8.0, -0.2),
    "ulna": (-22.5, -20.8, 1.5, 13.0, 6.6, 9.8, 6.0, 0.25),
}
FOREARM_FLAT = {"radius": 0.5, "ulna": 0.6}
FOREARM_HEAD_FLARE = {"radius": 0.24, "ulna": 0.16}

# Boxes that readers draw: half extents across and along, adult man, in mm.
JOINT_BOX_MM = {anatomy.DIP: (7.4, 8.4), anatomy.PIP: (8.4, 9.6), anatomy.MCP: (10.0, 11.5)}
WRIST_BOX_MM = (0.5, -3.5, 34.0, 22.5)
FOREARM_BOX_MM = {
    anatomy.RADIUS: (4.2, -28.0, 18.0, 13.0),
    anatomy.ULNA: (-20.5, -28.5, 11.5, 11.5),
}
