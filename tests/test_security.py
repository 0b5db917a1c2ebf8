"""Files that would execute code are refused unexecuted, and nothing leaves its folder."""

from __future__ import annotations

import ast
import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import apps.cli
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.errors import CheckpointError
from boneage_xai.export.analysis_export import export_analysis
from boneage_xai.files import file_sha256
from boneage_xai.models.checkpoint import load_run
from boneage_xai.models.external import load_external
from export_fixture import Explained, explained
from external_networks import SIZE_PX, card, network_module, settle
from trained_runs import TINY
from trainers.engine import train
from trainers.recipe import load_recipe

__all__ = ["explained"]

ROOT = Path(__file__).parents[1]


class Executes:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


def pickled(mark: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": Executes(mark)}, buffer)
    return buffer.getvalue()


def test_the_file_of_these_tests_does_execute(tmp_path: Path) -> None:
    torch.load(io.BytesIO(pickled(tmp_path / "mark")), weights_only=False)
    assert (tmp_path / "mark").is_dir()


def test_an_engine_checkpoint_that_executes_code_is_refused(
    phantoms: Path, sex_run: Path, tmp_path: Path
) -> None:
    out, mark = tmp_path / "run", tmp_path / "mark"
    shutil.copytree(sex_run, out)
    # As a training that was stopped before it was written down.
    (out / "run.json").unlink()
    (out / "engine").mkdir(exist_ok=True)
    (out / "engine" / "last.ckpt").write_bytes(pickled(mark))
    cohort = select_cohort(read_source(phantoms))
    with pytest.raises(CheckpointError, match=r"last\.ckpt.*executing code"):
        train(
            load_recipe("demo", TINY),
            cohort,
            out,
            cache_folder=sex_run.parent / "cache",
            resume=True,
        )
    assert not mark.exists()


def test_weights_of_a_run_that_execute_code_are_refused(sex_run: Path, tmp_path: Path) -> None:
    out, mark = tmp_path / "run", tmp_path / "mark"
    shutil.copytree(sex_run, out)
    (out / "model.safetensors").write_bytes(pickled(mark))
    manifest = (out / "run.json").read_text()
    with pytest.raises(CheckpointError, match="changed or damaged"):
        load_run(out)
    # Also where the manifest vouches for them.
    was, now = (load_run(sex_run).manifest.weights_sha256, file_sha256(out / "model.safetensors"))
    (out / "run.json").write_text(manifest.replace(was, now))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_run(out)
    assert not mark.exists()


def test_an_exported_program_that_hides_code_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    network = settle(network_module(tmp_path).Elsewhere())
    inputs = torch.rand(2, 3, SIZE_PX, SIZE_PX), torch.ones(2, 1)
    torch.export.save(torch.export.export(network, inputs), tmp_path / "sound.pt2")
    with (
        zipfile.ZipFile(tmp_path / "sound.pt2") as sound,
        zipfile.ZipFile(tmp_path / "evil.pt2", "w") as evil,
    ):
        hidden = [name for name in sound.namelist() if "sample_inputs" in name]
        assert hidden
        for name in sound.namelist():
            evil.writestr(name, pickled(mark) if name in hidden else sound.read(name))
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    load_external(card(tmp_path, {"exported": "sound.pt2"}))
    with pytest.raises(CheckpointError, match="expected an exported program"):
        load_external(card(tmp_path, {"exported": "evil.pt2"}))
    assert not mark.exists()
    assert os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD") == before


@pytest.mark.parametrize("write", [pickled, lambda mark: pickle.dumps(Executes(mark))])
def test_torchscript_that_is_a_pickle_is_refused(
    tmp_path: Path, write: Callable[[Path], bytes]
) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "evil.pt").write_bytes(write(mark))
    with pytest.raises(CheckpointError, match="expected TorchScript"):
        load_external(card(tmp_path, {"torchscript": "evil.pt"}))
    assert not mark.exists()


def test_no_code_of_the_product_loads_what_could_execute() -> None:
    """Calls that unpickle, evaluate or start a shell are absent or told to take tensors alone."""
    found = []
    for room in ("boneage_xai", "trainers", "reports", "apps"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and not _is_harmless(node):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert found == []


def _is_harmless(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    said = {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name == "torch.load" or name.endswith("load_from_checkpoint"):
        return said.get("weights_only") == "True"
    if name in ("np.load", "numpy.load"):
        return said.get("allow_pickle", "False") == "False"
    if "shell" in said:
        return said["shell"] == "False"
    return name not in {
        "eval", "exec", "compile", "pickle.load", "pickle.loads", "joblib.load", "yaml.load",
        "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen", "pd.read_pickle",
        "marshal.loads", "shelve.open",
    }  # fmt: skip


def test_maps_of_any_id_are_written_inside_their_folder(
    explained: Explained, tmp_path: Path
) -> None:
    ids = [case.case_id for case in explained.cohort]
    assert any("/" in case_id for case_id in ids)
    out = tmp_path / "deep" / "down" / "out"
    out.parent.mkdir(parents=True)
    export_analysis(explained.analysis, explained.cohort, out, file_format="png")
    everything = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert len(everything) > len(ids)
    assert all(path.is_relative_to(out) for path in everything)


def test_the_dashboard_listens_on_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, command: started.append(command))
    apps.cli.dashboard(folder=None, port=8501)
    (command,) = started
    told = dict(pairwise(command))
    assert told["--server.address"] == "localhost"
    assert told["--browser.gatherUsageStats"] == "false"
    assert int(told["--server.maxUploadSize"]) <= 64
