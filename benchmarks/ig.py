"""Integrated Gradients to a tolerance: Captum, Captum tuned, ours in float32, ours in bfloat16.

Each arm runs in a process of its own, all on the same network and images, interleaved. An arm
explains every case until its completeness gap is at most max(0.5 month, 1% of the difference):

- ``captum``: its defaults (50 Gauss–Legendre nodes, one batch per case), which may miss it;
- ``captum-tuned``: frozen parameters, the fastest ``internal_batch_size``, and the fewest nodes
  of 16, 32, 64, … with which 95% of the cases keep the tolerance;
- ``float32``: ours, nodes per case;
- ``bfloat16``: ours, where its check passes; where not, this says so and is float32.

What is done once for a cohort, Captum's search and our preparation with its check of bfloat16, is
timed apart ("once"). ``--map-tolerance-percent 100`` lets our arms stop at the completeness gap
alone, as Captum's do; without it their maps are integrated to 1%. ``--references 2`` compares the
maps of two cases with those of 1,025 nodes in float64 (minutes each).

    python benchmarks/ig.py --size 224 --cases 24 --repeats 5
    python benchmarks/ig.py --run runs/cpu-small --data ~/rsna --cases 48
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from captum.attr import IntegratedGradients
from resident_memory import GIBI, PeakMemory
from torch import Tensor, nn

from boneage_xai.attribution.forward import months, untouched
from boneage_xai.attribution.gradients import gradients
from boneage_xai.attribution.integrated_gradients import (
    Integrator,
    attribute_batch,
    make_integrator,
)
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.models.checkpoint import load_run
from boneage_xai.models.regressor import ArchitectureSettings, BoneAgeRegressor

ARMS = ("captum", "captum-tuned", "float32", "bfloat16")
SHARE_WITHIN = 0.95
MOST_NODES = 1024
INTERNAL_BATCHES = (1, 2, 4, 8, 16, 32)
REFERENCE_NODES = 1025


def load_network(options: argparse.Namespace) -> nn.Module:
    if options.run:
        return load_run(options.run).network
    torch.manual_seed(0)
    network = BoneAgeRegressor(
        ArchitectureSettings(backbone=options.backbone, output="expectation"),
        age_mean_months=127.0,
        age_sd_months=41.0,
    )
    # Without statistics of images, activations of a random network die out or explode.
    network.train()
    with torch.no_grad():
        for _ in range(10):
            network(torch.rand(8, 1, options.size, options.size), torch.ones(8))
    return network.eval()


def load_cases(folder: Path) -> tuple[Tensor, Tensor]:
    with np.load(folder / "cases.npz") as cases:
        images = torch.from_numpy(cases["pixels"]).unsqueeze(1).float() / 255
        return images, torch.from_numpy(cases["is_male"]).float()


def write_cases(options: argparse.Namespace, folder: Path) -> None:
    rng = np.random.default_rng(0)
    if options.run:
        from boneage_xai.analysis.run_analysis import choose_cases, prepare_run
        from boneage_xai.data.cohort import read_source, select_cohort

        cohort = select_cohort(read_source(options.data))
        prepared = prepare_run(load_run(options.run), cohort, source=str(options.data))
        chosen = choose_cases(prepared.cohort, options.cases)
        pixels = prepared.cache.pixels[prepared.cache.rows([case.case_id for case in chosen])]
        is_male = chosen.is_male()
    else:
        from boneage_xai.phantom.cohorts import write_cohort

        write_cohort(folder / "phantoms", options.cases, seed=0, workers=1)
        pixels, is_male = phantom_pixels(folder / "phantoms", options.size)
    order = rng.permutation(len(pixels))
    np.savez(folder / "cases.npz", pixels=pixels[order], is_male=is_male[order])


def phantom_pixels(source: Path, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    from boneage_xai.data.cache import open_cache
    from boneage_xai.data.cohort import read_source, select_cohort
    from boneage_xai.data.preprocess import PreprocessSettings

    cohort = select_cohort(read_source(source))
    cache = open_cache(cohort, PreprocessSettings(size_px=size_px), source / "cache", workers=1)
    return np.array(cache.pixels), cohort.is_male()


def gradient_flops(network: nn.Module, image: Tensor, sex: Tensor) -> int:
    """Count the floating-point operations of one gradient with respect to the input."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with untouched(network), counter:
        start = image.clone().requires_grad_()
        # FlopCounterMode cannot follow torch.autograd.grad.
        months(network, start, sex).sum().backward()
    return int(counter.get_total_flops())


