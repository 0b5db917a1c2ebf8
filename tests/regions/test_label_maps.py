from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boneage_xai.data.preprocess import PreprocessSettings, preprocess
from boneage_xai.errors import DataError
from boneage_xai.regions.label_maps import read_region_map, regions_on_input
from boneage_xai.types import Radiograph, RegionMap

NAMES = {"0": "background", "1": "radius", "2": "ulna"}
LABELS = np.array([[0, 1, 1], [2, 0, 1]], dtype=np.uint8)


def write(folder: Path, image: Image.Image, names: object = NAMES) -> Path:
    (folder / "labels.json").write_text(json.dumps(names), encoding="utf-8")
    image.save(folder / "7.png")
    return folder / "7.png"


def palette_image(labels: np.ndarray) -> Image.Image:
    image = Image.fromarray(labels, mode="P")
    image.putpalette([200, 10, 10, 3, 3, 3, 90, 90, 90])
    return image


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        (Image.fromarray(LABELS), LABELS),
        (palette_image(LABELS), LABELS),
        (Image.fromarray(LABELS.astype(np.uint16) * 300), LABELS.astype(np.uint16) * 300),
    ],
    ids=["8-bit", "palette", "16-bit"],
)
def test_labels_are_read_as_written(tmp_path: Path, image: Image.Image, labels: np.ndarray) -> None:
    names = {str(value): f"region {value}" for value in np.unique(labels) if value}
    regions = read_region_map(write(tmp_path, image, names))
    np.testing.assert_array_equal(regions.labels, labels)
    assert regions.labels.dtype == labels.dtype
    assert regions.names[0] == "background"
    assert {str(key): name for key, name in regions.names.items() if key} == names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"0": "background", "1": "radius"}, r"7\.png: .* found 2 without"),
        (["background"], r"labels\.json: expected an object .* found a list"),
        ({"one": "radius"}, r"labels\.json: expected label values .* found 'one'"),
        ({"-1": "radius"}, r"found '-1'"),
        ({"70000": "radius"}, r"found '70000'"),
        ({"1": ""}, r"expected a name for label 1, found ''"),
        ({"1": 3}, r"expected a name for label 1, found 3"),
        ({"1": "radius", "01": "ulna"}, r"found 1 twice"),
        ({"0": "radius"}, r"expected label 0 to be background, found 'radius'"),
    ],
)
def test_wrong_names_are_refused(tmp_path: Path, names: object, message: str) -> None:
    png = write(tmp_path, Image.fromarray(LABELS), names)
    with pytest.raises(DataError, match=message):
        read_region_map(png)


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (3, 2)),
        Image.new("LA", (3, 2)),
        Image.new("1", (3, 2)),
    ],
    ids=["RGB", "grey with alpha", "1-bit"],
)
def test_images_that_are_not_labels_are_refused(tmp_path: Path, image: Image.Image) -> None:
    with pytest.raises(DataError, match=r"7\.png: expected one channel of labels"):
        read_region_map(write(tmp_path, image))


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    png = write(tmp_path, Image.fromarray(np.tile(LABELS, (40, 40))))
    whole = png.read_bytes()
    png.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"7\.png: expected a readable label image"):
        read_region_map(png)
    png.write_text("not an image at all, only text")
    with pytest.raises(DataError, match=r"7\.png: expected a label image as PNG"):
        read_region_map(png)
    png.unlink()
    with pytest.raises(DataError, match=r"7\.png: no such region map"):
        read_region_map(png)
    (tmp_path / "labels.json").unlink()
    with pytest.raises(DataError, match=r"labels\.json: no such file"):
        read_region_map(png)


@pytest.mark.parametrize("fit", ["pad", "squash"])
def test_labels_land_where_their_pixels_land(fit: str) -> None:
    # The radiograph is drawn from the labels, so after preparing both a bright pixel
    # must be a labelled one; a margin of a pixel is left at the edges.
    labels = np.zeros((120, 80), dtype=np.uint8)
    labels[20:80, 10:30] = 1
    labels[60:110, 50:75] = 2
    radiograph = Radiograph((labels > 0).astype(np.float32), Path("drawn.png"))
    settings = PreprocessSettings(size_px=64, fit=fit, stretch_percentiles=None)
    prepared = preprocess(radiograph, settings)
    names = {0: "background", 1: "radius", 2: "ulna"}
    moved = regions_on_input(RegionMap(labels, names), prepared.source_map, 64)
    assert moved.labels.shape == (64, 64)
    assert moved.names == names
    bright, dark = prepared.pixels > 230, prepared.pixels < 25
    assert (moved.labels[bright] > 0).all()
    assert (moved.labels[dark] == 0).all()
    assert (bright | dark).mean() > 0.9
    assert set(np.unique(moved.labels)) == {0, 1, 2}


def test_labels_of_another_radiograph_are_refused() -> None:
    radiograph = Radiograph(np.zeros((10, 10), dtype=np.float32), Path("x.png"))
    prepared = preprocess(radiograph, PreprocessSettings(size_px=32))
    with pytest.raises(DataError):
        regions_on_input(
            RegionMap(np.zeros((11, 10), dtype=np.uint8), {0: "background"}),
            prepared.source_map,
            32,
        )
