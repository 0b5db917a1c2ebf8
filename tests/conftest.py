"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from boneage_xai.phantom.cohorts import write_cohort
from boneage_xai.phantom.settings import PhantomSettings
from trained_runs import image_run, sex_run

__all__ = ["image_run", "sex_run"]

# Its assertions shall show what they compared, as those of the tests do.
pytest.register_assert_rewrite("folder_machine")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real radiographs; skips where there is none."""
    folder = os.environ.get("BONEAGE_XAI_DATA")
    if not folder:
        pytest.skip("BONEAGE_XAI_DATA is not set: no real radiographs to test on")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.skip(f"BONEAGE_XAI_DATA points at {path}, which is not a folder")
    return path


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 40 small phantom radiographs in the RSNA layout, with region maps."""
    folder = tmp_path_factory.mktemp("phantoms") / "cohort"
    return write_cohort(folder, 40, seed=1, settings=PhantomSettings(size_px=96), workers=1)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make figures as ever, but leave their pictures empty: to lay them out takes the longest.

    For tests of what is said around figures; others look at the same figures drawn.
    """
    monkeypatch.setattr(Figure, "draw", lambda figure, renderer: None)
