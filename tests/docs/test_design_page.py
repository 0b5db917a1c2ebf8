"""The design page names every file that the toolkit writes."""

from __future__ import annotations

import re
from pathlib import Path

WRITTEN = re.compile(r'"([a-z_-]+\.(?:json|csv|parquet|npz|npy|zarr|safetensors|ckpt|html))"')


def test_every_file_is_described(root: Path) -> None:
    page = (root / "docs" / "design.md").read_text(encoding="utf-8")
    rooms = [root / name for name in ("boneage_xai", "trainers", "reports")]
    sources = [file.read_text("utf-8") for room in rooms for file in room.rglob("*.py")]
    names = {name for source in sources for name in WRITTEN.findall(source)}
    assert {"run.json", "intervals.json", "shortcuts.json", "calibration.json"} <= names
    missing = {name for name in names if f"`{name}`" not in page}
    assert not missing, f"docs/design.md: say what these files hold: {sorted(missing)}"


def test_every_layer_is_described(root: Path) -> None:
    page = (root / "docs" / "design.md").read_text(encoding="utf-8")
    layers = [
        path.stem
        for path in (root / "boneage_xai").iterdir()
        if (path.is_dir() or path.suffix == ".py") and not path.name.startswith("_")
    ]
    assert len(layers) > 10
    assert not [layer for layer in layers if f"`{layer}`" not in page]
