"""Finding the film border: margins that hold no exposure, such as white strips and filler.

Scans of films and exported plates carry white strips along an edge, a white sheet larger than the
film, or filler of one grey level. Each drags the percentile stretch and shrinks the hand. Only
whole rows and columns at the edges are taken, so a tilted frame stays, and dark air around a hand
stays unless it is of one level.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from boneage_xai.types import FloatImage

# Chosen by eye on scanned and digital radiographs; bone rarely reaches WHITE, air is never FLAT.
_WHITE = 0.95
_WHITE_SHARE = 0.5
_FLAT_SD = 0.5 / 255
_FLAT_LEVEL = 2 / 255
# Unexposed film is grey and grainy, so it must also end in a step, which air around a hand does
# not: where air meets the fingertips most of the row is still air.
_GREY_LEVEL = 0.03
_GREY_SHARE = 0.9
_GREY_DRIFT = 0.1
_BEYOND_STEP_SHARE = 0.6
_SAMPLES_PER_LINE = 512
_SMALLEST_SHARE = 0.3
_EDGE_SHARE = 0.004


def content_box(pixels: FloatImage) -> tuple[int, int, int, int]:
    """Return the part of a film inside its uniform or white margins.

    Args:
        pixels: (H, W) float32 in [0, 1].

    Returns:
        Left, top, width and height in pixels; the whole image when nothing is certain, which
        includes margins that would leave under 30 % of the height or width.
    """
    height, width = pixels.shape
    top, bottom, left, right = 0, height, 0, width
    while True:
        rows = pixels[top:bottom, left:right]
        before, after = _margins(rows)
        top, bottom = top + before, bottom - after
        columns = pixels[top:bottom, left:right].T
        start, end = _margins(columns)
        left, right = left + start, right - end
        if bottom - top < _SMALLEST_SHARE * height or right - left < _SMALLEST_SHARE * width:
            return 0, 0, width, height
        if not before + after + start + end:
            return left, top, right - left, bottom - top


def _margins(lines: FloatImage) -> tuple[int, int]:
    """Return how many lines belong to a margin at the beginning and at the end."""
    if not lines.size:
        return 0, 0
    sample = lines[:, :: max(1, lines.shape[1] // _SAMPLES_PER_LINE)]
    white = (sample >= _WHITE).mean(axis=1) >= _WHITE_SHARE
    mean, flat = sample.mean(axis=1), sample.std(axis=1) <= _FLAT_SD
    # The scanner blurs the step from margin to film over a few pixels.
    blur = int(np.ceil(_EDGE_SHARE * len(lines)))

    def run(order: slice) -> int:
        level = mean[order][0]
        margin = white[order] | (flat[order] & (np.abs(mean[order] - level) <= _FLAT_LEVEL))
        length = max(_leading(margin), _grey_run(sample[order], blur))
        return min(length + blur, len(lines)) if length else 0

    first, last = run(slice(None)), run(slice(None, None, -1))
    return (first, last) if first + last <= len(lines) else (len(lines), 0)


def _grey_run(lines: FloatImage, blur: int) -> int:
    """Return the length of a grainy grey margin at the beginning that ends in a step, or 0."""
    level = np.median(lines, axis=1)
    own_share = (np.abs(lines - level[:, None]) <= _GREY_LEVEL).mean(axis=1)
    drift = np.abs(level - level[0])
    length = _leading((own_share >= _GREY_SHARE) & (drift <= _GREY_DRIFT))
    beyond = lines[length + blur : length + 2 * blur + 1]
    if not length or not len(beyond):
        return 0
    still_grey = (np.abs(beyond - level[length - 1]) <= _GREY_LEVEL).mean(axis=1)
    return length if still_grey.max() < _BEYOND_STEP_SHARE else 0


def _leading(flags: npt.NDArray[np.bool_]) -> int:
    return len(flags) if flags.all() else int(np.argmin(flags))
