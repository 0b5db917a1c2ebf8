"""How often the shortcut audit finds a planted fault, and how often it cries wolf.

For every seed a cohort of phantoms with all ordinary nuisances is drawn, and again with each
fault laid over the same pictures. ``--part data`` audits each of these cohorts by itself.
``--part network`` trains a small network on the clean cohort and one on that whose marker tells
the age, and audits both; ``--weights`` takes a run to begin from, since few phantoms do not teach
a network to read ages. A line is added to ``OUT/PART.jsonl`` for every cohort, those that are
there already are not done again, and counts over all lines are printed in the end.

    python benchmarks/shortcuts.py --part data --seeds 1 20 --out audits
    python benchmarks/shortcuts.py --part network --seeds 1 20 --out audits
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from boneage_xai.analysis.run_analysis import prepare_run
from boneage_xai.analysis.shortcut_data import audit_data
from boneage_xai.analysis.shortcut_features import features_of
from boneage_xai.analysis.shortcuts import audit_run
from boneage_xai.anatomy import REGION_NAMES
from boneage_xai.data.cache import open_cache
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.data.preprocess import PreprocessSettings
from boneage_xai.files import read_json, write_json
from boneage_xai.phantom.cohorts import (
    IMAGE_FOLDER,
    LABEL_FOLDER,
    NAMES_FILE,
    TABLE_FILE,
    PhantomCase,
    draw_cases,
)
from boneage_xai.phantom.faults import Fault, overlay
from boneage_xai.phantom.rendering import Drawing, draw
from boneage_xai.phantom.settings import NUISANCES, PhantomSettings
from boneage_xai.types import FloatImage
from trainers.engine import train
from trainers.recipe import load_recipe

CLEAN = "clean"
MARKER = Fault.MARKER_BRIGHTNESS_ENCODES_AGE
ARMS: dict[str, tuple[str, ...]] = {
    "data": (CLEAN, *Fault),
    "network": (CLEAN, MARKER),
}
# What an alarm on a planted cohort must be about to count as the fault found.
FOUND_BY: dict[str, set[tuple[str, str]]] = {
    Fault.MARKER_BRIGHTNESS_ENCODES_AGE: {("marker", "age")},
    Fault.BORDER_ENCODES_SEX: {("border", "sex")},
    Fault.ID_ENCODES_BRIGHTNESS: {("id", "age"), ("background", "age")},
}
RECIPE = (
    "preprocessing.size_px=64",
    "augmentation.horizontal_flip=false",
    "augmentation.rotation_degrees=0",
    "augmentation.zoom=[1.0, 1.0]",
    "augmentation.gamma=0",
    "augmentation.contrast=0",
    "augmentation.brightness=0",
    "training.validation_fraction=0.25",
    "training.ema_decay=0.9",
)


@dataclass(frozen=True)
class Options:
    cases: int
    size_px: int
    backbone: str
    epochs: int
    learning_rate: float
    batch_size: int
    weights: str


def planted_pixels(drawing: Drawing, case: PhantomCase, arm: str) -> FloatImage:
    """Return the picture with a fault laid over it, as ``render_case`` would draw it."""
    if arm == CLEAN:
        return drawing.pixels
    planted = case.planted((Fault(arm),))
    marker = drawing.marker
    if arm == MARKER and marker is None:
        return draw(case.hand, drawing.settings, case.seed, planted=planted).pixels
    pixels = np.clip(planted.lift + (1 - planted.lift) * drawing.pixels, 0, 1)
    over = overlay((pixels.shape[0], pixels.shape[1]), marker, planted)
    if over is not None:
        pixels = pixels * (1 - over[0]) + over[1] * over[0]
    return pixels.astype(np.float32)


def write_arms(
    folder: Path, arms: tuple[str, ...], seed: int, cases: int, settings: PhantomSettings
) -> dict[str, Path]:
    """Write a cohort per arm, with region maps."""
    drawn = {
        arm: draw_cases(cases, seed, faults=() if arm == CLEAN else (Fault(arm),)) for arm in arms
    }
    rows: dict[str, list[str]] = {arm: ["id,boneage,male"] for arm in arms}
    for arm in arms:
        for name in (IMAGE_FOLDER, LABEL_FOLDER):
            (folder / arm / name).mkdir(parents=True)
        write_json(folder / arm / LABEL_FOLDER / NAMES_FILE, REGION_NAMES)
    for number in range(cases):
        first = drawn[arms[0]][number]
        drawing = draw(first.hand, settings, first.seed)
        labels = drawing.regions().labels
        for arm in arms:
            case = drawn[arm][number]
            home, name = folder / arm, f"{case.case_id}.png"
            shown = labels
            if arm == MARKER and drawing.marker is None:
                planted = case.planted((MARKER,))
                again = draw(case.hand, settings, case.seed, planted=planted)
                shown = again.regions().labels
            grey = np.round(planted_pixels(drawing, case, arm) * 255).astype(np.uint8)
            Image.fromarray(grey).save(home / IMAGE_FOLDER / name, compress_level=1)
            Image.fromarray(shown.astype(np.uint8)).save(home / LABEL_FOLDER / name)
            rows[arm].append(f"{case.case_id},{case.label_months},{case.hand.sex.is_male}")
    for arm in arms:
        (folder / arm / TABLE_FILE).write_text("\n".join(rows[arm]) + "\n", encoding="utf-8")
    return {arm: folder / arm for arm in arms}


def audit_cohort(source: Path, arm: str) -> dict[str, Any]:
    """Audit the data of one cohort."""
    cohort = select_cohort(read_source(source))
    with tempfile.TemporaryDirectory() as cache:
        opened = open_cache(cohort, PreprocessSettings(size_px=64), Path(cache), workers=1)
        groups = features_of(cohort, opened)
    table, _ = audit_data(groups, cohort.bone_ages_months(), cohort.is_male())
    alarms = table[table["alarm"]]
    raised = [(str(g), str(t)) for g, t in zip(alarms["group"], alarms["target"], strict=True)]
    values = {
        f"{row['group']}: {row['target']}": round(row["value"], 4)
        for row in table.to_dict("records")
    }
    return {
        "alarms": raised,
        "found": bool(set(raised) & FOUND_BY.get(arm, set(raised))),
        "values": values,
    }


def audit_network(
    source: Path, work: Path, arm: str, seed: int, options: Options
) -> dict[str, Any]:
    """Train a network on one cohort and audit it; what the data alone tell does not count."""
    cohort = select_cohort(read_source(source))
    settings = [
        *RECIPE,
        f"architecture.backbone={options.backbone}",
        f"training.epochs={options.epochs}",
        f"training.learning_rate={options.learning_rate}",
        f"training.batch_size={options.batch_size}",
        f"training.seed={seed}",
        f"initialisation.weights={options.weights}",
    ]
    recipe = load_recipe("phantom", settings)
    # Decoded in this process, so that the benchmark stays on one core.
    open_cache(cohort, recipe.preprocessing, work / "cache", workers=1)
    run = train(recipe, cohort, work / f"run-{arm}", cache_folder=work / "cache")
    prepared = prepare_run(run, cohort, source=str(source), cache_folder=work / "cache")
    out = work / f"analysis-{arm}"
    audit_run(prepared, cohort, out)
    result = read_json(out / "shortcuts.json")
    raised = [row["test"] for row in result["network"] if row["alarm"]]
    ages = prepared.cohort.bone_ages_months()
    return {
        "alarms": raised,
        "found": any(test.startswith("marker") for test in raised)
        if arm == MARKER
        else bool(raised),
        "mae_months": round(run.manifest.val_mae_months, 2),
        "mean_mae_months": round(float(np.abs(ages - ages.mean()).mean()), 2),
        "rows": [
            {
                key: round(row[key], 3)
                for key in (
                    "moved_months",
                    "control_months",
                    "excess_months_low",
                    "slope_months_per_month",
                    "slope_months_per_month_low",
                    "slope_months_per_month_high",
                )
                if row[key] is not None
            }
            | {"test": row["test"]}
            for row in result["network"]
        ],
    }


def lines(file: Path) -> Iterator[dict[str, Any]]:
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=tuple(ARMS), required=True)
    parser.add_argument("--seeds", type=int, nargs=2, default=(1, 20), metavar=("FIRST", "LAST"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--backbone", default="shufflenet_v2_x0_5")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--without", nargs="*", default=[], metavar="NUISANCE", choices=NUISANCES)
    parser.add_argument("--weights", default="none", help="run of the same backbone")
    given = parser.parse_args()
    options = Options(
        given.cases,
        given.size,
        given.backbone,
        given.epochs,
        given.learning_rate,
        given.batch_size,
        given.weights,
    )
    settings = PhantomSettings(size_px=given.size, **dict.fromkeys(given.without, False))
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / f"{given.part}.jsonl"
    done = {(row["seed"], row["arm"]) for row in lines(file)}
    for seed in range(given.seeds[0], given.seeds[1] + 1):
        arms = tuple(arm for arm in ARMS[given.part] if (seed, str(arm)) not in done)
        if not arms:
            continue
        work = Path(tempfile.mkdtemp(prefix="shortcuts."))
        try:
            sources = write_arms(work / "cohorts", arms, seed, given.cases, settings)
            for arm, source in sources.items():
                started = time.perf_counter()
                row = {"seed": seed, "arm": str(arm), "cases": given.cases}
                if given.part == "data":
                    row |= audit_cohort(source, arm)
                else:
                    row |= audit_network(source, work, arm, seed, options)
                row["seconds"] = round(time.perf_counter() - started, 1)
                with file.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(row) + "\n")
        finally:
            shutil.rmtree(work, ignore_errors=True)
    found = [row for row in lines(file) if given.seeds[0] <= row["seed"] <= given.seeds[1]]
    for arm in ARMS[given.part]:
        ours = [row for row in found if row["arm"] == str(arm)]
        word = "raised an alarm" if arm == CLEAN else "found"
        print(f"{arm}: {word} in {sum(row['found'] for row in ours)} of {len(ours)} cohorts")


if __name__ == "__main__":
    main()
