from __future__ import annotations

from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from boneage_xai.errors import ReportError
from boneage_xai.figures.attribution import (
    activation_grid,
    attribution_grid,
    attribution_overlay,
    shared_limit_months,
    smoothed_months,
)
from boneage_xai.figures.regions import region_bars, region_outlines
from boneage_xai.figures.style import OLDER_COLOUR, YOUNGER_COLOUR, figure_bytes

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 24, 20), dtype=np.uint8)
MAPS = RNG.normal(0.0, 1e-3, (5, 24, 20)).astype(np.float32) * np.arange(1, 6)[:, None, None]
TITLES = [f"case {index}" for index in range(5)]


def region_table(cases: int) -> pd.DataFrame:
    values = {"carpals": 6.0, "DIP": -8.0, "metacarpal_shafts": 1.0}
    rows = [
        (f"c{case}", "integrated_gradients", region, value + 0.2 * case, abs(value), 0.1)
        for case in range(cases)
        for region, value in values.items()
    ]
    columns = ["case_id", "method", "region", "signed_months", "absolute_months", "area_fraction"]
    return pd.DataFrame(rows, columns=columns)


def labels() -> np.ndarray:
    values = np.zeros((24, 20), dtype=np.uint8)
    values[2:8, 2:8] = 3
    values[15:, 10:] = 7
    values[16:22, 1:6] = 3
    values[12, 3] = 3  # a speck
    return values


ACTIVATIONS = {"stem": RNG.random((5, 12, 10)), "deep.layer": RNG.random((5, 3, 2)) * 40}
FIGURES: dict[str, tuple[Callable[[], Figure], int]] = {
    "grid": (lambda: attribution_grid(IMAGES, MAPS, TITLES), 6),
    "grid_of_one": (lambda: attribution_grid(IMAGES[:1], MAPS[:1], TITLES[:1]), 2),
    "overlay": (lambda: attribution_overlay(IMAGES[0], MAPS[0], "case 0"), 3),
    "nothing_attributed": (lambda: attribution_overlay(IMAGES[0], 0 * MAPS[0], "case 0"), 3),
    "activations": (lambda: activation_grid(IMAGES, ACTIVATIONS, TITLES), 15),
    "bars": (lambda: region_bars(region_table(30)), 1),
    "bars_of_one": (lambda: region_bars(region_table(1)), 1),
    "outlines": (lambda: region_outlines(IMAGES[0], labels(), {3: "DIP", 7: "radius"}), 1),
    "no_regions": (lambda: region_outlines(IMAGES[0], 0 * labels(), {}), 1),
}


@pytest.mark.parametrize("name", list(FIGURES))
def test_every_figure_has_its_axes_and_leaves_no_trace(name: str) -> None:
    draw, axes_count = FIGURES[name]
    before = dict(mpl.rcParams)
    figure = draw()
    assert dict(mpl.rcParams) == before
    assert len(figure.axes) == axes_count
    assert figure.get_size_inches()[0] <= 9.0
    assert figure_bytes(figure, dpi=40).startswith(b"\x89PNG")


def scales(figure: Figure) -> set[tuple[float, float]]:
    return {axes.images[1].get_clim() for axes in figure.axes if len(axes.images) == 2}


def test_all_cases_share_one_symmetric_scale_and_it_is_in_months() -> None:
    figure = attribution_grid(IMAGES, MAPS, TITLES, smoothing_px=0.0)
    ((low, high),) = scales(figure)
    assert low == -high
    assert high == pytest.approx(np.percentile(np.abs(MAPS), 99.8))
    label = figure.axes[-1].get_xlabel()
    assert "months per pixel" in label
    assert "10⁻³ months per pixel" in label
    assert "one scale for all cases" in label
    assert "smoothed" not in label


def test_a_given_limit_is_used_and_smoothing_is_stated() -> None:
    figure = attribution_overlay(IMAGES[0], MAPS[0], "case 0", limit_months=0.25, smoothing_px=2.0)
    assert scales(figure) == {(-0.25, 0.25)}
    label = figure.axes[-1].get_xlabel()
    assert "smoothed over 2 px" in label
    assert "(months per pixel" in label


def test_overlay_shows_the_plain_radiograph_first_and_the_map_second() -> None:
    plain, overlaid, _ = attribution_overlay(IMAGES[0], MAPS[0], "t", smoothing_px=0.0).axes
    np.testing.assert_array_equal(plain.images[0].get_array(), IMAGES[0])
    assert not np.any(plain.images[1].get_array())
    np.testing.assert_allclose(overlaid.images[1].get_array(), MAPS[0])
    rgba = plain.images[1].to_rgba(np.zeros((2, 2)))
    assert np.all(rgba[..., 3] == 0.0)


