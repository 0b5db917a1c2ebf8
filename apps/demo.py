"""The demonstration: the whole main job on phantoms, without data or network."""

from __future__ import annotations

import time
from pathlib import Path

from apps.console import bars, note, quiet_lightning, say, with_interval
from boneage_xai.analysis.run_analysis import evaluate_run, prepare_run
from boneage_xai.analysis.run_attribution import attribute_run
from boneage_xai.data.cohort import read_source, require_clean, select_cohort
from boneage_xai.errors import ConfigError
from boneage_xai.phantom.cohorts import write_cohort
from boneage_xai.phantom.settings import PhantomSettings
from reports.report import write_report
from trainers.engine import train
from trainers.recipe import load_recipe

ATTRIBUTED_CASES = 24
SEED = 0
# Few nuisances and one pose: what can be learned in minutes is spent on bones.
SETTINGS = PhantomSettings.clean(192).model_copy(
    update=dict.fromkeys(("texture", "noise", "marker"), True)
)


def run_demo(out: Path, n: int) -> None:
    """Draw phantoms, train on them, evaluate, explain and report.

    A demonstration that was interrupted goes on where it stopped.

    Args:
        out: folder for phantoms, run and analysis.
        n: number of phantoms.

    Raises:
        ConfigError: ``out`` is in use for something else.
    """
    phantoms, run_folder, analysis = out / "phantoms", out / "run", out / "analysis"
    if out.exists() and (not out.is_dir() or (not phantoms.is_dir() and any(out.iterdir()))):
        raise ConfigError(f"{out}: expected a new folder or an earlier demo, found something else")
    quiet_lightning()
    started = time.perf_counter()
    recipe = load_recipe("demo")
    with bars("Drawing phantoms", "Decoding", "Training", "Predicting", "Explaining") as (
        drawing,
        decoding,
        training,
        predicting,
        explaining,
    ):
        if not phantoms.is_dir():
            write_cohort(phantoms, n, seed=SEED, settings=SETTINGS, progress=drawing)
        reading = read_source(phantoms)
        require_clean(reading)
        cohort = select_cohort(reading)
        if len(cohort) != n:
            raise ConfigError(
                f"{out}: expected the {n} phantoms asked for, found {len(cohort)} of an earlier "
                "demo; choose another --out"
            )
        steps = 0

        def on_step(done: int, total: int) -> None:
            training(steps * total + done, recipe.training.epochs * total)

        def on_epoch(row: dict[str, float]) -> None:
            nonlocal steps
            steps = int(row["epoch"]) + 1
            note(
                f"epoch {steps}/{recipe.training.epochs}: train {row['train_mae_months']:.1f}, "
                f"validation {row['val_mae_months']:.1f} months"
            )

        run = train(
            recipe,
            cohort,
            run_folder,
            source=str(phantoms),
            resume=True,
            cache_folder=out / "cache",
            on_decode=decoding,
            on_epoch=on_epoch,
            on_step=on_step,
        )
        prepared = prepare_run(run, cohort, source=str(phantoms), cache_folder=out / "cache")
        folder = evaluate_run(prepared, analysis, progress=predicting)
        if "attribute" not in folder.manifest["steps"]:
            attribute_run(
                prepared, analysis, limit=ATTRIBUTED_CASES, replace=True, progress=explaining
            )
    report = write_report(analysis)
    metrics = folder.metrics()
    say(
        f"Validation MAE {with_interval(metrics['overall']['mae_months'])} months over "
        f"{metrics['overall']['n']} phantoms; always answering the mean gives "
        f"{with_interval(metrics['baselines']['mean']['mae_months'])}"
    )
    say(f"Done in {(time.perf_counter() - started) / 60:.1f} minutes. Open {report}")
    say(f"or look around in it: boneage-xai dashboard {analysis}")
