"""A small analysis folder built with the toolkit's own writers, for reports and dashboard."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from boneage_xai.analysis.evaluation import evaluate
from boneage_xai.analysis.failure_atlas import build_atlas, write_atlas
from boneage_xai.analysis.failure_cards import FailureCard, Neighbour
from boneage_xai.analysis.intervals import interval_results
from boneage_xai.analysis.region_occlusion import EXAMPLE_FILE
from boneage_xai.analysis.shortcut_data import audit_data
from boneage_xai.analysis.shortcut_network import summarise_changes
from boneage_xai.analysis.shortcut_words import data_alarm, network_alarm
from boneage_xai.analysis.stress import (
    EXAMPLES_FILE,
    STRESS_TABLE,
    StressExample,
    write_examples,
)
from boneage_xai.analysis.stress_transforms import STRESS_TRANSFORMS
from boneage_xai.anatomy import AGE_REGIONS
from boneage_xai.attribution.batch import attribute_cohort
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.interventions import ALL_REGIONS, SUM_OF_REGIONS
from boneage_xai.files import write_json, write_table
from boneage_xai.regions.removable import control_of
from boneage_xai.store import AnalysisFolder
from boneage_xai.types import RegionMap

MALICIOUS = "<script>alert('x')</script>"
STRANGE = "../../$\\frac$ [a](http://evil.example) *b*"
SIZE_PX = 24
N_CASES = 120
METHODS = ("integrated_gradients", "gradient")
REFUSED = {"deep_lift": "expected a network without gates, found <b>one</b>"}


class ToyNetwork(nn.Module):
    """Months from a convolution, so that maps and activations differ from case to case."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.ReLU()
        )
        self.head = nn.Linear(4, 1)

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        features = self.backbone(image).mean(dim=(2, 3))
        return 100 + 10 * is_male + 80 * self.head(features)[:, 0]


