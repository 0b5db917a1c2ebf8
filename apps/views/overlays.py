"""Maps of the same case laid side by side."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from apps.views import reading, summaries
from apps.views.links import plain
from boneage_xai.figures.overlay import overlay_pixels
from boneage_xai.store import AnalysisFolder

_WIDTH_PX = 480


def show_side_by_side(
    analyses: Sequence[tuple[str, AnalysisFolder]], method: str, case_id: str
) -> None:
    """Show the map that each of several analyses has for one case, each on its own scale.

    Args:
        analyses: a caption for each, and its folder.
        method: of attribution.
        case_id: the case.
    """
    for column, (caption, folder) in zip(
        st.columns(len(analyses), gap="medium"), analyses, strict=True
    ):
        with column:
            row = reading.map_row(folder, case_id)
            if row is None:
                st.caption(f"{plain(caption)}: no map of this case.")
                continue
            limit = summaries.limit_months(folder, method)
            st.image(
                overlay_pixels(
                    reading.case_array(folder, "inputs", row),
                    reading.case_array(folder, method, row),
                    limit,
                    size_px=_WIDTH_PX,
                ),
                width="stretch",
                output_format="PNG",
            )
            st.caption(f"{plain(caption)}; full colour at ±{limit:.2g} months per pixel.")
