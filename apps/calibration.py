"""The command that fits a correction and prediction intervals on a run's validation cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from apps.console import bars, say, say_json
from apps.options import CacheOption, ColumnOption, DataOption, JsonOption, SkipOption, device
from apps.sources import prepared_cases


def calibrate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder from `train`.")],
    data: DataOption,
    against: Annotated[
        Literal["prediction", "reference"],
        typer.Option(
            help="prediction: errors no longer depend on the prediction, and are smallest; "
            "reference: they no longer depend on the true age, and are larger."
        ),
    ] = "prediction",
    pooled: Annotated[
        bool, typer.Option("--pooled", help="One line for both sexes. [default: one for each]")
    ] = False,
    coverage: Annotated[
        float,
        typer.Option(
            help="Share of references that intervals contain, in percent.", min=50, max=99.9
        ),
    ] = 90.0,
    seed: Annotated[int, typer.Option(help="Seed of the halves.", min=0)] = 0,
    column: ColumnOption = None,
    skip_problems: SkipOption = False,
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a linear correction and prediction intervals on a run's own validation cases.

    They are kept in RUN as calibration.json: `evaluate --corrected` and `predict --corrected`
    apply the correction, `predict` quotes the interval.

    Example: boneage-xai calibrate runs/cpu-small --data ~/rsna
    """
    from boneage_xai.analysis.stored_calibration import CALIBRATION_FILE, calibrate_run
    from boneage_xai.models.ensemble import load_model

    model = load_model(run, device())
    prepared, _ = prepared_cases(
        model,
        data,
        split="validation",
        column=column,
        skip_problems=skip_problems,
        cache=cache,
        quiet=as_json,
    )
    with bars("Predicting", quiet=as_json) as (predicting,):
        found = calibrate_run(
            prepared,
            against=against,
            per_sex=not pooled,
            coverage=coverage / 100,
            seed=seed,
            progress=predicting,
        )
    if as_json:
        say_json(
            {
                "correction": found.correction.to_dict(),
                "intervals": found.intervals.to_dict(),
                "corrected_intervals": found.corrected_intervals.to_dict(),
            }
        )
        return
    lines = {"girls": found.correction.girls, "boys": found.correction.boys}
    for who, line in lines.items():
        say(f"{who}: {line.intercept_months:+.2f} months {line.slope:+.3f} × predicted")
    say(
        f"{run / CALIBRATION_FILE}: fitted on {found.correction.n} validation cases, with "
        f"{coverage:g}% intervals"
    )