def write_analysis(folder: Path, *, attribute: bool = True, seed: int = 3) -> Path:
    """Write an analysis folder of 120 cases, 6 of them attributed with two methods."""
    rng = np.random.default_rng(seed)
    reference = rng.uniform(20, 215, N_CASES).round()
    frame = pd.DataFrame(
        {
            "case_id": [MALICIOUS, STRANGE, *(str(1000 + n) for n in range(N_CASES - 2))],
            "sex": np.where(np.arange(N_CASES) % 2 == 0, "F", "M"),
            "reference_months": reference,
            "predicted_months": 15 + 0.88 * reference + rng.normal(0, 8, N_CASES),
        }
    )
    frame["error_months"] = frame["predicted_months"] - frame["reference_months"]
    identity = {
        "run": {
            "path": "runs/toy",
            "model_id": f"{seed:012d}",
            "recipe": "toy",
            "architecture": {"backbone": "toy"},
            "preprocessing": {"size_px": SIZE_PX},
            "training": {"seed": 0, "n_train": 640, "n_validation": 160},
            "versions": {"torch": torch.__version__},
        },
        "data": {
            "cohort": "phantoms",
            "source": "some folder/phantoms",
            "fingerprint": "0123456789abcdef",
            "split": "held-out",
            "n": N_CASES,
        },
    }
    AnalysisFolder.add_step(folder, **identity, step="evaluate", detail={"n": N_CASES, "seed": 0})
    write_table(folder / "predictions.parquet", frame)
    mean = float(reference.mean())
    baselines = {"mean": np.full(N_CASES, mean), "intensity_ridge": 0.3 * reference + 0.7 * mean}
    write_json(folder / "metrics.json", evaluate(frame, baselines, n_resamples=100))
    intervals = interval_results(frame, n_splits=3)
    assert intervals is not None
    write_json(folder / "intervals.json", intervals[0])
    write_table(folder / "intervals.parquet", intervals[1])
    epochs = np.arange(8)
    history = pd.DataFrame(
        {
            "epoch": epochs,
            "train_mae_months": 30.0 / (1 + epochs),
            "val_mae_months": 12 + np.abs(epochs - 5.0),
        }
    )
    write_table(folder / "history.csv", history)
    if attribute:
        _attribute(folder, frame.head(6), rng)
        AnalysisFolder.add_step(
            folder,
            **identity,
            step="attribute",
            detail={
                "n": 6,
                "methods": ["integrated_gradients", "gradient"],
                "layers": ["backbone.1", "backbone.4"],
                "settings": {"baseline": "black", "max_nodes": 33},
                "limit": 6,
            },
        )
        detail = {"n": 6, "limit": 6, "delta_months": 12.0, "phantoms": {"faults": []}}
        AnalysisFolder.add_step(folder, **identity, step="intervene", detail=detail)
        write_table(folder / "interventions.parquet", interventions(frame.head(6), rng))
        detail = {"n": 6, "limit": 6, "methods": list(METHODS), "refused": REFUSED}
        AnalysisFolder.add_step(folder, **identity, step="benchmark_methods", detail=detail)
        write_table(folder / "scoreboard.parquet", scores(frame.head(6)))
        detail = {"n": 6, "limit": 6, "fills": ["inpaint", "mean"], "regions": "some maps"}
        AnalysisFolder.add_step(folder, **identity, step="occlude", detail=detail)
        write_table(folder / "occlusion.parquet", occlusion(frame.head(9)))
        _write_example(folder, frame["case_id"].iloc[2])
        AnalysisFolder.add_step(folder, **identity, step="sex_effect", detail={"n": N_CASES})
        write_table(folder / "sex_effect.parquet", sex_effects(frame))
        detail = {"n": 6, "limit": 6, "transforms": ["rotation_180", "contrast_50"]}
        AnalysisFolder.add_step(folder, **identity, step="stress", detail=detail)
        _stress(folder, frame.head(6), rng)
        _shortcuts(folder, frame, identity, rng)
        detail = {"n": N_CASES, "worst": None, "pictures": 2, "neighbours": True, "seed": 0}
        AnalysisFolder.add_step(folder, **identity, step="failures", detail=detail)
        _failures(folder, frame, rng)
    return folder


def _shortcuts(
    folder: Path, frame: pd.DataFrame, identity: dict[str, Any], rng: np.random.Generator
) -> None:
    """Write a shortcut audit in which the marker moves predictions and nothing tells the sex."""
    ages = frame["reference_months"].to_numpy()
    groups = {"marker": ages[:, None] + rng.normal(0, 20, (N_CASES, 1)), "intensity": ages[:, None]}
    found, _ = audit_data(groups, ages, (frame["sex"] == "M").to_numpy(), n_permutations=199)
    changes = pd.concat(
        [
            frame.assign(test=test, change_months=change, control_months=control)
            for test, change, control in (
                ("marker_erased", rng.normal(-12, 3, N_CASES), 0.25),
                ("marker_moved", rng.normal(0, 1, N_CASES), 0.25),
                ("whole_darker", rng.normal(0, 0.1, N_CASES), np.nan),
            )
        ],
        ignore_index=True,
    )
    network, untested = summarise_changes(changes)
    detail = {"n": N_CASES, "limit": 200, "n_data": N_CASES, "data_limit": None, "seed": 0}
    AnalysisFolder.add_step(folder, **identity, step="shortcuts", detail=detail)
    write_table(folder / "shortcuts.parquet", changes)
    names = ("original", "marker_erased", "marker_moved", "control")
    pictures: dict[str, Any] = {
        name: rng.integers(0, 256, (SIZE_PX, SIZE_PX), dtype=np.uint8) for name in names
    }
    np.savez(folder / "shortcuts_example.npz", **pictures, case_id=np.array(MALICIOUS))
    alarms = [data_alarm(row) for row in found[found["alarm"]].to_dict("records")]
    alarms += [network_alarm(row) for row in network[network["alarm"]].to_dict("records")]
    share = {"share": 0.2, "low": 0.1, "high": 0.3, "area": 0.02, "elsewhere": None}
    write_json(
        folder / "shortcuts.json",
        {
            "alarm": True,
            "alarms": alarms,
            "data": found.to_dict("records"),
            "network": network.to_dict("records"),
            "attribution": [{"method": "gradient", "part": "marker", "n": 6} | share],
            "not_checked": {"data": {"id: age": "ids <b>unknown</b>"}, "network": untested},
            "rules": {"significance": 0.05, "least_months": 3.0, "least_slope": 0.1},
        },
    )


