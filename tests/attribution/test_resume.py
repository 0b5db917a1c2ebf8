"""Attributions that are killed, resumed, damaged or computed elsewhere end the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from torch import Tensor, nn

from boneage_xai.attribution.batch import attribute_cohort
from boneage_xai.attribution.integrated_gradients import (
    attribute_batch,
    make_integrator,
    restore_integrator,
)
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.work.folder import WorkPaths, locked, read_journal
from boneage_xai.attribution.work.ray_engine import RayEngine
from boneage_xai.errors import BoneAgeError, ConfigError
from boneage_xai.types import RegionMap

N, SIZE_PX, BLOCK = 40, 16, 8
# So little memory that a block has the fewest cases.
SETTINGS = {"memory_budget_mb": 1, "min_nodes": 9, "max_nodes": 33}
FINER = AttributionSettings(**SETTINGS | {"min_nodes": 17})


class Slow(nn.Module):
    """A small convolutional network that can be made slow."""

    def __init__(self, pause_seconds: float = 0.0) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 32, 3), nn.Softplus(), nn.Conv2d(32, 4, 3))
        self.pause_seconds = pause_seconds

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        time.sleep(self.pause_seconds)
        return 100 + 10 * is_male + 50 * self.backbone(image).tanh().mean(dim=(1, 2, 3))


def regions_of(case_id: str) -> RegionMap | None:
    labels = np.zeros((SIZE_PX, SIZE_PX), dtype=np.uint8)
    labels[: int(case_id) % 7 + 1] = 1
    return RegionMap(labels, {0: "background", 1: "radius"}) if int(case_id) % 3 else None


def attribute(out: Path, *, pause_seconds: float = 0.0, **changes: Any) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Slow(pause_seconds)
    options: dict[str, Any] = {
        "case_ids": [str(n) for n in range(N)],
        "pixels": np.random.default_rng(0).integers(0, 256, (N, SIZE_PX, SIZE_PX), dtype=np.uint8),
        "is_male": np.arange(N) % 2 == 0,
        "methods": ["integrated_gradients", "gradient"],
        "layers": ["backbone.1"],
        "settings": AttributionSettings(**SETTINGS),
        "regions_of": regions_of,
        "resume": True,
    }
    return attribute_cohort(network, out=out, **{**options, **changes})


def assert_identical(one: Path, other: Path) -> None:
    files = [
        {
            str(file.relative_to(folder)): file.read_bytes()
            for file in sorted((folder / "attributions.zarr").rglob("*"))
            if file.is_file()
        }
        for folder in (one, other)
    ]
    assert files[0].keys() == files[1].keys()
    assert [name for name in files[0] if files[0][name] != files[1][name]] == []
    assert len(files[0]) > 4 * N
    for name in ("attributions.parquet", "regions.parquet"):
        tables = [pd.read_parquet(folder / name) for folder in (one, other)]
        tables = [table.drop(columns="seconds", errors="ignore") for table in tables]
        pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert not (other / ".attribute").exists()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    summary = attribute(out, resume=False)
    assert summary["work"] == {"engine": "local", "blocks": 5, "starts": 1, "blocks_computed": 5}
    return out


def stop_after(n: int) -> Any:
    def interrupt(done: int, total: int) -> None:
        if done >= n:
            raise KeyboardInterrupt

    return interrupt


def stopped(out: Path, n: int = 20, **changes: Any) -> WorkPaths:
    """Leave an attribution that was interrupted in its third block, which is on disk too."""
    with pytest.raises(KeyboardInterrupt):
        attribute(out, progress=stop_after(n), **changes)
    return WorkPaths(out)


def test_killed_at_random_moments_it_ends_the_same(uninterrupted: Path, tmp_path: Path) -> None:
    out, rng = tmp_path / "out", random.Random(time.time_ns())
    script = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import torch
        torch.set_num_threads({torch.get_num_threads()})
        from test_resume import attribute
        print("imported", flush=True)
        attribute(Path({str(out)!r}), pause_seconds=0.002)
        """
    )
    kills, computed = 0, Counter[int]()
    while True:
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "imported\n"
        if kills < 2:
            time.sleep(rng.uniform(0.1, 0.5))
            process.kill()
        _, errors = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors
        kills += 1
        notes = read_journal(WorkPaths(out).journal)
        computed = Counter(note["block"] for note in notes if note["event"] == "computed")
        assert sum(computed.values()) - len(computed) <= kills
    # Pauses change no result, so this is compared with an attribution without any.
    assert_identical(uninterrupted, out)
    assert kills == 2


