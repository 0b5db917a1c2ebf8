"""Whether pretraining on phantoms helps where radiographs are few, beside ImageNet's weights.

One network, four beginnings: from scratch, after learning the age of phantoms, after learning
their age, sex and ages of regions, and with ImageNet's weights. Each is trained on all, a quarter
and a twentieth of the same radiographs; a tenth, held out before anything else, is what all are
measured on. Each training holds out a tenth of its own cases too, which choose its best epoch and
the best of several learning rates: nothing is chosen on the cases that are measured on. The recipe
is `cpu-small` at one size; with a share f of the cases it takes f^-1/2 times the epochs.

From scratch a network finds no way through all nuisances of the phantoms at once: it learns from
clean ones first, then from phantoms with everything, without augmentation.

    boneage-xai phantom clean --n 20000 --seed 22 --size 128 --nuisances none
    boneage-xai phantom full --n 20000 --seed 21 --size 128
    python benchmarks/pretraining.py --arm scratch --data ~/rsna --out DIR
    python benchmarks/pretraining.py --arm phantom-age --phantoms clean full --data ~/rsna --out DIR
    python benchmarks/pretraining.py --arm phantom-all --phantoms clean full --data ~/rsna --out DIR
    python benchmarks/pretraining.py --arm imagenet --imagenet FILE --data ~/rsna --out DIR
    python benchmarks/pretraining.py --collect --out DIR --docs-page docs/pretraining.md

Calls with the same OUT go on where they were stopped, and different arms can run beside each other.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from pretraining_page import ARMS, SETTINGS_FILE, write_page

from boneage_xai.analysis.run_analysis import evaluate_run, prepare_run
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.data.splits import split_cohort
from boneage_xai.errors import ConfigError
from boneage_xai.files import read_json, write_json
from boneage_xai.models.checkpoint import MANIFEST_FILE, load_run
from boneage_xai.types import Cohort
from trainers.auxiliary import phantom_region_ages
from trainers.engine import train
from trainers.recipe import load_recipe

FRACTIONS = (1.0, 0.25, 0.05)
HELD_OUT = 0.1
STEPS = ("clean", "full")
MADE_ALIKE = ("backbone", "size", "epochs", "batch_size", "pretraining_epochs", "pretraining_rates")


def same_settings(given: argparse.Namespace) -> None:
    """Refuse to mix results of other settings."""
    file = given.out / SETTINGS_FILE
    settings = {key: getattr(given, key) for key in MADE_ALIKE}
    if file.is_file() and (earlier := read_json(file)) != settings:
        raise ConfigError(f"{given.out}: expected the settings {earlier}, found {settings}")
    write_json(file, settings)


def report(name: str) -> Any:
    def on_epoch(row: dict[str, float]) -> None:
        print(
            f"{name}: epoch {row['epoch'] + 1:.0f}, train {row['train_mae_months']:.1f}, "
            f"validation {row['val_mae_months']:.1f} months, {row['seconds']:.0f} s",
            flush=True,
        )

    return on_epoch


def pretrain(arm: str, given: argparse.Namespace) -> Path:
    """Return the run of a network that has learned from clean phantoms, then from all."""
    targets = [] if arm == "phantom-all" else ["auxiliary.sex=0", "auxiliary.region_ages=0"]
    weights = "none"
    for number, step in enumerate(STEPS):
        recipe = load_recipe(
            "phantom-pretraining",
            [
                f"architecture.backbone={given.backbone}",
                f"preprocessing.size_px={given.size}",
                f"training.epochs={given.pretraining_epochs[number]}",
                f"training.learning_rate={given.pretraining_rates[number]}",
                f"training.batch_size={given.batch_size}",
                f"initialisation.weights={json.dumps(weights)}",
                *targets,
            ],
        )
        out = given.out / "pretrained" / arm / step
        weights = str(out)
        if (out / MANIFEST_FILE).is_file():
            continue
        if not given.phantoms:
            raise ConfigError(f"--phantoms: expected two folders, since {out} is not trained yet")
        phantoms = given.phantoms[number]
        train(
            recipe,
            select_cohort(read_source(phantoms)),
            out,
            source=step,
            resume=True,
            cache_folder=given.out / "cache",
            region_ages=phantom_region_ages(phantoms) if recipe.auxiliary.region_ages else None,
            on_epoch=report(f"{arm}, {step} phantoms"),
        )
    return Path(weights)


def beginning(arm: str, given: argparse.Namespace) -> str:
    if arm == "scratch":
        return "none"
    if arm == "imagenet":
        return str(given.imagenet)
    return str(pretrain(arm, given))


def train_arm(given: argparse.Namespace) -> None:
    weights = beginning(given.arm, given)
    if given.pretrain_only:
        return
    if given.data is None:
        raise ConfigError("--data: expected radiographs to train on, found none")
    cohort = select_cohort(read_source(given.data)).labelled()
    split = split_cohort(cohort, HELD_OUT, 0)
    rest, held_out = cohort.select(split.train), cohort.select(split.validation)
    if given.arm.startswith("phantom"):
        measure(Path(weights), held_out, given.out / "untuned" / given.arm, given)
    for fraction in given.fractions:
        few = rest
        if fraction < 1:
            few = rest.select(split_cohort(rest, fraction, 1).validation)
        for rate in given.learning_rates:
            name = f"{given.arm}_{fraction:g}_{rate:g}_{given.seed}"
            analysis = given.out / "analyses" / name
            if (analysis / "metrics.json").is_file():
                continue
            recipe = load_recipe(
                "cpu-small",
                [
                    "training.stages=[]",
                    f"architecture.backbone={given.backbone}",
                    f"preprocessing.size_px={given.size}",
                    f"training.epochs={math.ceil(given.epochs / math.sqrt(fraction))}",
                    f"training.learning_rate={rate}",
                    f"training.batch_size={given.batch_size}",
                    f"training.seed={given.seed}",
                    f"initialisation.weights={json.dumps(weights)}",
                ],
            )
            run = given.out / "runs" / name
            train(
                recipe,
                few,
                run,
                resume=True,
                cache_folder=given.out / "cache",
                on_epoch=report(name) if given.verbose else None,
            )
            measure(run, held_out, analysis, given)


def measure(run: Path, held_out: Cohort, out: Path, given: argparse.Namespace) -> None:
    if (out / "metrics.json").is_file():
        return
    trained = load_run(run, "cuda" if torch.cuda.is_available() else "cpu")
    prepared = prepare_run(trained, held_out, split="held-out", cache_folder=given.out / "cache")
    mae = evaluate_run(prepared, out).metrics()["overall"]["mae_months"]["value"]
    print(f"{out.name}: MAE {mae:.2f} months on {len(held_out)} held out", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arm", choices=tuple(ARMS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="radiographs")
    parser.add_argument(
        "--phantoms",
        type=Path,
        nargs=2,
        metavar=STEPS,
        help="from `boneage-xai phantom`",
    )
    parser.add_argument("--imagenet", default="imagenet", help="file in torchvision's format")
    parser.add_argument("--fractions", type=float, nargs="+", default=list(FRACTIONS))
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[1e-3, 3e-4])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backbone", default="squeezenet1_0")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=20, help="with all radiographs")
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--pretraining-epochs", type=int, nargs=2, default=[10, 30], metavar=STEPS)
    parser.add_argument(
        "--pretraining-rates", type=float, nargs=2, default=[1e-3, 6e-4], metavar=STEPS
    )
    parser.add_argument("--pretrain-only", action="store_true")
    parser.add_argument("--verbose", action="store_true", help="say every epoch")
    parser.add_argument("--collect", action="store_true", help="write the page of what is there")
    parser.add_argument("--docs-page", type=Path)
    given = parser.parse_args()
    if given.collect == (given.arm is not None):
        parser.error("expected --arm or --collect")
    # Lightning's advice about loaders and folders is for other programs.
    warnings.filterwarnings("ignore", module="lightning")
    if given.collect:
        target = given.docs_page or given.out / "pretraining.md"
        write_page(given.out, target)
        print(target.read_text(encoding="utf-8"))
    else:
        given.out.mkdir(parents=True, exist_ok=True)
        same_settings(given)
        train_arm(given)


if __name__ == "__main__":
    main()
