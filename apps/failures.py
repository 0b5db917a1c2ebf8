"""The command that makes the atlas of a network's worst cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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

_DIRECTIONS = {"all": "all worst", "over": "read too old", "under": "read too young"}


def failures(
    data: DataOption,
    out: AnalysisOption,
    run: RunArgument = None,
    card: CardOption = None,
    worst: Annotated[
        int | None,
        typer.Option(
            help="How many cases are the worst. [default: 5%, at least 10 of 30 or more]", min=1
        ),
    ] = None,
    pictures: Annotated[
        int, typer.Option(help="Of how many of them pictures and maps are kept.", min=0)
    ] = 8,
    neighbours: Annotated[
        bool,
        typer.Option(
            "--neighbours/--no-neighbours",
            help="Look for the nearest training radiographs, for which the network reads all.",
        ),
    ] = True,
    seed: Annotated[int, typer.Option(help="Of random draws and the bootstrap.", min=0)] = 0,
    regions: Annotated[
        Path | None,
        typer.Option("--regions", metavar="DIR", help="Region maps from `regions`."),
    ] = None,
    split: SplitOption = "held-out",
    column: ColumnOption = None,
    skip_problems: SkipOption = False,
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Gather the worst cases: what they share, whether chance would do, and what they look like.

    Example: boneage-xai failures runs/cpu-small --data ~/rsna --out analyses/cpu-small

    Predictions, attributions and neighbours that the folder holds are used.
    """
    from boneage_xai.analysis.failure_atlas import failures_run

    model = one_model(run, card)
    prepared, everyone = prepared_cases(
        model,
        data,
        split=split,
        column=column,
        skip_problems=skip_problems,
        regions=regions,
        cache=cache,
        quiet=as_json,
    )
    with bars("Reading", "Describing", quiet=as_json) as (reading, describing):
        folder = failures_run(
            prepared,
            everyone.select(prepared.train_ids),
            out,
            worst=worst,
            pictures=pictures,
            neighbours=neighbours,
            seed=seed,
            regions_from=None if regions is None else str(regions),
            on_note=note,
            on_read=reading,
            on_describe=describing,
        )
    found = folder.failure_findings()
    if found is None:
        return
    if as_json:
        say_json(found)
        return
    level = found["rules"]["level"]
    differing = [row for row in found["traits"] if row["p_holm"] < level]
    if differing:
        say_table(
            f"Traits in which the {found['n_worst']} worst of {found['n']} cases differ "
            f"({prepared.split}; p after Holm over {len(found['traits'])} comparisons)",
            ["", "cases", "effect (95% interval)", "same sex and stage", "p"],
            [
                [
                    found["labels"][row["descriptor"]],
                    _DIRECTIONS[row["group"]],
                    _effect(row, "effect", "low", "high"),
                    _effect(row, "adjusted", "adjusted_low", "adjusted_high"),
                    f"{row['p_holm']:.2g}",
                ]
                for row in differing
            ],
        )
    else:
        say(
            f"No trait sets the {found['n_worst']} worst of {found['n']} cases apart "
            f"({len(found['traits'])} comparisons, corrected after Holm)"
        )
    say_table(
        "Groups of worst cases (a pattern: more than chance, p < 0.05)",
        ["", "cases", "mean error", "of those alike", "elsewhere", "p"],
        [
            [
                one["name"] if one["pattern"] else f"no pattern ({one['name']})",
                one["n"],
                f"{one['mean_error_months']['value']:+.1f}",
                f"{one['n_matching_worst']} of {one['n_matching']}",
                "–" if one["rate_elsewhere"] is None else f"{100 * one['rate_elsewhere']:.1f} %",
                f"{one['p_value']:.2g}",
            ]
            for one in found["clusters"]
        ],
    )
    say(f"Written to {out}; `boneage-xai report {out}` makes it readable")


def _effect(row: dict[str, Any], value: str, low: str, high: str) -> str:
    if row[value] is None:
        return "–"
    sign = "" if row["measure"] == "risk" else "+"
    numbers = [format(row[key], f"{sign}.2f") for key in (value, low, high)]
    times = "× " if row["measure"] == "risk" else ""
    return f"{times}{numbers[0]} ({numbers[1]} to {numbers[2]})"