def test_a_resume_computes_only_what_is_missing(uninterrupted: Path, tmp_path: Path) -> None:
    paths = stopped(tmp_path)
    assert len(list(paths.parts.iterdir())) == 3
    done: list[tuple[int, int]] = []
    summary = attribute(tmp_path, progress=lambda *state: done.append(state))
    assert done == [(n, N) for n in range(24, N + 1)]
    assert summary["work"]["starts"] == 2
    assert summary["work"]["blocks_computed"] == 5
    assert_identical(uninterrupted, tmp_path)


def damage(paths: WorkPaths, how: str) -> None:
    part = paths.parts / "000001.json"
    if how == "truncated":
        part.write_bytes(part.read_bytes()[:-40])
    elif how == "changed":
        text = part.read_text()
        at = next(place for place, letter in enumerate(text) if letter.isdigit())
        part.write_text(f"{text[:at]}{(int(text[at]) + 1) % 10}{text[at + 1 :]}")
    elif how == "of another block":
        part.write_bytes((paths.parts / "000000.json").read_bytes())
    elif how == "without a map":
        (paths.maps / "gradient/c/9/0/0").unlink()
    elif how == "with half a map":
        chunk = paths.maps / "gradient/c/9/0/0"
        chunk.write_bytes(chunk.read_bytes()[:-1])
        chunk.with_suffix(".abc.partial").write_text("")
    elif how == "with another map":
        chunk = paths.maps / "gradient/c/9/0/0"
        content = chunk.read_bytes()
        chunk.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "changed",
        "of another block",
        "without a map",
        "with half a map",
        "with another map",
    ],
)
def test_a_damaged_block_is_computed_again(uninterrupted: Path, tmp_path: Path, how: str) -> None:
    damage(stopped(tmp_path), how)
    assert attribute(tmp_path)["work"]["blocks_computed"] == 6
    assert_identical(uninterrupted, tmp_path)


def test_a_part_of_another_claim_is_foreign(uninterrupted: Path, tmp_path: Path) -> None:
    other = stopped(tmp_path / "other", settings=FINER)
    paths = stopped(tmp_path / "out")
    (paths.parts / "000001.json").write_bytes((other.parts / "000001.json").read_bytes())
    assert attribute(paths.out)["work"]["blocks_computed"] == 6
    assert_identical(uninterrupted, paths.out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["gradient"]}, "with methods"),
        (
            {"settings": AttributionSettings(**SETTINGS | {"min_nodes": 17})},
            "min_nodes 9, found 17",
        ),
        ({"is_male": np.arange(N) % 2 == 1}, "with data"),
        ({"layers": []}, "with layers"),
        ({"regions_id": "others"}, "with regions_id null, found others"),
        ({"model_id": "another"}, "with model_id null, found another"),
        ({"resume": False}, "--resume or begin anew with --replace"),
    ],
)
def test_another_claim_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    paths = stopped(tmp_path)
    before = sorted(file.name for file in paths.parts.iterdir())
    with pytest.raises(ConfigError, match=message):
        attribute(tmp_path, **changes)
    assert sorted(file.name for file in paths.parts.iterdir()) == before
    attribute(tmp_path, **{**changes, "replace": True, "resume": False})
    assert not paths.folder.exists()


def test_a_complete_attribution_is_left_alone(uninterrupted: Path) -> None:
    before = (uninterrupted / "attributions.parquet").stat().st_mtime_ns
    assert attribute(uninterrupted) == {"already_complete": True}
    with pytest.raises(ConfigError, match="expected no attribution yet, found one"):
        attribute(uninterrupted, layers=[])
    assert (uninterrupted / "attributions.parquet").stat().st_mtime_ns == before
    assert not WorkPaths(uninterrupted).folder.exists()


