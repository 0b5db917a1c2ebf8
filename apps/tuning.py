"""The command that searches for hyper-parameters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from apps.console import (
    bars,
    note,
    quiet_lightning,
    quiet_optuna,
    records,
    say,
    say_json,
    say_table,
)
from apps.options import CacheOption, ColumnOption, DataOption, JsonOption, SkipOption
from apps.sources import one_cohort

if TYPE_CHECKING:
    from trainers.recipe import Recipe
    from trainers.search.results import SearchResult
    from trainers.search.space import Knob

_SHOWN_TRIALS = 10


def tune(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name or path of a recipe.")],
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the search.")],
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            metavar="KEY=VALUES",
            help="A key of the recipe and its values, repeatable: "
            "training.learning_rate=1e-4..1e-2:log, initialisation.fine_tuned_blocks=0..3, "
            "architecture.hidden=[16]|[32]|[64]. [default: learning rate, last hidden layer and, "
            "if pretrained, fine-tuned blocks, around the recipe's]",
        ),
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option(
            "--space", metavar="FILE.toml", help="A file of such keys; --search goes before it."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key for all trials."),
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", help="Trials that the search is to have.", min=1)
    ] = 20,
    pruner: Annotated[
        Literal["median", "halving", "none"],
        typer.Option(
            help="When a trial is given up: worse than the median of complete ones in its second "
            "half, not among the best third at epochs 1, 3, 9, …, or never."
        ),
    ] = "median",
    seed: Annotated[int, typer.Option(help="Of what is tried.", min=0)] = 0,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Database, or path of a journal file, that workers on several machines share. "
            "[default: DIR/study.db]",
        ),
    ] = None,
    study: Annotated[
        str, typer.Option("--study", metavar="NAME", help="Name of the search in a shared storage.")
    ] = "search",
    keep_weights: Annotated[
        bool,
        typer.Option("--keep-weights", help="Of every complete trial, not of the best alone."),
    ] = False,
    column: ColumnOption = None,
    skip_problems: SkipOption = False,
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search for hyper-parameters of a recipe: many trainings, the best recipe in DIR/best.toml.

    The same command joins a search that runs, also from other processes and machines, and goes on
    with one that was interrupted or killed.

    Example: boneage-xai tune cpu-small --data ~/rsna --out searches/cpu-small --trials 30
    """
    from trainers.auxiliary import phantom_region_ages
    from trainers.recipe import load_recipe
    from trainers.search.study import require_optuna

    require_optuna()
    from trainers.search.run import search as run_search
    from trainers.search.worker import SearchSettings

    quiet_lightning()
    quiet_optuna()
    checked = load_recipe(recipe, settings or [])
    knobs = _knobs(checked, search or [], space)
    chosen, left_out = one_cohort(data, column, skip_problems, "training")
    keys = {knob.key for knob in knobs}
    learns_regions = checked.auxiliary.region_ages > 0 or "auxiliary.region_ages" in keys
    with bars("Decoding", "Trials", "Epoch", quiet=as_json) as (decoding, done, steps):
        # Of a trial that has its own number of epochs nobody here knows it.
        of = "" if "training.epochs" in keys else f"/{checked.training.epochs}"

        def on_epoch(trial: int, row: dict[str, float]) -> None:
            note(
                f"trial {trial}, epoch {row['epoch'] + 1:.0f}{of} at "
                f"{row['size_px']:.0f} px: validation {row['val_mae_months']:.1f} months"
            )

        try:
            result = run_search(
                checked,
                chosen,
                out,
                knobs,
                SearchSettings(trials, storage, study, pruner, seed, keep_weights),
                source=str(data),
                skipped_problem_rows=left_out,
                cache_folder=cache,
                region_ages=phantom_region_ages(data) if learns_regions else None,
                on_decode=decoding,
                on_trials=done,
                on_epoch=None if as_json else on_epoch,
                on_step=steps,
            )
        except KeyboardInterrupt:
            note("interrupted; the same command goes on with this search")
            raise typer.Exit(130) from None
    if as_json:
        say_json(_summary(result, out))
        return
    _say(result, out)


def _knobs(recipe: Recipe, search: list[str], space: Path | None) -> list[Knob]:
    """Return the knobs of a file and of options, which take the place of the file's."""
    from trainers.search.space import default_space, load_space, parse_knob

    if not search and space is None:
        return default_space(recipe)
    given = [parse_knob(text) for text in search]
    keys = {knob.key for knob in given}
    stored = [] if space is None else load_space(space)
    return [knob for knob in stored if knob.key not in keys] + given


def _summary(result: SearchResult, out: Path) -> dict[str, Any]:
    return {
        "out": str(out),
        "n_complete": result.n("complete"),
        "n_pruned": result.n("pruned"),
        "n_failed": result.n("failed"),
        "n_validation": result.n_validation,
        "best": result.best and {**result.best, "optimistic": True},
        "importance": result.importance,
        "trials": records(result.trials),
    }


def _say(result: SearchResult, out: Path) -> None:
    ranked = result.trials[result.trials["state"] == "complete"].sort_values("value")
    knobs = [name for name in ranked.columns if "." in name]
    say_table(
        f"Best trials of {len(result.trials)}",
        ["trial", "validation MAE, months", *(name.rpartition(".")[2] for name in knobs)],
        [
            [row["trial"], f"{row['value']:.2f}", *(_short(row[name]) for name in knobs)]
            for row in ranked.head(_SHOWN_TRIALS).to_dict("records")
        ],
    )
    say(
        f"{out}: {result.n('complete')} trials complete, {result.n('pruned')} pruned, "
        f"{result.n('failed')} failed"
    )
    if result.best is None:
        say("no trial is complete: there is no best recipe")
        return
    say(
        f"{out / 'best.toml'}: trial {result.best['trial']}, validation MAE "
        f"{result.best['val_mae_months']:.2f} months over {result.n_validation} cases, which also "
        "chose it: expect more on new cases"
    )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
