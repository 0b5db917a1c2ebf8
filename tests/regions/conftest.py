"""Phantoms that the locator has never seen."""

from __future__ import annotations

import pytest

from boneage_xai.phantom.cohorts import draw_case, render_case
from boneage_xai.phantom.rendering import PhantomImage
from boneage_xai.phantom.settings import PhantomSettings


@pytest.fixture(scope="session")
def hands() -> list[PhantomImage]:
    settings = PhantomSettings(size_px=224)
    return [render_case(draw_case(n, seed=907), settings) for n in range(1, 9)]
