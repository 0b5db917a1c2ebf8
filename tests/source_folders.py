"""Source folders for tests: label tables with images that hold nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

TRAINING = "id,boneage,male\n1377,180,False\n1378,12,True\n"


def make(root: Path, files: dict[str, str], images: list[str]) -> Path:
    """Write text files, and empty files for images: reading a layout decodes nothing."""
    for name, content in {**files, **dict.fromkeys(images, "")}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def make_unlistable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let folders of a name refuse to be listed, whoever runs the tests."""
    scan = os.scandir

    def refuse(folder: Path) -> Iterator[os.DirEntry[str]]:
        if folder.name == name:
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
