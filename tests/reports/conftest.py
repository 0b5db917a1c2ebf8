"""The analysis folder that reports and dashboard are tested on, and its report."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis_fixture import analysis_folder, analysis_template
from report_page import Page
from reports.report import write_report

__all__ = ["analysis_folder", "analysis_template"]


@pytest.fixture(scope="session")
def report(analysis_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of the template, every figure drawn."""
    return write_report(analysis_template, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="session")
def page(report: Path) -> Page:
    """Return that report as it reads."""
    return Page(report.read_text(encoding="utf-8"))
