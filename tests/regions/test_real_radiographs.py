"""The locator on radiographs whose boxes readers drew; it was trained on phantoms alone."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boneage_xai.regions.locator import load_locator, locate
from boneage_xai.types import Radiograph

READERS = {
    "MCP": "MCP",
    "PIP": "PIP",
    "DIP": "DIP",
    "Wrist": "wrist",
    "Radius": "radius",
    "Ulna": "ulna",
}
SAMPLE = 60


def held_out(folder: Path) -> list[Path]:
    """Annotations that no threshold, size or offset was fitted to: half of all, by seed."""
    ids = sorted(file.stem for file in folder.glob("*.xml"))
    random.Random(0).shuffle(ids)
    return [folder / f"{case_id}.xml" for case_id in sorted(ids[120:])]


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("true_aspect", "least"),
    [
        (True, {"DIP": 0.94, "PIP": 0.94, "MCP": 0.94, "Wrist": 0.94, "Radius": 0.91}),
        (False, {"DIP": 0.94, "PIP": 0.94, "MCP": 0.93, "Wrist": 0.94, "Radius": 0.91}),
    ],
)
def test_real_boxes_hold_their_own_predicted_centre(
    real_data: Path, true_aspect: bool, least: dict[str, float]
) -> None:
    boxes_folder = real_data / "roi-boxes"
    if not boxes_folder.is_dir():
        pytest.skip("no boxes of readers beside the radiographs")
    images = {file.stem: file for file in (real_data / "rsna-299").rglob("*.*") if file.is_file()}
    network = load_locator()
    hits: dict[str, list[bool]] = {name: [] for name in READERS}
    for file in held_out(boxes_folder)[:SAMPLE]:
        root = ET.parse(file).getroot()
        width, height = (int(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
        image = Image.open(images[file.stem]).convert("L")
        if true_aspect:
            scale = 600 / max(width, height)
            image = image.resize((round(width * scale), round(height * scale)))
        pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
        found = locate(Radiograph(pixels, file), network).boxes
        scale_x, scale_y = width / image.width, height / image.height
        for name, region in READERS.items():
            free = [(b.x_px * scale_x, b.y_px * scale_y) for b in found if b.region == region]
            for item in root.iter("object"):
                if item.findtext("name") != name:
                    continue
                left, top, right, bottom = (
                    int(item.findtext(f"bndbox/{key}") or 0)
                    for key in ("xmin", "ymin", "xmax", "ymax")
                )
                within = [p for p in free if left <= p[0] <= right and top <= p[1] <= bottom]
                hits[name].append(bool(within))
                if within:
                    free.remove(within[0])
    assert sum(len(values) for values in hits.values()) > 10 * SAMPLE
    shares = {name: float(np.mean(values)) for name, values in hits.items()}
    for name, bound in least.items():
        assert shares[name] >= bound, shares
    assert shares["Ulna"] >= least["Radius"], shares
