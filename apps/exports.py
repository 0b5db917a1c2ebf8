"""The commands that write analyses and networks for other tools."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from apps.console import bars, note, say, say_json
from apps.models import one_model
from apps.options import CardOption, ColumnOption, DataOption, JsonOption, RunArgument, SkipOption
from apps.sources import one_cohort
from boneage_xai.errors import ConfigError
from boneage_xai.files import write_text
from boneage_xai.store import AnalysisFolder


def export(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Analysis folder with attributions.")
    ],
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="New folder to write.")],
    file_format: Annotated[
        Literal["dicom", "nifti", "png"],
        typer.Option(
            "--format",
            help="dicom: Parametric Maps and Segmentations, as identifying as their sources, "
            "whose patient and study they repeat; nifti: maps and labels with a JSON; png: maps "
            "over the radiographs.",
        ),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="Attribution method, repeatable. [default: all computed]"),
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option("--case", metavar="ID", help="Case, repeatable. [default: all attributed]"),
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option("--regions", metavar="DIR", help="Region maps that `attribute` was given."),
    ] = None,
    column: ColumnOption = None,
    skip_problems: SkipOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write attribution maps and regions at the size of the radiographs, for other tools.

    Example: boneage-xai export analyses/cpu-small --data ~/rsna --out exports --format dicom

    Values are months per source pixel and add up to the map's sum; a PNG is for the eye.
    """
    from boneage_xai.export.analysis_export import export_analysis
    from boneage_xai.regions.cohort_regions import with_regions

    analysis = AnalysisFolder.open(folder)
    cohort, _ = one_cohort(data, column, skip_problems, analysis.manifest["data"].get("cohort"))
    if regions is not None:
        cohort = with_regions(cohort, regions)
    with bars("Exporting", quiet=as_json) as (exporting,):
        index = export_analysis(
            analysis,
            cohort,
            out,
            file_format,
            methods=method,
            case_ids=case,
            progress=exporting,
        )
    if as_json:
        say_json(index)
        return
    n_files = sum(len(one["files"]) for one in index["cases"].values())
    if file_format == "dicom":
        note(
            "note: the objects repeat patient and study of their sources, and identify as these do"
        )
    say(f"{out}: {n_files} files of {len(index['cases'])} cases; export.json lists them")


def export_onnx(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="ONNX file to write.")],
    run: RunArgument = None,
    card: CardOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite FILE.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a network as ONNX, if ONNX Runtime then predicts the same within 0.01 month.

    Example: boneage-xai export-onnx runs/cpu-small --out cpu-small.onnx

    Inputs: image (N, 1, S, S) in [0, 1], is_male (N,); output: months (N,). The file's metadata
    say how radiographs must be prepared.
    """
    from boneage_xai.export.onnx_network import export_onnx as write

    if out.exists() and not replace:
        raise ConfigError(f"{out}: expected a new file, found one; --replace overwrites it")
    made = write(one_model(run, card), out)
    if as_json:
        say_json(asdict(made))
        return
    say(
        f"{out}: opset {made.opset}; largest difference from the network over {made.n_compared} "
        f"predictions: {made.largest_difference_months:.2g} months"
    )


def model_card(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder from `train`.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="README.md to write.")],
    analysis: Annotated[
        Path | None,
        typer.Option("--analysis", metavar="DIR", help="Analysis of RUN, for what was measured."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite FILE, and what was filled in there.")
    ] = False,
) -> None:
    """Write a card for publishing a run on a model hub: YAML front matter and Markdown.

    Example: boneage-xai model-card runs/cpu-small --analysis analyses/cpu-small --out README.md

    Limitations are those that were measured; the license is yours to fill in. Networks from
    elsewhere are described to the toolkit by another card: see --card of other commands.
    """
    from boneage_xai.export.hub_card import hub_card

    if out.exists() and not replace:
        raise ConfigError(f"{out}: expected a new file, found one; --replace overwrites it")
    write_text(out, hub_card(run, analysis))
    say(f"{out}: fill in the license before you publish it")
