"""The regressor: months, sex, freezing."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from boneage_xai.errors import ConfigError
from boneage_xai.models.backbones import feature_blocks
from boneage_xai.models.regressor import ArchitectureSettings, BoneAgeRegressor


def small(**changes: object) -> BoneAgeRegressor:
    torch.manual_seed(0)
    settings = ArchitectureSettings(backbone="resnet18", hidden=(8,), **changes)
    return BoneAgeRegressor(settings, age_mean_months=127.0, age_sd_months=41.0)


def test_output_is_the_standardised_head_in_months() -> None:
    network = small().eval()
    image, is_male = torch.rand(3, 1, 64, 64), torch.tensor([0.0, 1.0, 1.0])
    with torch.inference_mode():
        raw = network.raw(image, is_male)
        months = network(image, is_male)
    assert months.shape == (3,)
    torch.testing.assert_close(months, 127.0 + 41.0 * raw[:, 0])


def test_expectation_is_the_mean_of_the_age_distribution() -> None:
    network = small(output="expectation").eval()
    raw = torch.full((2, 121), -100.0)
    raw[0, 60] = 100.0  # all mass on 120 months
    raw[1, 10] = raw[1, 20] = 50.0  # half on 20, half on 40 months
    torch.testing.assert_close(network.months(raw), torch.tensor([120.0, 30.0]))
    with torch.inference_mode():
        months = network(torch.rand(2, 1, 64, 64), torch.tensor([0.0, 1.0]))
    assert ((months > 0) & (months < 240)).all()


def test_sex_changes_the_prediction_only_with_a_sex_branch() -> None:
    image = torch.rand(1, 1, 64, 64)
    girl, boy = torch.zeros(1), torch.ones(1)
    with torch.inference_mode():
        aware, image_only = small(sex_features=4).eval(), small(sex_features=0).eval()
        assert aware(image, girl) != aware(image, boy)
        assert image_only(image, girl) == image_only(image, boy)


def test_head_widths_follow_the_studies() -> None:
    settings = ArchitectureSettings(backbone="resnet18", sex_features=16, hidden=(1000, 500))
    linear = [m for m in BoneAgeRegressor(settings).head if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [
        (512 + 16, 1000),
        (1000, 500),
        (500, 1),
    ]


def test_frozen_blocks_keep_weights_and_batchnorm_statistics() -> None:
    network = small()
    network.fine_tune(1)
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(torch.rand(4, 1, 64, 64), torch.tensor([0.0, 1.0, 0.0, 1.0])).sum().backward()
    optimiser.step()
    changed = {key for key, value in network.state_dict().items() if not value.equal(before[key])}
    frozen = (
        "backbone.conv1",
        "backbone.bn1",
        "backbone.layer1",
        "backbone.layer2",
        "backbone.layer3",
    )
    assert not any(key.startswith(frozen) for key in changed)
    assert any(key.startswith("backbone.layer4") and "running_mean" in key for key in changed)
    assert any(key.startswith("sex_branch") for key in changed)
    network.fine_tune("all")
    network.train()
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.modules())


def test_fine_tuning_more_blocks_than_there_are_is_refused() -> None:
    network = small()
    with pytest.raises(ConfigError, match="expected 0 to 5 for resnet18, found 6"):
        network.fine_tune(6)
    network.fine_tune(0)
    trainable = {id(p) for p in network.parameters() if p.requires_grad}
    in_backbone = {
        id(p) for b in feature_blocks(network.backbone) for m in b for p in m.parameters()
    }
    assert not trainable & in_backbone


def test_unknown_architecture_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="kernel"):
        ArchitectureSettings(kernel=3)  # type: ignore[call-arg]
