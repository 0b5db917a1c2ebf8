"""What a case can be described by when worst cases are asked what they share.

Everything is measured from the radiograph as it was read or as the network sees it, from its map of
regions, or from tables of the same analysis. Nothing here knows the error of a case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage_xai.analysis.failure_hands import hand_from_grey, hand_from_regions
from boneage_xai.analysis.stages import STAGES, with_stages
from boneage_xai.anatomy import OUTSIDE_HAND
from boneage_xai.data.cache import PixelCache
from boneage_xai.data.preprocess import INTENSITY_NAMES
from boneage_xai.errors import DataError
from boneage_xai.predict import Progress
from boneage_xai.types import RegionMap

Mask = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
HandFrom = Literal["regions", "threshold"]
RegionsOf = Callable[[str], RegionMap | None]


@dataclass(frozen=True)
class Descriptor:
    """A trait of a case.

    Args:
        label: what it is, as figures and tables name it.
        low: what cases with low values are called; of a yes-or-no trait, those without it.
        high: what cases with high values are called; of a yes-or-no trait, those with it.
        binary: whether it is yes (1) or no (0).
        of_child: whether it says who the child is, not what the picture is like.
    """

    label: str
    low: str
    high: str
    binary: bool = False
    of_child: bool = False


AGE, MALE = "age_months", "male"
STAGE_PREFIX, SHARE_PREFIX = "stage_", "share_"

_FIXED: Mapping[str, Descriptor] = MappingProxyType(
    {
        AGE: Descriptor("reference bone age", "younger", "older", of_child=True),
        MALE: Descriptor("boys", "girls", "boys", binary=True, of_child=True),
        "brightness": Descriptor("mean brightness", "dark picture", "bright picture"),
        "contrast": Descriptor("contrast", "low contrast", "high contrast"),
        "sharpness": Descriptor("sharpness", "soft picture", "sharp or noisy picture"),
        "white_share": Descriptor("share of white pixels", "little white", "much white"),
        "black_share": Descriptor("share of black pixels", "little black", "much black"),
        "film_brightness": Descriptor("brightness as read", "dark film", "bright film"),
        "film_contrast": Descriptor(
            "range of grey as read", "few greys in the film", "many greys in the film"
        ),
        "film_side_px": Descriptor("longer side as read", "small file", "large file"),
        "film_aspect": Descriptor("width to height as read", "narrow film", "wide film"),
        "hand_found": Descriptor("hand found", "no hand found", "hand found", binary=True),
        "hand_share": Descriptor(
            "size of the hand in the picture", "small hand in the picture", "hand fills the picture"
        ),
        "hand_tilt_deg": Descriptor("tilt of the hand", "upright hand", "tilted hand"),
        "hand_offset": Descriptor("hand off centre", "centred hand", "hand off centre"),
        "marker": Descriptor("marker found", "no marker found", "marker found", binary=True),
        "unusualness": Descriptor(
            "distance from the training radiographs",
            "like training radiographs",
            "unlike training radiographs",
        ),
    }
)

_BLOCK = 64


def descriptor_of(column: str) -> Descriptor:
    """Return what a column of :func:`describe_cases` means.

    Raises:
        DataError: no such descriptor.
    """
    if column in _FIXED:
        return _FIXED[column]
    if column.startswith(STAGE_PREFIX) and column.removeprefix(STAGE_PREFIX) in STAGES:
        name = STAGES[column.removeprefix(STAGE_PREFIX)].name
        return Descriptor(
            f"stage: {name.lower()}",
            f"not {name.lower()}",
            name.lower(),
            binary=True,
            of_child=True,
        )
    if column.startswith(SHARE_PREFIX):
        region = column.removeprefix(SHARE_PREFIX).replace("_", " ")
        return Descriptor(
            f"attribution on {region}",
            f"little attribution on {region}",
            f"much attribution on {region}",
        )
    raise DataError(f"descriptor {column}: expected one of {', '.join(_FIXED)}, a stage or a share")


def describe_cases(
    cases: pd.DataFrame,
    cache: PixelCache,
    *,
    regions_of: RegionsOf | None = None,
    regions: pd.DataFrame | None = None,
    neighbours: pd.DataFrame | None = None,
    progress: Progress | None = None,
) -> tuple[pd.DataFrame, HandFrom]:
    """Describe every case of a table of predictions.

    Args:
        cases: case_id, sex, reference_months and predicted_months, one row per case.
        cache: prepared pixels of at least these cases.
        regions_of: returns a case's map of regions on the input grid, None where it has none. With
            it hand and marker are read from maps, without it from grey levels.
        regions: ``regions.parquet``, for the shares of the attribution.
        neighbours: ``neighbours.parquet``, for how unlike the training radiographs a case is.
        progress: called with (done, total) cases.

    Returns:
        case_id, then a column per descriptor, NaN where a case has no such value, in the order of
        ``cases``; and where the hand was read from.

    Raises:
        DataError: a case that the cache does not hold, or without sex or age.
    """
    ids = [str(one) for one in cases["case_id"]]
    rows = cache.rows(ids)
    staged = with_stages(cases)
    child = pd.DataFrame(
        {
            AGE: staged["age_months"].to_numpy(dtype=np.float64),
            MALE: (staged["sex"] == "M").to_numpy(dtype=np.float64),
            **{
                f"{STAGE_PREFIX}{one}": (staged["stage"] == one).to_numpy(dtype=np.float64)
                for one in STAGES
            },
        }
    )
    boxes = cache.geometry[rows, 6:10].astype(np.intp)
    hands: list[dict[str, float]] = []
    pictures: list[pd.DataFrame] = []
    for start in range(0, len(ids), _BLOCK):
        block = np.asarray(cache.pixels[rows[start : start + _BLOCK]])
        inside = boxes[start : start + _BLOCK]
        pictures.append(picture_descriptors(block, inside))
        for case_id, pixels, box in zip(ids[start : start + _BLOCK], block, inside, strict=True):
            if regions_of is None:
                hands.append(hand_from_grey(pixels, box))
            else:
                hands.append(hand_from_regions(regions_of(case_id), box))
        if progress is not None:
            progress(min(start + _BLOCK, len(ids)), len(ids))
    hand = pd.DataFrame(hands)
    if regions_of is not None and not (hand["marker"] == 1).any():
        # Located regions know no marker, so that its absence from every map says nothing.
        hand["marker"] = np.nan
    parts = [child, pd.concat(pictures, ignore_index=True), film_descriptors(cache, rows), hand]
    table = pd.concat(parts, axis=1)
    table.insert(0, "case_id", ids)
    if neighbours is not None:
        first = neighbours[neighbours["rank"] == 1].drop_duplicates("case_id")
        percentile = first.set_index(first["case_id"].astype(str))["distance_percentile"]
        table["unusualness"] = percentile.reindex(ids).to_numpy(dtype=np.float64)
    if regions is not None and len(regions):
        table = table.join(region_shares(regions), on="case_id")
    return table, "threshold" if regions_of is None else "regions"


def picture_descriptors(
    pixels: npt.NDArray[np.uint8], content_px: npt.NDArray[np.integer]
) -> pd.DataFrame:
    """Measure prepared pictures inside their content; padding does not count.

    Args:
        pixels: (n, S, S) uint8.
        content_px: (n, 4) left, top, width and height of the content.

    Returns:
        Per picture brightness (mean) and contrast (standard deviation) in shares of full scale;
        sharpness, the root mean square of the discrete Laplacian over the contrast, NaN without
        contrast; white_share and black_share, the shares of pixels at either end of the scale.

    Source: the Laplacian as a measure of focus: Pech-Pacheco et al., ICPR 2000; here divided by the
    contrast, so that a faint picture does not count as a soft one.
    """
    inside = _content(pixels.shape, content_px)
    grey = pixels.astype(np.float64) / 255.0
    n = inside.sum(axis=(1, 2))
    mean = (grey * inside).sum(axis=(1, 2)) / n
    deviation = (grey - mean[:, None, None]) * inside
    contrast = np.sqrt(np.square(deviation).sum(axis=(1, 2)) / n)
    middle = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    # Where all four neighbours are content, the step to the padding does not count as an edge.
    core = inside[:, 1:-1, 1:-1] & inside[:, :-2, 1:-1] & inside[:, 2:, 1:-1]
    core &= inside[:, 1:-1, :-2] & inside[:, 1:-1, 2:]
    laplacian = np.square(around - 4 * middle) * core
    with np.errstate(divide="ignore", invalid="ignore"):
        rms = np.sqrt(laplacian.sum(axis=(1, 2)) / core.sum(axis=(1, 2)))
        sharpness = np.where(contrast > 0, rms / contrast, np.nan)
    return pd.DataFrame(
        {
            "brightness": mean,
            "contrast": contrast,
            "sharpness": sharpness,
            "white_share": ((pixels == 255) & inside).sum(axis=(1, 2)) / n,
            "black_share": ((pixels == 0) & inside).sum(axis=(1, 2)) / n,
        }
    )


def film_descriptors(cache: PixelCache, rows: npt.NDArray[np.intp]) -> pd.DataFrame:
    """Return brightness, range of grey (1st to 99th percentile), size and shape as read."""
    known = {name: cache.intensity[rows, at] for at, name in enumerate(INTENSITY_NAMES)}
    height, width = cache.geometry[rows, :2].astype(np.float64).T
    return pd.DataFrame(
        {
            "film_brightness": known["mean"].astype(np.float64),
            "film_contrast": (known["p99"] - known["p1"]).astype(np.float64),
            "film_side_px": np.maximum(height, width),
            "film_aspect": width / height,
        }
    )


def region_shares(regions: pd.DataFrame) -> pd.DataFrame:
    """Return what share of the attribution inside the hand lies on each region.

    Args:
        regions: ``regions.parquet``; Integrated Gradients is taken where it is among the methods.

    Returns:
        Indexed by case_id, a column ``share_REGION`` each; cases without a hand are left out.
    """
    methods = list(dict.fromkeys(regions["method"]))
    method = "integrated_gradients" if "integrated_gradients" in methods else methods[0]
    ours = regions[(regions["method"] == method) & ~regions["region"].isin(OUTSIDE_HAND)]
    wide = ours.assign(case_id=ours["case_id"].astype(str)).pivot(
        index="case_id", columns="region", values="absolute_months"
    )
    total = wide.sum(axis=1)
    shares = wide[total > 0].fillna(0.0).div(total[total > 0], axis=0)
    return shares.rename(columns=lambda region: f"{SHARE_PREFIX}{region}")


def _content(shape: tuple[int, ...], content_px: npt.NDArray[np.integer]) -> Mask:
    left, top, width, height = (content_px[:, at, None] for at in range(4))
    y, x = np.arange(shape[1]), np.arange(shape[2])
    rows, columns = (y >= top) & (y < top + height), (x >= left) & (x < left + width)
    return np.asarray(rows[:, :, None] & columns[:, None, :])
