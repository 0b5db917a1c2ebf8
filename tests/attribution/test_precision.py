from __future__ import annotations

import logging
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from boneage_xai.attribution import precision as module
from boneage_xai.attribution.integrated_gradients import (
    attribute_batch,
    integrated_gradients,
    make_integrator,
)
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.precision import Precision, choose_precision
from boneage_xai.attribution.prepared import float32_poolings, prepare

HALF = AttributionSettings(precision="bfloat16")
AUTO = AttributionSettings()


class Offset(nn.Module):
    """Add a number and take it away again: nothing in float32, digits lost in bfloat16."""

    def forward(self, image: Tensor) -> Tensor:
        return (image + 64) - 64


@pytest.fixture
def tender_network(disc_network: nn.Module) -> nn.Module:
    """Return a network that loses digits after its pooling, where it is in bfloat16."""
    disc_network.backbone.insert(4, Offset())
    return disc_network


@pytest.fixture
def tough_network() -> nn.Module:
    """Return a network of a smooth average, which bfloat16 does not harm."""

    class Tough(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(1, 1, 3, bias=False), nn.AvgPool2d(22))
            with torch.no_grad():
                self.backbone[0].weight.copy_(torch.arange(1.0, 10.0).reshape(1, 1, 3, 3) / 64)

        def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
            return 80 + 60 * self.backbone(image).flatten(1)[:, 0] + is_male

    return Tough()


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "computes_bfloat16_fast", lambda device: True)


def choose(
    network: nn.Module, cases: tuple[Tensor, Tensor], settings: AttributionSettings, n_cases: int
) -> Precision:
    images, sexes = (tensor[:4] for tensor in cases)
    return choose_precision(
        prepare(network, images, sexes),
        images,
        [torch.zeros_like(images[:1])] * len(images),
        sexes,
        settings,
        n_cases=n_cases,
        batch_size=16,
    )


def test_a_tough_network_passes_with_figures(
    tough_network: nn.Module, disc_cases: tuple[Tensor, Tensor]
) -> None:
    for settings, n_cases in ((HALF, 4), (AUTO, 16)):
        chosen = choose(tough_network, disc_cases, settings, n_cases)
        assert chosen.name == "bfloat16"
        assert chosen.network is not None
        assert chosen.figures is not None
        assert chosen.figures.n == 4
        assert 0.999 < chosen.figures.map_correlation <= 1
        assert 0 < chosen.figures.prediction_change_months < 1
        assert "passed" in chosen.reason
        record = chosen.record()
        assert record["gate"]["map_correlation"] == chosen.figures.map_correlation


def test_float16_computes_the_stem_too(
    tough_network: nn.Module, disc_cases: tuple[Tensor, Tensor]
) -> None:
    chosen = choose(tough_network, disc_cases, AttributionSettings(precision="float16"), 4)
    assert (chosen.name, chosen.n_float32_poolings) == ("float16", 0)
    assert chosen.figures is not None
    assert chosen.figures.map_correlation > 0.999


