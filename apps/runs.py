"""The commands on a trained network: measuring it, predicting with it, explaining it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from apps.console import bars, note, say, say_json, say_table, with_interval
from apps.models import one_model
from apps.options import (
    AnalysisOption,
    CacheOption,
    CardOption,
    ColumnOption,
    CorrectedOption,
    DataOption,
    JsonOption,
    RunArgument,
    SkipOption,
    SplitOption,
)
from apps.sources import prepared_cases
from boneage_xai.errors import ConfigError
from boneage_xai.types import Radiograph, Sex

if TYPE_CHECKING:
    from boneage_xai.attribution.work.engines import Engine


def evaluate(
    data: DataOption,
    out: AnalysisOption,
    run: RunArgument = None,
    card: CardOption = None,
    split: SplitOption = "held-out",
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.", min=0)] = 0,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="Further column of the label table to group by, repeatable."
        ),
    ] = None,
    corrected: CorrectedOption = False,
    column: ColumnOption = None,
    skip_problems: SkipOption = False,
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a network: errors with 95% intervals, by sex and age, beside baselines.

    Example: boneage-xai evaluate runs/cpu-small --data ~/rsna --out analyses/cpu-small

    Example: boneage-xai evaluate --card densenet.toml --data ~/rsna --out analyses/densenet
    """
    from boneage_xai.analysis.run_analysis import evaluate_run
    from boneage_xai.analysis.sex_check import sex_warning

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
    with bars("Predicting", quiet=as_json) as (predicting,):
        folder = evaluate_run(
            prepared, out, seed=seed, by=by or (), corrected=corrected, progress=predicting
        )
    metrics = folder.metrics()
    step = folder.manifest["steps"]["evaluate"]
    if seen := step.get("corrected", {}).get("n_fitted_on"):
        note(f"note: the correction was fitted on {seen} of the {step['n']} cases")
    if warning := sex_warning(metrics["sex_check"]):
        note(f"warning: {warning}")
    if as_json:
        say_json(metrics)
        return
    names = {"overall": model.name} | {name: name for name in metrics["baselines"]}
    blocks = {"overall": metrics["overall"], **metrics["baselines"]}
    say_table(
        f"{metrics['overall']['n']} cases ({prepared.split}), months with 95% intervals",
        ["", "MAE", "RMSE", "bias", "within 12 months"],
        [
            [
                names[key],
                with_interval(block["mae_months"]),
                with_interval(block["rmse_months"]),
                with_interval(block["bias_months"]),
                with_interval(block["within_12_months"], percent=True),
            ]
            for key, block in blocks.items()
        ],
    )
    say(f"Written to {out}; `boneage-xai report {out}` makes it readable")