@pytest.mark.parametrize("stop", ["record", "table", "maps"])
def test_a_kill_while_all_moves_into_place_is_mended(
    uninterrupted: Path, tmp_path: Path, stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attribute(tmp_path, methods=["gradient"], layers=[])
    real = {"table": Path.replace, "maps": Path.rename}

    def record(summary: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    def moved(path: Path, target: Path) -> Path:
        result = real[stop](path, target)
        if path.parent.name == ".attribute" and target.parent == tmp_path:
            raise KeyboardInterrupt
        return Path(result)

    with monkeypatch.context() as patch:
        if stop != "record":
            patch.setattr(Path, "replace" if stop == "table" else "rename", moved)
        last = record if stop == "record" else None
        with pytest.raises(KeyboardInterrupt):
            attribute(tmp_path, resume=False, replace=True, record=last)
    recorded: list[dict[str, Any]] = []
    assert attribute(tmp_path, record=recorded.append)["work"]["blocks_computed"] == 5
    assert recorded[0]["n"] == N
    assert_identical(uninterrupted, tmp_path)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    holding, release = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(WorkPaths(tmp_path)):
            holding.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert holding.wait(30)
        code = (
            "import sys; from pathlib import Path\n"
            "from boneage_xai.attribution.work.folder import WorkPaths, locked\n"
            "from boneage_xai.errors import ConfigError\n"
            "try:\n"
            "    with locked(WorkPaths(Path(sys.argv[1]))): pass\n"
            "except ConfigError as error: print(error)\n"
        )
        command = [sys.executable, "-c", code, str(tmp_path)]
        other = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "expected no other attribution at work in this folder, found one" in other.stdout
        with pytest.raises(ConfigError, match="no other attribution at work"):
            attribute(tmp_path)
    finally:
        release.set()
        thread.join()
    attribute(tmp_path)


def test_an_error_while_writing_or_reading_ends_all(tmp_path: Path) -> None:
    def broken(case_id: str) -> RegionMap | None:
        if case_id == "30":
            raise ConfigError("case 30: no region map today")
        return regions_of(case_id)

    def contradicting(case_id: str) -> RegionMap | None:
        found = regions_of(case_id)
        return RegionMap(found.labels, {0: "background", 1: "ulna"}) if case_id == "31" else found

    threads = threading.active_count()
    for regions, message in ((broken, "no region map today"), (contradicting, "case 31: expected")):
        with pytest.raises(BoneAgeError, match=message):
            attribute(tmp_path, regions_of=regions, replace=True, resume=False)
        assert len(list(WorkPaths(tmp_path).parts.iterdir())) >= 2
    assert threading.active_count() <= threads + 1  # Zarr keeps one of its own.


def test_a_restored_integrator_computes_the_same_bits() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Slow()
        images, sexes = torch.rand(6, 1, SIZE_PX, SIZE_PX), torch.ones(6)
    for precision in ("float32", "bfloat16"):
        settings = AttributionSettings(precision=precision)
        made = make_integrator(network, images, sexes, settings, n_cases=6)
        decisions = json.loads(json.dumps(made.decisions()))
        again = restore_integrator(network, decisions, settings)
        assert again.record() == made.record()
        found = [attribute_batch(one, images, sexes) for one in (made, again)]
        for (one, how), (other, how_again) in zip(*found, strict=True):
            assert how == how_again
            np.testing.assert_array_equal(one.map_months, other.map_months)


def test_ray_computes_the_same_though_a_worker_dies(uninterrupted: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    paths, killed = WorkPaths(tmp_path), threading.Event()

    def kill_one() -> None:
        for _ in range(600):
            pids = {n["pid"] for n in read_journal(paths.journal) if n["event"] == "worker"}
            if len(pids) == 2:
                os.kill(min(pids), signal.SIGKILL)
                killed.set()
                return
            time.sleep(0.05)

    thread = threading.Thread(target=kill_one)
    thread.start()
    done: list[int] = []
    engine = RayEngine(workers=2)
    summary = attribute(
        tmp_path, engine=engine, pause_seconds=0.01, progress=lambda n, _: done.append(n)
    )
    thread.join()
    assert killed.is_set()
    assert done[0] == 0
    assert done[-1] == N
    assert summary["work"]["engine"] == "ray"
    # Two blocks may be with a worker; the one that is read or written is lost with it.
    assert 5 <= summary["work"]["blocks_computed"] <= 7
    assert_identical(uninterrupted, tmp_path)
    maps = zarr.open_group(tmp_path / "attributions.zarr", mode="r")
    assert maps["regions"].attrs["case_ids"] == [str(n) for n in range(N) if n % 3]
