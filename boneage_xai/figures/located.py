"""A contact sheet of located regions: radiographs with boxes and labels over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from boneage_xai.anatomy import BACKGROUND, SOFT_TISSUE
from boneage_xai.errors import ReportError
from boneage_xai.figures.regions import region_colours
from boneage_xai.figures.style import WIDTH_INCHES, new_figure, styled
from boneage_xai.regions.boxes import LocatedRegion
from boneage_xai.types import FloatImage, RegionMap

_COLUMNS = 4
_OPACITY = 0.45
_LONGEST_PX = 400


@dataclass(frozen=True, eq=False)
class LocatedCase:
    """A radiograph with what was found on it.

    Args:
        case_id: the case.
        pixels: (H, W) in [0, 1].
        labels: (H, W) regions.
        boxes: in pixels.
    """

    case_id: str
    pixels: FloatImage
    labels: RegionMap
    boxes: tuple[LocatedRegion, ...]

    def thinned(self) -> LocatedCase:
        """Return the case with every so many rows and columns, enough to be shown."""
        step = max(1, math.ceil(max(self.pixels.shape) / _LONGEST_PX))
        boxes = tuple(
            LocatedRegion(
                box.region,
                box.finger,
                box.x_px / step,
                box.y_px / step,
                box.width_px / step,
                box.height_px / step,
                box.confidence,
            )
            for box in self.boxes
        )
        labels = RegionMap(self.labels.labels[::step, ::step].copy(), self.labels.names)
        return LocatedCase(self.case_id, self.pixels[::step, ::step].copy(), labels, boxes)


@styled
def located_sheet(cases: Sequence[LocatedCase]) -> Figure:
    """Draw radiographs side by side with the colours of their regions and the boxes of joints.

    Args:
        cases: what to show, at least one.

    Raises:
        ReportError: no case.
    """
    if not cases:
        raise ReportError("figure: expected at least one radiograph, found none")
    columns = min(_COLUMNS, len(cases))
    rows = math.ceil(len(cases) / columns)
    names = sorted({name for case in cases for name in case.labels.names.values()})
    shown = [name for name in names if name not in (BACKGROUND, SOFT_TISSUE)]
    # White would not tint a grey picture.
    tints = [colour for colour in region_colours(2 * len(shown) + 1) if colour != "#FFFFFF"]
    colours = dict(zip(shown, tints, strict=False))
    figure = new_figure(rows * (1.3 * WIDTH_INCHES / columns + 0.2) + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for axes, case in zip(grid.ravel(), cases, strict=False):
        low, high = np.percentile(case.pixels, (1, 99.5))
        grey = np.clip((case.pixels - low) / max(float(high - low), 1e-6), 0, 1)
        picture = np.repeat(grey[..., None], 3, axis=2)
        for value, name in case.labels.names.items():
            if name in colours:
                inside = case.labels.labels == value
                colour = np.array(to_rgb(colours[name]))
                picture[inside] = (1 - _OPACITY) * picture[inside] + _OPACITY * colour
        axes.imshow(picture)
        for box in case.boxes:
            left, top = box.x_px - box.width_px / 2 - 0.5, box.y_px - box.height_px / 2 - 0.5
            axes.add_patch(
                Rectangle(
                    (left, top), box.width_px, box.height_px, fill=False, color="white", lw=0.7
                )
            )
        found = _count(case)
        name = case.case_id if len(case.case_id) <= 16 else f"{case.case_id[:15]}…"
        # A name is text, also with dollar signs.
        axes.set_title(f"{name}: {found}", loc="center", fontsize=8)
    handles = [
        Rectangle((0, 0), 1, 1, facecolor=colour, edgecolor="#444444", label=name.replace("_", " "))
        for name, colour in colours.items()
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8)
    return figure


def _count(case: LocatedCase) -> str:
    # A user's mask has regions and no boxes.
    count = len(case.boxes) or len(np.setdiff1d(np.unique(case.labels.labels), [0]))
    return f"{count} region{'' if count == 1 else 's'}" if count else "nothing found"
