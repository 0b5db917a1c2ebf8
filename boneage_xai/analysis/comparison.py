"""Two or more analyses of the same cases, compared case by case."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import spearmanr

from boneage_xai.analysis.metrics import N_RESAMPLES, paired_difference
from boneage_xai.analysis.multiplicity import holm
from boneage_xai.analysis.subgroups import AGE_BINS_MONTHS, SEX_BY_AGE, age_bin_indices
from boneage_xai.errors import DataError, ReportError
from boneage_xai.store import PREDICTION_COLUMNS, AnalysisFolder

MAP_CELLS = 32
"""Maps are compared as sums over squares, so many to a side: single pixels are noise."""

_BLACK = 2.0  # of 255: cells no brighter are padding or bare film, alike for every network
_REFERENCE_ROUNDING_MONTHS = 1e-6


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a comparison found.

    Args:
        names: of the models, in the order given.
        cases: model, case_id, sex, reference_months, predicted_months, error_months; a row per
            model and common case.
        left_out: per model, how many of its cases another analysis lacks.
        groups: as from ``compare_errors``.
        maps: as from ``compare_maps``; empty where no two analyses can be compared.
        regions: as from ``compare_regions``; likewise.
    """

    names: tuple[str, ...]
    cases: pd.DataFrame
    left_out: tuple[int, ...]
    groups: pd.DataFrame
    maps: pd.DataFrame
    regions: pd.DataFrame


