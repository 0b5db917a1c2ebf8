from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from torch import Tensor, nn

from boneage_xai.attribution.activations import layer_activations
from boneage_xai.attribution.baselines import SameSexReferences
from boneage_xai.attribution.batch import attribute_cohort
from boneage_xai.attribution.integrated_gradients import expected_gradients
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.methods import METHODS
from boneage_xai.errors import AttributionError, BoneAgeError, ConfigError, DataError
from boneage_xai.files import read_table
from boneage_xai.regions.aggregation import aggregate
from boneage_xai.types import RegionMap

SIZE_PX = 12
SETTINGS = AttributionSettings()
IDS = ["b", "a", "c"]
ROWS = [4, 0, 2]
IS_MALE = np.array([True, False, True])
PIXELS = np.random.default_rng(0).integers(0, 256, (5, SIZE_PX, SIZE_PX), dtype=np.uint8)
NAMES = {0: "background", 1: "radius", 7: "carpals"}


def regions_of(case_id: str) -> RegionMap | None:
    if case_id == "a":
        return None
    labels = np.zeros((SIZE_PX, SIZE_PX), dtype=np.uint16)
    labels[2:5, ord(case_id) % 5 :] = 1
    labels[8:, :4] = 7
    return RegionMap(labels, NAMES)


def attribute(network: nn.Module, out: Path, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "case_ids": IDS,
        "pixels": PIXELS,
        "rows": ROWS,
        "is_male": IS_MALE,
        "methods": ["integrated_gradients", "gradient"],
        "layers": ["backbone.1", "backbone.4"],
        "settings": SETTINGS,
        "regions_of": regions_of,
    }
    return attribute_cohort(network, out=out, **{**options, **changes})


def input_of(index: int) -> tuple[Tensor, Tensor]:
    image = torch.tensor(PIXELS[ROWS[index]] / 255, dtype=torch.float32)[None, None]
    return image, torch.tensor([float(IS_MALE[index])])


def test_what_is_written_is_what_the_methods_return(
    small_network: nn.Module, tmp_path: Path
) -> None:
    small_network.eval()
    (tmp_path / "metrics.json").write_text("another command's")
    done: list[tuple[int, int]] = []
    summary = attribute(small_network, tmp_path, progress=lambda *state: done.append(state))
    assert done == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "attributions.parquet",
        "attributions.zarr",
        "metrics.json",
        "regions.parquet",
    ]
    maps = zarr.open_group(tmp_path / "attributions.zarr", mode="r")
    table = pd.read_parquet(tmp_path / "attributions.parquet")
    sums = pd.read_parquet(tmp_path / "regions.parquet")

    assert maps.metadata.zarr_format == 3
    assert maps.attrs["case_ids"] == IDS
    assert maps.attrs["layers"] == ["backbone.1", "backbone.4"]
    np.testing.assert_array_equal(maps["inputs"][:], PIXELS[ROWS])
    assert maps["inputs"].dtype == np.uint8
    assert list(table["case_id"]) == [case_id for case_id in IDS for _ in range(2)]
    assert list(table["method"]) == ["integrated_gradients", "gradient"] * 3
    for method in ("integrated_gradients", "gradient"):
        array = maps[method]
        assert (array.shape, array.chunks, array.dtype) == ((3, 12, 12), (1, 12, 12), np.float32)
        for index, case_id in enumerate(IDS):
            expected = METHODS[method](small_network, *input_of(index), SETTINGS)
            # Batches differ between one case and three, and with them the rounding.
            np.testing.assert_allclose(array[index], expected.map_months, rtol=1e-4, atol=1e-5)
            row = table[(table["case_id"] == case_id) & (table["method"] == method)].iloc[0]
            assert row["prediction_months"] == pytest.approx(expected.prediction_months)
            assert row["seconds"] > 0
            image, sex = input_of(index)
            with torch.no_grad():
                own, other = small_network(image, sex), small_network(image, 1 - sex)
            assert row["sex_effect_months"] == pytest.approx(float(other - own), abs=1e-3)
            assert abs(row["sex_effect_months"]) > 1
            if method == "gradient":
                assert pd.isna(row["baseline"])
                for column in ("completeness_gap_months", "nodes", "converged", "precision"):
                    assert pd.isna(row[column])
            else:
                assert row["baseline"] == "black"
                assert row["baseline_prediction_months"] == pytest.approx(
                    expected.baseline_prediction_months
                )
                assert row["completeness_gap_months"] == pytest.approx(
                    expected.completeness_gap_months, abs=1e-3
                )
                assert row["nodes"] == expected.nodes
                assert row["converged"]
                assert row["precision"] == "float32"
            mine = sums[(sums["case_id"] == case_id) & (sums["method"] == method)]
            regions = regions_of(case_id)
            if regions is None:
                assert len(mine) == 0
                continue
            pd.testing.assert_frame_equal(
                mine.drop(columns=["case_id", "method"]).reset_index(drop=True),
                aggregate(array[index], regions),
                check_exact=True,
                check_dtype=False,
            )
    for index in range(3):
        activations = layer_activations(
            small_network, *input_of(index), ["backbone.1", "backbone.4"]
        )
        for layer, values in activations.items():
            np.testing.assert_array_equal(maps[f"activations/{layer}"][index], values[0])
    labels = maps["regions"]
    assert labels.dtype == np.uint8
    assert labels.attrs["names"] == {"0": "background", "1": "radius", "7": "carpals"}
    assert labels.attrs["case_ids"] == ["b", "c"]
    np.testing.assert_array_equal(labels[0], regions_of("b").labels)
    np.testing.assert_array_equal(labels[1], 0)

    gaps = table.loc[table["method"] == "integrated_gradients", "completeness_gap_months"]
    assert summary["n"] == 3
    assert summary["methods"] == ["integrated_gradients", "gradient"]
    assert summary["n_with_regions"] == 2
    assert summary["median_absolute_gap_months"] == {
        "integrated_gradients": pytest.approx(gaps.abs().median()),
        "gradient": None,
    }
    assert set(summary["median_seconds"]) == {"integrated_gradients", "gradient"}
    assert summary["n_not_converged"] == {"integrated_gradients": 0}
    assert summary["median_nodes"]["integrated_gradients"] >= 17
    how = summary["integration"]["integrated_gradients"]
    assert how["precision"] == "float32"
    assert "trapezoidal" in how["rule"]
    assert "fewer than 16 cases" in how["reason"] or "no units for two bytes" in how["reason"]
    json.dumps(summary)