def _failures(folder: Path, frame: pd.DataFrame, rng: np.random.Generator) -> None:
    """Write a failure atlas in which nothing tells the worst cases but one trait of the picture."""
    traits = pd.DataFrame(
        {
            "case_id": frame["case_id"],
            "age_months": frame["reference_months"],
            "male": (frame["sex"] == "M").astype(float),
            "contrast": rng.normal(size=N_CASES) - 0.2 * frame["error_months"].abs(),
            "brightness": rng.normal(size=N_CASES),
            "marker": 0.0,
        }
    )
    table, findings = build_atlas(frame, traits, n_permutations=39)
    picture = rng.integers(0, 256, (SIZE_PX, SIZE_PX), dtype=np.uint8)
    cards = [
        FailureCard(
            MALICIOUS, "F", 100.0, predicted, picture, (picture / 1e4).astype(np.float32), 0.25,
            (Neighbour(STRANGE, 90.0, 1.5),), picture[None],
        )
        for predicted in (130.0, 70.0)
    ]  # fmt: skip
    write_atlas(folder, table, findings, cards)


def scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a scoreboard on which the gradient is at chance and unaware of the weights."""
    rows = []
    for place, case in enumerate(frame["case_id"]):
        for method, agreement in zip(METHODS, ((0.6, 0.8), (-0.2, 0.2)), strict=True):
            rows.append(
                {
                    "case_id": case,
                    "method": method,
                    "region_correlation": agreement[place % 2],
                    "mass_accuracy": 0.5,
                    "mass_chance": 0.25,
                    "rank_accuracy": 0.4,
                    "rank_chance": 0.25,
                    "deletion_months": 3.0,
                    "absolute_gap_months": 0.125 if method == METHODS[0] else np.nan,
                    "randomised_similarity": 0.1 if method == METHODS[0] else 0.75,
                    "seconds": 0.5,
                }
            )
    return pd.DataFrame(rows)


def occlusion(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table in which carpals matter more than their control, and the radius does not."""
    effects = {
        "carpals": ("region", -9.0),
        "radius $x": ("region", 2.0),
        "whole_hand": ("composite", -40.0),
        control_of("carpals"): ("control", 1.5),
        control_of("radius $x"): ("control", -4.0),
    }
    rows = []
    for place, case in enumerate(frame.to_dict("records")):
        for fill in ("inpaint", "mean"):
            for region, (kind, delta) in effects.items():
                delta_months = delta * (1 + 0.1 * place)
                error = case["error_months"]
                rows.append(
                    {
                        "case_id": case["case_id"],
                        "sex": case["sex"],
                        "reference_months": case["reference_months"],
                        "predicted_months": case["predicted_months"],
                        "fill": fill,
                        "region": region,
                        "kind": kind,
                        "delta_months": delta_months,
                        "delta_absolute_error_months": abs(error + delta_months) - abs(error),
                        "area_fraction": 0.1 if region == "carpals" else 0.2,
                        "hand_fraction": 0.25 if region == control_of("radius $x") else 1.0,
                    }
                )
    return pd.DataFrame(rows)


def _write_example(folder: Path, case_id: str) -> None:
    mask = np.zeros((1, SIZE_PX, SIZE_PX), dtype=np.bool_)
    mask[:, 4:20, 4:12] = True
    np.savez_compressed(
        folder / EXAMPLE_FILE,
        case_id=np.array(case_id),
        pixels=np.full((SIZE_PX, SIZE_PX), 90, dtype=np.uint8),
        names=np.array(["carpals"]),
        masks=mask,
        fills=np.array(["inpaint", "mean"]),
        pictures=np.full((1, 2, SIZE_PX, SIZE_PX), 40, dtype=np.uint8),
        delta_months=np.array([[-9.0, -9.0]]),
    )


