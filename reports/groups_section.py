"""Report sections on calibration, and on groups by stage and by columns of the label table."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd

from boneage_xai.figures.calibration import calibration_figure
from boneage_xai.store import AnalysisFolder
from reports.blocks import Block, Drawing, Section, Table, Text
from reports.wording import SEX_PLURALS, age_span, estimate_text, months, percent

_KEYS = ("sex", "age_months", "stage", "year", "column", "group")
_TESTED = ("_p", "_holm", "mae_difference_months")


def _metrics(folder: AnalysisFolder, key: str) -> Any:
    if not (folder.path / "metrics.json").is_file():
        return None
    return folder.metrics().get(key)


def calibration(folder: AnalysisFolder) -> Section | None:
    """Say what children are on average for whom the network says x months."""
    found = _metrics(folder, "calibration")
    if not found:
        return None
    paragraphs = [_regression(found["line"])]
    if text := _correction(folder):
        paragraphs.append(text)
    curve = pd.DataFrame(
        [
            {
                **{key: row[key] for key in ("n", "predicted_months", "from_months", "to_months")},
                "reference_months": row["reference_months"]["value"],
                "reference_low": row["reference_months"]["low"],
                "reference_high": row["reference_months"]["high"],
                "error_months": row["error_months"]["value"],
                "error_low": row["error_months"]["low"],
                "error_high": row["error_months"]["high"],
            }
            for row in found["curve"]
        ]
    )
    blocks: list[Block] = [
        Text(tuple(paragraphs)),
        Drawing(
            partial(calibration_figure, found),
            "Mean reference bone age over ten groups of predictions, and its distance from them",
            "Ten groups of as many cases each, by prediction. On the black line the children are "
            "as old as the network says, on average.",
            curve,
        ),
    ]
    return Section("calibration", "Calibration", tuple(blocks))


def _regression(line: Mapping[str, Any]) -> str:
    lost = line["regression_to_the_mean"]
    if lost["value"] is None or line["sd_ratio"] is None or lost["low"] is None:
        return "Too few cases, or all of one age, to say whether predictions keep to the middle."
    verdict = (
        "Whether predictions keep to the middle age cannot be told"
        if lost["low"] <= 0 <= lost["high"]
        else "Predictions keep to the middle age"
        if lost["value"] > 0
        else "Predictions overstate how far children are from the middle age"
    )
    slope = line["slope"]
    text = (
        f"{verdict}: of a child's distance from the mean age {percent(lost['value'])} is lost (95% "
        f"interval {percent(lost['low'])} to {percent(lost['high'])}), and predictions spread "
        f"{percent(line['sd_ratio'])} as widely as references."
    )
    if slope["value"] is not None and slope["low"] is not None:
        inside = slope["low"] <= 1 <= slope["high"]
        text += (
            f" Read the other way, a month more of prediction stands for {slope['value']:.2f} "
            f"months more of reference ({slope['low']:.2f} to {slope['high']:.2f})"
            + ("; 1, as it should be, is among them." if inside else "; it should be 1.")
        )
    return text


def _correction(folder: AnalysisFolder) -> str | None:
    step = folder.manifest["steps"].get("evaluate", {})
    found = step.get("corrected")
    if not found:
        return None
    lines = {"girls": found["girls"], "boys": found["boys"]}
    said = "; ".join(
        f"{who}: {months(line['intercept_months'], signed=True)} months "
        f"{months(line['slope'], signed=True, digits=3)} × prediction"
        for who, line in lines.items()
    )
    text = (
        f"Errors, calibration and intervals are of predictions that are corrected by a line that "
        f"was fitted on {found['n']:,} validation cases, errors against the {found['against']} "
        f"({said}); what is said of maps, removed regions, the sex, changes of appearance and "
        "shortcuts is of the network itself."
    )
    if found["n_fitted_on"]:
        text += (
            f" {found['n_fitted_on']:,} of these cases are among the {step['n']:,} analysed: on "
            "them the correction looks a little better than on others."
        )
    return text


def groups(folder: AnalysisFolder) -> Section | None:
    """Give the errors by developmental stage and by columns of the label table, with tests."""
    found, tests = _metrics(folder, "groups"), _metrics(folder, "tests")
    if not found or not tests:
        return None
    by = [name for name in dict.fromkeys(row["by"] for row in found) if name != "year"]
    blocks: list[Block] = [
        Text(
            (
                "Whether a group is read too old or too young on average is tested with Student's "
                "t-test, whether its mean absolute error is larger or smaller than that of all "
                "other cases with Welch's. P-values are corrected for the number of groups in each "
                "table (Holm); groups under 20 cases are marked † and not tested.",
            )
        )
    ]
    keyed = {(row["by"], *map(str, map(row.get, _KEYS))): row for row in tests}
    for name in by:
        rows = [row for row in found if row["by"] == name]
        matched = [(row, keyed[name, *map(str, map(row.get, _KEYS))]) for row in rows]
        blocks.append(
            Table(
                f"{_title(name)}: MAE and bias in months with 95% intervals, and MAE minus that of "
                "all other cases.",
                ("Group", "Cases", "MAE", "Bias", "p of bias", "MAE minus others", "p of MAE"),
                tuple(_row(row, test) for row, test in matched),
                _flat(matched),
            )
        )
    sex_by_age = [row for row in tests if row["by"] == "sex×age" and not row["few_cases"]]
    if sex_by_age:
        blocks.append(_summary_of_bins(sex_by_age))
    return Section("groups", "By stage and other groups", tuple(blocks))


def _summary_of_bins(rows: list[Mapping[str, Any]]) -> Text:
    biased = [row for row in rows if row["bias_p_holm"] is not None and row["bias_p_holm"] < 0.05]
    named = "; ".join(
        f"{SEX_PLURALS[row['sex']]}, {row['age_months'][0]:g}–{row['age_months'][1]:g} months"
        for row in biased
    )
    text = (
        f"Of the {len(rows)} bins by sex and age with at least 20 cases, {len(biased)} show a "
        f"bias at p < 0.05 after Holm's correction{': ' + named if biased else ''}."
    )
    return Text((text,))


def _title(by: str) -> str:
    if by.startswith("column "):
        return f"By {by.removeprefix('column ')}"
    return {"stage": "By developmental stage", "sex×stage": "By sex and stage"}.get(by, by)


def _name(row: Mapping[str, Any]) -> str:
    parts = []
    if "sex" in row:
        parts.append(SEX_PLURALS[row["sex"]])
    if "age_months" in row:
        parts.append(age_span(row["age_months"]))
    parts += [str(row[key]) for key in ("stage", "group") if key in row]
    name = ", ".join(parts)
    shown = name if "group" in row else name[:1].upper() + name[1:]
    return shown + (" †" if row["few_cases"] else "")


def p_text(value: float | None) -> str:
    """Return a p-value as papers give it."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _row(row: Mapping[str, Any], test: Mapping[str, Any]) -> tuple[str, ...]:
    cells = []
    for metric in ("mae_months", "bias_months"):
        value, interval = estimate_text(metric, row[metric])
        cells.append(f"{value}\n{interval}" if interval else value)
    return (
        _name(row),
        f"{row['n']:,}",
        *cells,
        p_text(test["bias_p_holm"]),
        months(test["mae_difference_months"], signed=True),
        p_text(test["difference_p_holm"]),
    )


def _flat(rows: list[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> pd.DataFrame:
    flat = []
    for row, test in rows:
        keys = {key: row[key] for key in _KEYS if key in row and key != "age_months"}
        numbers = {
            f"{metric}{suffix}": row[metric][end]
            for metric in ("mae_months", "rmse_months", "bias_months")
            for suffix, end in (("", "value"), ("_low", "low"), ("_high", "high"))
        }
        found = {key: value for key, value in test.items() if key.endswith(_TESTED)}
        flat.append({**keys, "n": row["n"], **numbers, **found})
    return pd.DataFrame(flat)