def test_dollar_signs_are_no_mathematics() -> None:
    figure = attribution_overlay(IMAGES[0], MAPS[0], r"$\frac$ of a case")
    assert figure_bytes(figure, dpi=40)


def test_smoothing_keeps_the_total_and_the_input() -> None:
    maps = np.zeros((2, 40, 40))
    maps[0, 20, 20], maps[1, 20, 20] = 3.0, -1.0
    before = maps.copy()
    smooth = smoothed_months(maps, 2.0)
    np.testing.assert_array_equal(maps, before)
    np.testing.assert_allclose(smooth.sum(axis=(1, 2)), [3.0, -1.0])
    assert smooth[0].min() >= 0.0
    assert smooth[1].max() <= 0.0
    assert smooth[0].max() < 0.2


def test_limit_is_over_all_maps_and_never_zero() -> None:
    assert shared_limit_months(np.array([[[0.0, 2.0]], [[-5.0, 1.0]]])) == pytest.approx(
        np.percentile([0.0, 2.0, 5.0, 1.0], 99.8)
    )
    assert shared_limit_months(np.zeros((1, 4, 4))) == 1.0
    one_pixel = np.zeros((1, 100, 100))
    one_pixel[0, 0, 0] = -0.5
    assert shared_limit_months(one_pixel) == 0.5


def test_activations_have_one_scale_per_layer_and_their_size() -> None:
    figure = activation_grid(IMAGES, ACTIVATIONS, TITLES)
    grid = np.array(figure.axes).reshape(5, 3)
    for column, name in enumerate(ACTIVATIONS, start=1):
        limits = {axes.images[0].get_clim() for axes in grid[:, column]}
        assert len(limits) == 1
        assert grid[0, column].get_title().startswith(name)
        for row in range(5):
            np.testing.assert_array_equal(
                grid[row, column].images[0].get_array(), ACTIVATIONS[name][row]
            )
    assert "3×2" in grid[0, 2].get_title()


@pytest.mark.parametrize("cases", [1, 30])
def test_region_bars_are_signed_ordered_and_counted(cases: int) -> None:
    axes = region_bars(region_table(cases)).axes[0]
    means = {"DIP": -8.0, "carpals": 6.0, "metacarpal_shafts": 1.0}
    means = {name: value + 0.2 * (cases - 1) / 2 for name, value in means.items()}
    order = sorted(means, key=lambda name: -abs(means[name]))
    assert [t.get_text() for t in axes.get_yticklabels()] == [n.replace("_", " ") for n in order]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([means[n] for n in order])
    colours = [to_hex(bar.get_facecolor()) for bar in axes.patches]
    assert colours == [(OLDER_COLOUR if means[n] > 0 else YOUNGER_COLOUR).lower() for n in order]
    assert "months" in axes.get_xlabel()
    assert ("interval" in axes.get_xlabel()) is (cases > 1)
    assert bool(axes.containers[1:]) is (cases > 1)
    assert f"n = {cases} case" in axes.get_title(loc="left")


def test_outlines_name_the_regions_present_and_close_at_the_border() -> None:
    names = {0: "background", 3: "DIP", 5: "ulna", 7: "distal_radius"}
    figure = region_outlines(IMAGES[0], labels(), names)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["1  DIP", "2  distal radius"]
    for outlined in figure.axes[0].collections:
        for path in outlined.get_paths():
            loops = path.to_polygons(closed_only=False)
            assert loops
            for loop in loops:
                np.testing.assert_allclose(loop[0], loop[-1])
    numbers = [(text.get_text(), text.get_position()) for text in figure.axes[0].texts]
    assert [number for number, _ in numbers] == ["1", "1", "2"]
    for (_, (x, y)), value in zip(numbers, (3, 3, 7), strict=True):
        assert (labels()[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] == value).all()


@pytest.mark.parametrize(
    "draw",
    [
        lambda: attribution_grid(IMAGES, MAPS[:2], TITLES),
        lambda: attribution_grid(IMAGES, MAPS, TITLES[:2]),
        lambda: attribution_grid(IMAGES[:0], MAPS[:0], []),
        lambda: attribution_overlay(IMAGES[0], MAPS[0, :5], "case"),
        lambda: activation_grid(IMAGES, {}, TITLES),
        lambda: activation_grid(IMAGES, {"stem": ACTIVATIONS["stem"][:2]}, TITLES),
        lambda: region_bars(region_table(2).iloc[:0]),
        lambda: region_bars(pd.concat([region_table(1), region_table(1).assign(method="b")])),
        lambda: region_outlines(IMAGES[0], labels()[:5], {}),
        lambda: region_outlines(IMAGES[0], labels(), {3: "DIP"}),
    ],
)
def test_what_does_not_fit_is_refused(draw: Callable[[], Figure]) -> None:
    with pytest.raises(ReportError, match="expected"):
        draw()