def compare(
    folders: Sequence[AnalysisFolder], *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Comparison:
    """Compare analyses of the same data.

    Args:
        folders: two or more, each after ``evaluate``.
        seed: of the resampling.
        n_resamples: number of resamples of cases.

    Raises:
        ReportError: fewer than two analyses, one without predictions, or analyses of other data.
        DataError: no common case, or a case with another sex or reference.
    """
    if len(folders) < 2:
        raise ReportError(f"compare: expected two or more analyses, found {len(folders)}")
    names = model_names(folders)
    cases, left_out = common_cases(folders, names)
    pairs = list(combinations(zip(names, folders, strict=True), 2))
    maps = [compare_maps(first[1], second[1], (first[0], second[0])) for first, second in pairs]
    regions = [
        compare_regions(first[1], second[1], (first[0], second[0])) for first, second in pairs
    ]
    return Comparison(
        names,
        cases,
        left_out,
        compare_errors(cases, seed=seed, n_resamples=n_resamples),
        pd.concat(maps, ignore_index=True),
        pd.concat(regions, ignore_index=True),
    )


def model_names(folders: Sequence[AnalysisFolder]) -> tuple[str, ...]:
    """Return a name for each analysis: its folder's, its path's where two would be alike."""
    short = [folder.path.resolve().name for folder in folders]
    paths = [str(folder.path) for folder in folders]
    names = [
        name if short.count(name) == 1 else path for name, path in zip(short, paths, strict=True)
    ]
    if len(set(names)) < len(names):
        raise ReportError(f"compare: expected different analyses, found {', '.join(paths)}")
    return tuple(names)


def common_cases(
    folders: Sequence[AnalysisFolder], names: Sequence[str]
) -> tuple[pd.DataFrame, tuple[int, ...]]:
    """Return the predictions of the cases that all analyses hold, and how many each loses.

    Args:
        folders: analyses of the same data, each after ``evaluate``.
        names: of the models.

    Returns:
        ``cases`` and ``left_out`` of ``Comparison``.

    Raises:
        ReportError: an analysis without predictions, or of other data.
        DataError: no common case, or a case with another sex or reference.
    """
    first = folders[0]
    fingerprint = first.manifest["data"].get("fingerprint")
    for folder in folders:
        if not (folder.path / "predictions.parquet").is_file():
            raise ReportError(f"{folder.path}: expected predictions (from `evaluate`), found none")
        theirs = folder.manifest["data"].get("fingerprint")
        if theirs is None or theirs != fingerprint:
            raise ReportError(
                f"{folder.path}: expected an analysis of the same data as {first.path} "
                f"(fingerprint {fingerprint}), found {theirs}"
            )
    tables = [
        folder.predictions()[PREDICTION_COLUMNS].astype({"case_id": str}) for folder in folders
    ]
    shared = set.intersection(*(set(table["case_id"]) for table in tables))
    if not shared:
        raise DataError("compare: expected cases that every analysis holds, found none")
    known = tables[0].set_index("case_id")
    parts = []
    for folder, name, table in zip(folders, names, tables, strict=True):
        part = table[table["case_id"].isin(shared)].sort_values("case_id", kind="stable")
        ours = known.loc[part["case_id"]]
        change = part["reference_months"].to_numpy() - ours["reference_months"].to_numpy()
        other = np.abs(change) > _REFERENCE_ROUNDING_MONTHS
        other |= part["sex"].to_numpy() != ours["sex"].to_numpy()
        if other.any():
            raise DataError(
                f"{folder.path}: case {part['case_id'].to_numpy()[other][0]}: expected the sex and "
                f"reference of {first.path}, found others"
            )
        part.insert(0, "model", name)
        parts.append(part)
    return (
        pd.concat(parts, ignore_index=True),
        tuple(len(table) - len(shared) for table in tables),
    )


def differences_from_first(
    cases: pd.DataFrame, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> pd.DataFrame:
    """Compare the error of every model with that of the first, over all cases.

    Args:
        cases: as for ``compare_errors``.
        seed: of the resampling.
        n_resamples: number of resamples of cases.

    Returns:
        Per model: model, n, mae_months, bias_months; mae_difference_months (this model minus the
        first: below 0, it is closer) with its paired bootstrap 95% interval low and high, and
        p_holm (Wilcoxon, corrected over the models); NaN for the first.
    """
    errors = cases.pivot(index="case_id", columns="model", values="error_months")
    names = list(dict.fromkeys(cases["model"]))
    rows: list[dict[str, Any]] = []
    for name in names:
        own = errors[name].to_numpy()
        row = {"model": name, "n": own.size, "mae_months": float(np.abs(own).mean())}
        row |= {"bias_months": float(own.mean())}
        if name != names[0]:
            first = errors[names[0]].to_numpy()
            found = paired_difference(own, first, seed=seed, n_resamples=n_resamples)
            difference = found["mae_difference_months"]
            row |= {
                "mae_difference_months": difference["value"],
                "low": difference["low"],
                "high": difference["high"],
                "p_value": found["wilcoxon_p"],
            }
        rows.append(row)
    columns = ["mae_difference_months", "low", "high", "p_value"]
    table = pd.DataFrame(rows).reindex(columns=[*rows[0], *columns])
    table = table.astype(dict.fromkeys(columns, "float64"))
    return table.assign(p_holm=holm(table["p_value"]))


def compare_errors(
    cases: pd.DataFrame, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> pd.DataFrame:
    """Compare absolute errors of every two models, over all cases and in groups.

    Args:
        cases: a row per model and case, with model, case_id, sex, reference_months, error_months;
            every model with the same cases.
        seed: of the resampling.
        n_resamples: number of resamples of cases.

    Returns:
        Per two models and group: model_a, model_b; by (``all``, ``sex``, ``age`` or
        ``SEX_BY_AGE``), sex, age_from_months, age_to_months (missing where they do not matter); n,
        mae_a_months, mae_b_months, mae_difference_months (A minus B: below 0, A is closer) with its
        paired bootstrap 95% interval low and high, p_value of Wilcoxon's signed-rank test on the
        absolute errors, p_holm, corrected over the groups of the same kind and all pairs of models.

    Raises:
        DataError: a reference outside the age bins.
    """
    errors = cases.pivot(index="case_id", columns="model", values="error_months")
    about = cases.drop_duplicates("case_id").set_index("case_id").loc[errors.index]
    bins = age_bin_indices(about["reference_months"])
    if (bins < 0).any():
        raise DataError(
            f"case {errors.index[bins < 0][0]}: expected a reference bone age from "
            f"{AGE_BINS_MONTHS[0]:g} to {AGE_BINS_MONTHS[-1]:g} months, found "
            f"{about['reference_months'].to_numpy()[bins < 0][0]:g}"
        )
    sex = about["sex"].to_numpy(dtype=object)
    rows: list[dict[str, Any]] = []
    for first, second in combinations(dict.fromkeys(cases["model"]), 2):
        a, b = errors[first].to_numpy(), errors[second].to_numpy()
        for keys, mask in _groups(sex, bins):
            if not mask.any():
                continue
            found = paired_difference(a[mask], b[mask], seed=seed, n_resamples=n_resamples)
            difference, p_value = found["mae_difference_months"], found["wilcoxon_p"]
            rows.append(
                {
                    "model_a": first,
                    "model_b": second,
                    **keys,
                    "n": found["n"],
                    "mae_a_months": float(np.abs(a[mask]).mean()),
                    "mae_b_months": float(np.abs(b[mask]).mean()),
                    "mae_difference_months": difference["value"],
                    "low": np.nan if difference["low"] is None else difference["low"],
                    "high": np.nan if difference["high"] is None else difference["high"],
                    "p_value": np.nan if p_value is None else p_value,
                }
            )
    groups = pd.DataFrame(rows)
    groups["p_holm"] = groups.groupby("by")["p_value"].transform(holm)
    return groups


def _groups(
    sex: npt.NDArray[Any], bins: npt.NDArray[np.intp]
) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.bool_]]]:
    spans = list(pairwise(AGE_BINS_MONTHS))

    def keys(by: str, one: str | None, span: tuple[float, float] | None) -> dict[str, Any]:
        low, high = span or (np.nan, np.nan)
        return {"by": by, "sex": one, "age_from_months": low, "age_to_months": high}

    yield keys("all", None, None), np.ones(len(sex), dtype=bool)
    for one in ("F", "M"):
        yield keys("sex", one, None), sex == one
    for index, span in enumerate(spans):
        yield keys("age", None, span), bins == index
    for one in ("F", "M"):
        for index, span in enumerate(spans):
            yield keys(SEX_BY_AGE, one, span), (sex == one) & (bins == index)


