"""The command line: ``boneage-xai``.

``train`` is in ``apps.training``, commands on phantoms in ``apps.phantoms``, those on a trained
network in ``apps.runs``, the one that removes regions in ``apps.occlusion``.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from apps.calibration import calibrate
from apps.compare import compare
from apps.console import bars, err, say, say_json, say_table
from apps.deidentification import deidentify
from apps.ensembles import ensemble
from apps.exports import export, export_onnx, model_card
from apps.failures import failures
from apps.neighbours import neighbours
from apps.occlusion import occlude
from apps.options import UPLOAD_LIMIT_MB, ColumnOption, JsonOption
from apps.phantoms import benchmark_methods, intervene, phantom
from apps.regions import regions, train_locator
from apps.reproducing import reproduce
from apps.runs import attribute, evaluate, predict
from apps.sex import sex_effect
from apps.shortcuts import shortcuts
from apps.sources import parse_columns, say_cohorts
from apps.stress import stress
from apps.training import train
from apps.tuning import tune
from apps.views.folders import find_analyses
from boneage_xai import __version__
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.data.inspection import inspect_images
from boneage_xai.errors import BoneAgeError, ConfigError
from reports.wording import counted

app = typer.Typer(
    name="boneage-xai",
    help="Train, measure and explain networks that read bone age from hand radiographs. "
    "For research use only.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def cohort(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder or label table.")],
    column: ColumnOption = None,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Decode every radiograph, too.")
    ] = True,
    limit: Annotated[int, typer.Option(help="Problems listed for people; JSON lists all.")] = 50,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw radiographs by sex and age into a PNG."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Describe a data set and list every problem in it.

    Exits with 2 when a problem costs a case.

    Example: boneage-xai cohort ~/rsna
    """
    from boneage_xai.data.label_checks import heaping
    from boneage_xai.data.repeats import repeated_images
    from boneage_xai.figures.cohort import contact_sheet_of
    from boneage_xai.figures.style import figure_bytes
    from boneage_xai.files import write_bytes

    if sheet is not None and sheet.suffix.lower() != ".png":
        raise ConfigError(f"--sheet {sheet}: expected a file that ends in .png")
    reading = read_source(source, parse_columns(column))
    # Of several sets the sheet shows the one to train on, as `train` takes it.
    names = [one.name for one in reading.cohorts]
    shown = select_cohort(reading, "training" if "training" in names else None) if sheet else None
    problems = list(reading.problems)
    described: list[dict[str, Any]] = []
    digests = {}
    for one, table in zip(reading.cohorts, reading.tables, strict=True):
        summary = one.describe() | {
            "table": str(table) if table else None,
            "heaping": heaping(one.bone_ages_months()),
        }
        if images and len(one):
            with bars(f"Decoding {one.name}", quiet=as_json) as (bar,):
                inspection = inspect_images(one, progress=bar)
            problems.extend(inspection.problems)
            digests[one.name] = inspection.digests
            summary["width_px"] = inspection.width_px
            summary["height_px"] = inspection.height_px
            summary["with_pixel_spacing"] = inspection.with_pixel_spacing
        described.append(summary)
    problems.extend(repeated_images(digests))
    errors = sum(problem.severity == "error" for problem in problems)
    if as_json:
        listed = [
            {
                "kind": problem.kind,
                "severity": problem.severity,
                "message": problem.message,
                "case_id": problem.case_id,
                "path": str(problem.path) if problem.path else None,
            }
            for problem in problems
        ]
        say_json(
            {"source": str(source), "layout": reading.layout, "sets": described, "problems": listed}
        )
    else:
        say_cohorts(reading, described)
        for problem in problems[:limit]:
            say(f"{problem.severity}: {problem.message}")
        if len(problems) > limit:
            say(f"… and {len(problems) - limit} more; --json lists all, --limit more")
        notes = len(problems) - errors
        say(f"{counted(errors, 'error')}, {counted(notes, 'note')}")
    if sheet is not None and shown is not None:
        damaged = {problem.case_id for problem in problems if problem.severity == "error"}
        sound = [case.case_id for case in shown if case.case_id not in damaged]
        write_bytes(sheet, figure_bytes(contact_sheet_of(shown.select(sound))))
    if errors:
        raise typer.Exit(2)


app.command()(deidentify)
app.command()(phantom)


@app.command()
def recipes() -> None:
    """List the training recipes that are shipped.

    Example: boneage-xai recipes
    """
    from trainers.recipe import load_recipe, recipe_names

    say_table(
        "Recipes",
        ["name", "what it trains"],
        [[n, load_recipe(n).description] for n in recipe_names()],
        right="left",
    )


