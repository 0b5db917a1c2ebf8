"""A tiny run made on the command line, and what a mistake must look like."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from apps.cli import main

TINY = [
    "--set", "preprocessing.size_px=48",
    "--set", "architecture.backbone=squeezenet1_1",
    "--set", "training.batch_size=8",
    "--set", "training.epochs=1",
    "--set", "training.stages=[]",
    "--set", "training.precision=float32",
]  # fmt: skip

Run = Callable[..., int]


@pytest.fixture(scope="module")
def trained(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    arguments = ["train", "demo", "--data", str(phantoms), "--out", str(out), *TINY]
    arguments += ["--cache", str(tmp_path_factory.getbasetemp() / "cli-cache")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["boneage-xai", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    return out


def assert_one_sentence(stderr: str, named: str) -> None:
    lines = [line for line in stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, stderr
    assert named in lines[0]
    assert "Traceback" not in stderr
