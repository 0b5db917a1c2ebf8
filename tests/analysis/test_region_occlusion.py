from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from boneage_xai.analysis.occlusion_summary import (
    preferred_fill,
    shown_above_zero,
    summarise_occlusion,
    with_controls,
)
from boneage_xai.analysis.region_occlusion import COLUMNS, occlude_case, read_example
from boneage_xai.anatomy import SOFT_TISSUE
from boneage_xai.errors import AttributionError, ConfigError, DataError
from boneage_xai.predict import predict_pixels
from boneage_xai.regions.removable import Removable, control_of, removables
from boneage_xai.regions.removal import remove_region
from boneage_xai.types import Case, RegionMap, Sex

SIZE = 40
NAMES = {0: "background", 1: "radius", 2: "soft_tissue"}


class Linear(nn.Module):
    """months = 100 + 20 * is_male + sum(weight * image)."""

    def __init__(self, weight: npt.NDArray[np.float64]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float32))

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        return 100 + 20 * is_male + (image[:, 0] * self.weight).sum(dim=(1, 2))


def block() -> npt.NDArray[np.bool_]:
    mask = np.zeros((SIZE, SIZE), dtype=np.bool_)
    mask[10:14, 10:14] = True
    return mask


def case(reference: float | None = None, sex: Sex = Sex.MALE) -> Case:
    return Case("7", Path("7.png"), sex, bone_age_months=reference)


def test_a_linear_network_loses_what_it_had_from_the_region_exactly() -> None:
    pixels = np.full((SIZE, SIZE), 50, dtype=np.uint8)
    pixels[block()] = 200
    network = Linear(np.where(block(), 255 / 16, 0.0)).train()
    area = Removable("radius", "region", block(), 1.0)
    before = pixels.copy()

    def model(
        images: npt.NDArray[np.uint8], is_male: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float64]:
        return predict_pixels(network, images, is_male)

    # 120 + 200; the rim is 50 everywhere, so that 150 months are lost.
    (row,) = occlude_case(model, case(350.0), pixels, [area], ["mean"])
    assert tuple(row) == COLUMNS
    assert row["predicted_months"] == pytest.approx(320, abs=1e-3)
    assert row["delta_months"] == pytest.approx(-150, abs=1e-3)
    assert row["delta_absolute_error_months"] == pytest.approx(180 - 30, abs=1e-3)
    assert row["area_fraction"] == 16 / SIZE**2
    (row,) = occlude_case(model, case(), pixels, [area], ["mean"])
    assert np.isnan(row["delta_absolute_error_months"])
    np.testing.assert_array_equal(pixels, before)
    assert network.training
    assert network.weight.requires_grad


def test_every_area_and_filling_is_predicted_from_its_own_picture() -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
    labels = np.zeros((SIZE, SIZE), dtype=np.uint8)
    labels[4:36, 4:36], labels[10:14, 10:16] = 2, 1
    weight = rng.normal(size=(SIZE, SIZE))
    areas = removables(RegionMap(labels, NAMES))
    rows = occlude_case(
        lambda images, _: (images / 255.0 * weight).sum(axis=(1, 2)), case(), pixels, areas
    )
    assert len(rows) == 3 * len(areas)
    masks = {area.name: area.mask for area in areas}
    for row in rows:
        removed = remove_region(pixels, masks[row["region"]], row["fill"])
        expected = ((removed / 255.0 - pixels / 255.0) * weight).sum()
        assert row["delta_months"] == pytest.approx(expected, abs=1e-9)


def test_an_answer_that_is_not_finite_is_refused() -> None:
    area = Removable("radius", "region", block(), 1.0)
    pixels = np.zeros((SIZE, SIZE), dtype=np.uint8)
    with pytest.raises(AttributionError, match="case 7: expected 2 finite"):
        occlude_case(
            lambda images, _: np.full(len(images), np.nan), case(), pixels, [area], ["mean"]
        )


