"""What each choice of a recipe is worth: it is trained again and again with one thing changed.

Every arm is the same short training but for one change, on the same split, and is measured on all
validation cases; its error is compared with the whole recipe's case by case. Views, a correction
and an average of networks cost no training: they are tried on what is there.

    python benchmarks/ablations.py --data ~/rsna --out ablations
    python benchmarks/ablations.py --data ~/rsna --out ablations --arm whole --arm plain-number
    python benchmarks/ablations.py --data ~/rsna --out ablations --docs-page docs/ablations.md

Without ``--arm`` all arms are trained one after the other; several processes with arms of their own
may share the folder. What is there is not done again, and an arm that was killed goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from boneage_xai.analysis.comparison import common_cases, differences_from_first
from boneage_xai.analysis.correction import fit_correction
from boneage_xai.analysis.run_analysis import evaluate_run, prepare_run
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.files import read_json, read_table
from boneage_xai.models.averaged import Views
from boneage_xai.models.checkpoint import load_run
from boneage_xai.models.ensemble import load_ensemble, write_ensemble
from boneage_xai.store import AnalysisFolder
from trainers.engine import train
from trainers.recipe import load_recipe

WHOLE = "whole"
LIGHT = [
    "augmentation.rotation_degrees=5",
    "augmentation.shift_fraction=0.02",
    "augmentation.zoom=[0.97, 1.03]",
    "augmentation.gamma=0.0",
    "augmentation.contrast=0.0",
    "augmentation.brightness=0.0",
]
HEAVY = [
    "augmentation.rotation_degrees=25",
    "augmentation.shift_fraction=0.1",
    "augmentation.zoom=[0.8, 1.2]",
    "augmentation.gamma=0.4",
    "augmentation.contrast=0.25",
    "augmentation.brightness=0.2",
]
CHANGES: dict[str, tuple[str, list[str]]] = {
    WHOLE: ("the whole recipe", []),
    "plain-number": (
        "one number in place of a distribution over ages",
        ["architecture.output=value"],
    ),
    "light-augmentation": ("light augmentation", LIGHT),
    "heavy-augmentation": ("heavier augmentation", HEAVY),
    "no-averaging": ("no average of the weights", ["training.ema_decay=0.0001"]),
    "no-stages": ("the largest inputs throughout", ["training.stages=[]"]),
    "constant-rate": ("the highest learning rate throughout", ["training.schedule=constant"]),
    "squared-error": ("squared in place of absolute error", ["training.loss=mse"]),
    "no-decay": ("no weight decay", ["training.weight_decay=0.0"]),
    "no-flip": ("no mirror images", ["augmentation.horizontal_flip=0"]),
    "few-flips": ("one image in ten mirrored", ["augmentation.horizontal_flip=0.1"]),
    "no-sex": ("without the sex", ["architecture.sex_features=0"]),
    "resnet18": ("ResNet18", ["architecture.backbone=resnet18"]),
    "resnet34": ("ResNet34", ["architecture.backbone=resnet34"]),
    "resnet50": ("ResNet50", ["architecture.backbone=resnet50"]),
    "inception-v3": ("Inception v3", ["architecture.backbone=inception_v3"]),
    "efficientnet-b0": ("EfficientNet B0", ["architecture.backbone=efficientnet_b0"]),
    "regnet-y-1.6gf": ("RegNetY 1.6GF", ["architecture.backbone=regnet_y_1_6gf"]),
    "densenet121": ("DenseNet121", ["architecture.backbone=densenet121"]),
}
VIEWS = Views(flip=True, rotation_degrees=5.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="strong")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--arm", dest="arms", action="append", choices=list(CHANGES))
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--docs-page", type=Path)
    options = parser.parse_args()
    cohort = select_cohort(read_source(options.data)).labelled()
    for arm in options.arms or ([] if options.docs_page else list(CHANGES)):
        train_and_measure(arm, cohort, options)
    if not options.arms:
        collect(cohort, options)


def train_and_measure(arm: str, cohort, options: argparse.Namespace) -> None:
    recipe = load_recipe(options.recipe, [*options.settings, *CHANGES[arm][1]])
    folder = options.out / "runs" / arm

    def note(row: dict[str, float]) -> None:
        print(
            f"{arm}, epoch {row['epoch'] + 1:.0f}: train {row['train_mae_months']:.1f}, "
            f"validation {row['val_mae_months']:.1f} months ({row['seconds']:.1f} s)",
            flush=True,
        )

    train(recipe, cohort, folder, resume=True, cache_folder=options.cache, on_epoch=note)
    measure(folder, arm, cohort, options)


def measure(run: Path, name: str, cohort, options: argparse.Namespace, ensemble: bool = False):
    """Evaluate a run, or an ensemble, on the validation part; once."""
    folder = options.out / "analyses" / name
    if not (folder / "predictions.parquet").is_file():
        load = load_ensemble if ensemble else load_run
        model = load(run, "cuda" if torch.cuda.is_available() else "cpu")
        prepared = prepare_run(model, cohort, split="validation", cache_folder=options.cache)
        evaluate_run(prepared, folder)
    return AnalysisFolder.open(folder)


def collect(cohort, options: argparse.Namespace) -> None:
    """Compare all arms that are done with the whole recipe, and write what they are worth."""
    done = [arm for arm in CHANGES if (options.out / "analyses" / arm / "metrics.json").is_file()]
    if WHOLE not in done:
        raise SystemExit(f"{options.out}: expected the arm {WHOLE}, found {done}")
    runs = options.out / "runs"
    folders = {arm: AnalysisFolder.open(options.out / "analyses" / arm) for arm in done}
    words = {arm: CHANGES[arm][0] for arm in done}
    extra = {"views": ([WHOLE], VIEWS, "over six views (mirrored, turned by 5 degrees)")}
    others = [arm for arm in ("resnet34", "inception-v3", "heavy-augmentation") if arm in done]
    if others:
        averaged = f"averaged with {' and '.join(CHANGES[arm][0] for arm in others)}"
        extra["ensemble"] = ([WHOLE, *others], Views(), averaged)
    for name, (members, views, described) in extra.items():
        ensemble = runs / f"ensemble-{name}"
        if not ensemble.is_dir():
            write_ensemble([runs / member for member in members], ensemble, views=views)
        folders[name] = measure(ensemble, name, cohort, options, ensemble=True)
        words[name] = described
    cases, _ = common_cases(list(folders.values()), list(folders))
    cases = pd.concat([cases, corrected(cases)], ignore_index=True)
    words["correction"] = "corrected for the age bias (each half of the cases by the other)"
    table = differences_from_first(cases)
    seconds = {arm: float(read_table(runs / arm / "history.csv")["seconds"].sum()) for arm in done}
    table["seconds"] = table["model"].map(seconds)
    table["change"] = table["model"].map(words)
    options.out.mkdir(parents=True, exist_ok=True)
    manifest = read_json(runs / WHOLE / "run.json")
    record = {
        "recipe": manifest["recipe"],
        "n_train": manifest["data"]["n_train"],
        "versions": manifest["versions"],
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "processor",
        "settings": options.settings,
        "arms": json.loads(table.to_json(orient="records")),
    }
    (options.out / "ablations.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    print(table.drop(columns="change").to_string(index=False))
    if options.docs_page:
        options.docs_page.write_text(page(record), encoding="utf-8")


def corrected(cases: pd.DataFrame) -> pd.DataFrame:
    """Correct the whole recipe's predictions, each half of the cases by the other's line."""
    own = cases[cases["model"] == WHOLE].reset_index(drop=True)
    half = np.random.default_rng(0).permutation(len(own)) % 2
    predicted = own["predicted_months"].to_numpy(copy=True)
    reference, is_male = own["reference_months"].to_numpy(), own["sex"].to_numpy() == "M"
    answers = predicted.copy()
    for part in (0, 1):
        fitted, applied = half != part, half == part
        line = fit_correction(reference[fitted], predicted[fitted], is_male[fitted], per_sex=False)
        answers[applied] = line.apply(predicted[applied], is_male[applied])
    return own.assign(
        model="correction", predicted_months=answers, error_months=answers - reference
    )


def page(record: dict) -> str:
    """Return the page of the documentation."""
    recipe, arms = record["recipe"], record["arms"]
    training = recipe["training"]
    sizes = [stage["size_px"] for stage in training["stages"]] or [
        recipe["preprocessing"]["size_px"]
    ]
    pixels = " to ".join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))
    whole = arms[0]
    weights = recipe["initialisation"]["weights"]
    begun = "from scratch" if weights == "none" else f"from the weights {Path(weights).name}"
    lines = [
        f"# What each choice of {recipe['name']} is worth",
        "",
        "Written by `benchmarks/ablations.py`. The recipe "
        f"`{recipe['name']}`, shortened to {training['epochs']} epochs at {pixels} pixels with "
        f"{recipe['architecture']['backbone']} {begun}, was trained again and again with one thing "
        f"changed, on {record['n_train']:,} radiographs of the RSNA training set, and measured on "
        f"{whole['n']:,} others. The whole of it errs by {whole['mae_months']:.2f} months. "
        "A difference above 0 says that the change does harm, what was changed is worth keeping. "
        "Intervals are of a paired bootstrap over cases, 95%; they say nothing of how another seed "
        "would have trained. p is Wilcoxon's, corrected over all changes.",
        "",
        "| change | MAE (months) | difference (95%) | p | training (s) |",
        "|---|---|---|---|---|",
    ]
    for arm in arms:
        difference, p, seconds = "", "", ""
        if arm["mae_difference_months"] is not None:
            difference = (
                f"{arm['mae_difference_months']:+.2f} ({arm['low']:+.2f} to {arm['high']:+.2f})"
            ).replace("-", "−")
            p = f"{arm['p_holm']:.3f}" if arm["p_holm"] >= 0.001 else "< 0.001"
        if arm["seconds"] is not None:
            seconds = f"{arm['seconds']:.0f}"
        lines.append(
            f"| {arm['change']} | {arm['mae_months']:.2f} | {difference} | {p} | {seconds} |"
        )
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    # A file of weights is named above, without where it lies.
    changed = [one for one in record["settings"] if not one.startswith("initialisation.weights")]
    if changed:
        lines += ["", f"Set beside the recipe: {', '.join(f'`{one}`' for one in changed)}."]
    lines += ["", f"Measured on: {record['device']}; {versions}. Several arms shared the device."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
