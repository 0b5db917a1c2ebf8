from __future__ import annotations

import numpy as np
import pytest

from boneage_xai.anatomy import REGION_LABELS, REGION_NAMES
from boneage_xai.errors import ReportError
from boneage_xai.figures.located import LocatedCase, located_sheet
from boneage_xai.regions.boxes import LocatedRegion
from boneage_xai.types import RegionMap


def case(height: int = 60, width: int = 40) -> LocatedCase:
    labels = np.zeros((height, width), dtype=np.uint8)
    labels[10:20, 10:20] = REGION_LABELS["radius"]
    pixels = np.linspace(0, 1, height * width, dtype=np.float32).reshape(height, width)
    box = LocatedRegion("DIP", 2, 15.0, 12.0, 8.0, 6.0, 0.9)
    return LocatedCase("7", pixels, RegionMap(labels, dict(REGION_NAMES)), (box,))


def test_boxes_and_colours_lie_where_the_regions_do() -> None:
    one = case()
    empty = RegionMap(np.zeros_like(one.labels.labels), one.labels.names)
    figure = located_sheet([one, LocatedCase("8", one.pixels, empty, ())])
    first, second = figure.axes[:2]
    (patch,) = first.patches
    assert (patch.get_x(), patch.get_y()) == (15 - 4 - 0.5, 12 - 3 - 0.5)
    assert (patch.get_width(), patch.get_height()) == (8, 6)
    picture = first.images[0].get_array()
    assert np.ptp(picture[15, 15]) > 0.05, "the region has a colour"
    assert np.ptp(picture[40, 30]) == 0, "the rest is grey"
    assert first.get_title() == "7: 1 region"
    assert second.get_title() == "8: nothing found"
    assert not second.patches


def test_thinning_keeps_boxes_on_their_pixels() -> None:
    thin = case(1200, 900).thinned()
    assert max(thin.pixels.shape) == 400
    assert thin.labels.labels.shape == thin.pixels.shape
    assert thin.boxes[0].x_px == pytest.approx(5.0)
    assert thin.boxes[0].height_px == pytest.approx(2.0)


def test_a_sheet_needs_a_radiograph() -> None:
    with pytest.raises(ReportError, match="found none"):
        located_sheet([])