def test_default_layers_and_no_regions(small_network: nn.Module, tmp_path: Path) -> None:
    out = tmp_path / "new" / "analysis"
    summary = attribute(small_network, out, layers=None, regions_of=None)
    maps = zarr.open_group(out / "attributions.zarr", mode="r")
    assert summary["layers"] == maps.attrs["layers"] == ["backbone.2", "backbone.5"]
    assert maps["activations/backbone.5"].shape == (3, 6, 6)
    assert "regions" not in maps
    assert not (out / "regions.parquet").exists()
    assert attribute(small_network, tmp_path / "none", layers=[])["layers"] == []


def test_a_network_without_spatial_layers_is_explained_without_activation_maps(
    linear_network: type[nn.Module], tmp_path: Path
) -> None:
    network = linear_network(torch.rand(12, 12))
    assert attribute(network, tmp_path, layers=None)["layers"] == []
    assert "activations" not in zarr.open_group(tmp_path / "attributions.zarr", mode="r")


def test_what_is_named_twice_is_computed_once(small_network: nn.Module, tmp_path: Path) -> None:
    twice = ["gradient", "gradient"]
    summary = attribute(small_network, tmp_path, methods=twice, layers=["backbone.2"] * 2)
    assert (summary["methods"], summary["layers"]) == (["gradient"], ["backbone.2"])
    table = read_table(tmp_path / "attributions.parquet")
    assert list(table["method"]) == ["gradient"] * len(table["case_id"].unique())


def test_an_earlier_attribution_gives_way_only_when_asked(
    small_network: nn.Module, tmp_path: Path
) -> None:
    attribute(small_network, tmp_path)
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=r"attributions\.zarr: expected no attribution yet"):
        attribute(small_network, tmp_path)
    assert content(tmp_path) == before
    attribute(small_network, tmp_path, replace=True, regions_of=None, methods=["gradient"])
    maps = zarr.open_group(tmp_path / "attributions.zarr", mode="r")
    assert "integrated_gradients" not in maps
    # Region sums of maps that are gone would be taken for sums of the new ones.
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "attributions.parquet",
        "attributions.zarr",
    ]


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("replace", [False, True])
def test_an_interruption_leaves_what_was_there(
    small_network: nn.Module, tmp_path: Path, replace: bool
) -> None:
    if replace:
        attribute(small_network, tmp_path)
    before = content(tmp_path)

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attribute(small_network, tmp_path, replace=replace, progress=interrupt)
    after = content(tmp_path)
    assert {name: data for name, data in after.items() if name[0] != "."} == before
    assert ".attribute/parts/000000.json" in after