def interventions(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Return a table of interventions in which no ulna changes any picture."""
    rows = []
    for case in frame.to_dict("records"):
        slopes = {region: rng.normal(0.1, 0.05) for region in AGE_REGIONS} | {"ulna": 0.0}
        slopes |= {ALL_REGIONS: 0.9 * sum(slopes.values()), SUM_OF_REGIONS: sum(slopes.values())}
        rows += [
            {
                "case_id": case["case_id"],
                "sex": case["sex"],
                "age_months": case["reference_months"],
                "region": region,
                "slope_months_per_month": slope,
                "span_months": 24.0,
                "maturity_change": 0.0 if region == "ulna" else 0.12,
                "changed_px": 0 if region == "ulna" else 400,
            }
            for region, slope in slopes.items()
        ]
    return pd.DataFrame(rows)


def sex_effects(frame: pd.DataFrame) -> pd.DataFrame:
    """Return predictions for both sexes in which boys are read 10 months older than girls."""
    is_male = frame["sex"] == "M"
    table = frame[["case_id", "sex", "reference_months"]].copy()
    table["as_girl_months"] = frame["predicted_months"] - 10.0 * is_male
    table["as_boy_months"] = table["as_girl_months"] + 10.0
    return table.assign(effect_months=10.0)


def _stress(folder: Path, frame: pd.DataFrame, rng: np.random.Generator) -> None:
    """Write a stress test in which half turns make every case older and contrast does nothing."""
    rows = []
    for case in frame.to_dict("records"):
        for name, delta in (("rotation_180", 40.0), ("contrast_50", 0.0)):
            rows.append(
                {
                    "case_id": case["case_id"],
                    "sex": case["sex"],
                    "reference_months": case["reference_months"],
                    "family": name.split("_")[0],
                    "transform": name,
                    "parameter": STRESS_TRANSFORMS[name].parameter,
                    "original_months": case["predicted_months"],
                    "predicted_months": case["predicted_months"] + delta,
                    "delta_months": delta,
                }
            )
    write_table(folder / STRESS_TABLE, pd.DataFrame(rows))
    image = rng.integers(0, 256, (SIZE_PX, SIZE_PX), dtype=np.uint8)
    example = StressExample(
        "rotation", "rotation_180", MALICIOUS, 100.0, 140.0, image, np.rot90(image, 2)
    )
    write_examples(folder / EXAMPLES_FILE, [example])


def _attribute(folder: Path, frame: pd.DataFrame, rng: np.random.Generator) -> None:
    labels = np.zeros((SIZE_PX, SIZE_PX), dtype=np.int64)
    labels[4:20, 4:12], labels[4:20, 12:20] = 1, 2
    regions = RegionMap(labels, {0: "background", 1: "carpals", 2: "radius $x"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = ToyNetwork().eval()
    attribute_cohort(
        network,
        case_ids=list(frame["case_id"]),
        pixels=rng.integers(0, 256, (len(frame), SIZE_PX, SIZE_PX), dtype=np.uint8),
        is_male=(frame["sex"] == "M").to_numpy(),
        out=folder,
        methods=["gradient", "integrated_gradients"],
        layers=["backbone.1", "backbone.4"],
        settings=AttributionSettings(max_nodes=33),
        regions_of=lambda _: regions,
    )


@pytest.fixture(scope="session")
def analysis_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_analysis(tmp_path_factory.mktemp("analysis") / "toy")


@pytest.fixture
def analysis_folder(analysis_template: Path, tmp_path: Path) -> Path:
    """Return a folder of the test's own, which it may change."""
    return Path(shutil.copytree(analysis_template, tmp_path / "toy"))