def matrix_peak(dtype: torch.dtype, n: int = 2048) -> float:
    """Measure the operations a second of a large matrix product, the best of several."""
    a, b = (torch.randn(n, n).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        started = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - started)
    return 2 * n**3 / best


def captum_gaps(
    network: nn.Module,
    images: Tensor,
    sexes: Tensor,
    nodes: int,
    internal: int | None,
    maps: list[np.ndarray] | None = None,
) -> list[tuple[float, float]]:
    """Explain each case as Captum does; return gap and change in months."""
    found = []
    for index in range(len(images)):
        image, sex = images[index : index + 1], sexes[index : index + 1]
        attributed = IntegratedGradients(partial(months, network)).attribute(
            image,
            baselines=0.0,
            additional_forward_args=(sex,),
            n_steps=nodes,
            internal_batch_size=internal,
        )
        with torch.no_grad():
            ends = months(network, torch.cat([image, image * 0]), sex.repeat(2)).double()
        change = float(ends[0] - ends[1])
        found.append((abs(float(attributed.double().sum()) - change), change))
        if maps is not None:
            maps.append(attributed[0, 0].detach().numpy())
    return found


def share_within(found: list[tuple[float, float]], settings: AttributionSettings) -> float:
    return float(np.mean([gap <= settings.tolerance_months(change) for gap, change in found]))


def tuned(
    network: nn.Module, images: Tensor, sexes: Tensor, settings: AttributionSettings
) -> tuple[int, int]:
    """Return nodes and internal batch size with which Captum is fastest within the tolerance."""
    seconds = {}
    for internal in INTERNAL_BATCHES:
        captum_gaps(network, images[:1], sexes[:1], internal, internal)
        started = time.perf_counter()
        captum_gaps(network, images[:1], sexes[:1], 32, internal)
        seconds[internal] = time.perf_counter() - started
    internal = min(seconds, key=lambda size: seconds[size])
    nodes = 16
    while nodes < MOST_NODES:
        if share_within(captum_gaps(network, images, sexes, nodes, internal), settings) >= (
            SHARE_WITHIN
        ):
            break
        nodes *= 2
    return nodes, internal


def run_arm(options: argparse.Namespace) -> dict[str, object]:
    network = load_network(options)
    images, sexes = load_cases(options.folder)
    settings = AttributionSettings(
        precision=options.arm if options.arm in ("float32", "bfloat16") else "float32",
        min_nodes=options.min_nodes,
        map_tolerance_fraction=options.map_tolerance_percent / 100,
        memory_budget_mb=options.memory_budget_mb,
    )
    result: dict[str, object] = {"arm": options.arm}
    maps: list[np.ndarray] = []
    once = 0.0
    if options.arm.startswith("captum"):
        nodes, internal = 50, None
        network.requires_grad_(options.arm == "captum")
        if options.arm == "captum-tuned":
            if options.tuned:
                nodes, internal = json.loads(options.tuned)
            else:
                started = time.perf_counter()
                nodes, internal = tuned(network, images, sexes, settings)
                once = time.perf_counter() - started
        with PeakMemory() as memory:
            captum_gaps(network, images[:1], sexes[:1], nodes, internal)
            started = time.perf_counter()
            found = captum_gaps(network, images, sexes, nodes, internal, maps)
            seconds = time.perf_counter() - started
        computed = nodes * len(images)
        result |= {"tuned": [nodes, internal], "precision": "float32"}
    else:
        with PeakMemory() as memory:
            started = time.perf_counter()
            integrator = make_integrator(network, images, sexes, settings, n_cases=len(images))
            once = time.perf_counter() - started
            attribute_batch(integrator, images[:1], sexes[:1])
            started = time.perf_counter()
            found, computed = integrate(integrator, images, sexes, maps)
            seconds = time.perf_counter() - started
        result["precision"] = integrator.precision.name
    errors = map_errors(options.folder, maps)
    flops = computed * gradient_flops(network, images[:1], sexes[:1])
    dtype = torch.bfloat16 if result["precision"] == "bfloat16" else torch.float32
    return result | {
        "cases_per_second": len(images) / seconds,
        "gradients_per_case": computed / len(images),
        "seconds": seconds,
        "once": once,
        "map_error": float(np.median(errors)) if len(errors) else float("nan"),
        "share_within": share_within(found, settings),
        "peak_gib": memory.grown / GIBI,
        "share_of_peak": flops / seconds / matrix_peak(dtype),
    }


