"""Signed maps over the radiographs at their own size, as PNG, on one scale per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from boneage_xai.export.cases import ExportedCase
from boneage_xai.figures.attribution import SMOOTHING_PX, smoothed_months
from boneage_xai.figures.overlay import analysis_limit_months, laid_over
from boneage_xai.store import AnalysisFolder
from boneage_xai.types import Case, FloatImage

_CONTRAST_PERCENTILES = (0.5, 99.5)


class OverlayWriter:
    """Write each case's maps over its radiograph.

    The scale of a method ends where it does in the report and the dashboard, and is the same for
    all cases of the analysis.

    Args:
        folder: the analysis.
        cases: not used by this format.
        methods: those that will be written.
    """

    def __init__(
        self, folder: AnalysisFolder, cases: Sequence[Case], methods: Sequence[str]
    ) -> None:
        maps = folder.maps()
        self._limits_months = (
            {} if maps is None else {name: analysis_limit_months(maps, name) for name in methods}
        )
        self.facts: Mapping[str, Any] = {
            "scale": {
                "limit_months_per_input_pixel": self._limits_months,
                "smoothed_over_input_px": SMOOTHING_PX,
                "colours": "blue younger, orange older, clear at 0",
            }
        }

    def __call__(self, exported: ExportedCase, folder: Path, stem: str) -> Mapping[str, str]:
        """Write ``STEM_METHOD.png`` for each method."""
        grey = _stretched(exported.radiograph.pixels)
        files: dict[str, str] = {}
        for method, values in exported.maps.items():
            smoothed = smoothed_months(values[None])[0]
            shown = exported.source_map.map_to_source(smoothed)
            pixels = laid_over(grey, shown, self._limits_months[method])
            files[method] = f"{stem}_{method}.png"
            Image.fromarray(pixels).save(folder / files[method])
        return files


def _stretched(pixels: FloatImage) -> npt.NDArray[np.float32]:
    """Spread the contrast over the whole range, since many radiographs use a part of theirs."""
    low, high = np.percentile(pixels, _CONTRAST_PERCENTILES)
    if high <= low:
        return pixels
    return np.asarray(np.clip((pixels - low) / (high - low), 0, 1), dtype=np.float32)
