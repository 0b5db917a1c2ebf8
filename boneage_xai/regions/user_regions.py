"""Regions that users have drawn themselves: boxes, polygons or masks; they win over the locator.

Read are, for a case ``ID``: ``ID.png`` with ``labels.json`` (label image), ``ID.xml`` (Pascal
VOC), ``ID.json`` (LabelMe), and any other ``*.json`` of the folder in the COCO format, where the
file name of an image is ``ID`` with any suffix.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.draw import polygon

from boneage_xai.anatomy import BACKGROUND, CARPALS, DIP, MCP, PIP, REGION_LABELS
from boneage_xai.errors import DataError
from boneage_xai.files import read_json
from boneage_xai.regions.boxes import LocatedRegion
from boneage_xai.regions.label_maps import NAMES_FILE, read_region_map
from boneage_xai.regions.locator_network import WRIST
from boneage_xai.types import LabelImage, RegionMap

_FINGER = re.compile(r"^(dip|pip|mcp)[\s_-]*([1-5])?$", re.IGNORECASE)
_JOINTS = {"dip": DIP, "pip": PIP, "mcp": MCP}
_HIGHEST_LABEL = 255


@dataclass(frozen=True, eq=False)
class Shape:
    """One region as drawn.

    Args:
        name: region; names of the anatomy whatever their case, others as they are.
        finger: 1 to 5 where the name of a joint ends in it.
        corners: (n, 2) x and y in shares of the image's width and height.
    """

    name: str
    finger: int | None
    corners: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class UserRegions:
    """What a user drew for one case.

    Args:
        source: the file.
        shapes: boxes and polygons, in the order of drawing; empty for a mask.
        mask: label image, None for shapes.
    """

    source: Path
    shapes: tuple[Shape, ...] = ()
    mask: RegionMap | None = None


def read_user_regions(folder: Path, case_ids: Sequence[str]) -> dict[str, UserRegions]:
    """Read the regions that users drew for some cases.

    Args:
        folder: holds them, as said above.
        case_ids: the cases; files of others are passed over.

    Returns:
        Case id to its regions; cases without a file are left out.

    Raises:
        DataError: no such folder, nothing for any case, two files for one case, or a file that
            cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of boxes or masks, found none")
    found: dict[str, UserRegions] = {}

    def add(case_id: str, regions: UserRegions) -> None:
        if case_id in found:
            raise DataError(
                f"{regions.source}: expected one file of regions for case {case_id}, "
                f"found {found[case_id].source} as well"
            )
        found[case_id] = regions

    wanted = set(case_ids)
    for file in sorted(folder.iterdir()):
        suffix, case_id = file.suffix.lower(), file.stem
        if suffix == ".png" and case_id in wanted and (folder / NAMES_FILE).is_file():
            add(case_id, UserRegions(file, mask=read_region_map(file)))
        elif suffix == ".xml" and case_id in wanted:
            add(case_id, UserRegions(file, read_voc(file)))
        elif suffix == ".json" and file.name != NAMES_FILE:
            content = read_json(file)
            if isinstance(content, Mapping) and "annotations" in content:
                for name, shapes in read_coco(file).items():
                    if name in wanted:
                        add(name, UserRegions(file, shapes))
            elif case_id in wanted:
                add(case_id, UserRegions(file, read_labelme(file)))
    if not found:
        raise DataError(
            f"{folder}: expected label images with {NAMES_FILE}, Pascal VOC, LabelMe or COCO "
            f"files named after the cases, found none for any of {len(wanted)} cases"
        )
    return found


