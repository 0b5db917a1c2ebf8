"""How close training comes to the speed of the same step fed from memory.

Two arms, each in a process of its own, interleaved: ``training`` runs one real epoch of the
engine's loop (cache → loader → augmentation → step → averaging), ``memory`` runs the same step on
one batch that lies in memory, a GPU's where there is one. Both report images a second; the ratio of
the medians is the share of the step's speed that training reaches.

    python benchmarks/feeding.py --images 1600 --size 128 --repeats 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lightning
import numpy as np
import torch

from boneage_xai.models.regressor import BoneAgeRegressor
from trainers.averaging import AveragedWeights
from trainers.feeding import CachedRadiographs, make_loader
from trainers.module import BoneAgeTraining
from trainers.recipe import Recipe, load_recipe

WARM_UP_STEPS = 4


class StepClock(lightning.Callback):
    """Time the steps after the warm-up."""

    def __init__(self) -> None:
        self.started = self.ended = 0.0
        self.steps = 0

    def on_train_batch_end(self, *_: object) -> None:
        self.steps += 1
        if self.steps == WARM_UP_STEPS:
            self.started = now()

    def on_train_end(self, *_: object) -> None:
        self.ended = now()


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class InMemory(torch.utils.data.Dataset):
    """The same batch again and again, already gathered."""

    def __init__(self, batch: object, n: int) -> None:
        self.batch, self.n = batch, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> object:
        return self.batch


def run_arm(arm: str, folder: Path, recipe: Recipe) -> float:
    pixels = np.load(folder / "pixels.npy", mmap_mode="r")
    n, batch_size = len(pixels), recipe.training.batch_size
    rng = np.random.default_rng(0)
    cases = CachedRadiographs(pixels, np.arange(n), rng.random(n) < 0.5, rng.uniform(10, 220, n))
    loader = make_loader(cases, batch_size, seed=0)
    if arm == "memory":
        batch = cases.__getitems__(list(range(batch_size)))
        loader = torch.utils.data.DataLoader(InMemory(batch, len(loader)), batch_size=None)
    torch.manual_seed(0)
    network = BoneAgeRegressor(recipe.architecture, age_mean_months=127.0, age_sd_months=41.0)
    module = BoneAgeTraining(network, recipe, steps_per_epoch=len(loader))
    clock = StepClock()
    callbacks: list[lightning.Callback] = [clock]
    if recipe.training.ema_decay is not None:
        callbacks.append(AveragedWeights(recipe.training.ema_decay))
    trainer = lightning.Trainer(
        max_epochs=1,
        precision="bf16-mixed",
        callbacks=callbacks,
        gradient_clip_val=recipe.training.gradient_clip,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module.to(memory_format=torch.channels_last), loader)
    return (clock.steps - WARM_UP_STEPS) * batch_size / (clock.ended - clock.started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1600)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--recipe", default="cpu-small")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    parser.add_argument("--arm", choices=("training", "memory"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    changes = [f"preprocessing.size_px={options.size}", "training.stages=[]"]
    # Others may ask for a validation, of which there is none here.
    changes.append("training.schedule=constant")
    recipe = load_recipe(options.recipe, [*changes, *options.changes])
    if options.arm:
        print(json.dumps(run_arm(options.arm, options.folder, recipe)))
        return
    with tempfile.TemporaryDirectory() as name:
        shape = (options.images, options.size, options.size)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        np.save(Path(name) / "pixels.npy", pixels)
        speeds: dict[str, list[float]] = {"training": [], "memory": []}
        for _ in range(options.repeats):
            for arm, measured in speeds.items():
                command = [sys.executable, __file__, "--arm", arm, "--folder", name]
                command += ["--images", str(options.images), "--size", str(options.size)]
                command += ["--recipe", options.recipe]
                for change in options.changes:
                    command += ["--set", change]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                measured.append(float(done.stdout.strip().splitlines()[-1]))
    for arm, measured in speeds.items():
        middle, low, high = statistics.median(measured), min(measured), max(measured)
        print(f"{arm:>8}: {middle:6.1f} images/s ({low:.1f} to {high:.1f})")
    ratio = statistics.median(speeds["training"]) / statistics.median(speeds["memory"])
    print(f"training reaches {ratio:.3f} of the step fed from memory")


if __name__ == "__main__":
    main()
