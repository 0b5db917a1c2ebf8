from __future__ import annotations

import ast
import io
import threading
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

import boneage_xai.figures as package
from boneage_xai.errors import ReportError
from boneage_xai.figures.style import (
    SEX_COLOURS,
    age_limits,
    figure_bytes,
    fitted_font_size,
    interval_bars,
    month_ticks,
    new_figure,
    signed_colormap,
    signed_text,
    styled,
)

MODULES = sorted(Path(package.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_no_module_uses_pyplot(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        names = [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
        origin = getattr(node, "module", "") or ""
        assert not any("pyplot" in f"{origin}.{name}" for name in names)


def test_style_holds_while_drawing_and_is_gone_after() -> None:
    with mpl.rc_context({"axes.grid": False, "font.size": 23.0}):
        before = dict(mpl.rcParams)
        seen: list[object] = []
        styled(lambda: seen.extend([mpl.rcParams["axes.grid"], mpl.rcParams["font.size"]]))()
        assert seen == [True, 10.0]
        assert dict(mpl.rcParams) == before


def test_style_is_gone_after_an_error() -> None:
    before = dict(mpl.rcParams)

    @styled
    def broken() -> None:
        raise ReportError("no")

    with pytest.raises(ReportError):
        broken()
    assert dict(mpl.rcParams) == before


def test_threads_that_draw_at_once_leave_the_parameters_as_found() -> None:
    before = dict(mpl.rcParams)

    @styled
    def draw() -> None:
        figure = new_figure(1.0)
        figure.add_subplot().plot([0, 1])
        assert mpl.rcParams["axes.grid"] is True

    threads = [threading.Thread(target=lambda: [draw() for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dict(mpl.rcParams) == before


def picture() -> Figure:
    figure = new_figure(2.0)
    figure.add_subplot().plot([0.0, 1.0], [1.0, 0.0])
    return figure


@pytest.mark.parametrize(("file_format", "head"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_same_figure_same_bytes(file_format: str, head: bytes) -> None:
    one, two = (figure_bytes(picture(), file_format, dpi=50) for _ in range(2))  # type: ignore[arg-type]
    assert one.startswith(head)
    assert one == two


@pytest.mark.parametrize(
    ("file_format", "metadata"), [("png", {"Software": None}), ("svg", {"Date": None})]
)
def test_bytes_are_those_that_matplotlib_saves(file_format: str, metadata: dict[str, None]) -> None:
    @styled
    def saved(figure: Figure) -> bytes:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=file_format, dpi=50, metadata=metadata)
        return buffer.getvalue()

    figure = picture()
    canvas, dpi = figure.canvas, figure.dpi
    assert figure_bytes(figure, file_format, dpi=50) == saved(picture())  # type: ignore[arg-type]
    assert (figure.canvas, figure.dpi) == (canvas, dpi)


def test_png_is_report_width_times_resolution() -> None:
    content = figure_bytes(picture(), dpi=100)
    assert int.from_bytes(content[16:20], "big") == 900


def test_signed_colours_are_clear_at_zero_and_symmetric_in_opacity() -> None:
    colours = signed_colormap(strongest_alpha=0.8)
    low, zero, high = (colours(value) for value in (0.0, 0.5, 1.0))
    assert zero[3] == 0.0
    assert low[3] == pytest.approx(0.8)
    assert high[3] == pytest.approx(0.8)
    assert low[2] > low[0], "younger is blue"
    assert high[0] > high[2], "older is orange"
    steps = np.linspace(0.5, 1.0, 40)
    alpha = [colours(step)[3] for step in steps]
    assert alpha == sorted(alpha)
    np.testing.assert_allclose(alpha, [colours(1 - step)[3] for step in steps], atol=0.02)


def test_sex_colours_differ_in_lightness_and_not_by_red_against_green() -> None:
    lightness = {
        sex: np.dot(mpl.colors.to_rgb(colour), [0.2126, 0.7152, 0.0722])
        for sex, colour in SEX_COLOURS.items()
    }
    assert abs(lightness["F"] - lightness["M"]) > 0.15


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0, 220.0], (0.0, 228.0)), ([-5.0, 220.0], (-12.0, 228.0)), ([80, 100], (72.0, 108.0))],
)
def test_age_limits_are_whole_years(values: list[float], expected: tuple[float, float]) -> None:
    assert age_limits(values) == expected


def test_month_ticks_are_whole_years_and_few() -> None:
    assert month_ticks(0, 240) == [24.0 * step for step in range(11)]
    assert month_ticks(-12, 24) == [-12, -6, 0, 6, 12, 18, 24]


def test_long_lines_get_smaller_letters() -> None:
    assert fitted_font_size(["short"], 3.0, 9.5) == 9.5
    assert 6.0 <= fitted_font_size(["x" * 60, "y\ny"], 3.0, 9.5) < 9.5
    assert fitted_font_size(["y" * 40 + "\n" + "y" * 40], 9.0, 99.0) == pytest.approx(27.0)


def test_interval_bars() -> None:
    assert interval_bars({"value": 9.0, "low": 8.0, "high": 11.0}) == (9.0, [[1.0], [2.0]])
    assert interval_bars({"value": 9.0, "low": None, "high": None}) == (9.0, [[0.0], [0.0]])
    with pytest.raises(ReportError):
        interval_bars({"value": None, "low": None, "high": None})


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [(1.5, ".1f", "+1.5"), (-1.5, ".1f", "−1.5"), (-0.04, ".1f", "0.0"), (0.0, ".3g", "0")],
)
def test_signed_numbers_have_a_true_minus_and_zero_no_sign(
    value: float, form: str, text: str
) -> None:
    assert signed_text(value, form) == text
