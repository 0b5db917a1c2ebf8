"""Activation maps beside random weights: correlations worked out another way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from boneage_xai.analysis.reproduction import activation_control
from boneage_xai.analysis.run_analysis import prepare_run
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.models.checkpoint import load_run


def test_correlation_is_over_what_is_not_black(sex_run: Path, phantoms: Path) -> None:
    cohort = select_cohort(read_source(phantoms))
    prepared = prepare_run(load_run(sex_run), cohort, cache_folder=sex_run.parent / "cache")
    control = activation_control(prepared, 4, seed=1)
    assert len(control.cohort) == len(control.inputs) == 4
    assert [one["layer"] for one in control.similarity] == list(control.trained)
    side_px = control.inputs.shape[1]
    for one in control.similarity:
        trained, random = control.trained[one["layer"]], control.random[one["layer"]]
        size = one["size_px"]
        assert trained.shape == random.shape == (4, size, size)
        assert not np.array_equal(trained, random)
        found = []
        for case in range(4):
            # The mean of the part of the radiograph that a place of the map stands for.
            bright = np.zeros((size, size), dtype=bool)
            for y in range(size):
                for x in range(size):
                    rows = slice(y * side_px // size, -(-(y + 1) * side_px // size))
                    columns = slice(x * side_px // size, -(-(x + 1) * side_px // size))
                    bright[y, x] = control.inputs[case, rows, columns].mean() > 2
            found.append(spearmanr(trained[case][bright], random[case][bright]).statistic)
        assert one["rank_correlation"]["value"] == pytest.approx(np.nanmean(found), abs=1e-6)
    again = activation_control(prepared, 4, seed=1)
    assert again.similarity == control.similarity
