"""The commands on phantoms: drawing cohorts, and intervening on their hands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from apps.console import bars, note, records, say, say_json, say_table
from apps.models import one_model
from apps.options import (
    AnalysisOption,
    CacheOption,
    CardOption,
    JsonOption,
    RunArgument,
    SplitOption,
)
from apps.sources import prepared_cases
from boneage_xai.errors import ConfigError
from boneage_xai.phantom.faults import Fault
from boneage_xai.phantom.settings import NUISANCES, PhantomSettings


def phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
    n: Annotated[int, typer.Option("--n", help="Number of radiographs.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.", min=0)] = 0,
    ages: Annotated[
        Literal["rsna", "uniform"], typer.Option(help="Distribution of the ages.")
    ] = "rsna",
    reader_sd_months: Annotated[
        float, typer.Option(help="Spread of one reader's labels from 5 years on.", min=0.0)
    ] = 6.0,
    size: Annotated[int, typer.Option(help="Longer side in pixels, even.", min=64, max=2048)] = 256,
    nuisances: Annotated[
        Literal["all", "none"], typer.Option(help="Whether nuisances are drawn.")
    ] = "all",
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="NUISANCE", help=f"Leave one out: {', '.join(NUISANCES)}."),
    ] = None,
    side: Annotated[Literal["left", "right"], typer.Option(help="The hand on the film.")] = "left",
    fault: Annotated[
        list[Fault] | None, typer.Option(help="Plant a fault for tools to find; repeatable.")
    ] = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Write maps of the sensitivity to age, too.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Processes. [default: all cores]", min=1)
    ] = None,
) -> None:
    """Write a cohort of phantom radiographs in the RSNA layout, with the truth about them.

    Example: boneage-xai phantom phantoms --n 500 --seed 1
    """
    from boneage_xai.phantom.cohorts import write_cohort
    from boneage_xai.phantom.manifest import read_manifest

    settings = _settings(size, side, nuisances, without or [])
    with bars("Drawing phantoms") as (bar,):
        write_cohort(
            out,
            n,
            seed=seed,
            settings=settings,
            ages=ages,
            reader_sd_months=reader_sd_months,
            workers=workers,
            progress=bar,
            faults=fault or (),
            sensitivity=sensitivity,
        )
    error = read_manifest(out).irreducible_error
    say(
        f"{n} phantoms in {out}; a perfect reader of the truth has an MAE of "
        f"{error.realised_mae_months:.2f} months against these labels"
    )


def _settings(
    size: int, side: Literal["left", "right"], nuisances: str, without: list[str]
) -> PhantomSettings:
    if unknown := [name for name in without if name not in NUISANCES]:
        raise ConfigError(f"--without: expected one of {', '.join(NUISANCES)}, found {unknown[0]}")
    if size % 2:
        raise ConfigError(f"--size: expected an even number of pixels, found {size}")
    every = PhantomSettings(size_px=size) if nuisances == "all" else PhantomSettings.clean(size)
    return every.model_copy(update={"side": side, **dict.fromkeys(without, False)})


def intervene(
    data: Annotated[
        Path, typer.Option("--data", metavar="PHANTOMS", help="Folder from `phantom`.")
    ],
    out: AnalysisOption,
    run: RunArgument = None,
    card: CardOption = None,
    limit: Annotated[
        int | None, typer.Option(help="At most so many cases, evenly over sex and age.", min=1)
    ] = None,
    delta_months: Annotated[
        float, typer.Option(help="Step in a region's age to either side.", min=0.1, max=60.0)
    ] = 12.0,
    split: SplitOption = "held-out",
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move one region of each phantom in age and measure what the prediction does.

    Example: boneage-xai intervene demo/run --data demo/phantoms --out demo/analysis --limit 100
    """
    from boneage_xai.analysis.interventions import intervene_run, summarise_interventions
    from boneage_xai.phantom.cohorts import read_phantom_cohort

    manifest, phantoms = read_phantom_cohort(data)
    model = one_model(run, card)
    prepared, _ = prepared_cases(model, data, split=split, cache=cache, quiet=as_json)
    with bars("Intervening", quiet=as_json) as (intervening,):
        folder = intervene_run(
            prepared,
            manifest,
            phantoms,
            out,
            limit=limit,
            delta_months=delta_months,
            progress=intervening,
        )
    table = folder.interventions()
    if table is None:
        return
    summary = summarise_interventions(table)
    if as_json:
        say_json(
            {
                "n": folder.manifest["steps"]["intervene"]["n"],
                "delta_months": delta_months,
                "regions": records(summary),
                "by_sex_and_age": records(summarise_interventions(table, by=("sex", "age"))),
            }
        )
        return
    say_table(
        f"{summary['n'].max()} phantoms ({prepared.split}): "
        "months of prediction per month of region age",
        ["", "effect (95% interval)", "pictures changed", "maturity change"],
        [
            [
                str(row["region"]).replace("_", " "),
                f"{row['slope_months_per_month']:+.2f}"
                + ("" if row["low"] is None else f" ({row['low']:+.2f} to {row['high']:+.2f})"),
                f"{row['n_changed']} of {row['n']}",
                f"{row['maturity_change']:+.2f}",
            ]
            for row in records(summary)
        ],
    )
    say(f"Written to {out}; `boneage-xai report {out}` makes it readable")


def benchmark_methods(
    data: Annotated[
        Path, typer.Option("--data", metavar="PHANTOMS", help="Folder from `phantom`.")
    ],
    out: AnalysisOption,
    run: RunArgument = None,
    card: CardOption = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help="Attribution method, repeatable. [default: all that are valid]"
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(help="At most so many cases, evenly over sex and age.", min=2)
    ] = 40,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace earlier attributions.")
    ] = False,
    split: SplitOption = "held-out",
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score attribution methods on phantoms, where it is known what maps should show.

    Example: boneage-xai benchmark-methods demo/run --data demo/phantoms --out scoreboard --limit 40
    """
    from boneage_xai.analysis.scoreboard import SCORES, benchmark_run, summarise_scores
    from boneage_xai.phantom.cohorts import read_phantom_cohort

    manifest, phantoms = read_phantom_cohort(data)
    model = one_model(run, card)
    prepared, _ = prepared_cases(model, data, split=split, cache=cache, quiet=as_json)
    with bars("Attributing", "Intervening", "Scoring", quiet=as_json) as progress:
        attributing, intervening, scoring = progress
        folder = benchmark_run(
            prepared,
            manifest,
            phantoms,
            out,
            methods=method,
            limit=limit,
            replace=replace,
            on_attribute=attributing,
            on_intervene=intervening,
            on_score=scoring,
        )
    step = folder.manifest["steps"]["benchmark_methods"]
    scores = folder.scores()
    if scores is None:
        return
    summary = summarise_scores(scores)
    if as_json:
        say_json({"n": step["n"], "refused": step["refused"], "scores": records(summary)})
        return
    table = summary.pivot(index="method", columns="score", values="value")
    say_table(
        f"{step['n']} phantoms ({split}), means; `report` gives intervals and chance",
        ["", "regions", "mass", "rank", "deletion", "gap", "random", "seconds"],
        [
            [name, *("–" if (v := table.loc[name, s]) != v else f"{v:.2f}" for s in SCORES)]
            for name in dict.fromkeys(summary["method"])
        ],
    )
    for name, reason in step["refused"].items():
        note(f"{name}: not valid here: {reason}")
    say(f"Written to {out}; `boneage-xai report {out}` makes it readable")
