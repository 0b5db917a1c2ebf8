"""Source folders for tests: label tables with images that hold nothing."""

from __future__ import annotations

from pathlib import Path

TRAINING = "id,boneage,male\n1377,180,False\n1378,12,True\n"


def make(root: Path, files: dict[str, str], images: list[str]) -> Path:
    """Write text files, and empty files for images: reading a layout decodes nothing."""
    for name, content in {**files, **dict.fromkeys(images, "")}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root
