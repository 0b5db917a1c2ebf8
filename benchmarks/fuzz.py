"""Coverage-guided fuzzing of the readers: ``python benchmarks/fuzz.py table --minutes 10``.

Needs `boneage-xai[fuzz]` (atheris). It begins with the sound files of `tests/corpus`, for folders
with those of a small run and a small analysis, and stops at the first input that is neither read
nor refused by an error of the toolkit, or takes too long; that input is kept as `crash-…` in the
home folder and belongs into `tests/corpus` with its remedy.

    python benchmarks/fuzz.py folder --minutes 10 --home fuzz --out fuzz.json

A home folder keeps what was found to reach further into the readers, for the next time; the JSON
file adds up processor time and executions by reader over the times.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

Reader = Callable[[bytes], object]
KINDS = ("table", "workbook", "image", "dicom", "folder")
PACKAGES = {"workbook": "openpyxl", "image": "PIL", "dicom": "pydicom", "folder": "zarr"}
# Processor time, several times what the corpus allows: instrumented code is slower.
MOST_SECONDS = 15.0
# Wall time, on a machine that may be busy with something else.
HANG_SECONDS = 300
MOST_RESIDENT_MB = 2500
MOST_BYTES = 50_000


def _reader(kind: str, home: Path, place: Path) -> Reader:
    """Import what reads this kind, for atheris to see which branches it takes."""
    import atheris

    package = PACKAGES.get(kind)
    with atheris.instrument_imports(include=["boneage_xai", *([package] if package else [])]):
        if kind == "folder":
            from fuzz_folders import folder_reader

            return folder_reader(home, place)
        if kind in ("table", "workbook"):
            from boneage_xai.data.tables import read_label_table

            file = place / ("input.csv" if kind == "table" else "input.xlsx")
            return lambda content: (file.write_bytes(content), read_label_table(file))
        from boneage_xai.data.radiograph import decode_radiograph, read_radiograph

        if kind == "image":
            return decode_radiograph
        file = place / "input.dcm"
        return lambda content: (file.write_bytes(content), read_radiograph(file))


def _seeds(kind: str, home: Path) -> Iterator[bytes]:
    if kind == "folder":
        from fuzz_folders import folder_seeds

        yield from folder_seeds(home)
        return
    from tests.corpus.codestreams import codestream_items
    from tests.corpus.dicoms import dicom_items
    from tests.corpus.pictures import picture_items
    from tests.corpus.tables import table_items
    from tests.corpus.workbooks import workbook_items

    items = {
        "table": table_items,
        "workbook": workbook_items,
        "image": picture_items,
        "dicom": lambda: chain(dicom_items(), codestream_items()),
    }[kind]
    for item in items():
        damaged = "truncated" in item.family or "bit-flipped" in item.family
        if not damaged and "bomb" not in item.family and len(item.content) < MOST_BYTES:
            yield item.content


def fuzz(kind: str, home: Path, minutes: float) -> None:
    """Fuzz one reader in this process, which libFuzzer ends."""
    import atheris

    from boneage_xai.errors import BoneAgeError

    # Before the seeds, which import parts of the readers, too.
    read = _reader(kind, home, Path(tempfile.mkdtemp(prefix="fuzz-")))
    inputs = home / "inputs"
    if not inputs.is_dir():
        inputs.mkdir(parents=True)
        for number, content in enumerate(_seeds(kind, home)):
            (inputs / f"seed-{number}").write_bytes(content)

    def once(content: bytes) -> None:
        started = time.process_time()
        with contextlib.suppress(BoneAgeError):
            read(content)
        taken = time.process_time() - started
        if taken > MOST_SECONDS:
            raise TimeoutError(f"{taken:.0f} s of processor time")

    options = [
        f"-max_total_time={round(60 * minutes)}",
        f"-timeout={HANG_SECONDS}",
        f"-rss_limit_mb={MOST_RESIDENT_MB}",
        f"-max_len={MOST_BYTES}",
        f"-artifact_prefix={home}/",
        "-print_final_stats=1",
    ]
    settings = {}
    if kind == "folder":
        from fuzz_folders import mutated

        settings["custom_mutator"] = mutated
    atheris.Setup([sys.argv[0], *options, str(inputs)], once, **settings)
    atheris.Fuzz()


def watch(kind: str, home: Path, minutes: float) -> dict[str, float]:
    """Fuzz in a process of its own; return its processor seconds, executions and findings."""
    command = [sys.executable, __file__, kind, "--minutes", str(minutes), "--home", str(home)]
    before = set(_findings(home))
    executions = 0
    running = subprocess.Popen(
        [*command, "--here"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
    )
    if running.stdout is not None:
        for line in running.stdout:
            print(line, end="", flush=True)
            if found := re.match(r"stat::number_of_executed_units:\s*(\d+)", line):
                executions = int(found[1])
    running.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": used.ru_utime + used.ru_stime,
        "executions": executions,
        "findings": len(set(_findings(home)) - before),
        "times": 1,
    }


def _findings(home: Path) -> Iterator[str]:
    for kind in ("crash", "timeout", "oom", "leak"):
        yield from (file.name for file in home.glob(f"{kind}-*"))


def _add(file: Path, kind: str, found: dict[str, float]) -> None:
    held = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    so_far = held.get(kind, {})
    held[kind] = {name: so_far.get(name, 0) + value for name, value in found.items()}
    staged = file.with_name(f".{file.name}.{os.getpid()}")
    staged.write_text(json.dumps(held, indent=1), encoding="utf-8")
    staged.replace(file)


def main() -> int:
    """Fuzz one reader for a while; return 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--home", type=Path, help="folder, by reader, for inputs and findings")
    parser.add_argument("--out", type=Path, help="JSON file to which the counts are added")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.here:
        fuzz(chosen.kind, chosen.home, chosen.minutes)
        return 0
    home = (chosen.home or Path(tempfile.mkdtemp(prefix="fuzz-"))).resolve() / chosen.kind
    home.mkdir(parents=True, exist_ok=True)
    found = watch(chosen.kind, home, chosen.minutes)
    print(f"{chosen.kind}: " + ", ".join(f"{name} {value:.0f}" for name, value in found.items()))
    if chosen.out is not None:
        _add(chosen.out, chosen.kind, found)
    return 1 if found["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
