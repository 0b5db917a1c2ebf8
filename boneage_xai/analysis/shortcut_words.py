"""What the shortcut audit found, in sentences with the numbers filled in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

GROUP_WORDS = {
    "id": "the order of the ids",
    "size": "the size of the radiograph (height, width, aspect)",
    "intensity": "the brightness of the whole radiograph",
    "border": "the border",
    "background": "the grey of the background",
    "marker": "the marker (presence, brightness, area, place)",
}
TEST_WORDS = {
    "marker_erased": "erasing the marker",
    "marker_moved": "moving the marker elsewhere",
    "marker_brighter": "making the marker brighter",
    "marker_darker": "making the marker darker",
    "border_replaced": "replacing the border by what lies inside of it",
    "background_levelled": "levelling the background",
    "whole_brighter": "making the whole radiograph brighter",
    "whole_darker": "making the whole radiograph darker",
}
_CONTROLS = {
    "marker_erased": "erasing a patch of the same shape elsewhere",
    "marker_moved": "erasing the patch that it was moved to",
    "marker_brighter": "the same change to a patch elsewhere",
    "marker_darker": "the same change to a patch elsewhere",
    "border_replaced": "replacing the strip inside of it",
}


def data_alarm(row: Mapping[Any, Any]) -> str:
    """Say what tells age or sex.

    Args:
        row: of the table of ``shortcut_data.audit_data``.
    """
    what = GROUP_WORDS.get(str(row["group"]), str(row["group"]))
    interval = f"95% interval {_plain(row['low'], 2)} to {_plain(row['high'], 2)}"
    found = (
        f"explains {100 * row['value']:.0f}% of the variance of the reference age "
        f"(R² {_plain(row['value'], 2)}, {interval})"
        if row["target"] == "age"
        else f"tells boys from girls (area under the curve {_plain(row['value'], 2)}, {interval})"
    )
    return (
        f"Data: {what} {found} over {row['n']:,} cases; p = {row['p_holm']:.2g} against shuffled "
        "labels."
    )


def network_alarm(row: Mapping[Any, Any]) -> str:
    """Say what moves predictions, and by how much.

    Args:
        row: of the table of ``shortcut_network.summarise_changes``.
    """
    test = str(row["test"])
    moved = f"{row['moved_months']:.1f} months ({_span(row, 'moved_months', 1)})"
    text = (
        f"Network: {TEST_WORDS.get(test, test)} moves predictions by {moved} on average of "
        "magnitude"
    )
    if row["n_control"] and math.isfinite(row["control_months"]):
        where = "" if row["n_control"] == row["n"] else f" over {row['n_control']:,} of the cases"
        text += f"; {_CONTROLS.get(test, 'the control')} by {row['control_months']:.1f}{where}"
    if not math.isfinite(row["slope_months_per_month"]):
        return f"{text} ({row['n']:,} cases)."
    slope = _plain(row["slope_months_per_month"], 2, signed=True)
    return (
        f"{text}. The change is {slope} months per month of age "
        f"({_span(row, 'slope_months_per_month', 2, signed=True)}) over {row['n']:,} cases."
    )


def _span(row: Mapping[Any, Any], key: str, digits: int, *, signed: bool = False) -> str:
    low, high = (_plain(row[f"{key}_{end}"], digits, signed=signed) for end in ("low", "high"))
    return f"{low} to {high}"


def _plain(value: float, digits: int, *, signed: bool = False) -> str:
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", "−")
