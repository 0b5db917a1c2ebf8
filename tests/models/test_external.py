"""Networks from elsewhere: called as their card says, tried before use, left as they were."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from external_fixture import Elsewhere, close, elsewhere, images
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from boneage_xai.attribution.activations import layer_activations
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.methods import method_named
from boneage_xai.attribution.prepared import prepare
from boneage_xai.attribution.randomisation import randomised_network, top_down
from boneage_xai.attribution.requirements import check_methods, usable_layers
from boneage_xai.errors import AttributionError
from boneage_xai.models.external import ExternalNetwork, load_external
from boneage_xai.predict import predict_pixels
from external_networks import (
    MODULE,
    NORMALISED,
    SOURCES,
    card,
    plain_answer,
)

__all__ = ["elsewhere", "images"]


WRAPPED = {"factory": f"{MODULE}:Wrapped"}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_answers_as_the_plain_network(
    elsewhere: Elsewhere, images: tuple[Tensor, Tensor], kind: str
) -> None:
    model = load_external(card(elsewhere.folder, SOURCES[kind]))
    image, is_male = images
    close(model.network(image, is_male), plain_answer(elsewhere.network, image, is_male))
    for n in (1, 2, 3):
        close(model.network(image[:n], is_male[:n]), model.network(image, is_male)[:n])
    pixels = (image[:, 0] * 255).round().byte().numpy()
    months = predict_pixels(model.network, pixels, is_male.bool().numpy(), batch_size=2)
    rounded = torch.from_numpy(pixels).float()[:, None] / 255
    expected = plain_answer(elsewhere.network, rounded, is_male).detach().numpy()
    np.testing.assert_allclose(months, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", SOURCES)
def test_maps_are_complete_and_nothing_is_changed(
    elsewhere: Elsewhere, images: tuple[Tensor, Tensor], kind: str
) -> None:
    output = {"unit": "years"}
    network = load_external(card(elsewhere.folder, SOURCES[kind], output=output)).network
    image, is_male = images[0][:1], images[1][1:2]
    before = copy.deepcopy(network.state_dict())
    flags = [parameter.requires_grad for parameter in network.parameters()]
    modes = [module.training for module in network.modules()]
    answer, random = network(image, is_male), torch.random.get_rng_state()
    settings = AttributionSettings(gap_tolerance_months=0.01, gap_tolerance_fraction=0)
    attributed = method_named("integrated_gradients")(network, image, is_male, settings)
    assert attributed.converged
    assert attributed.baseline_prediction_months is not None
    change = attributed.prediction_months - attributed.baseline_prediction_months
    assert attributed.map_months.sum(dtype=np.float64) == pytest.approx(change, abs=0.011)
    assert abs(change) > 0.1
    # The plain network's own gradient, in months for years.
    start = image.clone().requires_grad_()
    slope = 12 * torch.autograd.grad(plain_answer(elsewhere.network, start, is_male), start)[0]
    gradient = method_named("gradient")(network, image, is_male, settings)
    np.testing.assert_allclose(gradient.map_months, slope[0, 0].numpy(), rtol=1e-3, atol=1e-5)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(network.state_dict()[key], before[key]) for key in before)
    assert [parameter.requires_grad for parameter in network.parameters()] == flags
    assert [module.training for module in network.modules()] == modes == [False] * len(modes)
    assert torch.equal(network(image, is_male), answer)
    assert torch.equal(torch.random.get_rng_state(), random)


def test_a_prepared_copy_is_independent_and_folds_what_it_can(
    elsewhere: Elsewhere, images: tuple[Tensor, Tensor]
) -> None:
    for kind, folded in (("factory", 1), ("scripted", 0), ("frozen", 0), ("dynamic", 0)):
        network = load_external(card(elsewhere.folder, SOURCES[kind])).network
        answer = network(*images)
        prepared = prepare(network, *images)
        assert prepared.folded == folded, kind
        close(prepared.network(*images), answer)
        with torch.no_grad():
            for parameter in prepared.network.parameters():
                parameter.zero_()
        assert torch.equal(network(*images), answer), kind


@given(
    unit=st.sampled_from(["months", "years", "z-score"]),
    mean=st.floats(-50, 250),
    sd=st.floats(0.5, 100),
    female=st.integers(-3, 3),
    step=st.sampled_from([-2, -1, 1, 2]),
    black=st.floats(-2, 2),
    span=st.sampled_from([-255.0, -1.0, 0.5, 2.0, 255.0]),
)
def test_units_codings_and_ranges_are_arithmetic(
    elsewhere: Elsewhere,
    unit: str,
    mean: float,
    sd: float,
    female: int,
    step: int,
    black: float,
    span: float,
) -> None:
    from boneage_xai.models.adapter import ExternalModel
    from boneage_xai.models.model_card import ModelCard

    scaled = {"mean_months": mean, "sd_months": sd} if unit == "z-score" else {}
    described = ModelCard.model_validate(
        {
            "name": "x",
            "source": {"torchscript": "x.pt"},
            "preprocessing": {"size_px": 8, "fit": "pad", "stretch_percentiles": [1, 99]},
            "input": {"range": [black, black + span]},
            "sex": {"passed_as": "argument", "female": female, "male": female + step},
            "output": {"unit": unit, **scaled},
        }
    )

    class Sums(nn.Module):
        def forward(self, image: Tensor, sex: Tensor) -> Tensor:
            return image.mean(dim=(1, 2, 3)) + 3 * sex

    model = ExternalModel(Sums(), described)
    image = torch.linspace(0, 1, 2 * 64).view(2, 1, 8, 8)
    found = model(image, torch.tensor([0.0, 1.0])).double().numpy()
    value = black + span * image.mean(dim=(1, 2, 3)).double().numpy()
    value = value + 3 * np.array([female, female + step])
    expected = {"months": value, "years": 12 * value, "z-score": mean + sd * value}[unit]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-2)


def test_ways_of_passing_the_sex(elsewhere: Elsewhere, images: tuple[Tensor, Tensor]) -> None:
    image, is_male = images
    ways: dict[str, tuple[dict[str, Any], Tensor]] = {
        "before": (
            {"passed_as": "argument", "shape": "N1", "position": "before", "male": -1},
            -is_male,
        ),
        "keyword": ({"passed_as": "argument", "keyword": "gender", "female": 2}, 2 - is_male),
        "embedding": (
            {"passed_as": "argument", "type": "integer", "female": 2, "male": 1},
            1 - is_male,
        ),
        "channel": ({"passed_as": "channel", "female": 1, "male": 0}, 1 - is_male),
        "none": ({"passed_as": "none"}, 0 * is_male),
    }
    for how, (sex, coded) in ways.items():
        source = WRAPPED | {"arguments": {"how": how}, "weights": f"{how}.pth"}
        model = load_external(card(elsewhere.folder, source, sex=sex))
        plain = elsewhere.module.Wrapped(how)
        plain.load_state_dict(torch.load(elsewhere.folder / f"{how}.pth", weights_only=True))
        expected = plain_answer(plain.eval().inner, image, coded)
        close(model.network(image, is_male), expected)


def test_ways_of_answering(elsewhere: Elsewhere, images: tuple[Tensor, Tensor]) -> None:
    image, is_male = images
    folder = elsewhere.folder
    for how, element in (("dictionary", "age"), ("tuple", 1)):
        source = WRAPPED | {"arguments": {"how": how}, "weights": "dictionary.pth"}
        output = {"unit": "months", "element": element}
        model = load_external(card(folder, source, output=output))
        plain = elsewhere.module.Wrapped("dictionary")
        plain.load_state_dict(torch.load(folder / "dictionary.pth", weights_only=True))
        close(model.network(image, is_male), plain_answer(plain.eval().inner, image, is_male))
    source = WRAPPED | {"arguments": {"how": "classes"}, "weights": "classes.pth"}
    plain = elsewhere.module.Wrapped("classes")
    plain.load_state_dict(torch.load(folder / "classes.pth", weights_only=True))
    mean, std = (torch.tensor(NORMALISED[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    scores = plain.eval()((image.repeat(1, 3, 1, 1) - mean) / std, is_male[:, None])
    output = {"unit": "years", "classes": [2, 6, 11, 17], "scores": "logits"}
    shares = np.exp(scores.detach().double().numpy())
    shares /= shares.sum(axis=1, keepdims=True)
    expected = torch.from_numpy(12 * shares @ np.array([2, 6, 11, 17])).float()
    close(load_external(card(folder, source, output=output)).network(image, is_male), expected)
    output = {"unit": "months", "column": 2}
    close(load_external(card(folder, source, output=output)).network(image, is_male), scores[:, 2])


def test_a_model_is_its_weights_and_its_card(elsewhere: Elsewhere) -> None:
    def loaded(kind: str, **parts: Any) -> ExternalNetwork:
        return load_external(card(elsewhere.folder, SOURCES[kind], **parts))

    again = loaded("scripted").model_id
    assert loaded("scripted").model_id == again
    ids = {again, loaded("traced").model_id, loaded("factory").model_id}
    ids.add(loaded("scripted", output={"unit": "years"}).model_id)
    assert len(ids) == 4
    assert loaded("factory").record()["training"] is None
    assert loaded("factory").splits() is None


def test_layers_are_shown_where_there_are_any(
    elsewhere: Elsewhere, images: tuple[Tensor, Tensor]
) -> None:
    network = load_external(card(elsewhere.folder, SOURCES["factory"])).network
    assert usable_layers(network, None) is None
    maps = layer_activations(network, *images, ["network.conv1"])["network.conv1"]
    mean, std = (torch.tensor(NORMALISED[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    conv1 = elsewhere.network.get_submodule("conv1")
    expected = conv1((images[0].repeat(1, 3, 1, 1) - mean) / std).abs().mean(dim=1)
    np.testing.assert_allclose(maps, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    check_methods(network, ["integrated_gradients", "gradient"])


def test_random_weights_leave_what_the_card_says(
    elsewhere: Elsewhere, images: tuple[Tensor, Tensor]
) -> None:
    network = load_external(card(elsewhere.folder, SOURCES["factory"])).network
    random = randomised_network(network, 0, *images)
    assert torch.equal(random.image_scale, network.image_scale)
    assert torch.equal(random.image_offset, network.image_offset)
    before = dict(network.named_parameters())
    for name, value in random.named_parameters():
        assert value.dim() < 2 or not torch.equal(value, before[name])
    assert "" not in top_down(network, images[0][:1], images[1][:1])


@pytest.mark.parametrize("kind", ["scripted", "frozen", "dynamic"])
def test_what_cannot_be_made_random_is_refused(
    elsewhere: Elsewhere, kind: str, images: tuple[Tensor, Tensor]
) -> None:
    network = load_external(card(elsewhere.folder, SOURCES[kind])).network
    with pytest.raises(AttributionError, match=r"made random, found (a TorchScript|an exported)"):
        randomised_network(network, 0, *images)


@pytest.mark.parametrize("kind", ["scripted", "frozen", "dynamic"])
def test_what_needs_layers_is_refused_where_they_are_hidden(
    elsewhere: Elsewhere, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_external(card(elsewhere.folder, SOURCES[kind])).network
    reason = "an exported program" if kind == "dynamic" else "a TorchScript network"
    check_methods(network, ["integrated_gradients", "expected_gradients", "input_x_gradient"])
    assert usable_layers(network, None) == ()
    with pytest.raises(AttributionError, match=f"network.conv1: expected a network.*{reason}"):
        usable_layers(network, ["network.conv1"])
    from boneage_xai.attribution import requirements

    monkeypatch.setitem(requirements.METHODS, "by_layers", method_named("gradient"))
    with pytest.raises(AttributionError, match=f"by_layers: expected a network.*{reason}"):
        check_methods(network, ["by_layers"])


def test_without_gradients_only_predictions_explain(elsewhere: Elsewhere) -> None:
    source = {"factory": f"{MODULE}:Odd", "arguments": {"what": "detached"}, "weights": "odd.pth"}
    network = load_external(card(elsewhere.folder, source)).network
    with pytest.raises(AttributionError, match="no gradient reaches them"):
        check_methods(network, ["gradient"])
    check_methods(network, ["occlusion"])
