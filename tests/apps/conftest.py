"""The analysis folder that the dashboard is tested on, and the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from analysis_fixture import analysis_folder, analysis_template
from apps.cli import main

__all__ = ["analysis_folder", "analysis_template"]

Run = Callable[..., int]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the command line in this process, its cache in a temporary folder."""
    monkeypatch.setenv("BONEAGE_XAI_CACHE", str(tmp_path_factory.getbasetemp() / "cli-cache"))

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["boneage-xai", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run
