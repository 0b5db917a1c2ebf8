"""Neighbours: against brute force in float64, by hand, and from a trained network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boneage_xai.analysis.neighbours import (
    nearest,
    neighbour_table,
    neighbours_of,
    neighbours_run,
    pooled_features,
)
from boneage_xai.analysis.run_analysis import prepare_run
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.models.checkpoint import load_run
from boneage_xai.predict import as_images
from boneage_xai.types import Case, Cohort, Sex


def cohort(name: str, sexes: str) -> Cohort:
    cases = [
        Case(f"{name}{place}", Path("none.png"), Sex(sex), bone_age_months=10.0 * place)
        for place, sex in enumerate(sexes)
    ]
    return Cohort(name, tuple(cases))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(3, 40), st.integers(1, 3), st.integers(0, 1000))
def test_nearest_is_brute_force(n: int, m: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries, references = rng.normal(100, 1, (n, 7)), rng.normal(100, 1, (m, 7))
    found, distances = nearest(queries, references, k)
    every = np.sqrt(((queries[:, None] - references[None]) ** 2).sum(axis=2))
    np.testing.assert_array_equal(found, np.argsort(every, axis=1, kind="stable")[:, :k])
    np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :k], rtol=1e-9)


def test_many_queries_pass_in_blocks_and_never_find_themselves() -> None:
    points = np.random.default_rng(3).normal(size=(2500, 3))
    found, distances = nearest(points, points, 1, itself=np.arange(2500))
    assert (found[:, 0] != np.arange(2500)).all()
    some = [0, 1023, 1024, 2499]
    every = np.linalg.norm(points[some, None] - points[None], axis=2)
    every[np.arange(4), some] = np.inf
    np.testing.assert_array_equal(found[some, 0], every.argmin(axis=1))
    np.testing.assert_allclose(distances[some, 0], every.min(axis=1))


def test_percentile_and_sex_by_hand() -> None:
    training = cohort("t", "FFFFMM")
    # Girls at 0, 1, 3, 7: nearest neighbours at 1, 1, 2, 4. Boys at 0.5 and 0.6.
    known = np.array([[0.0], [1.0], [3.0], [7.0], [0.5], [0.6]], dtype=np.float32)
    cases = cohort("c", "FM")
    table = neighbour_table(cases, np.array([[9.5], [0.55]], np.float32), training, known, k=2)
    girl = table[table["case_id"] == "c0"]
    assert girl["neighbour_id"].tolist() == ["t3", "t2"]
    assert girl["neighbour_months"].tolist() == [30.0, 20.0]
    np.testing.assert_allclose(girl["distance"], [2.5, 6.5])
    # Of four girls three have a nearer neighbour than 2.5.
    np.testing.assert_allclose(girl["distance_percentile"], 75.0)
    assert set(table[table["case_id"] == "c1"]["neighbour_id"]) <= {"t4", "t5"}


def test_a_training_case_is_not_its_own_neighbour() -> None:
    training = cohort("t", "FFF")
    known = np.array([[0.0], [1.0], [3.0]], dtype=np.float32)
    table = neighbour_table(training, known, training, known, k=9)
    assert (table["case_id"] != table["neighbour_id"]).all()
    assert table["rank"].max() == 2


def test_what_cannot_be_searched_is_refused() -> None:
    points = np.zeros((3, 2))
    with pytest.raises(ConfigError, match="expected 1 to 3"):
        nearest(points, points, 4)
    with pytest.raises(ConfigError, match="expected 1 to 2"):
        nearest(points, points, 3, itself=np.arange(3))
    with pytest.raises(DataError, match="features, found"):
        nearest(points, np.zeros((3, 5)), 1)
    with pytest.raises(DataError, match="finite"):
        nearest(points, points * np.nan, 1)
    with pytest.raises(DataError, match="training cases of boys, found 0"):
        neighbour_table(cohort("c", "M"), points[:1], cohort("t", "FFF"), points)
    with pytest.raises(ConfigError, match="that the toolkit trained"):
        pooled_features(torch.nn.Linear(1, 1), np.zeros((1, 8, 8), np.uint8), np.arange(1))


def test_features_are_those_that_the_network_predicts_from(
    sex_run: Path, phantoms: Path, tmp_path: Path
) -> None:
    run = load_run(sex_run)
    source = select_cohort(read_source(phantoms))
    prepared = prepare_run(run, source, cache_folder=sex_run.parent / "cache")
    rows = prepared.cache.rows([case.case_id for case in prepared.cohort])
    modes = [module.training for module in run.network.modules()]
    features = pooled_features(run.network, prepared.cache.pixels, rows, batch_size=3)
    assert modes == [module.training for module in run.network.modules()]
    seen = []
    hook = run.network.head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    images = as_images(prepared.cache.pixels[rows], torch.device("cpu"))
    with torch.no_grad():
        run.network(images, torch.zeros(len(rows)))
    hook.remove()
    np.testing.assert_allclose(features, seen[0][:, : features.shape[1]], atol=1e-4)

    training = source.select(prepared.train_ids)
    folder = neighbours_run(prepared, training, tmp_path / "out", k=3)
    table = folder.neighbours()
    assert table is not None
    assert table.groupby("case_id").size().eq(3).all()
    assert len(table) == 24
    assert set(table["neighbour_id"]) <= set(prepared.train_ids)
    sex = {case.case_id: case.sex.value for case in source}
    assert [sex[one] for one in table["neighbour_id"]] == table["sex"].tolist()
    one = neighbours_of(folder, str(table["case_id"].iloc[0]))
    assert one is not None
    assert one["rank"].tolist() == [1, 2, 3]
    assert one["distance"].is_monotonic_increasing
    assert neighbours_of(folder, "nobody") is None
    with pytest.raises(ConfigError, match="own training data"):
        neighbours_run(prepared, source.select([]), tmp_path / "other")
