"""Recording a training pass: what must not show, whatever records it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boneage_xai.models.regressor import ArchitectureSettings, BoneAgeRegressor
from trainers.cuda_graph import RecordedPass


@pytest.fixture
def network() -> BoneAgeRegressor:
    torch.manual_seed(0)
    return BoneAgeRegressor(ArchitectureSettings(backbone="resnet18", hidden=(8,))).train()


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Stand in for CUDA's recorder, which runs what it records a few times; note the shapes."""
    shapes: list[tuple[int, ...]] = []

    def record(module: nn.Module, samples: tuple[Tensor, ...]) -> Callable[..., Any]:
        shapes.append(tuple(samples[0].shape))
        for _ in range(3):
            module(*samples)
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    return shapes


def images_of(n: int, size_px: int) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 1, size_px, size_px), torch.ones(n)


def test_recording_leaves_no_trace_in_the_network(
    network: BoneAgeRegressor, recordings: list[tuple[int, ...]]
) -> None:
    batch = images_of(4, 64)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    recorded = RecordedPass(network)
    recorded._record(*batch)
    after = network.state_dict()
    assert recordings == [(4, 1, 64, 64)]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_recorded_pass_is_the_pass_and_trains_the_same_weights(
    network: BoneAgeRegressor, recordings: list[tuple[int, ...]]
) -> None:
    batch = images_of(4, 64)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    raw, features = RecordedPass(network)(*batch)
    raw.sum().backward()
    slopes = [parameter.grad.clone() for parameter in network.parameters()]
    followed = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(state)
    network.zero_grad()
    expected = network.raw_and_features(*batch)
    expected[0].sum().backward()
    torch.testing.assert_close((raw, features), expected, rtol=0, atol=0)
    for slope, parameter in zip(slopes, network.parameters(), strict=True):
        torch.testing.assert_close(slope, parameter.grad, rtol=0, atol=0)
    # One step of BatchNorm statistics, not one for each time that the recorder ran the network.
    for name, value in network.state_dict().items():
        torch.testing.assert_close(followed[name], value, rtol=0, atol=0)


def test_each_size_is_recorded_once_in_a_row(
    network: BoneAgeRegressor, recordings: list[tuple[int, ...]]
) -> None:
    recorded = RecordedPass(network)
    for size_px in (48, 48, 64, 64, 64, 48):
        recorded(*images_of(2, size_px))
    assert [shape[-1] for shape in recordings] == [48, 64, 48]


def test_what_cannot_be_recorded_runs_as_it_is(
    network: BoneAgeRegressor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    batch = images_of(2, 48)
    raw, _ = RecordedPass(network)(*batch)
    assert raw.shape == (2, 1)
    assert "kernel by kernel: operation not permitted" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_records_what_the_network_computes(network: BoneAgeRegressor) -> None:
    network.cuda()
    images, is_male = (part.cuda() for part in images_of(4, 64))
    recorded = RecordedPass(network)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    for _ in range(3):
        network.load_state_dict(state)
        network.zero_grad()
        recorded(images, is_male)[0].sum().backward()
    slopes = [parameter.grad.clone() for parameter in network.parameters()]
    network.load_state_dict(state)
    network.zero_grad()
    network.raw_and_features(images, is_male)[0].sum().backward()
    for slope, parameter in zip(slopes, network.parameters(), strict=True):
        torch.testing.assert_close(slope, parameter.grad, rtol=1e-3, atol=1e-4)
