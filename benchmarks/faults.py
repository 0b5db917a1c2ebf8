"""What faults at random moments do to training, evaluation, attribution and report.

A chain of commands on phantoms is run undisturbed. Then one command of it at a time meets a fault
at a random moment: killed, terminated, interrupted, a full disk, a read-only folder, data that
vanish, memory that runs out, a second process on the same folder, a clock that moves. After each:
what earlier commands had written is unchanged to the byte; the fault was reported in one sentence,
without a traceback (a killed process says nothing); and the same command, run again as its help
says, ends with the results of the undisturbed chain. Two undisturbed chains tell which files are
reproducible, and only those are compared.

    python benchmarks/faults.py --faults 120 --out faults.json

Full disks and read-only folders are file systems in memory, which need root on Linux; elsewhere
these two are left out, and said to be.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from apps.cli import main as command_line
from boneage_xai.phantom.cohorts import write_cohort
from boneage_xai.phantom.settings import PhantomSettings
from trained_runs import TINY

N_PHANTOMS = 48
PATIENCE_SECONDS = 120
REFUSED = 2
MIBI = 2**20
# Columns that say how long something took.
CLOCKED = {"history.csv": ["seconds"], "attributions.parquet": ["seconds"]}
COMMANDS = ("train", "evaluate", "attribute", "report")
FAULTS = (
    "kill", "terminate", "interrupt", "full disk", "read-only folder", "vanished data",
    "out of memory", "two at once", "clock moved",
)  # fmt: skip
NEED_MOUNTS = {"full disk", "read-only folder"}


def arguments(command: str, work: Path) -> list[str]:
    data = ["--data", str(work / "phantoms"), "--cache", str(work / "cache")]
    run, analysis = str(work / "out" / "run"), str(work / "out" / "analysis")
    settings = [part for one in (*TINY, "training.epochs=3") for part in ("--set", one)]
    return {
        "train": ["train", "demo", *data, "--out", run, "--resume", *settings],
        "evaluate": ["evaluate", run, *data, "--out", analysis],
        "attribute": ["attribute", run, *data, "--out", analysis, "--resume"],
        "report": ["report", analysis],
    }[command]


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: the signal), what it said, how long it took."""

    code: int
    said: str
    seconds: float


def start(command: str, work: Path, prepare: Callable[[], None] | None = None) -> int:
    """Start a command in a copy of this process, and return its process id."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        handle = os.open(work / f"said-{os.getpid()}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.argv = ["boneage-xai", *arguments(command, work)]
        if prepare is not None:
            prepare()
        command_line()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def finished(child: int, started: float, work: Path) -> Ended:
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            break
        if time.perf_counter() - started > PATIENCE_SECONDS:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Ended(-999, "hung", PATIENCE_SECONDS)
        time.sleep(0.005)
    file = work / f"said-{child}.txt"
    said = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    file.unlink(missing_ok=True)
    return Ended(code, said, time.perf_counter() - started)


def run(command: str, work: Path) -> Ended:
    started = time.perf_counter()
    return finished(start(command, work), started, work)


@contextmanager
def memory_disk(target: Path, size: int) -> Iterator[None]:
    """Put a small file system in memory in the place of a folder, with the folder's content."""
    staged = target.with_name(target.name + "-content")
    target.rename(staged)
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", target], check=True)
    try:
        shutil.copytree(staged, target, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["mount", "-o", f"remount,rw,size={512 * MIBI}", target], check=True)
        shutil.rmtree(staged)
        shutil.copytree(target, staged)
        subprocess.run(["umount", target], check=True)
        target.rmdir()
        staged.rename(target)


def size_of(folder: Path) -> int:
    # A page for each file and folder, which is what a file system in memory takes.
    return sum(-(-file.stat().st_size // 4096) * 4096 + 4096 for file in folder.rglob("*"))


def meet(
    fault: str, command: str, work: Path, usual: float, added: int, rng: np.random.Generator
) -> list[Ended]:
    """Run a command that meets a fault, and return how it (and a second one) ended."""
    # Not before the command itself has begun.
    moment = 0.02 + float(rng.uniform(0, usual))
    out = work / "out"
    out.mkdir(exist_ok=True)
    started = time.perf_counter()
    if fault in ("kill", "terminate", "interrupt"):
        sent = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}
        child = start(command, work)
        time.sleep(moment)
        os.kill(child, sent[fault])
        return [finished(child, started, work)]
    if fault == "full disk":
        room = size_of(out) + int(rng.uniform(0, 1.1) * added) + 8192
        with memory_disk(out, room):
            return [finished(start(command, work), started, work)]
    if fault == "read-only folder":
        with memory_disk(out, 512 * MIBI):
            child = start(command, work)
            time.sleep(moment)
            subprocess.run(["mount", "-o", "remount,ro", out], check=False)
            return [finished(child, started, work)]
    if fault == "vanished data":
        gone = work / "vanished"
        child = start(command, work)
        time.sleep(moment)
        (work / "phantoms").rename(gone)
        try:
            return [finished(child, started, work)]
        finally:
            gone.rename(work / "phantoms")
    if fault == "out of memory":
        room = resident_space() + int(rng.uniform(0, 400) * MIBI)

        def scarce() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (room, room))

        return [finished(start(command, work, scarce), started, work)]
    if fault == "two at once":
        first = start(command, work)
        time.sleep(moment / 2)
        second = start(command, work)
        return [finished(one, started, work) for one in (first, second)]
    back = float(rng.uniform(-4e7, 4e7))

    def moved() -> None:
        real = time.time
        time.time = lambda: real() + back

    return [finished(start(command, work, moved), started, work)]


