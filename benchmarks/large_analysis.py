"""Write an analysis of as many made-up cases as asked for, for measuring what reads it.

Predictions are references with noise, maps are smooth noise on phantoms: the files are as large and
as many as those of a real analysis, and nothing in them means anything.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter

from boneage_xai.analysis.evaluation import evaluate
from boneage_xai.analysis.intervals import interval_results
from boneage_xai.anatomy import REGION_NAMES
from boneage_xai.attribution.work.parts import ATTRIBUTION_TYPES, REGION_TYPES
from boneage_xai.attribution.writers import MapsWriter
from boneage_xai.files import write_json, write_table
from boneage_xai.phantom.cohorts import draw_cases, render_case
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.store import AnalysisFolder

METHOD = "integrated_gradients"
LAYER, LAYER_SHAPE = "backbone.layer4", (8, 8)
HANDS = 64
NETWORK_SIZES = {"model_id": "0123456789ab", "recipe": "made-up", "path": "runs/made-up"}


def predictions(n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return n cases whose ages are spread like those of the RSNA challenge."""
    reference = rng.normal(127, 41, n).clip(1, 228).round()
    predicted = 12 + 0.9 * reference + rng.normal(0, 9, n)
    return pd.DataFrame(
        {
            "case_id": [str(1377 + number) for number in range(n)],
            "sex": np.where(rng.random(n) < 0.54, "M", "F"),
            "reference_months": reference,
            "predicted_months": predicted,
            "error_months": predicted - reference,
        }
    )


def write_large_analysis(folder: Path, n: int, size_px: int) -> Path:
    """Write an analysis of n cases, all attributed with one method and cut into regions.

    Args:
        folder: new analysis folder.
        n: cases.
        size_px: side of the maps.
    """
    rng = np.random.default_rng(0)
    frame = predictions(n, rng)
    run = {
        **NETWORK_SIZES,
        "architecture": {"backbone": "resnet18"},
        "preprocessing": {"size_px": size_px},
        "training": {"seed": 0, "n_train": 4 * n, "n_validation": n},
        "versions": {"torch": torch.__version__},
    }
    data = {
        "cohort": "made-up",
        "source": "made-up",
        "fingerprint": "0" * 16,
        "split": "held-out",
        "n": n,
    }
    detail = {"n": n, "seed": 0}
    AnalysisFolder.add_step(folder, run=run, data=data, step="evaluate", detail=detail)
    write_table(folder / "predictions.parquet", frame)
    mean = np.full(n, float(frame["reference_months"].mean()))
    write_json(folder / "metrics.json", evaluate(frame, {"mean": mean}, n_resamples=1000))
    intervals = interval_results(frame)
    if intervals is not None:
        write_json(folder / "intervals.json", intervals[0])
        write_table(folder / "intervals.parquet", intervals[1])
    _write_maps(folder, frame, size_px, rng)
    _write_tables(folder, frame, size_px, rng)
    detail = {
        "n": n,
        "methods": [METHOD],
        "layers": [LAYER],
        "settings": {"baseline": "black", "max_nodes": 256},
        "limit": None,
    }
    AnalysisFolder.add_step(folder, run=run, data=data, step="attribute", detail=detail)
    return folder


def _write_maps(folder: Path, frame: pd.DataFrame, size_px: int, rng: np.random.Generator) -> None:
    path = folder / "attributions.zarr"
    MapsWriter.create(
        path,
        list(frame["case_id"]),
        (size_px, size_px),
        [METHOD],
        {LAYER: LAYER_SHAPE},
        regions=False,
        claim="",
    )
    group = MapsWriter(path).group
    settings = PhantomSettings(size_px=size_px, framing=False)
    hands = []
    for case in draw_cases(min(HANDS, len(frame)), 0):
        pixels = render_case(case, settings).pixels
        square = np.zeros((size_px, size_px), dtype=np.uint8)
        square[: pixels.shape[0], : pixels.shape[1]] = np.round(255 * pixels)
        hands.append(square)
    maps = [
        gaussian_filter(rng.normal(size=hand.shape), 2).astype(np.float32) * hand / 255
        for hand in hands
    ]
    inputs, values, activations = (
        group[name] for name in ("inputs", METHOD, f"activations/{LAYER}")
    )
    for number in range(len(frame)):
        inputs[number] = hands[number % len(hands)]
        values[number] = maps[number % len(maps)] * rng.uniform(0.5, 1.5)
        activations[number] = rng.random(LAYER_SHAPE, dtype=np.float32)


def _write_tables(
    folder: Path, frame: pd.DataFrame, size_px: int, rng: np.random.Generator
) -> None:
    n, regions = len(frame), list(REGION_NAMES.values())
    attributions = pd.DataFrame(
        {
            "case_id": frame["case_id"],
            "method": METHOD,
            "baseline": "black",
            "prediction_months": frame["predicted_months"],
            "baseline_prediction_months": 120.0,
            "completeness_gap_months": rng.normal(0, 0.3, n),
            "map_error_fraction": rng.uniform(0.005, 0.01, n),
            "nodes": rng.integers(17, 129, n),
            "converged": True,
            "precision": "float32",
            "sex_effect_months": rng.normal(8, 3, n),
            "seconds": 0.5,
        }
    )
    write_table(folder / "attributions.parquet", attributions.astype(ATTRIBUTION_TYPES))
    signed = rng.normal(0, 8, n * len(regions))
    table = pd.DataFrame(
        {
            "case_id": np.repeat(frame["case_id"].to_numpy(), len(regions)),
            "method": METHOD,
            "region": np.tile(regions, n),
            "signed_months": signed,
            "absolute_months": np.abs(signed) + 2,
            "area_fraction": 1 / len(regions),
        }
    )
    write_table(folder / "regions.parquet", table.astype(REGION_TYPES))
