"""The command that trains the arms of the published studies and sets their numbers beside ours."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from apps.console import bars, note, quiet_lightning, say, say_json, say_table
from apps.options import CacheOption, ColumnOption, DataOption, JsonOption, SkipOption
from apps.sources import one_cohort
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.types import Cohort

_PATHS = ("--data", "--out", "--test", "--cache", "--docs-page", "--arms")


def reproduce(
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for everything.")],
    arms: Annotated[
        list[str] | None,
        typer.Option(
            "--arms",
            metavar="NAME",
            help="Recipe by name or path, or all of studies, wouters or kimmel; repeatable. "
            "[default: studies]",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[NAME:]KEY=VALUE",
            help="Change a key of every arm, or with NAME:KEY=VALUE of one arm or study; the page "
            "tells it as a departure from the recipe.",
        ),
    ] = None,
    from_scratch: Annotated[
        bool,
        typer.Option("--from-scratch", help="Begin without pretrained weights; a departure, too."),
    ] = False,
    test: Annotated[
        Path | None,
        typer.Option("--test", metavar="SOURCE", help="Measure on this test set as well."),
    ] = None,
    budget_minutes: Annotated[
        float | None,
        typer.Option(
            help="Stop training at the end of the epoch in which these minutes run out; measuring "
            "comes on top.",
            min=0,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of split, trainings and bootstrap.", min=0)] = 0,
    docs_page: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the page there, too, without any radiograph; its charts go into the folder "
            "images beside it.",
        ),
    ] = None,
    column: ColumnOption = None,
    skip_problems: SkipOption = False,
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train all arms of two published studies on one split; their numbers beside ours.

    Given again, the same command goes on where it was stopped or killed. DIR/reproduction.md says
    how far each arm is.

    Example: boneage-xai reproduce --data ~/rsna --out reproduction --budget-minutes 480
    """
    from boneage_xai.files import read_json
    from reports.reproduction import RECORD_FILE, write_reproduction
    from trainers.claim import at_work_alone, check_same_recipe
    from trainers.processes import ALONE
    from trainers.reproduction.arms import ArmState, arm_state, load_arms, train_arm
    from trainers.reproduction.measuring import Source, collect, measure_arm

    quiet_lightning()
    chosen = load_arms(arms or ["studies"], settings or [], from_scratch=from_scratch, seed=seed)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "runs").is_dir())):
        raise ConfigError(f"{out}: expected a new folder or an earlier reproduction, found another")
    for arm in chosen:
        # Now, not when its turn has come.
        check_same_recipe(out / "runs" / arm.name, arm.recipe)
    sources = {"validation": Source(*_read(data, column, skip_problems, "training"))}
    if test is not None:
        sources["test"] = Source(*_read(test, column, skip_problems, "test"))
    earlier = out / RECORD_FILE
    about = {
        "command": _command(sys.argv[1:]),
        "data": sources["validation"].record(),
        "test": sources["test"].record() if "test" in sources else None,
        "seed": seed,
        "begun": read_json(earlier)["begun"]
        if earlier.is_file()
        else datetime.now(UTC).isoformat(timespec="minutes"),
        "budget_minutes": budget_minutes,
    }
    until = None if budget_minutes is None else time.monotonic() + 60 * budget_minutes
    with (
        at_work_alone(out, ALONE, "runs/.lock"),
        bars("Decoding", "Training", "Predicting", quiet=as_json) as (decoding, steps, predicting),
    ):
        states: list[ArmState] = [arm_state(arm, out / "runs" / arm.name) for arm in chosen]
        for place, arm in enumerate(chosen):

            def on_epoch(row: dict[str, float], name: str = arm.name) -> None:
                note(
                    f"{name}, epoch {row['epoch'] + 1:.0f}: train {row['train_mae_months']:.1f}, "
                    f"validation {row['val_mae_months']:.1f} months ({row['seconds']:.0f} s)"
                )

            try:
                states[place] = train_arm(
                    arm,
                    sources["validation"].cohort,
                    out / "runs" / arm.name,
                    source=str(data),
                    skipped_problem_rows=sources["validation"].skipped_problem_rows,
                    cache_folder=cache,
                    stop=lambda: until is not None and time.monotonic() >= until,
                    on_decode=decoding,
                    on_epoch=on_epoch,
                    on_step=steps,
                )
            except KeyboardInterrupt:
                note("interrupted; the same command goes on from the last epoch")
                raise typer.Exit(130) from None
            measure_arm(
                states[place], sources, out, seed=seed, cache_folder=cache, progress=predicting
            )
            # After every arm, so that a kill leaves the page of those before.
            record = collect(states, sources, out, seed=seed, about=about)
            page = write_reproduction(out, record, docs_page)
    if as_json:
        say_json(record)
    else:
        _say(record)
        say(f"Written to {page}")
    if not any(arm["measured"] for arm in record["arms"]):
        first = record["arms"][0]
        raise DataError(
            f"{out}: expected an arm to measure, found none; {first['name']}: "
            f"{first['reason'] or first['status']}"
        )


def _read(
    source: Path, column: Sequence[str] | None, skip_problems: bool, wanted: str
) -> tuple[Cohort, Path, int]:
    """Return a labelled cohort, where it was read from, and the rows left out."""
    cohort, left_out = one_cohort(source, column, skip_problems, wanted)
    if not len(cohort.labelled()):
        raise DataError(f"{source}: expected cases with a bone age, found none")
    return cohort.labelled(), source, left_out


def _command(arguments: Sequence[str]) -> str:
    """Return the command line with names in place of paths, and home unnamed in the settings."""
    from reports.reproduction_cells import without_home

    words = list(arguments)
    for place, word in enumerate(words):
        option, separator, value = word.partition("=")
        if option in _PATHS and separator:
            words[place] = f"{option}={Path(value).name}"
        elif place and words[place - 1] in _PATHS:
            words[place] = Path(word).name
    return without_home(shlex.join(["boneage-xai", *words]))


def _say(record: Mapping[str, Any]) -> None:
    from reports.reproduction_cells import arm_rows, reasons, sex_sentences

    columns, rows = arm_rows(record)
    say_table("Mean absolute errors, months with 95% intervals", columns, rows)
    for sentence in (*reasons(record["arms"]), *sex_sentences(record)):
        say(sentence)