def table() -> pd.DataFrame:
    rows = []
    for place, (sex, reference) in enumerate((("F", 30.0), ("M", 100.0), ("M", np.nan))):
        for region, kind, delta in (
            ("radius", "region", -4.0 - place),
            (control_of("radius"), "control", 1.0),
            ("ulna", "region", 2.0),
        ):
            values = (f"c{place}", sex, reference, 90.0, "mean", region, kind, delta)
            rows.append(dict(zip(COLUMNS, (*values, delta + reference * 0, 0.1, 0.5), strict=True)))
    return pd.DataFrame(rows)


def test_means_by_hand_and_against_the_control_of_the_same_case() -> None:
    summary = summarise_occlusion(table()).set_index("region")
    radius = summary.loc["radius"]
    assert (radius["n"], radius["delta_months"], radius["absolute_delta_months"]) == (3, -5.0, 5.0)
    assert radius["beyond_control_months"] == pytest.approx(4.0)
    assert 3.0 <= radius["beyond_control_low"] <= 4.0 <= radius["beyond_control_high"] <= 5.0
    assert radius["control_hand_fraction"] == 0.5
    # The third case has no reference, so that two count.
    assert radius["error_change_months"] == pytest.approx(-4.5)
    assert np.isnan(summary.loc["ulna", "beyond_control_months"])
    assert with_controls(table()).shape[0] == len(table())


def test_claims_are_corrected_over_the_regions_of_bone() -> None:
    # Ten cases: the error rises without the radius by 1 to 10 months, without the ulna in all but
    # the two smallest, without soft tissue as without the radius.
    steps = np.arange(1.0, 11.0)
    rises = {"radius": steps, "ulna": np.where(steps <= 2, -steps, steps), SOFT_TISSUE: steps}
    rows = [
        (f"c{case}", "F", 100.0, 90.0, "mean", region, "region", 1.0, rise, 0.1, 0.5)
        for region, of_case in rises.items()
        for case, rise in enumerate(of_case)
    ]
    summary = summarise_occlusion(pd.DataFrame(rows, columns=list(COLUMNS))).set_index("region")
    # All 2^10 signs are equally likely: one way to a sum of ranks of 0, five to one of at most 3.
    smallest, other = 2 / 2**10, 2 * 5 / 2**10
    told = summary["error_change_p"].to_dict()
    assert told == pytest.approx({"radius": smallest, "ulna": other, SOFT_TISSUE: smallest})
    assert summary.loc["radius", "error_change_p_holm"] == pytest.approx(2 * smallest)
    assert summary.loc["ulna", "error_change_p_holm"] == pytest.approx(other)
    assert np.isnan(summary.loc[SOFT_TISSUE, "error_change_p_holm"])
    assert shown_above_zero(summary, "error_change").tolist() == [True, True, False]
    assert summary["beyond_control_p_holm"].isna().all()
    assert not shown_above_zero(summary, "beyond_control").any()


def test_groups_leave_out_cases_without_a_reference() -> None:
    groups = summarise_occlusion(table(), ("sex", "age"))
    assert set(zip(groups["sex"], groups["age_from_months"], strict=True)) == {("F", 24), ("M", 96)}
    assert (groups["n"] == 1).all()
    assert groups["delta_low"].isna().all()
    assert summarise_occlusion(table().assign(reference_months=np.nan), ("sex", "age")).empty


def test_impossible_summaries_and_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found none"):
        summarise_occlusion(table().iloc[:0])
    with pytest.raises(ConfigError, match="found height"):
        summarise_occlusion(table(), ("height",))
    with pytest.raises(DataError, match="no such example"):
        read_example(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="expected an example"):
        read_example(tmp_path / "bad.npz")


def test_inpainting_is_read_first() -> None:
    assert preferred_fill(["blur", "inpaint"]) == "inpaint"
    assert preferred_fill(["mean", "blur"]) == "mean"
