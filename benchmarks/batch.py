"""How near attributing a cohort comes to the engine's speed, and that no kill changes a result.

Two arms, each in a process of its own, interleaved: ``cohort`` attributes a cohort into an analysis
folder (cache → blocks → Zarr and tables on disk), ``memory`` explains the same images in memory.
``cohort`` also reports its resident memory once 100 cases are done and at the end.

    python benchmarks/batch.py --cases 48 --repeats 5
    python benchmarks/batch.py --run runs/cpu-small --data ~/rsna --cases 200
    python benchmarks/batch.py --cases 40 --kills 20

``--kills`` kills `boneage-xai attribute` at so many random moments of its work, resumes it each
time, and compares every byte of the maps and every column of the tables but ``seconds``.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import torch
from resident_memory import resident_bytes

from boneage_xai.analysis.run_analysis import choose_cases, prepare_run
from boneage_xai.analysis.run_attribution import attribute_run
from boneage_xai.attribution.integrated_gradients import attribute_batch, make_integrator
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.work.folder import WorkPaths, read_journal
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.files import read_json
from boneage_xai.models.checkpoint import load_run

MIBI = 2**20
MEMORY_AT_CASE = 100


def make_run(folder: Path, cases: int, size_px: int) -> tuple[Path, Path]:
    """Draw phantoms and train on a tenth as many more for one epoch."""
    from boneage_xai.phantom.cohorts import write_cohort
    from boneage_xai.phantom.settings import PhantomSettings
    from trainers.engine import train
    from trainers.recipe import load_recipe

    changes = [
        f"preprocessing.size_px={size_px}",
        "architecture.backbone=resnet18",
        "training.batch_size=8",
        "training.epochs=1",
        "training.stages=[]",
    ]
    settings = PhantomSettings(size_px=max(96, size_px))
    write_cohort(folder / "training", 20, seed=1, settings=settings, workers=1)
    write_cohort(folder / "phantoms", cases, seed=2, settings=settings, workers=1)
    cohort = select_cohort(read_source(folder / "training"))
    train(load_recipe("demo", changes), cohort, folder / "run", cache_folder=folder / "cache")
    return folder / "run", folder / "phantoms"


def run_arm(options: argparse.Namespace) -> dict[str, float]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = load_run(options.run, device)
    cohort = select_cohort(read_source(options.data))
    prepared = prepare_run(run, cohort, source=str(options.data), cache_folder=options.cache)
    settings = AttributionSettings(
        precision=options.precision, map_tolerance_fraction=options.map_tolerance_percent / 100
    )
    if options.arm == "memory":
        chosen = choose_cases(prepared.cohort, options.cases)
        pixels = prepared.cache.pixels[prepared.cache.rows([case.case_id for case in chosen])]
        images = torch.from_numpy(pixels)[:, None].to(device).float() / 255
        sexes = torch.from_numpy(chosen.is_male()).float().to(device)
        integrator = make_integrator(run.network, images, sexes, settings, n_cases=len(images))
        print(integrator.precision.reason, file=sys.stderr)
        block = max(8, integrator.batch_size)
        done = []
        started = time.perf_counter()
        for start in range(0, len(images), block):
            part = slice(start, start + block)
            done += attribute_batch(integrator, images[part], sexes[part])
        return {
            "seconds_per_case": (time.perf_counter() - started) / len(images),
            "gradients_per_case": sum(integral.nodes for integral, _ in done) / len(done),
            "share_converged": sum(integral.converged for integral, _ in done) / len(done),
            "share_in_two_bytes": sum("32" not in name for _, name in done) / len(done),
        }
    begun: list[float] = []
    memory: dict[int, int] = {}

    def progress(done: int, total: int) -> None:
        begun.append(time.perf_counter())
        if done in (MEMORY_AT_CASE, total):
            memory[done] = resident_bytes()

    with tempfile.TemporaryDirectory(dir=options.folder) as out:
        attribute_run(
            prepared,
            Path(out) / "analysis",
            layers=None if options.layers else [],
            settings=settings,
            limit=options.cases,
            progress=progress,
        )
        ended = time.perf_counter()
    found = {f"mib_at_{done}": size / MIBI for done, size in memory.items()}
    return {"seconds_per_case": (ended - begun[0]) / (len(begun) - 1), **found}


def kill_and_compare(options: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "apps.cli", "attribute", str(options.run)]
    command += ["--data", str(options.data), "--cache", str(options.cache)]
    command += ["--limit", str(options.cases), "--resume", "--out"]
    straight, killed = options.folder / "straight", options.folder / "killed"
    process = subprocess.Popen([*command, str(straight)], stderr=subprocess.DEVNULL)
    until_work, started = seconds_until_work(process, straight), time.perf_counter()
    if process.wait():
        raise SystemExit(f"attribute ended with {process.returncode}")
    work_seconds = time.perf_counter() - started
    print(f"{until_work:.0f} s until work begins, {work_seconds:.0f} s of it", flush=True)
    kills = kills_here = late = recomputed = rounds = 0
    rng = random.Random(options.seed)
    while True:
        process = subprocess.Popen([*command, str(killed)], stderr=subprocess.DEVNULL)
        limit = None
        if kills < options.kills:
            seconds_until_work(process, killed)
            limit = rng.uniform(0, work_seconds)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills, kills_here = kills + 1, kills_here + 1
            notes = read_journal(WorkPaths(killed).journal)
            blocks = Counter(note["block"] for note in notes if note["event"] == "computed")
            again = sum(blocks.values()) - len(blocks)
            if again > kills_here:
                raise SystemExit(f"{again} blocks computed again by {kills_here} kills") from None
            late += bool(blocks)
            continue
        if code:
            raise SystemExit(f"attribute ended with {code}")
        compare(straight, killed)
        work = read_json(killed / "analysis.json")["steps"]["attribute"]["work"]
        recomputed += work["blocks_computed"] - work["blocks"]
        rounds += 1
        print(f"attribution {rounds}: identical, {kills} kills so far", flush=True)
        if kills >= options.kills:
            break
        # Done before the last kill: the next ones hit another attribution of the same.
        shutil.rmtree(killed)
        kills_here = 0
    print(
        f"{kills} kills in {rounds} attributions, {late} of them after a block was computed: every "
        f"map identical to the byte, every table but for seconds; {recomputed} blocks of "
        f"{rounds * work['blocks']} computed twice"
    )


def seconds_until_work(process: subprocess.Popen[bytes], out: Path) -> float:
    """Wait until a process has begun to compute blocks, or has ended."""
    started = time.perf_counter()
    while process.poll() is None:
        notes = read_journal(WorkPaths(out).journal)
        if any(note["event"] == "worker" and note["pid"] == process.pid for note in notes):
            break
        time.sleep(0.1)
    return time.perf_counter() - started


def compare(one: Path, other: Path) -> None:
    files = [
        {
            str(file.relative_to(folder)): file.read_bytes()
            for file in (folder / "attributions.zarr").rglob("*")
            if file.is_file()
        }
        for folder in (one, other)
    ]
    if files[0] != files[1]:
        raise SystemExit("maps differ")
    for name in ("attributions.parquet", "regions.parquet"):
        tables = [pd.read_parquet(folder / name) for folder in (one, other)]
        tables = [table.drop(columns="seconds", errors="ignore") for table in tables]
        pd.testing.assert_frame_equal(*tables, check_exact=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="trained run; without it phantoms and a small one")
    parser.add_argument("--data", type=Path, help="cases to explain")
    parser.add_argument("--size", type=int, default=96, help="side in pixels without a run")
    parser.add_argument("--cases", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--precision", default="float32", help="as `boneage-xai attribute` takes")
    parser.add_argument("--map-tolerance-percent", type=float, default=1.0)
    parser.add_argument("--layers", action="store_true", help="write activation maps too")
    parser.add_argument("--cache", type=Path, help="where prepared pixels are kept")
    parser.add_argument("--arm", choices=("cohort", "memory"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if bool(options.run) != bool(options.data):
        parser.error("expected --run and --data together")
    if options.arm:
        print(json.dumps(run_arm(options)))
        return
    with tempfile.TemporaryDirectory() as name:
        options.folder = Path(name)
        options.cache = options.cache or Path(name) / "cache"
        if not options.run:
            options.run, options.data = make_run(Path(name), options.cases, options.size)
        if options.kills:
            kill_and_compare(options)
            return
        found: dict[str, list[dict[str, float]]] = {"cohort": [], "memory": []}
        for _ in range(options.repeats):
            for arm, results in found.items():
                command = [sys.executable, __file__, "--arm", arm, "--folder", name]
                for key in ("run", "data", "cases", "cache", "precision", "map_tolerance_percent"):
                    command += [f"--{key.replace('_', '-')}", str(getattr(options, key))]
                command += ["--layers"] * options.layers
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                results.append(json.loads(done.stdout.strip().splitlines()[-1]))
    report(found)


def report(found: dict[str, list[dict[str, float]]]) -> None:
    medians = {}
    for arm, results in found.items():
        for key in results[0]:
            values = [one[key] for one in results]
            medians[arm, key] = statistics.median(values)
            print(f"{arm:>7} {key}: {medians[arm, key]:.3f} ({min(values):.3f}–{max(values):.3f})")
    ratio = medians["cohort", "seconds_per_case"] / medians["memory", "seconds_per_case"]
    print(f"attributing a cohort takes {ratio:.3f} times the engine's own time")


if __name__ == "__main__":
    main()
