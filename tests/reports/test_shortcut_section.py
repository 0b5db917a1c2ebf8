from __future__ import annotations

from pathlib import Path

import pytest

from boneage_xai.errors import ReportError
from boneage_xai.figures.shortcuts import change_panels, data_panels, example_pictures
from boneage_xai.files import read_json, write_json
from boneage_xai.store import AnalysisFolder
from reports.blocks import Drawing, Table, Text
from reports.shortcut_section import shortcuts


def test_section_says_what_was_found_and_what_was_not_checked(analysis_folder: Path) -> None:
    section = shortcuts(AnalysisFolder.open(analysis_folder))
    assert section is not None
    texts = [
        text for block in section.blocks if isinstance(block, Text) for text in block.paragraphs
    ]
    assert "2 alarms raised." in texts
    moved = next(text for text in texts if text.startswith("Network: erasing the marker"))
    assert "elsewhere by 0.2" in moved
    assert any("the marker" in text and "of the variance" in text for text in texts)
    assert any(
        text.startswith("Not checked (data): id → age: ids <b>unknown</b>") for text in texts
    )
    assert any("replacing the border" in text and "found 0" in text for text in texts)
    assert sum(isinstance(block, Drawing) for block in section.blocks) == 3
    network = [block for block in section.blocks if isinstance(block, Table)][1]
    assert [row[-1] for row in network.rows] == ["alarm", "", ""]


def test_without_alarms_it_promises_nothing(analysis_folder: Path) -> None:
    file = analysis_folder / "shortcuts.json"
    write_json(file, read_json(file) | {"alarms": [], "alarm": False, "network": []})
    section = shortcuts(AnalysisFolder.open(analysis_folder))
    assert section is not None
    verdict = section.blocks[1]
    assert isinstance(verdict, Text)
    assert "no proof" in verdict.paragraphs[0]


def test_figures_mark_alarms_and_refuse_nothing_at_all(analysis_folder: Path) -> None:
    result = AnalysisFolder.open(analysis_folder).shortcuts()
    assert result is not None
    left, right = change_panels(result["network"], 3.0, 0.1).axes
    assert next(label.get_text() for label in left.get_yticklabels()) == "marker erased"
    assert left.get_xlim()[1] > 12
    assert right.get_xlim()[0] < -0.1
    assert len(data_panels(result["data"]).axes) == 2
    for refused in (
        lambda: change_panels([], 3.0, 0.1),
        lambda: data_panels([]),
        lambda: example_pictures({}, {}),
    ):
        with pytest.raises(ReportError, match="at least one"):
            refused()
