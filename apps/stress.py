"""The command that puts a network to the stress test."""

from __future__ import annotations

from typing import Annotated, Any

import typer

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


def stress(
    data: DataOption,
    out: AnalysisOption,
    run: RunArgument = None,
    card: CardOption = None,
    transform: Annotated[
        list[str] | None,
        typer.Option(
            "--transform", metavar="NAME", help="Transform or family, repeatable. [default: all]"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="At most so many cases, evenly over sex and age.", min=1)
    ] = None,
    split: SplitOption = "held-out",
    column: ColumnOption = None,
    skip_problems: SkipOption = False,
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change how radiographs look and measure what predictions and errors do.

    Example: boneage-xai stress runs/cpu-small --data ~/rsna --out analyses/cpu-small --limit 200

    Example: boneage-xai stress runs/cpu-small --data ~/rsna --out turned --transform rotation
    """
    from boneage_xai.analysis.stress import stress_run, summarise_stress

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
    with bars("Stressing", quiet=as_json) as (stressing,):
        folder = stress_run(prepared, out, transforms=transform, limit=limit, progress=stressing)
    table = folder.stress()
    if table is None:
        return
    rows = records(summarise_stress(table))
    if as_json:
        say_json({"n": folder.manifest["steps"]["stress"]["n"], "transforms": rows})
        return
    say_table(
        f"{rows[0]['n']} cases ({prepared.split}), months; p by Wilcoxon, corrected after Holm",
        ["", "MAE change (95% interval)", "p", "mean change", "mean |change|", "> 12 months"],
        [
            [
                row["transform"].replace("_", " "),
                _change(row),
                "–" if row["p_holm"] is None else f"{row['p_holm']:.2g}",
                f"{row['mean_delta_months']:+.1f}",
                f"{row['mean_absolute_delta_months']:.1f}",
                f"{100 * row['moved_over_12_months']:.0f} %",
            ]
            for row in rows
        ],
    )
    if not rows[0]["n_labelled"]:
        note("note: no case has a bone age, so that changes of the error cannot be told")
    say(f"Written to {out}; `boneage-xai report {out}` makes it readable")


def _change(row: dict[str, Any]) -> str:
    if row["mae_change_months"] is None:
        return "–"
    text = f"{row['mae_change_months']:+.2f}"
    return text if row["low"] is None else f"{text} ({row['low']:+.2f} to {row['high']:+.2f})"