def read_voc(file: Path) -> tuple[Shape, ...]:
    """Read the boxes of a Pascal VOC file.

    Raises:
        DataError: not such a file, or a box outside its image.
    """
    try:
        text = file.read_text(encoding="utf-8")
        # Entities are of no use here, and can be made to fill the memory.
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise DataError(f"{file}: expected Pascal VOC without a DOCTYPE, found one")
        # Without a DOCTYPE it declares no entities.
        root = ET.fromstring(text)  # nosec B314
        size = _number(root, "size/width"), _number(root, "size/height")
        shapes = []
        for item in root.iter("object"):
            corners = [_number(item, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
            name = (item.findtext("name") or "").strip()
            shapes.append(_box(file, name, corners, size))
    except (OSError, UnicodeDecodeError, ET.ParseError, ValueError) as error:
        raise DataError(f"{file}: expected a Pascal VOC file, found {error}") from error
    return tuple(shapes)


def read_labelme(file: Path) -> tuple[Shape, ...]:
    """Read the polygons and rectangles of a LabelMe file.

    Raises:
        DataError: not such a file, another kind of shape, or one outside its image.
    """
    content = read_json(file)
    try:
        size = float(content["imageWidth"]), float(content["imageHeight"])
        shapes = []
        for item in content["shapes"]:
            kind = item.get("shape_type", "polygon")
            points = np.array(item["points"], dtype=np.float64).reshape(-1, 2)
            if kind == "rectangle" and len(points) == 2:
                low, high = points.min(axis=0), points.max(axis=0)
                shapes.append(_box(file, item["label"], [*low, *high], size))
            elif kind == "polygon" and len(points) >= 3:
                shapes.append(_shape(file, item["label"], points, size))
            else:
                raise ValueError(f"a {kind} of {len(points)} points")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{file}: expected a LabelMe file of polygons and rectangles, found {error!s}"
        ) from error
    return tuple(shapes)


def read_coco(file: Path) -> dict[str, tuple[Shape, ...]]:
    """Read the boxes and polygons of a COCO file.

    Returns:
        File name of an image without suffix to its shapes.

    Raises:
        DataError: not such a file, a run-length mask, or a shape outside its image.
    """
    content = read_json(file)
    shapes: dict[str, list[Shape]] = {}
    try:
        names = {item["id"]: item["name"] for item in content["categories"]}
        images = {item["id"]: item for item in content["images"]}
        _refuse_twins(file, {str(item["file_name"]) for item in images.values()})
        for item in content["annotations"]:
            image = images[item["image_id"]]
            size = float(image["width"]), float(image["height"])
            target = shapes.setdefault(Path(image["file_name"]).stem, [])
            name, outlines = names[item["category_id"]], item.get("segmentation")
            if isinstance(outlines, Mapping):
                raise ValueError("a run-length mask; polygons and boxes are read")
            if outlines:
                for outline in outlines:
                    points = np.array(outline, dtype=np.float64).reshape(-1, 2)
                    target.append(_shape(file, name, points, size))
            else:
                x, y, width, height = (float(value) for value in item["bbox"])
                target.append(_box(file, name, [x, y, x + width, y + height], size))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{file}: expected a COCO file, found {error!s}") from error
    return {name: tuple(found) for name, found in shapes.items()}


def _refuse_twins(file: Path, names: Iterable[str]) -> None:
    """Refuse two pictures that would be one case."""
    by_stem: dict[str, str] = {}
    for name in sorted(names):
        other = by_stem.setdefault(Path(name).stem, name)
        if other != name:
            raise DataError(
                f"{file}: expected one image for case {Path(name).stem}, found {other} and {name}"
            )


def region_names(regions: Mapping[str, UserRegions]) -> dict[int, str]:
    """Return label values for all regions of a cohort: the anatomy's, then users' own by name.

    Raises:
        DataError: more regions than labels.
    """
    own = {shape.name for one in regions.values() for shape in one.shapes}
    own |= {name for one in regions.values() if one.mask for name in one.mask.names.values()}
    names = {value: name for name, value in REGION_LABELS.items()}
    for name in sorted(own - set(REGION_LABELS)):
        names[len(names)] = name
    if len(names) > _HIGHEST_LABEL + 1:
        raise DataError(
            f"regions: expected at most {_HIGHEST_LABEL} names over all cases, found {len(names)}"
        )
    return names


def draw_regions(
    regions: UserRegions, shape: tuple[int, int], names: Mapping[int, str]
) -> tuple[tuple[LocatedRegion, ...], RegionMap]:
    """Bring a user's regions to the grid of the radiograph.

    A shape has the pixels whose centres lie inside, one at least. Where shapes overlap, the
    smaller lies on top, so that nothing vanishes under a large one.

    Args:
        regions: of the case.
        shape: (H, W) of the radiograph.
        names: label value to name, from ``region_names``.

    Returns:
        A box per shape, none for a mask, and the labels.

    Raises:
        DataError: a mask of another size.
    """
    values = {name: value for value, name in names.items()}
    if regions.mask is not None:
        if regions.mask.labels.shape != shape:
            raise DataError(
                f"{regions.source}: expected the radiograph's size {shape}, "
                f"found {regions.mask.labels.shape}"
            )
        labels: LabelImage = np.zeros(shape, dtype=np.uint8)
        for value, name in regions.mask.names.items():
            labels[regions.mask.labels == value] = values[name]
        return (), RegionMap(labels, dict(names))
    height, width = shape
    drawn = [(one, one.corners * (width, height)) for one in regions.shapes]
    boxes, canvas = [], np.zeros(shape, dtype=np.uint8)
    for one, corners in sorted(drawn, key=lambda item: -_extent(item[1])):
        canvas[_pixels_inside(corners, shape)] = values[one.name]
    for one, corners in drawn:
        low, high = corners.min(axis=0), corners.max(axis=0)
        region = WRIST if one.name == CARPALS else one.name
        x, y = (float(value) for value in (low + high) / 2)
        wide, tall = (float(value) for value in high - low)
        boxes.append(LocatedRegion(region, one.finger, x, y, wide, tall, 1.0))
    return tuple(boxes), RegionMap(canvas, dict(names))


def _pixels_inside(
    corners: npt.NDArray[np.float64], shape: tuple[int, int]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return rows and columns of the pixels whose centres lie inside a polygon."""
    fill: Any = polygon
    rows, columns = fill(corners[:, 1] - 0.5, corners[:, 0] - 0.5, shape)
    if not len(rows):
        # It lies between centres: the pixel that holds its middle stands for it.
        middle = np.minimum(corners.mean(axis=0)[::-1].astype(np.intp), np.array(shape) - 1)
        rows, columns = middle[:1], middle[1:]
    return rows, columns


def _extent(corners: npt.NDArray[np.float64]) -> float:
    return float(np.prod(corners.max(axis=0) - corners.min(axis=0)))


def _number(item: ET.Element, path: str) -> float:
    text = item.findtext(path)
    if text is None:
        raise ValueError(f"no {path}")
    return float(text)


def _box(file: Path, name: Any, corners: Sequence[float], size: tuple[float, float]) -> Shape:
    left, top, right, bottom = corners
    if not (left < right and top < bottom):
        raise ValueError(f"a box from {left:g}, {top:g} to {right:g}, {bottom:g}")
    return _shape(
        file,
        name,
        np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.float64),
        size,
    )


def _shape(
    file: Path, name: Any, points: npt.NDArray[np.float64], size: tuple[float, float]
) -> Shape:
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{file}: expected a name for every region, found {name!r}")
    if not (min(size) > 0 and np.isfinite(points).all() and len(points) >= 3):
        raise ValueError(f"an image of {size[0]:g} by {size[1]:g} or a shape without extent")
    shares = points / size
    if (shares < -0.01).any() or (shares > 1.01).any():
        raise DataError(f"{file}: expected {name} inside its image, found it beyond the edge")
    region, finger = canonical_name(name)
    if region == BACKGROUND:
        raise DataError(f"{file}: expected regions of the hand, found one called {name!r}")
    return Shape(region, finger, np.clip(shares, 0, 1))


def canonical_name(name: str) -> tuple[str, int | None]:
    """Return region and finger of a name: ``dip 3`` is DIP of finger 3, ``Wrist`` the carpals."""
    plain = name.strip()
    if joint := _FINGER.match(plain):
        return _JOINTS[joint[1].lower()], int(joint[2]) if joint[2] else None
    lowered = plain.lower().replace(" ", "_").replace("-", "_")
    if lowered in (WRIST, CARPALS, "carpus"):
        return CARPALS, None
    return (lowered, None) if lowered in REGION_LABELS else (plain, None)
