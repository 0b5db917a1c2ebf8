"""The command that finds the training radiographs most like each case."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps.console import bars, say, say_json, say_table
from apps.models import one_model
from apps.options import (
    AnalysisOption,
    CacheOption,
    ColumnOption,
    DataOption,
    JsonOption,
    SkipOption,
    SplitOption,
)
from apps.sources import prepared_cases


def neighbours(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of a trained network.")],
    data: DataOption,
    out: AnalysisOption,
    k: Annotated[int, typer.Option("--k", help="Neighbours per case.", min=1)] = 6,
    split: SplitOption = "held-out",
    column: ColumnOption = None,
    skip_problems: SkipOption = False,
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the training radiographs of the same sex that the network finds most like each case.

    Example: boneage-xai neighbours runs/cpu-small --data ~/rsna --out analyses/cpu-small
    """
    from boneage_xai.analysis.neighbours import neighbours_run

    model = one_model(run, None)
    prepared, chosen = prepared_cases(
        model,
        data,
        split=split,
        column=column,
        skip_problems=skip_problems,
        cache=cache,
        quiet=as_json,
    )
    with bars("Reading", quiet=as_json) as (reading,):
        training = chosen.select(prepared.train_ids)
        folder = neighbours_run(prepared, training, out, k=k, progress=reading)
    table = folder.neighbours()
    if table is None:
        return
    first = table[table["rank"] == 1].sort_values("distance_percentile", ascending=False)
    if as_json:
        say_json({"k": k, "cases": first.to_dict("records")})
        return
    say_table(
        f"The most unusual of {len(first)} cases ({prepared.split})",
        ["case", "percentile", "nearest of the same sex", "its age, months", "distance"],
        [
            [
                row["case_id"],
                f"{row['distance_percentile']:.0f}",
                row["neighbour_id"],
                f"{row['neighbour_months']:.0f}",
                f"{row['distance']:.2f}",
            ]
            for row in first.head(10).to_dict("records")
        ],
    )
    say(f"Written to {out}")
