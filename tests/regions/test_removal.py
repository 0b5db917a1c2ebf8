from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter
from skimage.restoration import inpaint_biharmonic

from boneage_xai.errors import ConfigError, DataError
from boneage_xai.regions import removal
from boneage_xai.regions.removal import FILL_NAMES, feather, feather_px, remove_region

Mask = npt.NDArray[np.bool_]


def textured(size: int = 64) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (size, size), dtype=np.uint8)


def square(size: int = 64) -> Mask:
    region = np.zeros((size, size), dtype=np.bool_)
    region[20:34, 24:40] = True
    return region


def far_from(region: Mask, pixels_away: int) -> Mask:
    """Return where every region pixel is farther than so many pixels, by a plain loop."""
    y, x = np.indices(region.shape)
    nearest = np.full(region.shape, np.inf)
    for row, column in np.argwhere(region):
        nearest = np.minimum(nearest, np.hypot(y - row, x - column))
    return nearest > pixels_away


@pytest.mark.parametrize("fill", FILL_NAMES)
def test_nothing_beyond_the_feather_changes_and_the_region_does(fill: removal.FillName) -> None:
    # Large enough for a feather of three pixels.
    pixels, region = textured(200), square(200)
    before, mask_before = pixels.copy(), region.copy()
    removed = remove_region(pixels, region, fill)
    assert feather_px(pixels.shape) == 3
    kept = far_from(region, 3)
    np.testing.assert_array_equal(removed[kept], pixels[kept])
    assert (removed[region] != pixels[region]).mean() > 0.9
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(region, mask_before)
    assert removed.dtype == np.uint8


regions_drawn = hnp.arrays(np.bool_, (24, 30)).filter(lambda m: m.any() and not m.all())


@settings(deadline=None, max_examples=40)
@given(region=regions_drawn, grey=st.integers(0, 255), fill=st.sampled_from(FILL_NAMES))
def test_a_constant_picture_stays_constant(region: Mask, grey: int, fill: str) -> None:
    pixels = np.full(region.shape, grey, dtype=np.uint8)
    np.testing.assert_array_equal(remove_region(pixels, region, fill), pixels)


@settings(deadline=None, max_examples=40)
@given(
    region=regions_drawn,
    pixels=hnp.arrays(np.uint8, (24, 30), elements=st.integers(40, 90)),
    fill=st.sampled_from(FILL_NAMES),
)
def test_no_filling_leaves_the_range_of_the_picture(
    region: Mask, pixels: npt.NDArray[np.uint8], fill: str
) -> None:
    removed = remove_region(pixels, region, fill)
    assert pixels.min() <= removed.min()
    assert removed.max() <= pixels.max()


@pytest.mark.parametrize("fill", ["inpaint", "mean"])
def test_what_the_region_shows_is_gone(fill: removal.FillName) -> None:
    one, region = textured(), square()
    other = np.where(region, 255 - one, one).astype(np.uint8)
    first, second = (remove_region(pixels, region, fill) for pixels in (one, other))
    np.testing.assert_array_equal(first[region], second[region])


def test_blur_is_the_gaussian_within_and_blended_without() -> None:
    pixels, region = textured(), square()
    removed = remove_region(pixels, region, "blur")
    blurred = gaussian_filter(pixels.astype(np.float64), 0.05 * 64, mode="nearest")
    np.testing.assert_array_equal(removed[region], np.rint(blurred[region]))
    # The feather is one pixel wide here, and halfway between region and radiograph there.
    edge = 0.5 * (pixels[19, 30] + blurred[19, 30])
    assert abs(float(removed[19, 30]) - edge) <= 0.5


def test_each_piece_gets_the_mean_of_its_own_rim() -> None:
    pixels = np.zeros((40, 40), dtype=np.uint8)
    pixels[:, :20], pixels[:, 20:] = 50, 210
    region = np.zeros((40, 40), dtype=np.bool_)
    region[10:14, 5:9] = region[10:14, 30:34] = True
    pixels[region] = 0
    removed = remove_region(pixels, region, "mean")
    assert set(removed[10:14, 5:9].ravel()) == {50}
    assert set(removed[10:14, 30:34].ravel()) == {210}


def test_a_small_region_is_inpainted_as_scikit_image_does() -> None:
    pixels, region = textured(), square()
    removed = remove_region(pixels, region, "inpaint")
    whole = inpaint_biharmonic(pixels.astype(np.float64), region)
    np.testing.assert_allclose(removed[region], whole[region], atol=1.0)


def test_a_large_region_is_inpainted_coarsely_and_near_the_exact_solution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    y, x = np.indices((96, 96))
    pixels = np.rint(60 + 100 * np.sin(y / 40) ** 2 + x / 2).astype(np.uint8)
    region = (y - 48) ** 2 + (x - 48) ** 2 < 24**2
    exact = remove_region(pixels, region, "inpaint").astype(float)
    monkeypatch.setattr(removal, "INPAINTED_PX", 250)
    solved: list[int] = []
    monkeypatch.setattr(
        removal,
        "inpaint_biharmonic",
        lambda grey, hole: solved.append(int(hole.sum())) or inpaint_biharmonic(grey, hole),
    )
    coarse = remove_region(pixels, region, "inpaint").astype(float)
    assert solved == [pytest.approx(region.sum() / 9, rel=0.2)]
    assert np.abs(coarse - exact)[region].mean() < 4
    # What the region hides reaches the coarse grid no more than the fine one.
    hidden = np.where(region, 0, pixels).astype(np.uint8)
    np.testing.assert_array_equal(remove_region(hidden, region, "inpaint")[region], coarse[region])


def test_the_feather_falls_smoothly_and_ends() -> None:
    region = np.zeros((1, 12), dtype=np.bool_)
    region[0, 0] = True
    weights = feather(region, 3)[0]
    np.testing.assert_allclose(weights[:5], [1, 0.853553, 0.5, 0.146447, 0], atol=1e-6)
    assert not weights[4:].any()


def test_impossible_removals_are_refused() -> None:
    pixels = textured()
    with pytest.raises(DataError, match="found 0"):
        remove_region(pixels, np.zeros((64, 64), dtype=np.bool_), "mean")
    with pytest.raises(DataError, match="found 4096"):
        remove_region(pixels, np.ones((64, 64), dtype=np.bool_), "mean")
    with pytest.raises(DataError, match="uint8"):
        remove_region(pixels / 255, square(), "mean")
    with pytest.raises(DataError, match=r"\(40, 40\)"):
        remove_region(pixels, square(40), "mean")
    with pytest.raises(ConfigError, match="blur, inpaint, mean, found noise"):
        remove_region(pixels, square(), "noise")
