"""The command that removes hand regions and holds attribution against what follows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
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


def occlude(
    data: DataOption,
    out: AnalysisOption,
    run: RunArgument = None,
    card: CardOption = None,
    fill: Annotated[
        list[str] | None,
        typer.Option(
            "--fill",
            help="What takes the place of a region, repeatable: blur, inpaint, mean. "
            "[default: all]",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="At most so many cases, evenly over sex and age.", min=1)
    ] = None,
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
    """Remove one hand region after the other, and measure what prediction and error do.

    Example: boneage-xai occlude runs/cpu-small --data ~/rsna --out analyses/cpu-small --limit 100
    --regions rsna-regions

    Where the folder holds attributions, each method is held against what removal does.
    """
    from boneage_xai.analysis.occlusion_agreement import compared
    from boneage_xai.analysis.occlusion_summary import by_group, preferred_fill, summarise_occlusion
    from boneage_xai.analysis.region_occlusion import occlude_run
    from boneage_xai.regions.removal import FILL_NAMES

    model = one_model(run, card)
    prepared, _ = prepared_cases(
        model,
        data,
        split=split,
        column=column,
        skip_problems=skip_problems,
        regions=regions,
        cache=cache,
        quiet=as_json,
    )
    with bars("Removing regions", quiet=as_json) as (removing,):
        folder = occlude_run(
            prepared,
            out,
            fills=fill or FILL_NAMES,
            limit=limit,
            regions_from=None if regions is None else str(regions),
            progress=removing,
        )
    table = folder.occlusion()
    if table is None:
        return
    step = folder.manifest["steps"]["occlude"]
    summary = summarise_occlusion(table)
    comparison = compared(folder)
    if as_json:
        shown = preferred_fill(step["fills"])
        say_json(
            {
                **{key: step[key] for key in ("n", "fills", "n_without_region_map")},
                "regions": records(summary),
                "by_sex_and_age": records(by_group(table, shown)),
                "agreement_with_occlusion": records(comparison.with_occlusion),
                "agreement_with_interventions": records(comparison.with_interventions),
                "verdicts": records(comparison.verdicts),
            }
        )
        return
    for one in step["fills"]:
        of_fill = summary[(summary["fill"] == one) & (summary["kind"] != "control")]
        say_table(
            f"{step['n']} cases ({prepared.split}), removed by {one}: months",
            ["", "change of prediction", "|change|", "beyond control", "change of MAE"],
            [
                [
                    str(row["region"]).replace("_", " "),
                    *(_cell(row, name) for name in ("delta", "absolute_delta")),
                    *(_cell(row, name) for name in ("beyond_control", "error_change")),
                ]
                for row in records(of_fill)
            ],
        )
    for row in records(comparison.verdicts):
        say(f"{row['method']}: {row['verdict']}")
    left = step["n_without_region_map"] + step["n_without_hand"]
    if left:
        note(f"{left} cases left out, in which no hand regions are known")
    say(f"Written to {out}; `boneage-xai report {out}` makes it readable")


def _cell(row: Mapping[str, Any], name: str) -> str:
    value = row[f"{name}_months"]
    if value is None:
        return "–"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{value:+.1f}" + ("" if low is None else f" ({low:+.1f} to {high:+.1f})")
