"""Comparisons on constructed folders: against scipy, by hand, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr, wilcoxon

from analysis_fixture import MALICIOUS, analysis_template
from boneage_xai.analysis.comparison import (
    _cells,
    compare,
    compare_errors,
    compare_maps,
    differences_from_first,
    model_names,
    rank_correlation,
)
from boneage_xai.analysis.multiplicity import holm
from boneage_xai.analysis.subgroups import AGE_BINS_MONTHS, SEX_BY_AGE, age_bin_indices
from boneage_xai.errors import DataError, ReportError
from boneage_xai.figures.comparison import paired_errors
from boneage_xai.figures.style import figure_bytes
from boneage_xai.files import write_table
from boneage_xai.store import PREDICTION_COLUMNS, AnalysisFolder
from reports.comparison import comparison_sentences, write_comparison

__all__ = ["analysis_template"]

N = 120


def references() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    return pd.DataFrame(
        {
            "case_id": [str(n) for n in range(N)],
            "sex": np.where(np.arange(N) % 2, "M", "F"),
            "reference_months": rng.uniform(30, 200, N),
        }
    )


def folder(
    path: Path, errors: np.ndarray, *, fingerprint: str = "same", keep: slice = slice(None)
) -> AnalysisFolder:
    frame = references()
    frame["predicted_months"] = frame["reference_months"] + errors
    frame["error_months"] = errors
    AnalysisFolder.add_step(
        path,
        run={"model_id": path.name, "recipe": path.name, "architecture": {"sex_features": 16}},
        data={"fingerprint": fingerprint, "split": "held-out", "n": N},
        step="evaluate",
        detail={"n": N},
    )
    write_table(path / "predictions.parquet", frame.iloc[keep])
    return AnalysisFolder.open(path)


def errors_of(sd: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sd, N)


def test_differences_against_scipy_and_by_definition(tmp_path: Path) -> None:
    a, b = errors_of(6, 1), errors_of(9, 2)
    found = compare([folder(tmp_path / "a", a), folder(tmp_path / "b", b)])
    about = references()
    difference = np.abs(a) - np.abs(b)
    groups = found.groups
    row = groups[groups["by"] == "all"].iloc[0]
    np.testing.assert_allclose(row["mae_difference_months"], difference.mean())
    np.testing.assert_allclose(row["p_value"], wilcoxon(difference).pvalue)
    assert row["p_holm"] == row["p_value"]
    assert row["low"] < row["mae_difference_months"] < row["high"]
    cells = groups[groups["by"] == SEX_BY_AGE]
    assert cells["n"].sum() == N
    bins = age_bin_indices(about["reference_months"])
    for one in cells.to_dict("records"):
        index = AGE_BINS_MONTHS.index(one["age_from_months"])
        mask = (about["sex"] == one["sex"]).to_numpy() & (bins == index)
        assert one["n"] == mask.sum()
        np.testing.assert_allclose(one["mae_difference_months"], difference[mask].mean())
    np.testing.assert_allclose(cells["p_holm"], holm(cells["p_value"]))
    assert found.cases["model"].value_counts().to_dict() == {"a": N, "b": N}


def test_order_of_models_turns_the_sign(tmp_path: Path) -> None:
    one = folder(tmp_path / "a", errors_of(6, 1))
    other = folder(tmp_path / "b", errors_of(9, 2))
    there, back = compare([one, other]).groups, compare([other, one]).groups
    np.testing.assert_allclose(there["mae_difference_months"], -back["mae_difference_months"])
    np.testing.assert_allclose(there["p_value"], back["p_value"])
    np.testing.assert_allclose(there["mae_a_months"], back["mae_b_months"])


def test_the_sentences_say_who_wins_where(tmp_path: Path) -> None:
    errors = np.full(N, 2.0)
    about = references()
    boys = ((about["sex"] == "M") & about["reference_months"].between(132, 167.9)).to_numpy()
    worse = np.where(boys, 14.0, 2.0)
    found = compare([folder(tmp_path / "sexed", errors), folder(tmp_path / "image", worse)])
    first, second = comparison_sentences(found)
    assert first.startswith("sexed is closer than image (mean absolute error of sexed 2.00")
    assert (
        second == f"sexed is closer in: boys of 11 to 14 years (by 12.0 months, n = {boys.sum()})."
    )
    same = compare([folder(tmp_path / "one", errors), folder(tmp_path / "two", errors)])
    assert comparison_sentences(same)[0].startswith("No difference between one and two")
    assert "In none of" in comparison_sentences(same)[1]
    (axes,) = paired_errors(found.groups).axes
    assert "boys (60)" in [label.get_text() for label in axes.get_yticklabels()]
    assert figure_bytes(paired_errors(found.groups)) == figure_bytes(paired_errors(found.groups))


def test_ranks_that_contradict_the_means_show_nothing(tmp_path: Path) -> None:
    # A is farther off in most cases by little, and nearer in a few by much: signed ranks say that
    # A is worse, the mean that it is better.
    b = np.full(N, 6.0)
    a = b + np.where(np.arange(N) % 6, np.linspace(0.3, 0.5, N), -2.5)
    found = compare([folder(tmp_path / "a", a), folder(tmp_path / "b", b)])
    row = found.groups[found.groups["by"] == "all"].iloc[0]
    assert row["mae_difference_months"] < 0 < row["high"]
    assert row["p_holm"] < 0.001
    assert wilcoxon(np.abs(a) - np.abs(b), alternative="greater").pvalue < 0.001
    assert comparison_sentences(found)[0].startswith("No difference between a and b could be shown")


def test_three_models_make_three_pairs_and_one_correction(tmp_path: Path) -> None:
    folders = [folder(tmp_path / name, errors_of(6 + n, n)) for n, name in enumerate("abc")]
    groups = compare(folders).groups
    overall = groups[groups["by"] == "all"]
    assert overall[["model_a", "model_b"]].to_numpy().tolist() == [
        ["a", "b"],
        ["a", "c"],
        ["b", "c"],
    ]
    np.testing.assert_allclose(overall["p_holm"], holm(overall["p_value"]))
    with pytest.raises(ReportError, match="one pair"):
        paired_errors(groups)


def test_differences_from_the_first_are_those_of_the_pairs() -> None:
    rng = np.random.default_rng(9)
    frame = references()
    cases = pd.concat(
        [
            frame.assign(model=name, error_months=rng.normal(0, sd, len(frame)))
            for name, sd in (("first", 10.0), ("wide", 20.0), ("near", 5.0))
        ],
        ignore_index=True,
    )
    found = differences_from_first(cases, n_resamples=200).set_index("model")
    assert list(found.index) == ["first", "wide", "near"]
    assert found.loc["first", ["mae_difference_months", "low", "p_holm"]].isna().all()
    pairs = compare_errors(cases, n_resamples=200)
    pairs = pairs[(pairs["by"] == "all") & (pairs["model_a"] == "first")].set_index("model_b")
    for name in ("wide", "near"):
        ours, theirs = found.loc[name], pairs.loc[name]
        assert ours["mae_months"] == pytest.approx(theirs["mae_b_months"])
        difference = ours["mae_months"] - theirs["mae_a_months"]
        assert ours["mae_difference_months"] == pytest.approx(difference)
        assert ours["low"] < ours["mae_difference_months"] < ours["high"]
    assert list(found["p_holm"].dropna()) == pytest.approx(list(holm(pairs["p_value"])))
    assert found.loc["near", "high"] < 0 < found.loc["wide", "low"]


def test_only_common_cases_are_compared(tmp_path: Path) -> None:
    errors = errors_of(6, 1)
    found = compare(
        [folder(tmp_path / "a", errors), folder(tmp_path / "b", errors, keep=slice(40, None))]
    )
    assert found.left_out == (40, 0)
    assert found.groups.iloc[0]["n"] == N - 40
    with pytest.raises(DataError, match="every analysis holds"):
        compare(
            [
                folder(tmp_path / "c", errors, keep=slice(0, 9)),
                folder(tmp_path / "d", errors, keep=slice(9, None)),
            ]
        )


def test_columns_of_the_label_table_are_left_out(tmp_path: Path) -> None:
    folders = [folder(tmp_path / name, errors_of(6, seed)) for seed, name in enumerate("ab")]
    for one in folders:
        write_table(one.path / "predictions.parquet", one.predictions().assign(model="DX-D 100"))
    cases = compare(folders).cases
    assert list(cases) == ["model", *PREDICTION_COLUMNS]
    assert set(cases["model"]) == {"a", "b"}


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    errors = errors_of(6, 1)
    one = folder(tmp_path / "a", errors)
    with pytest.raises(ReportError, match="two or more"):
        compare([one])
    with pytest.raises(ReportError, match="different analyses"):
        compare([one, one])
    with pytest.raises(ReportError, match="same data as"):
        compare([one, folder(tmp_path / "b", errors, fingerprint="other")])
    changed = folder(tmp_path / "c", errors)
    write_table(
        changed.path / "predictions.parquet",
        changed.predictions().assign(reference_months=lambda t: t["reference_months"] + 1),
    )
    with pytest.raises(DataError, match="expected the sex and reference"):
        compare([one, changed])
    (changed.path / "predictions.parquet").unlink()
    with pytest.raises(ReportError, match="expected predictions"):
        compare([one, changed])
    (tmp_path / "file").write_text("")
    paths = [one.path, folder(tmp_path / "e", errors).path]
    with pytest.raises(ReportError, match="expected a folder or"):
        write_comparison(paths, tmp_path / "file")


def test_names_are_paths_where_folders_are_called_alike(tmp_path: Path) -> None:
    folders = [folder(tmp_path / name / "x", errors_of(6, 1)) for name in "ab"]
    assert model_names(folders) == tuple(str(one.path) for one in folders)


def test_maps_and_regions_of_the_same_network_agree(
    analysis_template: Path, tmp_path: Path
) -> None:
    twin = Path(shutil.copytree(analysis_template, tmp_path / "twin"))
    found = compare([AnalysisFolder.open(analysis_template), AnalysisFolder.open(twin)])
    assert set(found.maps["method"]) == {"gradient", "integrated_gradients"}
    assert len(found.maps) == 12
    np.testing.assert_allclose(found.maps["rank_correlation"], 1.0)
    assert (found.maps["chance"].abs() < 0.9).all()
    np.testing.assert_allclose(found.regions["share_a"], found.regions["share_b"])
    np.testing.assert_allclose(found.regions.groupby("method")["share_a"].sum(), 1.0)
    page = tmp_path / "page.html"
    write_comparison([analysis_template, twin], page)
    text = page.read_text(encoding="utf-8")
    assert MALICIOUS not in text
    assert "Do they look at the same places?" in text
    assert (tmp_path / "page.parquet").is_file()
    other = AnalysisFolder.open(twin)
    shutil.rmtree(twin / "attributions.zarr")
    assert compare_maps(AnalysisFolder.open(analysis_template), other, ("a", "b")).empty


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90))
def test_squares_hold_the_whole_map(height: int, width: int) -> None:
    image = np.random.default_rng(0).normal(size=(height, width))
    cells = _cells(image)
    assert max(cells.shape) <= 32
    np.testing.assert_allclose(cells.sum(), image.sum())
    side = -(-max(height, width) // 32)
    np.testing.assert_allclose(cells[0, 0], image[:side, :side].sum())
    last = _cells(image, mean=True)[-1, -1]
    rows, columns = (height - 1) // side * side, (width - 1) // side * side
    np.testing.assert_allclose(last, image[rows:, columns:].mean())


def test_rank_correlation_is_scipys() -> None:
    one, other = np.random.default_rng(1).normal(size=(2, 50))
    np.testing.assert_allclose(rank_correlation(one, other), spearmanr(one, other).statistic)
    assert np.isnan(rank_correlation(one, np.ones(50)))
    assert np.isnan(rank_correlation([1.0], [2.0]))


def test_a_reference_outside_the_bins_names_the_case() -> None:
    cases = pd.DataFrame(
        {
            "model": ["a", "b"],
            "case_id": "7",
            "sex": "F",
            "reference_months": 300.0,
            "error_months": [1.0, 2.0],
        }
    )
    with pytest.raises(DataError, match="case 7: expected a reference"):
        compare_errors(cases)
