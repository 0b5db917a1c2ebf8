from __future__ import annotations

import pytest

from boneage_xai.phantom.cohorts import draw_case, render_case
from boneage_xai.phantom.landmarks import place_hand
from boneage_xai.phantom.settings import PhantomSettings, Side


@pytest.mark.parametrize("side", ["left", "right"])
def test_landmarks_are_those_of_the_drawing(side: Side) -> None:
    settings = PhantomSettings(size_px=96, side=side)
    for number in (1, 2, 3):
        case = draw_case(number, seed=3)
        image = render_case(case, settings)
        placed = place_hand(case.hand, settings, case.seed)
        assert placed.boxes == image.boxes
        assert (placed.height_px, placed.width_px) == image.pixels.shape
        centres = {(box.region, box.finger): (box.x_px, box.y_px) for box in placed.boxes}
        for finger, (x, y) in placed.tips_px.items():
            # The tip is the end of the finger: beyond its outermost joint, and in the image.
            joint = centres[("DIP" if finger > 1 else "PIP"), finger]
            knuckle = centres["MCP", finger]
            ahead = (joint[0] - knuckle[0], joint[1] - knuckle[1])
            assert (x - joint[0]) * ahead[0] + (y - joint[1]) * ahead[1] > 0
            assert 0 < x < placed.width_px
            assert 0 < y < placed.height_px
