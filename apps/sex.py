"""The command that asks what the sex does to predictions."""

from __future__ import annotations

from typing import Any

from apps.console import bars, note, records, say, say_json, say_table
from apps.models import one_model
from apps.options import (
    AnalysisOption,
    CacheOption,
    CardOption,
    ColumnOption,
    DataOption,
    JsonOption,
    RunArgument,
    SkipOption,
    SplitOption,
)
from apps.sources import prepared_cases


def sex_effect(
    data: DataOption,
    out: AnalysisOption,
    run: RunArgument = None,
    card: CardOption = None,
    split: SplitOption = "held-out",
    column: ColumnOption = None,
    skip_problems: SkipOption = False,
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every radiograph as a girl's and as a boy's: effect by age, errors without the sex.

    Example: boneage-xai sex-effect runs/cpu-small --data ~/rsna --out analyses/cpu-small
    """
    from boneage_xai.analysis.sex_effect import (
        errors_without_sex,
        sex_effect_run,
        summarise_sex_effect,
    )

    model = one_model(run, card)
    prepared, _ = prepared_cases(
        model,
        data,
        split=split,
        column=column,
        skip_problems=skip_problems,
        cache=cache,
        quiet=as_json,
    )
    with bars("Predicting", quiet=as_json) as (predicting,):
        folder = sex_effect_run(prepared, out, progress=predicting)
    table = folder.sex_effect()
    if table is None:
        return
    by_age, errors = records(summarise_sex_effect(table)), records(errors_without_sex(table))
    if as_json:
        say_json({"n": len(table), "by_age": by_age, "errors": errors})
        return
    say_table(
        f"{len(table)} cases ({prepared.split}): boy's minus girl's answer, months",
        ["months as a girl", "cases", "effect (95% interval)", "at milestones"],
        [
            [
                f"{row['age_from_months']:g} to {row['age_to_months']:g}",
                row["n"],
                _interval(row, "effect_months"),
                "–" if row["milestone_months"] is None else f"{row['milestone_months']:+.1f}",
            ]
            for row in by_age
        ],
    )
    for row in errors:
        if row["sex"] is None:
            say(f"{row['given']}: MAE {_interval(row, 'mae_change_months')} months")
    if not errors:
        note("note: no case has a bone age, so that changes of the error cannot be told")
    say(f"Written to {out}; `boneage-xai report {out}` makes it readable")


def _interval(row: dict[str, Any], key: str) -> str:
    text = f"{row[key]:+.2f}"
    return text if row["low"] is None else f"{text} ({row['low']:+.2f} to {row['high']:+.2f})"
