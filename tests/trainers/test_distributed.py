"""Training in several processes: the same network as in one, also killed and resumed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from boneage_xai.data.cache import open_cache
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.errors import ConfigError
from boneage_xai.files import read_table
from boneage_xai.models.checkpoint import load_run, read_manifest
from boneage_xai.predict import predict_cohort
from boneage_xai.types import Cohort
from trainers.engine import train
from trainers.processes import join, launch
from trainers.recipe import Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[2]
# 31 training cases make 3 batches and leave 7 out; 9 validation cases are 5 and 4.
SETTINGS = (
    "preprocessing.size_px=48",
    "architecture.backbone=squeezenet1_1",
    "training.batch_size=8",
    # Of a fifth of a second; one that is killed after the first must not end before it is.
    "training.epochs=12",
    "training.stages=[{epochs=2,size_px=32},{epochs=10,size_px=48}]",
    "training.precision=float32",
    "training.learning_rate=1e-3",
    "training.ema_decay=0.9",
    "training.validation_fraction=0.225",
)
MEASURED = ["epoch", "train_mae_months", "val_mae_months", "train_loss", "val_loss", "lr"]
ENDS_WITHIN_S = 60
# Seconds where a core is free; each process has to load torch, and others may use the machine.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def cohort(phantoms: Path) -> Cohort:
    return select_cohort(read_source(phantoms))


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("demo", SETTINGS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def alone(cohort: Cohort, recipe: Recipe, folder: Path) -> Path:
    train(recipe, cohort, folder / "alone", cache_folder=folder / "cache-of-one")
    return folder / "alone"


def _command(starter: list[str], phantoms: Path, out: Path) -> list[str]:
    changes = [argument for change in SETTINGS for argument in ("--set", change)]
    command = [sys.executable, "-m", *starter, "train", "demo", "--data", str(phantoms)]
    command += ["--out", str(out), "--cache", str(out.parent / "cache"), "--devices", "2"]
    return command + changes


@pytest.fixture(scope="module")
def together(phantoms: Path, folder: Path) -> tuple[Path, str]:
    out = folder / "together"
    done = subprocess.run(
        _command(["apps.cli"], phantoms, out), capture_output=True, text=True, cwd=ROOT, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return out, done.stdout + done.stderr


def _largest_change(one: Path, other: Path) -> float:
    before, after = (load_run(run).network.state_dict() for run in (one, other))
    assert before.keys() == after.keys()
    return max(float((before[key] - after[key]).abs().max()) for key in before)


def _measured(run: Path) -> pd.DataFrame:
    return read_table(run / "history.csv")[MEASURED]


def test_two_processes_train_the_network_that_one_trains(
    alone: Path, together: tuple[Path, str]
) -> None:
    pair, _ = together
    both = _measured(pair), _measured(alone)
    pd.testing.assert_frame_equal(*(one.head(6) for one in both), rtol=0, atol=1e-4)
    # Sums in another order round differently; where a gradient is about 0, Adam makes a step of the
    # learning rate of that, which later epochs carry on.
    pd.testing.assert_frame_equal(*both, rtol=0, atol=5e-3)
    assert _largest_change(alone, pair) < 3e-3
    assert (pair / "splits.csv").read_bytes() == (alone / "splits.csv").read_bytes()
    varying = {"created", "val_mae_months", "weights_sha256", "data"}
    one, two = (read_manifest(run).model_dump() for run in (alone, pair))
    assert {key for key in one if one[key] != two[key]} <= varying
    assert one["data"]["fingerprint"] == two["data"]["fingerprint"]
    assert one["data"]["n_validation"] == 9  # an odd number, so that shares are unequal
    assert sorted(path.name for path in pair.rglob("*")) == sorted(
        path.name for path in alone.rglob("*")
    )


def test_one_process_alone_talks(together: tuple[Path, str]) -> None:
    _, printed = together
    lines = [line for line in printed.splitlines() if "validation MAE" in line]
    assert len(lines) == 1
    assert sum(line.startswith("epoch ") for line in printed.splitlines()) == 12
    assert "Traceback" not in printed


def test_the_validation_error_is_that_of_all_cases(
    together: tuple[Path, str], cohort: Cohort, folder: Path
) -> None:
    out, _ = together
    run = load_run(out)
    splits = read_table(out / "splits.csv")
    held_out = cohort.select(splits.loc[splits["split"] == "validation", "case_id"].tolist())
    cache = open_cache(cohort, run.preprocessing, folder / "cache")
    mae = np.mean([abs(one.error_months) for one in predict_cohort(run, held_out, cache)])
    history = read_table(out / "history.csv").set_index("epoch")
    assert history["val_mae_months"][run.manifest.best_epoch] == pytest.approx(mae, abs=1e-3)


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="children are looked up in /proc")
def test_a_killed_process_ends_all_and_the_training_resumes(
    alone: Path,
    together: tuple[Path, str],
    cohort: Cohort,
    recipe: Recipe,
    phantoms: Path,
    folder: Path,
) -> None:
    out = folder / "killed"
    launcher = subprocess.Popen(
        _command(["apps.cli"], phantoms, out), stderr=subprocess.PIPE, cwd=ROOT, text=True
    )
    until = time.monotonic() + 400
    while not (out / "engine" / "last.ckpt").is_file() and time.monotonic() < until:
        assert launcher.poll() is None
        time.sleep(0.02)
    second = _children(launcher.pid)[-1]
    os.kill(second, signal.SIGKILL)
    _, said = launcher.communicate(timeout=ENDS_WITHIN_S)
    assert launcher.returncode == 1, said
    assert "--resume" in said.splitlines()[-1]
    begun = read_table(out / "history.csv")
    assert not (out / "run.json").exists()
    by_one = shutil.copytree(out, folder / "by-one")

    starter = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "apps.cli"]
    resumed = subprocess.run(
        [*_command(starter, phantoms, out), "--resume"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=400,
    )
    assert resumed.returncode == 0, resumed.stderr
    # Finished epochs were not trained again: they still took the same time.
    kept = read_table(out / "history.csv").head(1)
    pd.testing.assert_frame_equal(kept, begun.head(1))
    pair, _ = together
    assert _largest_change(pair, out) == 0
    pd.testing.assert_frame_equal(_measured(out), _measured(pair))

    train(recipe, cohort, by_one, cache_folder=folder / "cache", resume=True)
    # Training magnifies rounding, to 0.04 months; one epoch in another order makes 0.4.
    pd.testing.assert_frame_equal(_measured(by_one), _measured(alone), rtol=0, atol=0.1)


MEETING = """
import os, sys, time
from pathlib import Path
import torch, torch.distributed as dist
from boneage_xai.errors import DataError
from trainers.batch_norm import share_batch_norm
from trainers.processes import join

