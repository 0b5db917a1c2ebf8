"""Run and analysis folders for the fuzzer: several files in one input, and what reads them.

An input is files, each its name's place in `NAMES` as one byte and its content, separated by
`SEPARATOR`. Of the weights it holds the header alone, which says what lies where; the numbers
behind it come from the seed run, as they are far longer than an input may be. A digest of weights
that stands in a manifest as `DIGEST` is filled in, so that what lies behind that check is reached.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from boneage_xai.errors import BoneAgeError
from boneage_xai.files import read_table, write_table
from boneage_xai.models.checkpoint import load_run
from boneage_xai.store import AnalysisFolder

NAMES = (
    "run.json",
    "model.safetensors",
    "splits.csv",
    "history.csv",
    "analysis.json",
    "predictions.parquet",
    "metrics.json",
    "intervals.json",
    "attributions.parquet",
    "regions.parquet",
    "stress.parquet",
    "failures.json",
    "shortcuts_example.npz",
    "attributions.zarr/zarr.json",
    "attributions.zarr/gradient/zarr.json",
    "attributions.zarr/gradient/c/0/0/0",
)
SEPARATOR = b"\0\xff\xfe\0"
DIGEST = b"digest-of-the-weights"
_WEIGHTS = "weights"
_ROWS = 8


def packed(folder: Path, *names: str) -> bytes:
    """Return files of a folder as one input."""
    parts = []
    for name in names:
        content = (folder / name).read_bytes()
        if name == "model.safetensors":
            content = content[: _header_length(content)]
        parts.append(bytes([NAMES.index(name)]) + content)
    return SEPARATOR.join(parts)


def mutated(content: bytes, most_bytes: int, seed: int) -> bytes:
    """Change one file of an input, so that the others still lead to it."""
    import atheris

    parts = content.split(SEPARATOR)
    place = seed % len(parts)
    room = most_bytes - len(content) + len(parts[place])
    parts[place] = parts[place][:1] + atheris.Mutate(parts[place][1:], max(room - 1, 1))
    return SEPARATOR.join(parts)[:most_bytes]


def unpack(content: bytes, folder: Path, numbers: bytes) -> set[str]:
    """Write the files of an input into an empty folder; return their names.

    Args:
        content: the input.
        folder: which is emptied.
        numbers: of the weights, behind their header.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files = {NAMES[part[0] % len(NAMES)]: part[1:] for part in content.split(SEPARATOR) if part}
    if "model.safetensors" in files:
        files["model.safetensors"] += numbers
    weights = hashlib.sha256(files.get("model.safetensors", b"")).hexdigest().encode()
    for name, held in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(held.replace(DIGEST, weights) if name == "run.json" else held)
    return set(files)


def folder_reader(home: Path, place: Path) -> Callable[[bytes], None]:
    """Return what reads an input as a run and as an analysis.

    Args:
        home: in which `folder_seeds` has left the numbers of the weights.
        place: folder for the files of an input.
    """
    numbers: list[bytes] = []

    def attempt(read: Callable[[], object]) -> None:
        # A file that is refused must not hide the others.
        try:
            read()
        except BoneAgeError:
            return

    def read(content: bytes) -> None:
        if not numbers:
            numbers.append((home / _WEIGHTS).read_bytes())
        folder = place / "folder"
        names = unpack(content, folder, numbers[0])
        if "run.json" in names:
            attempt(lambda: load_run(folder).splits())
        if "history.csv" in names:
            attempt(lambda: read_table(folder / "history.csv"))
        if "analysis.json" not in names:
            return
        try:
            found = AnalysisFolder.open(folder)
        except BoneAgeError:
            return
        for reader in (
            found.predictions,
            found.metrics,
            found.intervals,
            found.history,
            found.attributions,
            found.regions,
            found.stress,
            found.failure_findings,
            found.shortcut_example,
        ):
            attempt(reader)
        attempt(lambda: _read_maps(found))

    return read


def _read_maps(folder: AnalysisFolder) -> None:
    maps = folder.maps()
    if maps is not None and "gradient" in maps:
        list(maps.attrs.get("case_ids", []))
        maps["gradient"][0]


def folder_seeds(home: Path) -> Iterator[bytes]:
    """Yield inputs from a small run and a small analysis that are made for it.

    Args:
        home: which is given the numbers of the run's weights.
    """
    from analysis_fixture import write_analysis
    from boneage_xai.phantom.cohorts import write_cohort
    from boneage_xai.phantom.settings import PhantomSettings
    from trained_runs import write_run

    made = home / "made"
    settings = PhantomSettings(size_px=96)
    cohort = write_cohort(made / "cohort", 40, seed=1, settings=settings, workers=1)
    run = write_run(cohort, made / "run")
    weights = (run / "model.safetensors").read_bytes()
    (home / _WEIGHTS).write_bytes(weights[_header_length(weights) :])
    manifest = json.loads((run / "run.json").read_bytes())
    manifest["weights_sha256"] = DIGEST.decode()
    (run / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    analysis = write_analysis(made / "analysis")
    for table in analysis.glob("*.parquet"):
        write_table(table, read_table(table).head(_ROWS))
    shutil.copyfile(analysis / "history.csv", run / "history.csv")
    yield packed(run, "run.json", "model.safetensors", "splits.csv")
    yield packed(run, "run.json", "splits.csv")
    for names in (
        ("predictions.parquet", "metrics.json", "history.csv"),
        ("predictions.parquet",),
        ("attributions.parquet", "regions.parquet"),
        ("stress.parquet", "intervals.json", "failures.json"),
        ("shortcuts_example.npz",),
        tuple(name for name in NAMES if ".zarr" in name),
    ):
        yield packed(analysis, "analysis.json", *names)
    shutil.rmtree(made)


def _header_length(weights: bytes) -> int:
    return 8 + int.from_bytes(weights[:8], "little")