def integrate(
    integrator: Integrator, images: Tensor, sexes: Tensor, maps: list[np.ndarray]
) -> tuple[list[tuple[float, float]], int]:
    results = []
    block = max(8, integrator.batch_size)
    for start in range(0, len(images), block):
        part = slice(start, start + block)
        results += attribute_batch(integrator, images[part], sexes[part])
    maps += [one.map_months for one, _ in results]
    found = [
        (abs(one.gap_months), one.prediction_months - one.baseline_prediction_months)
        for one, _ in results
    ]
    return found, sum(one.nodes for one, _ in results)


def write_references(options: argparse.Namespace, folder: Path) -> None:
    """Integrate a few cases with very many nodes in float64, evenly spaced."""
    if not options.references:
        return
    network = load_network(options).double()
    images, sexes = load_cases(folder)
    alphas = torch.linspace(0, 1, REFERENCE_NODES, dtype=torch.float64)
    weights = torch.full_like(alphas, 1 / (REFERENCE_NODES - 1))
    weights[[0, -1]] /= 2
    maps = []
    for image, sex in zip(images.double(), sexes.double(), strict=True):
        total = torch.zeros_like(image)
        for start in range(0, REFERENCE_NODES, 8):
            part = slice(start, start + 8)
            points = alphas[part].view(-1, 1, 1, 1) * image
            _, slopes = gradients(network, points, sex.repeat(len(points)), 8)
            total += torch.einsum("k,kchw->chw", weights[part], slopes)
        maps.append((total * image)[0].numpy())
        if len(maps) == options.references:
            break
    np.save(folder / "references.npy", np.stack(maps))


def map_errors(folder: Path, maps: list[np.ndarray]) -> list[float]:
    """Return the error of each map that has a reference, relative to it, summed over pixels."""
    file = folder / "references.npy"
    if not file.exists():
        return []
    return [
        float(np.abs(one - exact).sum() / np.abs(exact).sum())
        for one, exact in zip(maps, np.load(file), strict=False)
    ]


def in_own_process(arm: str, folder: Path, arguments: list[str]) -> dict[str, object]:
    command = [sys.executable, __file__, "--arm", arm, "--folder", str(folder), *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def spread(values: list[float], digits: int) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="trained run; without it a random network")
    parser.add_argument("--data", type=Path, help="the run's data")
    parser.add_argument("--backbone", default="resnet18", help="of the random network")
    parser.add_argument("--size", type=int, default=224, help="side in pixels without a run")
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--min-nodes", type=int, default=AttributionSettings().min_nodes)
    parser.add_argument("--map-tolerance-percent", type=float, default=1.0)
    parser.add_argument("--memory-budget-mb", type=int, default=1024)
    parser.add_argument("--references", type=int, default=0)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tuned", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if bool(options.run) != bool(options.data):
        parser.error("expected --run and --data together")
    if options.arm:
        print(json.dumps(run_arm(options)))
        return
    arguments = ["--size", str(options.size), "--min-nodes", str(options.min_nodes)]
    arguments += ["--backbone", options.backbone]
    arguments += ["--map-tolerance-percent", str(options.map_tolerance_percent)]
    arguments += ["--memory-budget-mb", str(options.memory_budget_mb)]
    if options.run:
        arguments += ["--run", str(options.run), "--data", str(options.data)]
    found: dict[str, list[dict[str, object]]] = {arm: [] for arm in options.arms}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cases(options, folder)
        write_references(options, folder)
        for repeat in range(options.repeats):
            for arm, results in found.items():
                extra = (
                    ["--tuned", json.dumps(results[0]["tuned"])]
                    if (results and arm == "captum-tuned")
                    else []
                )
                results.append(in_own_process(arm, folder, arguments + extra))
                speed = results[-1]["cases_per_second"]
                print(f"run {repeat + 1}, {arm}: {speed:.3f} cases/s", file=sys.stderr, flush=True)
    report(found)


def report(found: dict[str, list[dict[str, object]]]) -> None:
    columns = {
        "cases/s": ("cases_per_second", 3),
        "gradients/case": ("gradients_per_case", 1),
        "seconds": ("seconds", 1),
        "once": ("once", 1),
        "within": ("share_within", 2),
        "map error": ("map_error", 4),
        "peak GiB": ("peak_gib", 2),
        "of peak": ("share_of_peak", 2),
    }
    print(f"median (interquartile range) of {max(map(len, found.values()))} runs an arm")
    for arm, results in found.items():
        parts = [
            f"{label} {spread([float(str(one[key])) for one in results], digits)}"
            for label, (key, digits) in columns.items()
        ]
        how = f"{results[0]['precision']}" + (
            f", nodes and internal batch {results[0]['tuned']}" if "tuned" in results[0] else ""
        )
        print(f"{arm:>13}: {'; '.join(parts)} [{how}]")


if __name__ == "__main__":
    main()
