"""What the literature leads one to expect: which regions of the hand carry age, at which stage.

Two kinds, kept apart: what readers of bone age are taught to look at, and what others report that
networks look at or profit from. They disagree with each other; profiles are compared with all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from boneage_xai.analysis.stages import STAGES
from boneage_xai.anatomy import (
    CARPALS,
    DIP,
    MCP,
    METACARPAL_SHAFTS,
    PHALANGEAL_SHAFTS,
    PIP,
    RADIUS,
    ULNA,
)

Kind = Literal["readers", "networks"]
Trust = Literal["found", "approximate"]


@dataclass(frozen=True)
class Expectation:
    """Regions that a source names for some stages.

    Args:
        source: who says so.
        kind: ``readers`` for standards of reading, ``networks`` for studies of networks.
        stages: ids of the stages it speaks of.
        regions: names of the regions it names there.
        says: what it says, in words.
        trust: ``found`` where it was read in a public source, ``approximate`` where it is
            recalled and was not verified; also where only its stages are.
    """

    source: str
    kind: Kind
    stages: tuple[str, ...]
    regions: tuple[str, ...]
    says: str
    trust: Trust


_GILSANZ = "Gilsanz and Ratib 2005"
_ALL = tuple(STAGES)
_YOUNG, _OLDER = _ALL[:3], _ALL[3:]

EXPECTATIONS: tuple[Expectation, ...] = (
    Expectation(
        _GILSANZ,
        "readers",
        ("infancy",),
        (CARPALS, RADIUS),
        "capitate and hamate, and the distal epiphysis of the radius",
        "found",
    ),
    Expectation(
        _GILSANZ,
        "readers",
        ("toddler",),
        (DIP, PIP, MCP),
        "how many epiphyses of phalanges and metacarpals are there; carpals less useful",
        "found",
    ),
    Expectation(
        _GILSANZ,
        "readers",
        ("pre_puberty",),
        (DIP, PIP),
        "width of epiphyses against metaphyses, middle and distal phalanges most",
        "approximate",
    ),
    Expectation(
        _GILSANZ,
        "readers",
        ("early_mid_puberty",),
        (DIP, PIP),
        "the same, and epiphyses that cap their metaphyses",
        "approximate",
    ),
    Expectation(
        _GILSANZ,
        "readers",
        ("late_puberty",),
        (DIP, PIP, MCP),
        "fusion: distal phalanges, then metacarpals, proximal and middle phalanges",
        "approximate",
    ),
    Expectation(
        _GILSANZ,
        "readers",
        ("after_puberty",),
        (RADIUS, ULNA),
        "fusion of radius and ulna",
        "approximate",
    ),
    Expectation(
        "Tanner-Whitehouse 3, RUS scores",
        "readers",
        ("after_puberty",),
        (RADIUS, ULNA),
        "radius and ulna hold about 39% of the highest score, most of it in the last stages",
        "approximate",
    ),
    Expectation(
        "Chen 2020",
        "networks",
        _ALL,
        (CARPALS, METACARPAL_SHAFTS),
        "carpals first, metacarpals second",
        "found",
    ),
    Expectation(
        "Lee 2017",
        "networks",
        _YOUNG,
        (CARPALS,),
        "carpals while young",
        "approximate",
    ),
    Expectation(
        "Lee 2017",
        "networks",
        _OLDER,
        (DIP, PIP, MCP, PHALANGEAL_SHAFTS),
        "phalanges and joints later",
        "approximate",
    ),
    Expectation(
        "Iglovikov 2018",
        "networks",
        _ALL,
        (MCP, METACARPAL_SHAFTS),
        "crops of metacarpals and proximal phalanges give smaller errors than crops of carpals",
        "approximate",
    ),
)
"""Every expectation. What names single fingers is left out, since regions do not tell them apart.

Joints stand for the epiphyses in them: those of distal phalanges lie in DIP (the thumb's in PIP),
of middle phalanges in PIP, of proximal phalanges and metacarpals in MCP.
"""


def expectation_table() -> pd.DataFrame:
    """Return a row per source, stage and region: source, kind, stage, region, says, trust."""
    rows = [
        (one.source, one.kind, stage, region, one.says, one.trust)
        for one in EXPECTATIONS
        for stage in one.stages
        for region in one.regions
    ]
    return pd.DataFrame(rows, columns=["source", "kind", "stage", "region", "says", "trust"])
