"""Region maps as label images: a PNG of label values with ``labels.json`` beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from boneage_xai.data.preprocess import SourceMap, warp_labels
from boneage_xai.errors import DataError
from boneage_xai.files import read_json
from boneage_xai.types import LabelImage, RegionMap

BACKGROUND = "background"
NAMES_FILE = "labels.json"

_HIGHEST_LABEL = 65535
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3


def read_region_map(png: Path) -> RegionMap:
    """Read a label image and the names of its labels.

    Args:
        png: 8-bit or 16-bit grey PNG, or palette PNG (its indices are the labels), on the
            grid of the source radiograph; ``labels.json`` ({value: name}) lies beside it.

    Returns:
        (H, W) labels with their names; 0 is the background, named so if the file does not.

    Raises:
        DataError: a file that is missing or unreadable, another kind of image, or a label
            in the image without a name.
    """
    names = _read_names(png.parent / NAMES_FILE)
    labels = _read_labels(png)
    nameless = sorted(set(np.unique(labels).tolist()) - set(names))
    if nameless:
        raise DataError(
            f"{png}: expected only labels named in {NAMES_FILE}, found {_some(nameless)} without"
        )
    return RegionMap(labels, names)


def regions_on_input(region_map: RegionMap, source_map: SourceMap, size_px: int) -> RegionMap:
    """Move a region map from the source radiograph to the network's input grid.

    Args:
        region_map: labels on the grid of the source radiograph.
        source_map: how the radiograph was brought to the input.
        size_px: side of the square input.

    Returns:
        (size_px, size_px) labels by nearest neighbour; what lies outside the radiograph
        is background.

    Raises:
        DataError: the labels do not have the size of the source radiograph.
    """
    labels = warp_labels(region_map.labels, source_map, size_px)
    return RegionMap(labels, dict(region_map.names))


def region_maps_id(files: Mapping[str, Path]) -> str:
    """Return a hash of region maps by their names, sizes and times, without reading them.

    Args:
        files: label image by case id.

    Returns:
        32 hexadecimal digits; moving the whole folder changes nothing.
    """
    total = hashlib.sha256()
    named = [*files.items(), *((NAMES_FILE, one / NAMES_FILE) for one in _folders(files))]
    for key, file in named:
        try:
            stat = file.stat()
            seen = (stat.st_size, stat.st_mtime_ns)
        except OSError:
            seen = (-1, -1)
        total.update(json.dumps([key, file.name, *seen]).encode())
    return total.hexdigest()[:32]


def _folders(files: Mapping[str, Path]) -> list[Path]:
    return list(dict.fromkeys(file.parent for file in files.values()))


def _read_labels(png: Path) -> LabelImage:
    try:
        with png.open("rb") as stream:
            header = stream.read(26)
        if len(header) < 26 or not header.startswith(_PNG_SIGNATURE):
            raise DataError(f"{png}: expected a label image as PNG, found another kind of file")
        depth, colour = header[24], header[25]
        # Pillow stretches grey of under 8 bits to 0-255, which would change the labels.
        if not (colour == _GREY and depth in (8, 16)) and colour != _PALETTE:
            raise DataError(
                f"{png}: expected one channel of labels in 8 or 16 bits, "
                f"found PNG colour type {colour} of {depth} bits"
            )
        with Image.open(png, formats=["PNG"]) as image:
            labels = np.array(image)
    except FileNotFoundError as error:
        raise DataError(f"{png}: no such region map") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{png}: expected a readable label image, found {error}") from error
    return labels.astype(np.uint8 if depth <= 8 else np.uint16)


def _read_names(file: Path) -> dict[int, str]:
    content = read_json(file)
    if not isinstance(content, Mapping):
        raise DataError(
            f"{file}: expected an object of label value to region name, "
            f"found a {type(content).__name__}"
        )
    names: dict[int, str] = {}
    for key, name in content.items():
        value = int(key) if key.isascii() and key.isdecimal() else -1
        if not 0 <= value <= _HIGHEST_LABEL:
            raise DataError(f"{file}: expected label values 0 to {_HIGHEST_LABEL}, found {key!r}")
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{file}: expected a name for label {value}, found {name!r}")
        if value in names:
            raise DataError(f"{file}: expected each label once, found {value} twice")
        names[value] = name
    if names.setdefault(0, BACKGROUND) != BACKGROUND:
        raise DataError(f"{file}: expected label 0 to be {BACKGROUND}, found {names[0]!r}")
    return names


def _some(values: list[int]) -> str:
    shown = ", ".join(str(value) for value in values[:5])
    return shown + (f" and {len(values) - 5} more" if len(values) > 5 else "")
