from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from boneage_xai.analysis.region_occlusion import OcclusionExample
from boneage_xai.errors import ReportError
from boneage_xai.figures.occlusion import occlusion_bars, removal_examples
from boneage_xai.figures.style import figure_bytes
from boneage_xai.regions.removable import control_of


def summary() -> pd.DataFrame:
    rows = []
    for fill, scale in (("inpaint", 1.0), ("mean", 2.0)):
        for region, kind, value in (
            ("radius $a$", "region", 3.0),
            ("MCP", "region", -8.0),
            ("background", "region", 90.0),
            (control_of("MCP"), "control", 1.0),
        ):
            row = {"fill": fill, "region": region, "kind": kind, "n": 5}
            for name, size in (("delta", scale * value), ("absolute_delta", abs(scale * value))):
                row |= {f"{name}_months": size, f"{name}_low": size - 1, f"{name}_high": size + 1}
            rows.append(row)
    return pd.DataFrame(rows)


def test_regions_of_bone_are_ordered_and_stand_beside_the_attribution() -> None:
    attribution = pd.DataFrame(
        {
            "region": ["background", "MCP", "radius $a$"],
            "absolute_months": [50.0, 7.0, 2.0],
            "absolute_low_months": [40.0, 6.0, 1.0],
            "absolute_high_months": [60.0, 8.0, 3.0],
        }
    )
    figure = occlusion_bars(summary(), attribution, "Gradient")
    far, way, maps = figure.axes
    assert [label.get_text() for label in far.get_yticklabels()] == ["MCP", "radius $a$"]
    assert [bar.get_width() for bar in maps.patches] == [7.0, 2.0]
    drawn = [tuple(line.get_xdata()) for line in way.lines]
    assert (-8.0, 3.0) in drawn
    assert (-16.0, 6.0) in drawn
    controls = [tuple(line.get_xdata()) for line in far.lines if line.get_marker() == "|"]
    assert any(values[0] == 1.0 and np.isnan(values[1]) for values in controls)
    assert figure_bytes(figure)
    assert len(occlusion_bars(summary()).axes) == 2


@pytest.mark.parametrize(
    "table", [summary().iloc[:0], pd.concat([summary(), summary()]), summary().iloc[2:3]]
)
def test_tables_that_are_no_summary_are_refused(table: pd.DataFrame) -> None:
    with pytest.raises(ReportError, match="one row per filling"):
        occlusion_bars(table)


def test_examples_show_every_removal_with_what_it_does() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((2, 20, 30), dtype=np.bool_)
    masks[:, 5:9, 0:9] = True
    example = OcclusionExample(
        "7",
        rng.integers(0, 256, (20, 30), dtype=np.uint8),
        ("MCP", "whole_hand"),
        masks,
        ("blur", "mean"),
        rng.integers(0, 256, (2, 2, 20, 30), dtype=np.uint8),
        np.array([[-1.25, 2.0], [30.0, -40.0]]),
    )
    figure = removal_examples(example)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:3] == ["MCP", "blurred: −1.2 months", "mean of the rim: +2.0 months"]
    assert titles[3] == "whole hand"
    shown = figure.axes[4].images[0].get_array()
    np.testing.assert_array_equal(shown, example.pictures[1, 0])
    assert figure_bytes(figure)
