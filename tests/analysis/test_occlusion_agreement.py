from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from boneage_xai.analysis.occlusion_agreement import (
    AREA_ALONE,
    BOTH,
    NEITHER,
    NOT_OCCLUSION,
    OCCLUSION,
    ONLY_INTERVENTIONS,
    ONLY_OCCLUSION,
    UNKNOWN,
    agreement_with_interventions,
    agreement_with_occlusion,
    verdicts,
)
from boneage_xai.anatomy import AGE_REGIONS
from boneage_xai.errors import DataError

N_CASES = 8


def tables(seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return attributions and occlusion: one method right, one upside down, one random."""
    rng = np.random.default_rng(seed)
    regions, occlusion = [], []
    for case in range(N_CASES):
        effects = dict(zip(AGE_REGIONS, rng.normal(0, 5, len(AGE_REGIONS)), strict=True))
        for name, effect in (effects | {"background": 900.0}).items():
            row = {"case_id": str(case), "region": name, "area_fraction": rng.uniform()}
            kind = {"kind": "region", "hand_fraction": 1.0}
            occlusion += [
                {**row, **kind, "fill": fill, "delta_months": -effect * scale}
                for fill, scale in (("inpaint", 1.0), ("mean", 3.0))
            ]
            maps = {
                "right": (effect, 2 * abs(effect)),
                "wrong": (-effect, 1 / (1 + abs(effect))),
                "random": (rng.normal(), rng.uniform()),
            }
            regions += [
                {**row, "method": method, "signed_months": signed, "absolute_months": size}
                for method, (signed, size) in maps.items()
            ]
    return pd.DataFrame(regions), pd.DataFrame(occlusion)


def test_a_right_and_an_upside_down_method_are_told_apart() -> None:
    regions, occlusion = tables()
    found = agreement_with_occlusion(regions, occlusion).set_index(["method", "fill"])
    for fill in ("inpaint", "mean"):
        right, wrong = found.loc[("right", fill)], found.loc[("wrong", fill)]
        # The background's 900 months would spoil this if it counted.
        assert right[["magnitude", "signed", "means"]].tolist() == pytest.approx([1, 1, 1])
        assert wrong[["magnitude", "signed"]].tolist() == pytest.approx([-1, -1])
        assert right["n"] == N_CASES
    assert found.loc[(AREA_ALONE, "mean"), "beyond_area"] == 0
    verdict = verdicts(found.reset_index()).set_index("method")["verdict"]
    assert verdict["right"] == OCCLUSION
    assert verdict["wrong"] == verdict["random"] == NOT_OCCLUSION
    assert AREA_ALONE not in verdict.index


def test_correlations_are_spearmans_case_by_case_and_of_the_means() -> None:
    regions, occlusion = tables(5)
    found = agreement_with_occlusion(regions, occlusion).set_index(["method", "fill"])
    row = found.loc[("random", "mean")]
    bones = occlusion[(occlusion["fill"] == "mean") & (occlusion["region"] != "background")]
    ours = regions[(regions["method"] == "random") & (regions["region"] != "background")]
    both = ours.merge(bones, on=["case_id", "region"])
    each = [
        spearmanr(case["absolute_months"], case["delta_months"].abs()).statistic
        for _, case in both.groupby("case_id")
    ]
    assert row["magnitude"] == pytest.approx(np.mean(each))
    assert min(each) <= row["magnitude_low"] <= row["magnitude"] <= row["magnitude_high"]
    means = both.assign(size=both["delta_months"].abs()).groupby("region")
    expected = spearmanr(means["absolute_months"].mean(), means["size"].mean()).statistic
    assert row["means"] == pytest.approx(expected)
    assert row["means_low"] <= row["means_high"]


def test_interventions_judge_methods_and_occlusion_alike() -> None:
    regions, occlusion = tables()
    bones = occlusion[(occlusion["fill"] == "mean") & (occlusion["region"] != "background")]
    interventions = bones[["case_id", "region"]].assign(
        slope_months_per_month=bones["delta_months"].to_numpy() / 100
    )
    found = agreement_with_interventions(regions, occlusion, interventions).set_index("method")
    assert found.loc["right", "magnitude"] == pytest.approx(1)
    assert found.loc["wrong", "magnitude"] == pytest.approx(-1)
    assert found.loc["occlusion_by_inpaint", "magnitude"] == pytest.approx(1)
    elsewhere = interventions.assign(case_id="another")
    assert agreement_with_interventions(regions, occlusion, elsewhere).empty


def row(value: float, low: float) -> dict[str, float]:
    return {"magnitude": value, "magnitude_low": low, "magnitude_high": 1.0}


@pytest.mark.parametrize(
    ("by_fill", "truth", "expected"),
    [
        ([(0.5, 0.2), (0.4, 0.1)], None, OCCLUSION),
        ([(0.5, 0.2), (0.4, -0.1)], None, NOT_OCCLUSION),
        ([(0.5, 0.2), (0.2, 0.1)], None, NOT_OCCLUSION),
        ([(0.5, 0.2)], (0.6, 0.3), BOTH),
        ([(0.5, 0.2)], (0.6, -0.3), ONLY_OCCLUSION),
        ([(0.1, -0.2)], (0.6, 0.3), ONLY_INTERVENTIONS),
        ([(0.1, -0.2)], (-0.6, -0.9), NEITHER),
        ([(0.5, np.nan)], None, UNKNOWN),
        ([(0.5, 0.2)], (0.5, np.nan), UNKNOWN),
    ],
)
def test_verdicts_follow_the_stated_rule(
    by_fill: list[tuple[float, float]], truth: tuple[float, float] | None, expected: str
) -> None:
    occlusion = pd.DataFrame(
        [{"method": "m", "fill": str(i), **row(*pair)} for i, pair in enumerate(by_fill)]
    )
    other = None if truth is None else pd.DataFrame([{"method": "m", **row(*truth)}])
    assert verdicts(occlusion, other)["verdict"].tolist() == [expected]


def test_tables_without_a_case_in_common_are_refused() -> None:
    regions, occlusion = tables()
    with pytest.raises(DataError, match="found none"):
        agreement_with_occlusion(regions, occlusion.assign(case_id="another"))