@pytest.mark.parametrize("settings", [HALF, AUTO], ids=["asked for", "auto"])
def test_a_tender_network_is_refused(
    tender_network: nn.Module,
    disc_cases: tuple[Tensor, Tensor],
    settings: AttributionSettings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        chosen = choose(tender_network, disc_cases, settings, 100)
    assert chosen.name == "float32"
    assert chosen.network is None
    assert "failed the check" in chosen.reason
    assert chosen.figures is not None
    assert chosen.figures.map_correlation < 0.999 or chosen.figures.prediction_change_months > 1
    # Who asked for bfloat16 is told; who left the choice reads it in the record.
    assert ("failed the check" in caplog.text) == (settings is HALF)


@pytest.mark.parametrize(
    "figures",
    [
        {"map_correlation": 0.998},
        {"map_correlation": float("nan")},
        {"prediction_change_months": 1.1},
        {"prediction_change_months": float("nan")},
        {"map_rank_correlation": 0.98},
        {"map_rank_correlation": float("nan")},
        {"share_closed": 0.5},
    ],
)
def test_each_figure_can_refuse(
    tough_network: nn.Module,
    disc_cases: tuple[Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    figures: dict[str, float],
) -> None:
    good: dict[str, Any] = {
        "n": 4,
        "prediction_change_months": 0.2,
        "map_correlation": 0.9999,
        "map_rank_correlation": 0.995,
        "share_closed": 1.0,
    }
    monkeypatch.setattr(module, "_measure", lambda *_: module.GateFigures(**good))
    assert choose(tough_network, disc_cases, HALF, 4).name == "bfloat16"
    monkeypatch.setattr(module, "_measure", lambda *_: module.GateFigures(**{**good, **figures}))
    assert choose(tough_network, disc_cases, HALF, 4).name == "float32"


def test_a_longer_stem_is_tried_where_the_shortest_fails(
    tough_network: nn.Module, disc_cases: tuple[Tensor, Tensor]
) -> None:
    tough_network.backbone = nn.Sequential(
        nn.MaxPool2d(1), Offset(), nn.MaxPool2d(1), *tough_network.get_submodule("backbone")
    )
    chosen = choose(tough_network, disc_cases, HALF, 4)
    assert (chosen.name, chosen.n_float32_poolings) == ("bfloat16", 2)
    prepared = prepare(tough_network, *disc_cases)
    assert list(float32_poolings(prepared, torch.bfloat16)) == [1, 2]
    assert list(float32_poolings(prepared, torch.float16)) == [0, 1, 2]


def test_when_it_is_not_tried(
    tough_network: nn.Module,
    disc_cases: tuple[Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = choose(tough_network, disc_cases, AUTO, 15)
    assert (few.name, few.figures) == ("float32", None)
    assert "fewer than 16 cases" in few.reason
    full = choose(tough_network, disc_cases, AttributionSettings(precision="float32"), 99)
    assert (full.name, full.reason) == ("float32", "asked for")
    double = tuple(tensor.double() for tensor in disc_cases)
    assert choose(tough_network.double(), double, HALF, 99).name == "float64"
    monkeypatch.setattr(module, "computes_bfloat16_fast", lambda device: False)
    assert "no units for two bytes" in choose(tough_network.float(), disc_cases, AUTO, 99).reason


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_maps_in_half_add_up_to_float32_predictions(
    tough_network: nn.Module,
    disc_cases: tuple[Tensor, Tensor],
    name: Literal["bfloat16", "float16"],
) -> None:
    image, sex = disc_cases[0][:1], disc_cases[1][:1]
    settings = AttributionSettings(precision=name)
    attributed = integrated_gradients(tough_network, image, sex, settings)
    assert attributed.precision == name
    with torch.no_grad():
        at_image = tough_network(image, sex)
        change = at_image - tough_network(image * 0, sex)
    assert attributed.prediction_months == pytest.approx(float(at_image), abs=1e-4)
    assert attributed.completeness_gap_months == pytest.approx(
        attributed.map_months.sum() - float(change), abs=1e-4
    )
    assert attributed.converged


def test_cases_that_bfloat16_does_not_close_are_done_again(
    tender_network: nn.Module,
    disc_cases: tuple[Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The check is made blind, so that a harmed network comes through it."""
    images, sexes = disc_cases
    monkeypatch.setattr(module, "LOWEST_CORRELATION", -1.0)
    monkeypatch.setattr(module, "LARGEST_PREDICTION_CHANGE_MONTHS", 1e9)
    monkeypatch.setattr(module, "_measure", blind(module._measure))
    settings = AttributionSettings(
        precision="bfloat16", gap_tolerance_months=0.1, gap_tolerance_fraction=0
    )
    integrator = make_integrator(tender_network, images, sexes, settings, n_cases=6)
    assert integrator.precision.name == "bfloat16"
    results = attribute_batch(integrator, images, sexes)
    again = [integral for integral, precision in results if precision == "float32"]
    assert again
    # What bfloat16 cost in vain is counted.
    assert min(integral.nodes for integral in again) > 65
    assert all(integral.converged for integral, _ in results)


def blind(measure: Any) -> Any:
    def measured(*arguments: Any) -> module.GateFigures:
        found = measure(*arguments)
        return module.GateFigures(found.n, found.prediction_change_months, 1.0, 1.0, 1.0)

    return measured
