"""The analysis folder that the dashboard is tested on, and the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import apps.dashboard as dashboard
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


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """Return a function that runs the dashboard as streamlit would."""
    script = str(dashboard.__file__)

    def run(*arguments: Path, **parameters: str) -> AppTest:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        app = AppTest.from_file(script, default_timeout=240)
        for name, value in parameters.items():
            app.query_params[name] = value
        return app.run()

    return run
