"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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
