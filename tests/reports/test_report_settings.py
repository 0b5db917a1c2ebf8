from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from boneage_xai.errors import ConfigError
from reports.report import PDF_FILE, load_report_settings, write_report


def test_sections_come_in_the_order_that_is_asked_for(
    analysis_template: Path, tmp_path: Path
) -> None:
    file = tmp_path / "short.toml"
    file.write_text('title = "What <we> found"\nsections = ["provenance", "summary"]\n')
    out = write_report(analysis_template, tmp_path / "short.html", load_report_settings(file))
    page = out.read_text(encoding="utf-8")
    assert re.findall(r'<section id="([^"]+)"', page) == ["provenance", "summary"]
    assert "<h1>What &lt;we&gt; found</h1>" in page


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('sections = ["summary", "weather"]', "expected some of summary, .*not 'weather'"),
        ('sections = ["summary", "summary"]', "none twice"),
        ("sections = []", "at least one section"),
        ('colour = "red"', "colour"),
        ("sections = [", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        (None, "expected a TOML file, found none"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(
    tmp_path: Path, content: str | bytes | None, reason: str
) -> None:
    file = tmp_path / "report.toml"
    if isinstance(content, str):
        file.write_text(content)
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        load_report_settings(file)


def test_a_report_is_typeset_for_printing(analysis_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("weasyprint", reason="the extra `pdf` is not installed")
    file = tmp_path / "short.toml"
    file.write_text('sections = ["summary", "performance"]\n')
    out = write_report(analysis_folder, None, load_report_settings(file), pdf=True)
    assert out == analysis_folder / PDF_FILE
    assert out.read_bytes().startswith(b"%PDF")
    assert out.stat().st_size > 20_000


@pytest.mark.skipif(
    importlib.util.find_spec("weasyprint") is not None, reason="WeasyPrint is installed"
)
def test_without_the_extra_it_says_what_to_install(analysis_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"boneage-xai\[pdf\]"):
        write_report(analysis_folder, pdf=True)
    assert not (analysis_folder / PDF_FILE).exists()