def predict(
    sex: Annotated[Literal["F", "M"], typer.Option("--sex", help="Sex of the child.")],
    run: RunArgument = None,
    image: Annotated[
        Path | None, typer.Argument(metavar="IMAGE", help="Radiograph, DICOM included.")
    ] = None,
    card: CardOption = None,
    corrected: CorrectedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Predict the bone age of one radiograph, with an interval where RUN was calibrated.

    Example: boneage-xai predict runs/cpu-small hand.png --sex F

    Example: boneage-xai predict hand.png --card densenet.toml --sex F
    """
    from dataclasses import asdict

    from boneage_xai.analysis.single_reading import read_single, see_hand
    from boneage_xai.analysis.stored_calibration import stored_calibration
    from boneage_xai.data.radiograph import read_radiograph
    from boneage_xai.regions.locator import locate
    from reports.wording import hand_warning

    if image is None:
        # A single path is the radiograph.
        run, image = None, run
    if image is None:
        raise ConfigError("expected a radiograph IMAGE, found none")
    if run is None and card is None:
        raise ConfigError(f"expected a run and a radiograph, RUN IMAGE, found only {image}")
    radiograph: Radiograph = read_radiograph(image)
    model = one_model(run, card)
    if corrected:
        stored_calibration(model)
    reading = read_single(model, radiograph, Sex(sex))
    answer = reading.corrected if corrected and reading.corrected else reading.answer
    months, interval = answer.months, answer.interval
    if radiograph.sex is not None and radiograph.sex is not Sex(sex):
        note(f"note: {image} states sex {radiograph.sex.value}, predicted with {sex}")
    seen = see_hand(model, radiograph, Sex(sex), locate(radiograph))
    if warning := hand_warning(seen):
        note(f"warning: {warning}")
    if as_json:
        say_json(
            {
                "image": str(image),
                "sex": sex,
                "predicted_months": months,
                "corrected": corrected,
                "interval": None if interval is None else asdict(interval),
                "hand": asdict(seen),
                "model_id": model.model_id,
            }
        )
    else:
        within = ""
        if interval is not None:
            within = (
                f", {100 * interval.coverage:g}% interval {interval.low_months:.1f} to "
                f"{interval.high_months:.1f} months"
            )
        say(f"{months:.1f} months ({months / 12:.1f} years){within}; for research use only")


def attribute(
    data: DataOption,
    out: AnalysisOption,
    run: RunArgument = None,
    card: CardOption = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="Attribution method, repeatable: integrated_gradients, expected_gradients, "
            "guided_ig, deep_lift, occlusion, gradient, smoothgrad, input_x_gradient, grad_cam, "
            "layer_cam. [default: integrated_gradients]",
        ),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", help="Layer for activation maps. [default: chosen over the depth]"),
    ] = None,
    baseline: Annotated[
        Literal["black", "blurred", "mean", "expected"],
        typer.Option(
            help="Image that Integrated Gradients, Guided IG, DeepLIFT and occlusion compare with; "
            "`expected` (Integrated Gradients only) averages over training cases of the same sex."
        ),
    ] = "black",
    tolerance_months: Annotated[
        float,
        typer.Option(help="Completeness gap that may be left, in months …", min=0),
    ] = 0.5,
    tolerance_percent: Annotated[
        float,
        typer.Option(help="… or in percent of what is divided; the larger counts.", min=0, max=99),
    ] = 1.0,
    map_tolerance_percent: Annotated[
        float,
        typer.Option(
            help="Error of integration that may be left, summed over pixels, in percent of the "
            "map's magnitude; larger is faster.",
            min=0.01,
        ),
    ] = 1.0,
    min_nodes: Annotated[int, typer.Option(help="Gradients per case to begin with.", min=3)] = 17,
    max_nodes: Annotated[
        int, typer.Option(help="Gradients per case at most, in each precision.", min=3)
    ] = 256,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Two bytes a number are taken only if a check on a few cases passes."),
    ] = "auto",
    references: Annotated[
        int, typer.Option(help="Training cases of each sex for `expected`.", min=1)
    ] = 16,
    limit: Annotated[
        int | None, typer.Option(help="At most so many cases, evenly over sex and age.", min=1)
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option("--regions", metavar="DIR", help="Region maps from `regions`."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace earlier attributions, also unfinished ones.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with an attribution that was interrupted or killed; the result is the "
            "same. Without one, begin.",
        ),
    ] = False,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="ray: a worker per GPU, or per share of the cores (see --ray-address)."),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Ray cluster; its machines must share the file system. [default: this machine]",
        ),
    ] = None,
    ray_workers: Annotated[
        int | None, typer.Option(help="Workers at most. [default: as many as fit]", min=1)
    ] = None,
    random_weights: Annotated[
        bool,
        typer.Option(
            "--random-weights",
            help="Explain a copy whose weights are random, as a control; --out "
            "ANALYSIS/random-weights is where the report on ANALYSIS finds it.",
        ),
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Seed of --random-weights. [default: 0]", min=0)
    ] = None,
    split: SplitOption = "held-out",
    column: ColumnOption = None,
    skip_problems: SkipOption = False,
    cache: CacheOption = None,
) -> None:
    """Explain predictions: signed maps in months, activation maps, months per region.

    Example: boneage-xai attribute runs/cpu-small --data ~/rsna --out analyses/cpu-small --limit 100

    Killed at any moment, it goes on with the same command and --resume.
    """
    from boneage_xai.analysis.random_control import with_random_weights
    from boneage_xai.analysis.run_attribution import attribute_run
    from boneage_xai.attribution.interface import AttributionSettings
    from boneage_xai.attribution.methods import method_named
    from boneage_xai.attribution.requirements import hidden_layers

    # Radiographs are decoded before methods are asked for, which takes long.
    for name in method or ():
        method_named(name)
    if min_nodes > max_nodes:
        raise ConfigError(
            f"--min-nodes: expected at most --max-nodes ({max_nodes}), found {min_nodes}"
        )
    settings = AttributionSettings(
        baseline=baseline,
        gap_tolerance_months=tolerance_months,
        gap_tolerance_fraction=tolerance_percent / 100,
        map_tolerance_fraction=map_tolerance_percent / 100,
        min_nodes=min_nodes,
        max_nodes=max_nodes,
        precision=precision,
        n_references=references,
    )
    if engine == "local" and (ray_address, ray_workers) != (None, None):
        raise ConfigError("--ray-address, --ray-workers: expected --engine ray, found local")
    if seed is not None and not random_weights:
        raise ConfigError("--seed: expected --random-weights, whose seed it is, found none")
    model = one_model(run, card)
    prepared, _ = prepared_cases(
        model,
        data,
        split=split,
        column=column,
        skip_problems=skip_problems,
        regions=regions,
        cache=cache,
    )
    with bars("Attributing") as (attributing,):
        if random_weights:
            prepared = with_random_weights(prepared, seed or 0)
        folder = attribute_run(
            prepared,
            out,
            methods=method or ["integrated_gradients"],
            layers=layer,
            settings=settings,
            limit=limit,
            replace=replace,
            resume=resume,
            engine=_ray_engine(ray_address, ray_workers) if engine == "ray" else None,
            on_complete=lambda: note(f"{out}: this attribution is complete already"),
            progress=attributing,
        )
    summary = folder.manifest["steps"]["attribute"]
    if layer is None and not summary["layers"]:
        reason = hidden_layers(model.network) or "a network without layers of (N, C, h, w)"
        note(f"note: no activation maps: {model.name} is {reason}")
    for name in summary["methods"]:
        gap = summary["median_absolute_gap_months"][name]
        completeness = "promises no completeness" if gap is None else f"median gap {gap:.2f} months"
        say(
            f"{summary['n']} cases, {name}: {completeness}, "
            f"{summary['median_seconds'][name]:.2f} s a case"
        )
        if left := summary["n_not_converged"].get(name):
            note(
                f"{name}: {left} of {summary['n']} cases keep a larger gap or error than allowed "
                f"with {max_nodes} nodes; they are marked"
            )


def _ray_engine(address: str | None, workers: int | None) -> Engine:
    from boneage_xai.attribution.work.ray_engine import RayEngine

    return RayEngine(address, workers)
