"""What the Basic Application Level Confidentiality Profile does to each DICOM attribute.

``confidentiality_profile.csv`` holds Table E.1-1 of PS3.15 (2026c, with one attribute that editions
before it listed): tag, keyword, the action of the profile and that of its option to retain patient
characteristics. The rows that name
whole groups are rules in ``action_on``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.tag import BaseTag

Action = Literal["X", "Z", "D", "U", "U*", "K"]
"""Remove, empty, replace by a dummy, replace a UID, replace the UIDs within, keep."""

_ACTIONS: Mapping[str, Action] = {"X": "X", "Z": "Z", "D": "D", "U": "U", "U*": "U*"}
# Of the table these groups lose their data and comments; without them the rest says nothing.
_CURVES, _OVERLAYS = 0x50, 0x60


@dataclass(frozen=True)
class Rule:
    """A row of the table.

    Args:
        keyword: of the attribute.
        actions: those that the profile allows; which one is right depends on the type of object.
        is_patient_characteristic: the option keeps it.
    """

    keyword: str
    actions: tuple[Action, ...]
    is_patient_characteristic: bool


@cache
def profile() -> Mapping[int, Rule]:
    """Return the rows of the table by tag."""
    text = files("boneage_xai.export").joinpath("confidentiality_profile.csv").read_text("utf-8")
    return {
        int(row["tag"], 16): Rule(
            keyword=row["keyword"],
            actions=tuple(_ACTIONS[action] for action in row["basic_profile"].split("/")),
            is_patient_characteristic=row["patient_characteristics"] == "K",
        )
        for row in csv.DictReader(text.splitlines())
    }


def action_on(
    tag: BaseTag, *, is_sequence: bool, keep_patient_characteristics: bool = False
) -> Action:
    """Return what becomes of an element.

    Args:
        tag: of the element.
        is_sequence: the element holds items.
        keep_patient_characteristics: follow the option, too.

    Returns:
        Where the table leaves a choice, the action that no type of object forbids (a dummy before
        an empty value before removal; for sequences the reverse, but for the UIDs of images). X for
        private elements, curves, overlays, group lengths, whatever the dictionary does not know,
        and names of persons that the table does not name; U for UIDs of instances that it does not
        name; K for any other attribute.

    Source:
        DICOM PS3.15 2026c, Table E.1-1. It departs from the table in removing overlays and curves
        whole, unknown elements at all and further names, and in replacing further UIDs.
    """
    rule = profile().get(int(tag))
    if rule is not None:
        if keep_patient_characteristics and rule.is_patient_characteristic:
            return "K"
        last = rule.actions[-1]
        return rule.actions[0] if is_sequence and last != "U*" else last
    if tag.is_private or tag.element == 0 or tag.group >> 8 in (_CURVES, _OVERLAYS):
        return "X"
    if not dictionary_has_tag(tag):
        return "X"
    if dictionary_VR(tag) == "PN":
        return "X"
    return "U" if "Instance" in keyword_for_tag(tag) and dictionary_VR(tag) == "UI" else "K"
