"""The command of the shortcut audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps.console import bars, note, say, say_json, say_table
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


def shortcuts(
    data: DataOption,
    out: AnalysisOption,
    run: RunArgument = None,
    card: CardOption = None,
    regions: Annotated[
        Path | None,
        typer.Option("--regions", metavar="DIR", help="Label maps from `regions`."),
    ] = None,
    limit: Annotated[
        int, typer.Option(help="Predictions looked at, evenly over sex and age.", min=1)
    ] = 200,
    data_limit: Annotated[
        int | None,
        typer.Option(help="Radiographs read for the look at the data. [default: all]", min=1),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of folds and resampling.", min=0)] = 0,
    split: SplitOption = "held-out",
    column: ColumnOption = None,
    skip_problems: SkipOption = False,
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look for shortcuts: do data or network use marker, border, background or brightness?

    Example: boneage-xai shortcuts demo/run --data demo/phantoms --out demo/analysis

    Exits with 0 whether or not an alarm is raised; --json has it as `alarm`.
    """
    from boneage_xai.analysis.shortcuts import audit_run

    model = one_model(run, card)
    prepared, chosen = prepared_cases(
        model,
        data,
        split=split,
        column=column,
        skip_problems=skip_problems,
        regions=regions,
        cache=cache,
        quiet=as_json,
    )
    with bars("Reading", "Predicting", quiet=as_json) as (reading, predicting):
        folder = audit_run(
            prepared,
            chosen,
            out,
            limit=limit,
            data_limit=data_limit,
            seed=seed,
            on_read=reading,
            on_predict=predicting,
        )
    result = folder.shortcuts() or {}
    if as_json:
        say_json(result)
        return
    say_table(
        "Data: what tells age (R²) or sex (area under the curve)",
        ["", "target", "value (95% interval)", "p", "alarm from", ""],
        [
            [
                str(row["group"]),
                row["target"],
                f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
                f"{row['p_holm']:.2g}",
                "–" if row["threshold"] is None else f"{row['threshold']:g}",
                "ALARM" if row["alarm"] else "",
            ]
            for row in result["data"]
        ],
    )
    say_table(
        "Network: months that predictions move",
        ["", "mean |change| (95% interval)", "control", "per month of age", ""],
        [
            [
                row["test"].replace("_", " "),
                f"{row['moved_months']:.1f} "
                f"({row['moved_months_low']:.1f} to {row['moved_months_high']:.1f})",
                "–" if row["control_months"] is None else f"{row['control_months']:.1f}",
                "–"
                if row["slope_months_per_month"] is None
                else f"{row['slope_months_per_month']:+.2f}",
                "ALARM" if row["alarm"] else "",
            ]
            for row in result["network"]
        ],
    )
    for part, skipped in result["not_checked"].items():
        for reason in dict.fromkeys(skipped.values()):
            names = ", ".join(name for name, why in skipped.items() if why == reason)
            note(f"not checked: {part}: {names.replace('_', ' ')}: {reason}")
    for sentence in result["alarms"]:
        say(sentence)
    if not result["alarms"]:
        say("No alarm: nothing that was checked passes its threshold")
    say(f"Written to {out}; `boneage-xai report {out}` makes it readable")
