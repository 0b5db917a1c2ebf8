"""What a radiograph shows or carries besides the hand, as numbers per case.

None of it should know the age or the sex of a child. What a hand itself changes is kept out as
far as that goes: borders are compared with what lies just inside of them, markers are read at
their letters, and the background is read away from the hand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from boneage_xai.analysis.run_analysis import choose_cases
from boneage_xai.anatomy import BACKGROUND, MARKER
from boneage_xai.data.cache import PixelCache
from boneage_xai.data.film_border import content_box
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.errors import DataError
from boneage_xai.predict import Progress
from boneage_xai.regions.label_maps import read_region_map
from boneage_xai.types import Cohort, FloatImage, RegionMap

FloatArray = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

BORDER_SHARE = 0.012
"""Width of the strip taken for a border, in shares of the longer side; 2 pixels at least."""

ID_BINS = 10
"""Ids are ordered and cut into so many equal parts."""

# A hand's unsharp edge and scatter near it belong to the hand, in shares of the longer side.
_HAND_MARGIN = 0.04
_FEWEST_BACKGROUND = 0.02
_LETTERS_PERCENTILE = 95.0

MARKER_COLUMNS = ("present", "grey", "area", "x", "y")
BORDER_COLUMNS = tuple(
    f"{what}_{side}" for what in ("step", "margin") for side in ("top", "bottom", "left", "right")
)
BACKGROUND_COLUMNS = ("median", "spread")
SIZE_COLUMNS = ("height", "width", "log_aspect")


def border_width_px(shape: tuple[int, int]) -> int:
    """Return the width of the strip along each side that is taken for a border."""
    return max(2, round(BORDER_SHARE * max(shape)))


def border_features(pixels: FloatImage) -> FloatArray:
    """Return how the outermost strips differ from the next, and the width of even margins.

    The forearm crosses the lower edge of both strips, so that it cancels in their difference.

    Args:
        pixels: (H, W) in [0, 1].

    Returns:
        (8,) ``BORDER_COLUMNS``: steps in grey, margins in shares of the height or width.
    """
    width = border_width_px((pixels.shape[0], pixels.shape[1]))
    steps = []
    for lines in (pixels, pixels[::-1], pixels.T, pixels.T[::-1]):
        # The scanner blurs the step, so that the line between belongs to neither.
        outer, inner = lines[: width - 1], lines[width + 1 : 2 * width + 1]
        steps.append(float(np.median(outer)) - float(np.median(inner)) if inner.size else 0.0)
    left, top, wide, tall = content_box(pixels)
    height, length = pixels.shape
    margins = [top / height, 1 - (top + tall) / height, left / length, 1 - (left + wide) / length]
    return np.array([*steps, *margins], dtype=np.float64)


def marker_features(pixels: FloatImage, regions: RegionMap) -> FloatArray:
    """Return whether there is a marker, how bright its letters are, its area and its place.

    Args:
        pixels: (H, W) in [0, 1].
        regions: (H, W) labels.

    Returns:
        (5,) ``MARKER_COLUMNS``: 0 or 1, grey, share of the image, and the place of its centre in
        shares of the width and height; all but the first are NaN without a marker.
    """
    mask = region_mask(regions, MARKER)
    if not mask.any():
        return np.array([0.0, np.nan, np.nan, np.nan, np.nan])
    height, width = mask.shape
    y, x = np.nonzero(mask)
    grey = float(np.percentile(pixels[mask], _LETTERS_PERCENTILE))
    return np.array([1.0, grey, mask.mean(), x.mean() / width, y.mean() / height])


def background_features(pixels: FloatImage, regions: RegionMap) -> FloatArray:
    """Return median and interquartile range of the grey away from hand, marker and border.

    Args:
        pixels: (H, W) in [0, 1].
        regions: (H, W) labels.

    Returns:
        (2,) ``BACKGROUND_COLUMNS``, NaN where next to nothing is left.
    """
    mask = open_background(regions)
    if mask.mean() < _FEWEST_BACKGROUND:
        return np.full(2, np.nan)
    low, middle, high = np.percentile(pixels[mask], (25.0, 50.0, 75.0))
    return np.array([middle, high - low])


def region_mask(regions: RegionMap, name: str) -> Mask:
    """Return (H, W) where a region lies, nowhere if the labels do not name it."""
    values = [value for value, called in regions.names.items() if called == name]
    return np.asarray(np.isin(regions.labels, values))


def open_background(regions: RegionMap) -> Mask:
    """Return (H, W) the background away from hand, marker and border."""
    background = region_mask(regions, BACKGROUND)
    height, width = background.shape
    margin = max(1, round(_HAND_MARGIN * max(height, width)))
    away = ndimage.distance_transform_cdt(background, "chessboard") > margin
    edge = 2 * border_width_px((height, width)) + 1
    inner = np.zeros_like(background)
    inner[edge:-edge, edge:-edge] = True
    return np.asarray(away & inner)


def id_features(case_ids: Sequence[str]) -> FloatArray:
    """Return in which part of all ids, put in order, each lies.

    Args:
        case_ids: n ids; numbers within them are ordered as numbers.

    Returns:
        (n, ``ID_BINS``) one 1 a row.
    """
    order = sorted(range(len(case_ids)), key=lambda place: _natural(case_ids[place]))
    part = np.empty(len(case_ids), dtype=np.intp)
    part[order] = np.arange(len(case_ids)) * ID_BINS // max(len(case_ids), 1)
    return np.eye(ID_BINS)[part]


def _natural(case_id: str) -> tuple[tuple[int, int, str], ...]:
    pieces = re.findall(r"\d+|\D+", case_id)
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces)


def size_features(cache: PixelCache, rows: npt.NDArray[np.intp]) -> FloatArray:
    """Return (n, 3) ``SIZE_COLUMNS`` of the radiographs as they were read."""
    height, width = cache.geometry[rows, :2].astype(np.float64).T
    return np.column_stack([height, width, np.log(width / height)])


def features_of(
    cohort: Cohort,
    cache: PixelCache,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> dict[str, FloatArray]:
    """Read all that is not the hand from the radiographs of a cohort.

    Args:
        cohort: n cases, of which some may have label maps.
        cache: holds at least these cases.
        limit: at most so many radiographs are read again for ``border``, ``background`` and
            ``marker``, chosen evenly over sex and age; the others have NaN there.
        progress: called with (radiographs done, radiographs in all).

    Returns:
        ``id``, ``size``, ``intensity``, ``border``, ``background``, ``marker``: (n, k) numbers.

    Raises:
        ConfigError: a limit below 1.
        DataError: a radiograph or label map that cannot be read, or a map of another size.
    """
    ids = [case.case_id for case in cohort]
    rows = cache.rows(ids)
    border = np.full((len(cohort), len(BORDER_COLUMNS)), np.nan)
    background = np.full((len(cohort), len(BACKGROUND_COLUMNS)), np.nan)
    marker = np.full((len(cohort), len(MARKER_COLUMNS)), np.nan)
    place = {case_id: index for index, case_id in enumerate(ids)}
    chosen = choose_cases(cohort, limit)
    for done, case in enumerate(chosen, start=1):
        pixels, at = read_radiograph(case.image).pixels, place[case.case_id]
        border[at] = border_features(pixels)
        if case.region_file is not None:
            regions = read_region_map(case.region_file)
            if regions.labels.shape != pixels.shape:
                raise DataError(
                    f"{case.region_file}: expected the radiograph's size {pixels.shape}, "
                    f"found {regions.labels.shape}"
                )
            marker[at] = marker_features(pixels, regions)
            background[at] = background_features(pixels, regions)
        if progress is not None:
            progress(done, len(chosen))
    return {
        "id": id_features(ids),
        "size": size_features(cache, rows),
        "intensity": cache.intensity[rows].astype(np.float64),
        "border": border,
        "background": background,
        "marker": marker,
    }