folder = Path(sys.argv[1])
processes = join(2, 1)
rank = processes.share.rank
(folder / f"pid-{rank}").write_text(str(os.getpid()))
if (folder / "wait").exists():
    time.sleep(600)

def network():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ReLU()]
    layers += [torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(32, 1)).double()

def learnt(network, images):
    network(images).square().mean().backward()
    return [one.grad for one in network.parameters()]

torch.manual_seed(1)
images = torch.randn(8, 1, 8, 8, dtype=torch.float64)
plain, shared = network(), network()
share_batch_norm(shared)
whole = learnt(plain, images)
mine = learnt(shared, images[4 * rank : 4 * rank + 4])
for one in mine:
    dist.all_reduce(one)
for one, two in zip(whole, mine):
    torch.testing.assert_close(two / 2, one, rtol=1e-9, atol=1e-12)
for one, two in zip(plain.buffers(), shared.buffers()):
    torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-12)
torch.testing.assert_close(shared.eval()(images), plain.eval()(images))

def look():
    seen = (folder / "decoded").exists()
    (folder / "decoded").touch()
    return seen

assert processes.in_turn(look) == (rank == 1)
assert processes.once(lambda: rank) == 0

def refuse():
    raise DataError("no such thing")

for agree in (processes.once, processes.in_turn):
    try:
        agree(refuse)
    except DataError as error:
        assert str(error) == "no such thing"
    else:
        raise SystemExit("not refused")
sys.exit(2)
"""


def test_processes_share_statistics_and_mistakes(tmp_path: Path) -> None:
    script = tmp_path / "meeting.py"
    script.write_text(MEETING)
    environment = dict(os.environ)
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        assert launch(2, [str(script), str(tmp_path)]) == (2, None)
    finally:
        os.environ.clear()
        os.environ.update(environment)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_processes_end_with_a_killed_launcher(tmp_path: Path) -> None:
    script = tmp_path / "meeting.py"
    script.write_text(MEETING)
    (tmp_path / "wait").touch()
    started = f"from trainers.processes import launch; launch(2, {[str(script), str(tmp_path)]})"
    launcher = subprocess.Popen([sys.executable, "-c", started], cwd=ROOT)
    notes = [tmp_path / "pid-0", tmp_path / "pid-1"]
    until = time.monotonic() + 400
    while not all(note.exists() and note.read_text() for note in notes):
        assert time.monotonic() < until
        time.sleep(0.05)
    launcher.kill()
    launcher.wait()
    until = time.monotonic() + 20
    while any(_runs(int(note.read_text())) for note in notes):
        assert time.monotonic() < until, "processes outlived what started them"
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--devices", "3"], "divides the batch of 32 cases, found 3"),
        (["--nodes", "2"], "torchrun or SLURM"),
    ],
)
def test_processes_that_cannot_train_together_are_refused_at_once(
    options: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from apps.cli import main

    arguments = ["train", "demo", "--data", "none", "--out", str(tmp_path / "run"), *options]
    monkeypatch.setattr(sys, "argv", ["boneage-xai", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.strip().splitlines()) == 1


def test_another_number_than_was_started_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    started = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    for devices, nodes in ((1, 1), (2, 1), (2, 4)):
        with pytest.raises(ConfigError, match=f"expected {devices * nodes} processes .* found 4"):
            join(devices, nodes)


def test_a_slurm_job_of_one_task_starts_its_processes_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after ``sbatch --ntasks=1 --gpus=2``: SLURM started one process, for two devices."""
    started = {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    assert join(2, 1) is None
    with pytest.raises(ConfigError, match=r"expected 4 processes .* found 1"):
        join(2, 2)