def test_a_kill_leaves_no_attribution(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        import numpy as np
        from torch import nn
        from boneage_xai.attribution.batch import attribute_cohort

        class Mean(nn.Module):
            def forward(self, image, is_male):
                return image.mean(dim=(1, 2, 3))

        attribute_cohort(
            Mean(),
            case_ids=["1", "2", "3"],
            pixels=np.zeros((3, 8, 8), dtype=np.uint8),
            is_male=np.zeros(3, dtype=bool),
            out=Path({str(tmp_path)!r}),
            layers=[],
            progress=lambda done, total: done == 2 and os.kill(os.getpid(), signal.SIGKILL),
        )
        """
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"methods": ["lime"]}, ConfigError, "found lime"),
        ({"methods": []}, ConfigError, "at least one method"),
        ({"layers": ["backbone.99"]}, ConfigError, r"backbone\.99"),
        ({"case_ids": ["a", "b", "a"]}, DataError, "unique case ids"),
        ({"case_ids": ["a", "b"]}, DataError, "found 2 cases, 3 sexes and 3 images"),
        ({"rows": [0, 1, 5]}, DataError, "rows from 0 to 4, found 0 to 5"),
        ({"rows": None}, DataError, "3 cases, 3 sexes and 5 images"),
        ({"pixels": PIXELS / 255}, DataError, "of uint8, found"),
        ({"case_ids": [], "rows": [], "is_male": IS_MALE[:0]}, DataError, "at least one case"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(
    small_network: nn.Module,
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[BoneAgeError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        attribute(small_network, tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (np.zeros((3, 3), dtype=int), NAMES, r"case c: expected a region map on the input grid"),
        (np.full((12, 12), 300), {300: "x"}, "case c: expected region labels from 0 to 255"),
        (np.ones((12, 12), dtype=int), {1: "ulna"}, "case c: expected label 1 to be radius"),
    ],
)
def test_region_maps_that_do_not_fit_name_the_case(
    small_network: nn.Module,
    tmp_path: Path,
    labels: np.ndarray,
    names: dict[int, str],
    message: str,
) -> None:
    def broken(case_id: str) -> RegionMap | None:
        return RegionMap(labels, names) if case_id == "c" else regions_of(case_id)

    with pytest.raises(DataError, match=message):
        attribute(small_network, tmp_path, regions_of=broken)
    assert list(tmp_path.iterdir()) == []


def test_a_map_that_is_not_finite_names_case_and_method(tmp_path: Path) -> None:
    class NotFinite(nn.Module):
        def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
            return torch.sqrt(image.flatten(1) * 0).sum(dim=1)  # the slope of the root at 0

    with pytest.raises(AttributionError, match="case b, gradient: attribution map: expected fin"):
        attribute(NotFinite(), tmp_path, methods=["gradient"], layers=[])
    assert list(tmp_path.iterdir()) == []


def test_blocks_do_not_change_the_maps(small_network: nn.Module, tmp_path: Path) -> None:
    """Eleven cases fill one block and begin another; each alone gives the same map."""
    n = 11
    pixels = np.random.default_rng(2).integers(0, 256, (n, SIZE_PX, SIZE_PX), dtype=np.uint8)
    is_male = np.arange(n) % 3 == 0
    network = small_network.double()
    settings = AttributionSettings(memory_budget_mb=1)
    done: list[int] = []

    def run(out: Path, rows: list[int]) -> np.ndarray:
        attribute_cohort(
            network,
            case_ids=[str(row) for row in rows],
            pixels=pixels,
            rows=rows,
            is_male=is_male[rows],
            out=out,
            layers=[],
            settings=settings,
            progress=lambda now, _: done.append(now),
        )
        maps = zarr.open_group(out / "attributions.zarr", mode="r")
        return np.asarray(maps["integrated_gradients"][:])

    together = run(tmp_path / "all", list(range(n)))
    assert done == list(range(n + 1))
    for row in (0, 7, 8, 10):
        np.testing.assert_allclose(run(tmp_path / str(row), [row])[0], together[row], rtol=1e-6)


def test_expected_gradients_of_a_cohort(small_network: nn.Module, tmp_path: Path) -> None:
    references = SameSexReferences(
        *np.random.default_rng(4).random((2, 3, SIZE_PX, SIZE_PX), dtype=np.float32)
    )
    methods = ["expected_gradients", "integrated_gradients"]
    summary = attribute(small_network, tmp_path, methods=methods, references=references)
    table = pd.read_parquet(tmp_path / "attributions.parquet")
    assert list(table["baseline"]) == ["expected", "black"] * 3
    assert set(summary["integration"]) == set(methods)
    maps = zarr.open_group(tmp_path / "attributions.zarr", mode="r")
    for index in range(3):
        alone = expected_gradients(small_network, *input_of(index), SETTINGS, references=references)
        np.testing.assert_allclose(
            maps["expected_gradients"][index], alone.map_months, rtol=1e-4, atol=1e-5
        )
    with pytest.raises(ConfigError, match="reference images, found none"):
        attribute(small_network, tmp_path / "none", methods=methods)
    assert list((tmp_path / "none").iterdir()) == []


def test_cases_that_do_not_converge_are_marked(small_network: nn.Module, tmp_path: Path) -> None:
    settings = AttributionSettings(
        gap_tolerance_months=0, gap_tolerance_fraction=0, min_nodes=3, max_nodes=9
    )
    summary = attribute(small_network, tmp_path, settings=settings)
    table = pd.read_parquet(tmp_path / "attributions.parquet")
    ours = table[table["method"] == "integrated_gradients"]
    assert summary["n_not_converged"] == {"integrated_gradients": 3}
    assert not ours["converged"].any()
    assert (ours["nodes"] == 9).all()
    assert (ours["completeness_gap_months"].abs() > 0).all()
