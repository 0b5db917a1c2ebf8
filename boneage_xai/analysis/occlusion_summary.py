"""What removing each region does on average: means over cases with intervals and tests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage_xai.analysis.metrics import N_RESAMPLES, bootstrap_mean, signed_rank_p
from boneage_xai.analysis.multiplicity import difference_shown, holm
from boneage_xai.analysis.subgroups import AGE_BINS_MONTHS, age_bin_indices
from boneage_xai.anatomy import NOT_BONE
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.regions.removable import control_of

MEASURED: Mapping[str, str] = MappingProxyType(
    {
        "delta": "delta_months",
        "absolute_delta": "absolute_delta_months",
        "error_change": "delta_absolute_error_months",
        "beyond_control": "beyond_control_months",
    }
)
"""What ``summarise_occlusion`` averages, and the column of each case that it is taken from."""

Claim = Literal["error_change", "beyond_control"]
CLAIMS: tuple[Claim, ...] = get_args(Claim)
"""Those of which it is tested, over all regions of bone, whether they differ from 0."""


def summarise_occlusion(
    table: pd.DataFrame,
    by: Sequence[str] = (),
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> pd.DataFrame:
    """Average what removing each area does over cases, with bootstrap 95% intervals.

    Args:
        table: as ``occlude_run`` writes it.
        by: ``sex`` and ``age`` (bins of ``AGE_BINS_MONTHS`` by reference, those without one left
            out) are summarised apart.
        seed: of the resampling.
        n_resamples: number of resamples of cases.

    Returns:
        Per group, filling and area: sex and age_from_months, age_to_months where asked for, fill,
        region, kind, n, area_fraction, hand_fraction, control_hand_fraction (of its control), and
        for each of ``MEASURED`` the mean (``_months``) and its limits (``_low``, ``_high``): the
        signed change of the prediction, its magnitude, the change of the absolute error (that is,
        of the MAE), and the magnitude minus that for the region's control in the same case; for
        each of ``CLAIMS`` ``_p`` of :func:`signed_rank_p`, and for regions of bone ``_p_holm``,
        corrected over those of the same group and filling. NaN where nothing is known; no rows
        where ages are asked for and no case has one.

    Raises:
        ConfigError: an unknown grouping.
        DataError: no rows.
    """
    if not set(by) <= {"sex", "age"}:
        raise ConfigError(f"occlusion: expected groups by sex or age, found {', '.join(by)}")
    if table.empty:
        raise DataError("occlusion: expected at least one case, found none")
    table = with_controls(table)
    keys: list[str] = ["sex"] if "sex" in by else []
    if "age" in by:
        bins = age_bin_indices(table["reference_months"])
        edges = np.asarray(AGE_BINS_MONTHS)
        table = table.assign(age_from_months=edges[bins], age_to_months=edges[bins + 1])
        table = table[bins >= 0]
        keys += ["age_from_months", "age_to_months"]
    rows: list[dict[str, Any]] = []
    for values, group in table.groupby([*keys, "fill", "region"], sort=False):
        row: dict[str, Any] = dict(zip([*keys, "fill", "region"], values, strict=True))
        row |= {"kind": group["kind"].iloc[0], "n": len(group)}
        row |= {
            name: float(group[name].mean())
            for name in ("area_fraction", "hand_fraction", "control_hand_fraction")
        }
        for name, column in MEASURED.items():
            known = group[column].dropna()
            row |= dict.fromkeys((f"{name}_{end}" for end in ("months", "low", "high")), math.nan)
            if len(known):
                mean = bootstrap_mean(known, seed=seed, n_resamples=n_resamples)
                row[f"{name}_months"] = mean["value"]
                if mean["low"] is not None:
                    row |= {f"{name}_low": mean["low"], f"{name}_high": mean["high"]}
        for name in CLAIMS:
            found = signed_rank_p(group[MEASURED[name]].dropna())
            row[f"{name}_p"] = math.nan if found is None else found
        rows.append(row)
    if not rows:
        return pd.DataFrame(columns=[*keys, "fill", "region", "kind", "n"])
    summary = pd.DataFrame(rows)
    bones = bone_regions(summary)
    for name in CLAIMS:
        corrected = bones.groupby([*keys, "fill"], sort=False)[f"{name}_p"].transform(holm)
        summary[f"{name}_p_holm"] = corrected.reindex(summary.index)
    return summary.sort_values(keys, kind="stable", ignore_index=True) if keys else summary


def by_group(
    table: pd.DataFrame, fill: str, *, seed: int = 0, n_resamples: int = 500
) -> pd.DataFrame:
    """Summarise the regions of bone by sex and age for one filling, with fewer resamples."""
    shown = table[(table["fill"] == fill) & (table["kind"] != "control")]
    return summarise_occlusion(shown, ("sex", "age"), seed=seed, n_resamples=n_resamples)


def bone_regions(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of single regions of bone: no control, composite, or soft tissue."""
    return summary[(summary["kind"] == "region") & ~summary["region"].isin(NOT_BONE)]


def shown_above_zero(summary: pd.DataFrame, claim: Claim) -> npt.NDArray[np.bool_]:
    """Say for each row of ``summarise_occlusion`` whether a claim's mean is shown to exceed 0."""
    low, high = summary[f"{claim}_low"], summary[f"{claim}_high"]
    differs = difference_shown(summary[f"{claim}_p_holm"], low, high)
    return np.asarray(differs & (summary[f"{claim}_months"] > 0).to_numpy())


def with_controls(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with absolute_delta_months, and beside each region its own control.

    Args:
        table: as ``occlude_run`` writes it.

    Returns:
        The rows with absolute_delta_months, beyond_control_months (|change| without the region
        minus |change| without its control, same case and filling) and control_hand_fraction; NaN
        where a case has no control of the region.
    """
    table = table.assign(absolute_delta_months=table["delta_months"].abs())
    keys = ["case_id", "fill", "control"]
    controls = table.loc[
        table["kind"] == "control",
        ["case_id", "fill", "region", "absolute_delta_months", "hand_fraction"],
    ]
    controls = controls.set_axis([*keys, "control_months", "control_hand_fraction"], axis=1)
    named = table.assign(control=[control_of(name) for name in table["region"]])
    joined = named.merge(controls, on=keys, how="left")
    beyond = joined["absolute_delta_months"] - joined["control_months"]
    return joined.assign(beyond_control_months=beyond).drop(columns=["control", "control_months"])


def preferred_fill(fills: Iterable[str]) -> str:
    """Return the filling to be read first: inpainting, which leaves the faintest edges."""
    known = list(dict.fromkeys(fills))
    return "inpaint" if "inpaint" in known else known[0]
