"""Report section on the shortcut audit: is it the hand that data and network speak of?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from boneage_xai.analysis.shortcut_words import GROUP_WORDS, TEST_WORDS
from boneage_xai.figures.shortcuts import change_panels, data_panels, example_pictures
from boneage_xai.store import AnalysisFolder
from reports.blocks import Block, Drawing, Section, Table, Text
from reports.wording import method_name, months, percent

_PICTURES = {
    "original": "as the network sees it",
    "marker_erased": "marker erased",
    "marker_moved": "marker moved",
    "control": "control: patch erased",
}


def shortcuts(folder: AnalysisFolder) -> Section | None:
    """Say whether anything but the hand tells the age or moves predictions."""
    result = folder.shortcuts()
    if result is None:
        return None
    rules = result["rules"]
    blocks: list[Block] = [
        Text(
            (
                "A marker, a border, the background, the brightness of a film and the order of "
                "ids know nothing of a child's bones. Where they tell the age or the sex all the "
                "same, a network may learn them in place of bones, and fail elsewhere.",
            )
        ),
        _verdict(result),
    ]
    if result["data"]:
        blocks += _data(result["data"], rules)
    if result["network"]:
        blocks += _network(result["network"], rules)
        blocks += _example(folder)
    if result["attribution"]:
        blocks.append(_attribution(result["attribution"]))
    if missing := _not_checked(result["not_checked"]):
        blocks.append(Text(missing))
    return Section("shortcuts", "Shortcuts: is it the hand?", tuple(blocks))


def _verdict(result: Mapping[str, Any]) -> Text:
    alarms = [str(sentence) for sentence in result["alarms"]]
    if alarms:
        count = "1 alarm" if len(alarms) == 1 else f"{len(alarms)} alarms"
        return Text((f"{count} raised.", *alarms), notice=True)
    return Text(
        (
            "No alarm: nothing that was checked passes its threshold. That is no proof that there "
            "is no shortcut.",
        )
    )


def _data(rows: Sequence[Mapping[str, Any]], rules: Mapping[str, Any]) -> list[Block]:
    table = pd.DataFrame(rows)
    return [
        Drawing(
            partial(data_panels, rows),
            "Points with intervals: how well each thing beside the hand tells age and sex",
            "The data by themselves, without the network. Predictions by ridge regression for "
            "cases it was not fitted on, with 95% intervals; grey lines are chance, dashed marks "
            f"the thresholds. An alarm (orange) also needs p < {rules['significance']:g} against "
            "shuffled labels, corrected for the number of tests (Holm). The brightness of the "
            "whole is the baseline that any network must beat; it raises no alarm by itself, since "
            "growing bones are brighter, too.",
            table,
        ),
        Table(
            "What tells the age (R²) or the sex (area under the curve) without any bone.",
            ("What", "Tells", "Cases", "Value", "95% interval", "Alarm from", "p", ""),
            tuple(
                (
                    GROUP_WORDS.get(row["group"], row["group"]),
                    str(row["target"]),
                    f"{row['n']:,}",
                    months(row["value"], digits=2),
                    f"{months(row['low'], digits=2)} to {months(row['high'], digits=2)}",
                    "–" if row["threshold"] is None else f"{row['threshold']:g}",
                    f"{row['p_holm']:.2g}",
                    "alarm" if row["alarm"] else "",
                )
                for row in rows
            ),
            table,
            words=(0, 1, 7),
        ),
    ]


def _network(rows: Sequence[Mapping[str, Any]], rules: Mapping[str, Any]) -> list[Block]:
    table = pd.DataFrame(rows)
    return [
        Drawing(
            partial(change_panels, rows, rules["least_months"], rules["least_slope"]),
            "Points with intervals: months that predictions move when something beside the hand "
            "changes, and how that depends on age",
            "Points with 95% bootstrap intervals over cases; grey diamonds are controls (the same "
            "change to as large a part elsewhere). An alarm (orange) is raised where the movement "
            f"beyond that of the control is surely {rules['least_months']:g} months or more "
            "(dashed marks; not for the background, which has no control), or where it surely "
            f"follows the age by more than {rules['least_slope']:g} months per month (dashed "
            "lines) and exceeds the control.",
            table,
        ),
        Table(
            "Months that predictions move when something beside the hand changes. Movement is the "
            "mean of |change|, shift the mean change with its sign; beyond is the movement less "
            "that of the control in the cases that have one.",
            (
                "Change",
                "Cases",
                "Movement",
                "Control",
                "With control",
                "Beyond",
                "Shift",
                "Per month of age",
                "",
            ),
            tuple(
                (
                    TEST_WORDS.get(row["test"], row["test"]).capitalize(),
                    f"{row['n']:,}",
                    _with_interval(row, "moved_months"),
                    _with_interval(row, "control_months"),
                    f"{row['n_control']:,}",
                    _with_interval(row, "excess_months", signed=True),
                    _with_interval(row, "shift_months", signed=True),
                    _with_interval(row, "slope_months_per_month", signed=True, digits=2),
                    "alarm" if row["alarm"] else "",
                )
                for row in rows
            ),
            table,
            words=(0, 8),
        ),
    ]


def _example(folder: AnalysisFolder) -> list[Block]:
    stored = folder.shortcut_example()
    changes = folder.shortcut_changes()
    if stored is None or changes is None:
        return []
    case_id, pictures = stored
    ours = changes[changes["case_id"] == case_id].set_index("test")
    moved = {name: ours["change_months"].get(name) for name in ("marker_erased", "marker_moved")}
    moved["control"] = ours["control_months"].get("marker_erased")
    titles = {
        name: _PICTURES[name] + ("" if moved.get(name) is None else f"\n{_signed(moved[name])}")
        for name in pictures
    }
    predicted = float(ours["predicted_months"].iloc[0])
    titles["original"] += f"\n{predicted:.1f} months"
    return [
        Drawing(
            partial(example_pictures, pictures, titles),
            "One radiograph with its marker, without it, with it elsewhere, and the control",
            f"Case {case_id}, whose prediction moves by the median amount when its marker is "
            "erased: the prediction, and what each change does to it.",
            vector=False,
        )
    ]


def _attribution(rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        "Where attribution lies, as shares of the sum of magnitudes. It raises no alarm by itself: "
        "bright things gather attribution against a dark baseline whether they are used or not. "
        "“Elsewhere” is a part of the same kind and size without marker or border.",
        ("Method", "On the", "Cases", "Share", "95% interval", "Share of the area", "Elsewhere"),
        tuple(
            (
                method_name(str(row["method"])),
                str(row["part"]),
                f"{row['n']:,}",
                _share(row["share"]),
                "" if row["low"] is None else f"{_share(row['low'])} to {_share(row['high'])}",
                _share(row["area"]),
                _share(row["elsewhere"]),
            )
            for row in rows
        ),
        pd.DataFrame(rows),
        words=(0, 1),
    )


def _not_checked(parts: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    sentences = []
    for part, skipped in parts.items():
        for reason in dict.fromkeys(skipped.values()):
            names = [name for name, why in skipped.items() if why == reason]
            words = ", ".join(
                TEST_WORDS.get(name, name.replace("_", " ").replace(": ", " → ")) for name in names
            )
            sentences.append(f"Not checked ({part}): {words}: {reason}.")
    return tuple(sentences)


def _with_interval(
    row: Mapping[str, Any], key: str, *, signed: bool = False, digits: int = 1
) -> str:
    value = row[key]
    if value is None or np.isnan(value):
        return "–"
    low, high = (
        months(row[f"{key}_{end}"], signed=signed, digits=digits) for end in ("low", "high")
    )
    return f"{months(value, signed=signed, digits=digits)}\n{low} to {high}"


def _signed(value: Any) -> str:
    return f"{months(float(value), signed=True)} months"


def _share(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f}%" if value < 0.1 else percent(value)