app.command()(train)
app.command()(tune)
app.command()(reproduce)
app.command()(ensemble)
app.command()(evaluate)
app.command()(calibrate)
app.command()(predict)
app.command()(attribute)
app.command()(intervene)
app.command()(occlude)
app.command()(shortcuts)
app.command()(regions)
app.command()(train_locator)
app.command()(benchmark_methods)
app.command()(neighbours)
app.command()(sex_effect)
app.command()(stress)
app.command()(failures)
app.command()(compare)
app.command()(export)
app.command()(export_onnx)
app.command()(model_card)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Analysis folder.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="[default: DIR/report.html, DIR/report.pdf, or the folder DIR/cases]",
        ),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            metavar="FILE.toml",
            help="`sections = [...]` to show, in order, and `title`; see docs/report.md.",
        ),
    ] = None,
    pdf: Annotated[
        bool, typer.Option("--pdf", help="As PDF; needs the extra `pdf` and Pango.")
    ] = False,
    cases: Annotated[
        bool,
        typer.Option("--cases", help="A page for each attributed case instead, with a list."),
    ] = False,
) -> None:
    """Write a self-contained HTML report of an analysis folder.

    Example: boneage-xai report analyses/cpu-small
    """
    from reports.case_pages import write_case_pages
    from reports.report import load_report_settings, write_report

    if cases:
        if pdf or settings is not None:
            raise ConfigError("--cases: expected neither --pdf nor --settings beside it")
        with bars("Writing") as (writing,):
            target, n = write_case_pages(folder, out, progress=writing)
        say(f"{target}: {n:,} cases; begin with {target / 'index.html'}")
        return
    chosen = None if settings is None else load_report_settings(settings)
    say(f"{write_report(folder, out, chosen, pdf=pdf)}")


@app.command()
def dashboard(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Analysis folder, or a folder of several.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 8501,
) -> None:
    """Open the dashboard, which only this machine can reach.

    `streamlit run apps/dashboard.py` outside of the repository would listen on every address.

    Example: boneage-xai dashboard analyses/cpu-small
    """
    if folder is not None:
        find_analyses(folder)
    page = Path(__file__).with_name("dashboard.py")
    # Not from the folder at hand, which may have packages of the same names.
    command = [sys.executable, "-P", "-m", "streamlit", "run", str(page)]
    command += ["--server.port", str(port), "--server.address", "localhost"]
    command += ["--browser.gatherUsageStats", "false", "--server.showEmailPrompt", "false"]
    command += ["--client.toolbarMode", "minimal"]
    command += ["--server.maxUploadSize", str(UPLOAD_LIMIT_MB)]
    command += ["--", str(folder)] if folder is not None else []
    os.execv(sys.executable, command)


@app.command()
def demo(
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", help="New folder, or an earlier demo's to go on with."
        ),
    ] = Path("demo"),
    n: Annotated[int, typer.Option("--n", help="Number of phantoms.", min=50)] = 1600,
) -> None:
    """Phantoms → training → evaluation → explanation → report; needs no data and no network.

    Example: boneage-xai demo --out demo
    """
    from apps.demo import run_demo

    run_demo(out, n)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine has and lacks, and what follows.

    Example: boneage-xai doctor
    """
    from apps.doctor import findings

    found = findings()
    if as_json:
        say_json([finding.__dict__ for finding in found])
        return
    say_table(
        "This machine",
        ["", "found", "what follows"],
        [[f.what, f.found, f.follows] for f in found],
        right="left",
    )


def _version(wanted: bool) -> None:
    if wanted:
        say(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""


def main() -> None:
    """Run the command line: exit code 2 and one sentence for the user's mistakes."""
    for stream in (sys.stdout, sys.stderr):
        # Names of files may be no text in the terminal's encoding.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except BoneAgeError as error:
        _refuse(str(error))
    except BrokenPipeError:
        sys.exit(1)
    except (MemoryError, RuntimeError, ImportError) as error:
        if not _out_of_memory(error):
            raise
        first = str(error).strip().splitlines()
        _refuse(
            f"memory ran out ({first[0] if first else 'nothing more was said'}); what was written "
            "before is whole: give the command more memory or less to do at once, and run it again"
        )
    except OSError as error:
        # A path that cannot be read or written; what was written before is whole.
        _refuse(f"{error.filename or 'file system'}: {error.strerror or error}")


def _out_of_memory(error: MemoryError | RuntimeError | ImportError) -> bool:
    """Return whether memory ran out, which torch, oneDNN and others say in words alone."""
    words = (
        "allocate memory",
        "out of memory",
        "start new thread",
        "create a primitive",
        "failed to map segment",
    )
    return isinstance(error, MemoryError) or any(one in str(error).lower() for one in words)


def _refuse(sentence: str) -> NoReturn:
    err.print(
        f"error: {sentence}",
        style="red",
        highlight=False,
        soft_wrap=True,
        markup=False,
        emoji=False,
    )
    sys.exit(2)


if __name__ == "__main__":
    main()
