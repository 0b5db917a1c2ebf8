"""Radiographs as the pages show them: with a map over them, beside others, or changed."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import streamlit as st
from matplotlib import colormaps
from PIL import Image

from apps.views.links import plain
from boneage_xai.figures.attribution import SMOOTHING_PX
from boneage_xai.figures.overlay import overlay_pixels
from boneage_xai.types import FloatImage
from reports.wording import layer_name, months

WIDTH_PX = 640
_ACTIVATION_PX = 144
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Grey = npt.NDArray[np.uint8]


def overlay(
    image: Grey, map_months: npt.NDArray[np.float32], limit: float, opacity: float, scale: str
) -> None:
    """Show a radiograph with its signed map and the scale of its colours.

    Args:
        image: (H, W) what the network saw.
        map_months: (H, W) months per pixel.
        limit: end of the scale, months per pixel.
        opacity: of the map, 0 to 1.
        scale: which cases share the scale.
    """
    shown = overlay_pixels(image, map_months, limit, opacity=opacity, size_px=WIDTH_PX)
    _image(shown, WIDTH_PX)
    _colour_bar(limit, opacity, scale)


def radiograph(image: Grey, *, width: int = WIDTH_PX) -> None:
    """Show what the network saw, (H, W), as large as the maps are shown."""
    nothing = np.zeros(image.shape, dtype=np.float32)
    _image(overlay_pixels(image, nothing, 1.0, opacity=0.0, size_px=width), width)


def plain_radiograph(pixels: FloatImage) -> None:
    """Show a radiograph (H, W) in [0, 1] as it was read, thinned to what the page can show."""
    step = max(1, -(-max(pixels.shape) // (2 * WIDTH_PX)))
    shown = np.round(255 * pixels[::step, ::step]).astype(np.uint8)
    _image(shown, WIDTH_PX // 2)


def _colour_bar(limit: float, opacity: float, scale: str) -> None:
    st.image(_bar_png(limit, opacity), width=WIDTH_PX, output_format="PNG")
    exponent = 0 if limit >= 0.1 else 3 * math.floor(math.log10(limit) / 3)
    power = "" if exponent == 0 else f" × 10{str(exponent).translate(_SUPERSCRIPTS)}"
    end = f"{limit / 10**exponent:.3g}"
    with st.container(horizontal=True, horizontal_alignment="distribute", width=WIDTH_PX):
        for words in (f"← younger (−{end})", "0", f"(+{end}) older →"):
            st.caption(words, width="content")
    st.caption(f"Months per pixel{power}, smoothed over {SMOOTHING_PX:g} px; {scale}.")


@st.cache_data(show_spinner=False, max_entries=32)
def _bar_png(limit: float, opacity: float) -> bytes:
    """Draw the scale on the grey of soft tissue: opacity is part of it."""
    grey = np.full((14, WIDTH_PX), 48, dtype=np.uint8)
    ramp = np.tile(np.linspace(-limit, limit, WIDTH_PX, dtype=np.float32), (14, 1))
    return _png(overlay_pixels(grey, ramp, limit, opacity=opacity, smoothing_px=0))


def activations(image: Grey, maps: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Show the activation maps of one radiograph, (h, w) by layer, shallow to deep."""
    shown = {"radiograph": image, **{layer_name(name): _glow(one) for name, one in maps.items()}}
    with st.container(horizontal=True):
        for name, picture in shown.items():
            with st.container(width=_ACTIVATION_PX, gap="small"):
                _image(picture, "stretch")
                st.caption(plain(name))
    st.caption(
        "Mean over the channels of a layer, shallow to deep. Bright: the layer responds there. "
        "Each layer has a scale of its own, for this case. "
        "Activations have no unit of months and say nothing on older or younger."
    )


def _glow(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return an activation map (h, w) as colours, its cells as squares of many pixels."""
    low, high = float(min(values.min(), 0.0)), float(np.percentile(values, 99.8))
    scaled = (values - low) / (high - low if high > low else 1.0)
    colours = np.round(255 * colormaps["magma"](scaled.clip(0, 1))[..., :3]).astype(np.uint8)
    factor = max(1, round(2 * _ACTIVATION_PX / max(values.shape)))
    return np.asarray(colours.repeat(factor, axis=0).repeat(factor, axis=1), dtype=np.uint8)


def _image(pixels: npt.NDArray[np.uint8], width: int | Literal["stretch"]) -> None:
    """Show pixels without loss."""
    st.image(_png(pixels), width=width, output_format="PNG")


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return pixels as PNG, packed fast rather than small."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def neighbour_row(table: pd.DataFrame, pixels: Mapping[str, Grey]) -> None:
    """Show neighbours side by side, those without a picture as text alone.

    Args:
        table: of ``neighbour_table``, one case, the nearest first.
        pixels: (S, S) by neighbour id.
    """
    rows = table.to_dict("records")
    with st.container(horizontal=True):
        for row in rows:
            case_id, age = str(row["neighbour_id"]), row["neighbour_months"]
            known = "age not known" if pd.isna(age) else f"{months(float(age))} months"
            with st.container(border=True, width=144, gap="small"):
                if case_id in pixels:
                    st.image(pixels[case_id], width="stretch", output_format="PNG")
                st.markdown(f"**{plain(known)}**")
                st.caption(f"{plain(case_id)} · distance {row['distance']:.2f}")
    share = f"{table['distance_percentile'].iloc[0]:.0f}%"
    st.caption(
        f"The nearest is farther away than {share} of the training cases of the sex have theirs. "
        "Distances are between features of the network, before the sex is joined to them; ages "
        "are reference readings."
    )
