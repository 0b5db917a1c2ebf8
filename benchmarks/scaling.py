"""What training on several devices and on millions of radiographs moves, and how fast that is here.

Counted on the real networks of the shipped recipes: gradient bytes a step, statistics of
BatchNorm, pixels, and the size of a pixel cache. Measured on one core: decoding, and batches read
from a memory-mapped cache in order, shuffled, and shuffled within shards.

    python benchmarks/scaling.py --images ~/rsna/images --cache-gb 4
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from boneage_xai.data.preprocess import PreprocessSettings, preprocess
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.models.regressor import BoneAgeRegressor
from trainers.recipe import load_recipe

RECIPES = ("wouters-resnet18", "kimmel-inception-v3", "kimmel-resnet101", "wouters-vgg16")
COHORT = 10_000_000
FLOAT32 = 4
MB, GB = 1e6, 1e9


def batch_norm_bytes(network: nn.Module) -> int:
    """Return what a process gives to the others a step: forward 2C + 1 values, backward 2C."""
    layers = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d) and one.training]
    return sum((4 * one.num_features + 1) * FLOAT32 for one in layers)


def counts() -> None:
    print("Bytes a step, all parameters trained (in brackets: the blocks that the recipe trains).")
    print("Ring: what each process sends, 2 (n - 1) / n of the float32 gradients.\n")
    head = ("network", "px", "batch", "parameters, M", "gradients, MB", "bf16, MB", "ring of 8, MB")
    print(" | ".join((*head, "ring of 64, MB", "BatchNorm, kB", "pixels of the batch, MB")))
    for name in RECIPES:
        recipe = load_recipe(name)
        network = BoneAgeRegressor(recipe.architecture)
        everything = sum(one.numel() for one in network.parameters())
        statistics = batch_norm_bytes(network.train())
        blocks = recipe.initialisation.fine_tuned_blocks
        network.fine_tune(blocks)
        trained = sum(one.numel() for one in network.parameters() if one.requires_grad)
        size_px, batch = recipe.preprocessing.size_px, recipe.training.batch_size
        gradients = everything * FLOAT32
        also = "" if blocks == "all" else f" [{trained / 1e6:.2f}]"
        also_mb = "" if blocks == "all" else f" [{trained * FLOAT32 / MB:.1f}]"
        row = [recipe.architecture.backbone, size_px, batch, f"{everything / 1e6:.2f}{also}"]
        row += [f"{gradients / MB:.1f}{also_mb}", f"{gradients / 2 / MB:.1f}"]
        row += [f"{2 * (n - 1) / n * gradients / MB:.1f}" for n in (8, 64)]
        row += [f"{statistics / 1e3:.1f}", f"{batch * size_px**2 / MB:.2f}"]
        print(" | ".join(map(str, row)))
    print()
    for size_px in (256, 299):
        total = COHORT * size_px**2
        print(f"pixel cache of {COHORT:,} at {size_px} px: {total / GB:,.0f} GB", end="; ")
        print(f"{size_px**2 / 1e3:.1f} kB a radiograph")


def decoding(folder: Path, n: int, size_px: int) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg"))
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(n, len(paths))).astype(int)]
    settings = PreprocessSettings(size_px=size_px)
    for path in paths[:3]:
        preprocess(read_radiograph(path), settings)
    started = time.process_time()
    pixels = [preprocess(read_radiograph(path), settings).source_map.source_shape for path in paths]
    seconds = (time.process_time() - started) / len(pixels)
    height, width = np.median(pixels, axis=0)
    days = seconds * COHORT / 86400
    print(
        f"decoding {folder.name} (median {width:.0f} × {height:.0f}) to {size_px} px: "
        f"{seconds * 1e3:.1f} ms of one core a radiograph, n = {len(pixels)}; "
        f"{COHORT:,}: {days:.1f} days of one core, {days * 24 / 64:.1f} h of 64"
    )


def _batches(order: str, n: int, batch: int, shard: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    if order == "in order":
        rows = np.arange(n)
    elif order == "shuffled":
        rows = rng.permutation(n)
    else:
        starts = rng.permutation(np.arange(0, n, shard))
        rows = np.concatenate([start + rng.permutation(min(shard, n - start)) for start in starts])
    for low in range(0, n - batch + 1, batch):
        yield rows[low : low + batch]


def _forget(file: Path) -> None:
    """Ask the system to drop a file from memory, so that it is read from the disk."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def reading(
    folder: Path, gigabytes: float, size_px: int, batch: int, shard: int, repeats: int
) -> None:
    n = int(gigabytes * GB / size_px**2)
    file = folder / "pixels.npy"
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(n, size_px, size_px))
    rng = np.random.default_rng(1)
    for low in range(0, n, 1024):
        rows = min(1024, n - low)
        array[low : low + rows] = rng.integers(0, 256, (rows, size_px, size_px), dtype=np.uint8)
    array.flush()
    del array
    print(
        f"\nreading {n:,} radiographs of {size_px} px ({n * size_px**2 / GB:.1f} GB), batch {batch}"
    )
    orders = ("in order", "shuffled", f"within shards of {shard}")
    measured: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats):
        for order in orders:
            for where in ("disk", "memory"):
                if where == "disk":
                    _forget(file)
                pixels = np.load(file, mmap_mode="r")
                started = time.perf_counter()
                seen = sum(len(pixels[rows]) for rows in _batches(order, n, batch, shard))
                speed = seen / (time.perf_counter() - started)
                measured.setdefault((order, where), []).append(speed)
                del pixels
    for (order, where), speeds in measured.items():
        middle = float(np.median(speeds))
        print(
            f"{order}, from {where}: {middle:,.0f} a second ({min(speeds):,.0f} to "
            f"{max(speeds):,.0f}), {middle * size_px**2 / GB:.2f} GB a second"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, action="append", default=[], help="to decode")
    parser.add_argument("--decode", type=int, default=100, help="radiographs of each folder")
    parser.add_argument("--cache-gb", type=float, default=0.0, help="cache to write and to read")
    parser.add_argument("--size", type=int, default=299)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--shard", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5, help="of each way to read; medians")
    parser.add_argument("--tmp", type=Path, help="where the cache is written for a while")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts()
    print()
    for folder in options.images:
        decoding(folder, options.decode, options.size)
    if options.cache_gb:
        shape = (options.size, options.batch, options.shard)
        with tempfile.TemporaryDirectory(dir=options.tmp) as name:
            reading(Path(name), options.cache_gb, *shape, options.repeats)


if __name__ == "__main__":
    main()