def compare_maps(
    first: AnalysisFolder, second: AnalysisFolder, names: tuple[str, str]
) -> pd.DataFrame:
    """Correlate the attribution maps that two models have for the same case and method.

    Maps are summed over ``MAP_CELLS``² squares; those where the radiograph is black are left out.

    Args:
        first: analysis of model A.
        second: analysis of model B, on inputs of the same size.
        names: of the models.

    Returns:
        Per case and common method: model_a, model_b, method, case_id, rank_correlation (Spearman,
        signed) and chance, the correlation of A's map with B's map of the next case. Empty where
        the inputs differ in size, or method, baseline or cases are not common.
    """
    columns = ["model_a", "model_b", "method", "case_id", "rank_correlation", "chance"]
    ours, theirs = _mapped(first), _mapped(second)
    if ours is None or theirs is None or ours.size != theirs.size:
        return pd.DataFrame(columns=columns)
    shared = [case_id for case_id in ours.rows if case_id in theirs.rows]
    rows: list[dict[str, Any]] = []
    for method in [one for one in ours.baselines if one in theirs.baselines]:
        if ours.baselines[method] != theirs.baselines[method]:
            continue
        cells = [
            [_cells(one.maps[method][one.rows[case_id]]) for case_id in shared]
            for one in (ours, theirs)
        ]
        for place, case_id in enumerate(shared):
            seen = _cells(ours.maps["inputs"][ours.rows[case_id]], mean=True) > _BLACK
            following = cells[1][(place + 1) % len(shared)]
            rows.append(
                {
                    "model_a": names[0],
                    "model_b": names[1],
                    "method": method,
                    "case_id": case_id,
                    "rank_correlation": rank_correlation(
                        cells[0][place][seen], cells[1][place][seen]
                    ),
                    "chance": rank_correlation(cells[0][place][seen], following[seen])
                    if len(shared) > 1
                    else np.nan,
                }
            )
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True, eq=False)
class _Mapped:
    """The maps of an analysis: row per case, and baseline (or None) per method."""

    maps: Any
    rows: dict[str, int]
    baselines: dict[str, str | None]

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(self.maps["inputs"].shape[1:])


def _mapped(folder: AnalysisFolder) -> _Mapped | None:
    maps: Any = folder.maps()
    table = folder.attributions()
    if maps is None or table is None:
        return None
    baselines = table.drop_duplicates("method").set_index("method")["baseline"]
    return _Mapped(
        maps,
        {str(case_id): row for row, case_id in enumerate(maps.attrs["case_ids"])},
        {str(name): None if pd.isna(one) else str(one) for name, one in baselines.items()},
    )


def _cells(image: npt.NDArray[Any], *, mean: bool = False) -> npt.NDArray[np.float64]:
    """Sum (or average) an image (H, W) over squares; those at the far edges may be smaller."""
    side = max(1, -(-max(image.shape) // MAP_CELLS))
    edges = [np.arange(0, length, side) for length in image.shape]
    values = np.asarray(image, dtype=np.float64)
    sums = np.add.reduceat(np.add.reduceat(values, edges[0], axis=0), edges[1], axis=1)
    if not mean:
        return np.asarray(sums)
    widths = [np.diff([*one, length]) for one, length in zip(edges, image.shape, strict=True)]
    return np.asarray(sums / np.outer(*widths))


def rank_correlation(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Return Spearman's rank correlation, NaN where either is constant or shorter than two."""
    first, second = np.asarray(one), np.asarray(other)
    if first.size < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(spearmanr(first, second).statistic)


def compare_regions(
    first: AnalysisFolder, second: AnalysisFolder, names: tuple[str, str]
) -> pd.DataFrame:
    """Compare how two models divide their attribution among the regions of the same hands.

    Args:
        first: analysis of model A.
        second: analysis of model B.
        names: of the models.

    Returns:
        Per method and region that both have, over their common cases: model_a, model_b, method,
        region, n, signed_a_months, signed_b_months (means) and share_a, share_b, the share of the
        summed magnitudes. Empty where there are none.
    """
    columns = [
        *("model_a", "model_b", "method", "region", "n"),
        *("signed_a_months", "signed_b_months", "share_a", "share_b"),
    ]
    tables = first.regions(), second.regions()
    if tables[0] is None or tables[1] is None:
        return pd.DataFrame(columns=columns)
    both = tables[0].merge(tables[1], on=["case_id", "method", "region"], suffixes=("_a", "_b"))
    if both.empty:
        return pd.DataFrame(columns=columns)
    means = both.groupby(["method", "region"], sort=False).agg(
        n=("case_id", "nunique"),
        signed_a_months=("signed_months_a", "mean"),
        signed_b_months=("signed_months_b", "mean"),
        share_a=("absolute_months_a", "sum"),
        share_b=("absolute_months_b", "sum"),
    )
    for share in ("share_a", "share_b"):
        means[share] /= means.groupby("method")[share].transform("sum")
    means = means.reset_index().assign(model_a=names[0], model_b=names[1])
    return means[columns]
