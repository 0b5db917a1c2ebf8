"""One look for all figures: sizes, colours that colour-blind readers tell apart, export."""

from __future__ import annotations

import functools
import io
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from boneage_xai.errors import ReportError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# A report column is 900 CSS pixels wide, which is 9 inches of 100 pixels.
WIDTH_INCHES = 9.0
PNG_DPI = 200

# Okabe and Ito, Color Universal Design, 2008.
ORANGE, SKY, GREEN, BLUE = "#E69F00", "#56B4E9", "#009E73", "#0072B2"
VERMILLION, PURPLE, BLACK = "#D55E00", "#CC79A7", "#000000"
GREY = "#6B6B6B"
SERIES_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)

SEX_COLOURS = {"F": PURPLE, "M": BLUE}
SEX_MARKERS = {"F": "o", "M": "s"}
SEX_NAMES = {"F": "girls", "M": "boys"}

OLDER_COLOUR, YOUNGER_COLOUR = VERMILLION, BLUE

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "legend.frameon": True,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "#D0D0D0",
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.8,
    # Names of cases, columns and networks may hold dollar signs.
    "text.parse_math": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "boneage_xai",
}

# rc_context swaps a global dictionary; threads that draw at once (a dashboard) must wait.
_STYLE_LOCK = threading.RLock()


def styled(draw: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Wrap a drawing function so that it runs in the house style and leaves rcParams as found."""

    @functools.wraps(draw)
    def drawn(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with _STYLE_LOCK, mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return drawn


@styled
def figure_bytes(
    figure: Figure, file_format: Literal["png", "svg"] = "png", *, dpi: float = PNG_DPI
) -> bytes:
    """Return a figure as the bytes of a PNG or SVG file, the same for the same figure.

    Args:
        figure: what a function of this package returned.
        file_format: ``png`` or ``svg``.
        dpi: pixels per inch of a PNG, and of rasterised parts of an SVG.

    Returns:
        The file's bytes.
    """
    buffer = io.BytesIO()
    canvas: Any
    dpi_before, canvas_before = figure.dpi, figure.canvas
    # Figure.savefig would draw twice, the first time for the layout, which a drawing makes anyway.
    try:
        figure.set_dpi(dpi)
        if file_format == "svg":
            canvas = FigureCanvasSVG(figure)
            canvas.print_svg(buffer, metadata={"Date": None})
        else:
            canvas = FigureCanvasAgg(figure)
            canvas.print_png(buffer, metadata={"Software": None})
    finally:
        figure.set_canvas(canvas_before)
        figure.set_dpi(dpi_before)
    return buffer.getvalue()


def new_figure(height_inches: float, *, width_inches: float = WIDTH_INCHES) -> Figure:
    """Return an empty figure of report width whose parts are laid out without overlap."""
    return Figure(figsize=(width_inches, height_inches), layout="constrained")


def signed_colormap(*, strongest_alpha: float = 0.9) -> LinearSegmentedColormap:
    """Return the colour map for attributions: younger blue, older orange, clear at 0.

    Opacity grows with magnitude (to the power 0.7), so that weak attributions stay visible
    while the radiograph shows through where there are none.

    Args:
        strongest_alpha: opacity at both ends, 0 to 1.

    Returns:
        A map over [-limit, limit] that is symmetric in opacity.
    """
    # An odd number of entries, so that 0 has one of its own and is wholly clear.
    position = np.linspace(-1.0, 1.0, 257)
    strength = np.abs(position)[:, None]
    # Lighter than the sex colours: they lie over black and grey.
    weak = np.where(position[:, None] > 0, to_rgb("#FFB000"), to_rgb("#40D0FF"))
    strong = np.where(position[:, None] > 0, to_rgb("#FF4B00"), to_rgb("#1E6CFF"))
    colours = weak + (strong - weak) * strength
    alpha = strongest_alpha * strength**0.7
    return LinearSegmentedColormap.from_list("signed_months", np.hstack([colours, alpha]), N=257)


def signed_text(value: float, form: str = ".1f") -> str:
    """Return a number with its sign, a true minus, and 0 without one: '+1.5', '−1.5', '0.0'."""
    text = f"{value:+{form}}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def counted_range(counts: Iterable[int], one: str, many: str) -> str:
    """Return how many there are in words: '1 case', '60 cases', '5 to 60 cases'."""
    numbers = sorted({int(count) for count in counts})
    if len(numbers) < 2:
        number = numbers[0] if numbers else 0
        return f"{number:,} {one if number == 1 else many}"
    return f"{numbers[0]:,} to {numbers[-1]:,} {many}"


def month_ticks(axis_low: float, axis_high: float, *, most: int = 12) -> list[float]:
    """Return tick positions in months at whole years, at most ``most`` of them."""
    for step in (6, 12, 24, 36, 48, 60, 120):
        first = np.ceil(axis_low / step) * step
        ticks = np.arange(first, axis_high + 1e-9, step)
        if ticks.size <= most:
            return [float(tick) for tick in ticks]
    return [float(axis_low), float(axis_high)]


def age_axis(axes: Axes, which: Literal["x", "y"], low: float, high: float) -> None:
    """Set limits and ticks of an axis that shows bone age in months."""
    ticks = month_ticks(low, high)
    if which == "x":
        axes.set_xlim(low, high)
        axes.set_xticks(ticks)
    else:
        axes.set_ylim(low, high)
        axes.set_yticks(ticks)


def age_limits(values: Iterable[float]) -> tuple[float, float]:
    """Return axis limits in whole years around values in months, from 0 where that is near."""
    array = np.asarray(list(values), dtype=np.float64)
    smallest = float(array.min())
    low = 0.0 if 0.0 <= smallest <= 36.0 else float(np.floor((smallest - 2.0) / 12.0) * 12.0)
    return low, float(np.ceil((array.max() + 2.0) / 12.0) * 12.0)


def spread_apart(heights: Sequence[float], least: float) -> list[float]:
    """Return heights, falling, moved down to a least distance from one another."""
    spread: list[float] = []
    for height in heights:
        spread.append(min(height, spread[-1] - least) if spread else height)
    return spread


def fitted_font_size(texts: Iterable[str], width_inches: float, largest: float) -> float:
    """Return the font size in points, 6 at least, at which every line of the texts fits."""
    longest = max((len(line) for text in texts for line in text.splitlines()), default=1)
    # A character of this font is 0.6 of its size wide on average, margins included.
    return float(np.clip(width_inches * 72.0 / (0.6 * max(longest, 1)), 6.0, largest))


def interval_bars(estimate: Mapping[str, float | None]) -> tuple[float, list[list[float]]]:
    """Return a value and its error bars as matplotlib's ``xerr`` or ``yerr``; 0 where unknown."""
    value = estimate["value"]
    if value is None:
        raise ReportError("figure: expected an estimate with a value, found none")
    low, high = estimate.get("low"), estimate.get("high")
    # A bootstrap percentile interval may exclude the value itself on a handful of cases.
    below = 0.0 if low is None else max(value - low, 0.0)
    above = 0.0 if high is None else max(high - value, 0.0)
    return value, [[below], [above]]


def draw_radiograph(axes: Axes, image: npt.NDArray[Any]) -> None:
    """Draw a radiograph in grey: integers from 0 to 255, floats from 0 to 1."""
    brightest = 255.0 if np.issubdtype(image.dtype, np.integer) else 1.0
    axes.imshow(image, cmap="gray", vmin=0.0, vmax=brightest, interpolation="bilinear")
    axes.set_axis_off()