def resident_space() -> int:
    """Return the address space that this process has, which its copies begin with."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


def state(folder: Path) -> dict[str, str]:
    """Return a digest of every file that is not hidden, without columns that clock something."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        parts = Path(name).parts
        # The training engine's own checkpoints hold what a resumed training needs, and more.
        if not file.is_file() or "engine" in parts or any(one.startswith(".") for one in parts):
            continue
        if file.name in CLOCKED:
            read = pd.read_csv if file.suffix == ".csv" else pd.read_parquet
            content = read(file).drop(columns=CLOCKED[file.name]).to_csv().encode()
        else:
            content = file.read_bytes()
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def complaint(ended: list[Ended]) -> str | None:
    """Return what is wrong with how commands reported a fault, None where nothing is."""
    for one in ended:
        if one.code == -999:
            return "hung"
        if "Traceback" in one.said:
            return "traceback: " + one.said.strip().splitlines()[-1]
        if one.code not in (0, REFUSED, 130, 143, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
            return f"ended with {one.code}: {one.said.strip()[-200:]}"
        sentences = [line for line in one.said.splitlines() if line.startswith("error:")]
        if one.code == REFUSED and len(sentences) != 1:
            return f"not one sentence: {one.said.strip()[-200:]}"
    return None


@dataclass(frozen=True)
class Reference:
    """The undisturbed chain: results after each command, what is reproducible, seconds, bytes."""

    work: Path
    after: dict[str, dict[str, str]]
    seconds: dict[str, float]
    added: dict[str, int]


def undisturbed(work: Path) -> Reference:
    settings = PhantomSettings(size_px=64)
    write_cohort(work / "phantoms", N_PHANTOMS, settings=settings, workers=1)
    chains: list[dict[str, dict[str, str]]] = []
    seconds: dict[str, float] = {}
    added: dict[str, int] = {}
    for _ in range(2):
        shutil.rmtree(work / "out", ignore_errors=True)
        (work / "out").mkdir()
        states = {}
        for command in COMMANDS:
            before = size_of(work / "out")
            shutil.rmtree(work / f"before-{command}", ignore_errors=True)
            shutil.copytree(work / "out", work / f"before-{command}")
            ended = run(command, work)
            if ended.code:
                raise SystemExit(f"{command} alone ended with {ended.code}: {ended.said}")
            states[command] = state(work / "out")
            seconds[command] = ended.seconds
            added[command] = size_of(work / "out") - before
        chains.append(states)
    after = {
        command: {
            name: digest
            for name, digest in chains[0][command].items()
            if chains[1][command].get(name) == digest
        }
        for command in COMMANDS
    }
    return Reference(work, after, seconds, added)


def trial(
    fault: str, command: str, reference: Reference, rng: np.random.Generator
) -> dict[str, str]:
    """Let a command meet a fault and end in the end; return what was found."""
    work = reference.work
    shutil.rmtree(work / "out")
    shutil.copytree(work / f"before-{command}", work / "out")
    earlier = state(work / "out")
    usual, added = reference.seconds[command], reference.added[command]
    ended = meet(fault, command, work, usual, added, rng)
    found = {"fault": fault, "command": command, "codes": str([one.code for one in ended])}
    problem = complaint(ended)
    try:
        now = state(work / "out")
        lost = [name for name, digest in earlier.items() if now.get(name) != digest]
        # The record of an analysis grows with each command.
        lost = [name for name in lost if name != "analysis/analysis.json"]
    except (OSError, ValueError) as error:
        lost = [f"unreadable: {error}"]
    again = run(command, work)
    result = state(work / "out")
    other = [n for n, digest in reference.after[command].items() if result.get(n) != digest]
    found |= {
        "reported": problem or "",
        "said": "\n".join(one.said for one in ended) if problem else "",
        "lost": ", ".join(lost),
        "again": "" if again.code == 0 else f"{again.code}: {again.said.strip()[-300:]}",
        "differs": ", ".join(other),
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=120, help="how many in all")
    parser.add_argument("--only", choices=FAULTS, help="this kind of fault alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for what was found")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    asked = FAULTS if options.only is None else (options.only,)
    known = [one for one in asked if one not in NEED_MOUNTS or os.geteuid() == 0]
    if len(known) < len(asked):
        print(f"left out, for want of root: {', '.join(sorted(NEED_MOUNTS))}")
    with tempfile.TemporaryDirectory() as name:
        reference = undisturbed(Path(name))
        for command in COMMANDS:
            print(f"{command}: {reference.seconds[command]:.1f} s undisturbed", flush=True)
        rows = []
        for number in range(options.faults):
            fault = known[number % len(known)]
            command = COMMANDS[(number // len(known)) % len(COMMANDS)]
            rows.append(trial(fault, command, reference, rng))
            bad = {key: rows[-1][key] for key in ("reported", "lost", "again", "differs")}
            if any(bad.values()):
                print(fault, command, {key: value for key, value in bad.items() if value})
            sys.stdout.flush()
    kinds = Counter(row["fault"] for row in rows)
    print(", ".join(f"{kind}: {n}" for kind, n in kinds.items()))
    for key, what in (
        ("lost", "results of earlier commands lost or altered"),
        ("again", "commands that could not be run again"),
        ("differs", "ended with other results"),
        ("reported", "badly reported"),
    ):
        print(f"{what}: {sum(bool(row[key]) for row in rows)} of {len(rows)}")
    if options.out is not None:
        options.out.write_text(
            json.dumps({"compared": reference.after, "faults": rows}, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
