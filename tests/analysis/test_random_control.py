"""The control with random weights: what it is, that it passes for nothing else, where it lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from boneage_xai.analysis.random_control import (
    control_of,
    random_weights_of,
    similarity_to_control,
    with_random_weights,
)
from boneage_xai.analysis.run_analysis import RunOnCohort, evaluate_run, prepare_run
from boneage_xai.analysis.run_attribution import attribute_run
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.errors import ReportError
from boneage_xai.files import read_json, write_json
from boneage_xai.models.checkpoint import load_run
from boneage_xai.store import CONTROL_FOLDER
from trainers.engine import train
from trainers.recipe import load_recipe

TINY = (
    "preprocessing.size_px=48",
    "architecture.backbone=squeezenet1_1",
    "training.batch_size=8",
    "training.epochs=1",
    "training.stages=[]",
    "training.precision=float32",
)


@pytest.fixture(scope="module")
def prepared(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> RunOnCohort:
    folder = tmp_path_factory.mktemp("control")
    cohort = select_cohort(read_source(phantoms))
    train(load_recipe("demo", TINY), cohort, folder / "run", cache_folder=folder / "cache")
    run = load_run(folder / "run")
    return prepare_run(run, cohort, split="all", cache_folder=folder / "cache")


def test_control_is_another_network_on_the_same_cases(prepared: RunOnCohort) -> None:
    before = torch.get_rng_state()
    state = {name: value.clone() for name, value in prepared.run.network.state_dict().items()}
    control, again, other = (with_random_weights(prepared, seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    for name, value in prepared.run.network.state_dict().items():
        assert torch.equal(value, state[name])
    assert control.cohort is prepared.cohort
    assert control.cache is prepared.cache
    ids = {one.run.model_id for one in (prepared, control, other)}
    assert len(ids) == 3
    assert again.run.model_id == control.run.model_id
    assert "random weights" in control.run.name
    assert control.run.splits().equals(prepared.run.splits())
    record = control.run.record()
    assert record["random_weights"]["copy_of"] == prepared.run.model_id
    assert record["random_weights"]["seed"] == 0
    assert record["recipe"] == control.run.name


def test_report_finds_the_control_and_refuses_another(
    prepared: RunOnCohort, tmp_path: Path
) -> None:
    folder = evaluate_run(prepared, tmp_path)
    assert control_of(folder) is None
    control = with_random_weights(prepared)
    options = {"methods": ["input_x_gradient"], "layers": [], "limit": 2}
    with pytest.raises(ReportError, match="another run"):
        attribute_run(control, tmp_path, **options)
    found = attribute_run(control, tmp_path / CONTROL_FOLDER, **options)
    opened = control_of(folder)
    assert opened is not None
    assert opened.path == found.path
    assert random_weights_of(opened)["seed"] == 0
    assert random_weights_of(folder) is None
    values = np.asarray(found.maps()["input_x_gradient"][0])
    assert np.isfinite(values).all()
    assert np.ptp(values) > 0
    assert similarity_to_control(folder) is None  # the network itself has no maps yet
    ours = attribute_run(prepared, tmp_path, **options)
    similar = similarity_to_control(ours)
    assert similar is not None
    assert list(similar["method"]) == ["input_x_gradient"] * 2
    assert set(similar["case_id"]) == set(found.attributions()["case_id"])
    assert similar["rank_correlation"].between(0, 0.99).all()  # not the same maps
    # The opposite map is as much a copy as the same one.
    path = found.path / "attributions.zarr" / "input_x_gradient"
    zarr.open_array(path, mode="r+")[:] = -ours.maps()["input_x_gradient"][:]
    opposite = similarity_to_control(ours)
    assert opposite is not None
    assert np.allclose(opposite["rank_correlation"], 1)
    manifest = tmp_path / CONTROL_FOLDER / "analysis.json"
    content = read_json(manifest)
    content["run"]["random_weights"]["copy_of"] = "ffffffffffff"
    write_json(manifest, content)
    with pytest.raises(ReportError, match="copy of model"):
        control_of(folder)
    # The analysis of a trained network is no control.
    del content["run"]["random_weights"]
    write_json(manifest, content)
    with pytest.raises(ReportError, match="found None"):
        control_of(folder)
