"""Networks from elsewhere: called as their card says, tried before use, left as they were."""

from __future__ import annotations

import copy
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from boneage_xai.attribution.activations import layer_activations
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.methods import method_named
from boneage_xai.attribution.prepared import prepare
from boneage_xai.attribution.randomisation import randomised_network, top_down
from boneage_xai.attribution.requirements import check_methods, usable_layers
from boneage_xai.errors import AttributionError, CheckpointError
from boneage_xai.models.external import ExternalNetwork, load_external
from boneage_xai.predict import predict_pixels
from external_networks import (
    MODULE,
    NORMALISED,
    SIZE_PX,
    SOURCES,
    card,
    network_module,
    plain_answer,
    save_in_every_way,
    settle,
)

WRAPPED = {"factory": f"{MODULE}:Wrapped"}


@dataclass(frozen=True)
class Elsewhere:
    folder: Path
    module: Any
    network: nn.Module


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    folder = tmp_path_factory.mktemp("elsewhere")
    module = network_module(folder)
    network = settle(module.build())
    save_in_every_way(network, folder)
    for how in ("before", "keyword", "embedding", "channel", "none", "dictionary", "classes"):
        wrapped = settle(module.Wrapped(how))
        torch.save(wrapped.state_dict(), folder / f"{how}.pth")
    torch.save(settle(module.Odd("nan")).state_dict(), folder / "odd.pth")
    sys.modules.pop(MODULE, None)
    return Elsewhere(folder, module, network)


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(5, 1, SIZE_PX, SIZE_PX, generator=generator), torch.tensor([0.0, 1, 1, 0, 1])


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-4, atol=1e-4)


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


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("nan", "expected finite months for a blank image"),
        ("two", r"expected an output of shape \(1,\) or \(1, 1\).*tensor of shape \(1, 2\)"),
        ("text", "found str"),
        ("random", "the same answer when asked again"),
        ("mixes", "do not depend on the other images"),
        ("counts", "buffers change"),
    ],
)
def test_networks_that_cannot_be_relied_upon_are_refused(
    elsewhere: Elsewhere, what: str, found: str
) -> None:
    source = {"factory": f"{MODULE}:Odd", "arguments": {"what": what}, "weights": "odd.pth"}
    path = card(elsewhere.folder, source)
    with pytest.raises(CheckpointError, match=found) as caught:
        load_external(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_saved_in_training_mode_is_refused(elsewhere: Elsewhere) -> None:
    inputs = torch.rand(2, 3, SIZE_PX, SIZE_PX), torch.ones(2, 1)
    training = copy.deepcopy(elsewhere.network).train()
    torch.export.save(torch.export.export(training, inputs), elsewhere.folder / "training.pt2")
    with pytest.raises(CheckpointError, match="training mode"):
        load_external(card(elsewhere.folder, {"exported": "training.pt2"}))
    traced = torch.jit.trace(copy.deepcopy(training), inputs, check_trace=False)
    traced.save(str(elsewhere.folder / "training.pt"))
    with pytest.raises(CheckpointError, match="training mode"):
        load_external(card(elsewhere.folder, {"torchscript": "training.pt"}))
    # A script keeps both modes, and is put into evaluation.
    torch.jit.script(training).save(str(elsewhere.folder / "training.pt"))
    image, sex = torch.rand(2, 1, SIZE_PX, SIZE_PX), torch.tensor([0.0, 1.0])
    model = load_external(card(elsewhere.folder, {"torchscript": "training.pt"}))
    close(model.network.train()(image, sex), plain_answer(elsewhere.network, image, sex))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ({"factory": "no_such_package_at_all:build"}, "cannot be imported"),
        ({"factory": f"{MODULE}:absent"}, "expected a function absent"),
        ({"factory": f"{MODULE}:not_a_function"}, "found int"),
        ({"factory": f"{MODULE}:fail"}, "ValueError: no licence found"),
        ({"factory": f"{MODULE}:number"}, "an nn.Module, found int"),
        ({"factory": f"{MODULE}:build", "arguments": {"wings": 2}}, "wings"),
        ({"factory": f"{MODULE}:build", "arguments": {"channels": 2}}, "takes images .N, 3, 32"),
        ({"factory": f"{MODULE}:build", "weights": "absent.pth"}, "expected a file, found none"),
        ({"factory": f"{MODULE}:build", "weights": "weights.pth"}, "expected a state dict"),
        ({"factory": f"{MODULE}:build", "weights": "classes.pth"}, "does not fit"),
        ({"torchscript": "absent.pt"}, "absent.pt, found none"),
        ({"torchscript": "weights.pth"}, "expected TorchScript"),
        ({"exported": "weights.pth"}, "expected an exported program"),
        ({"exported": "scripted.pt"}, "expected an exported program"),
    ],
)
def test_sources_that_cannot_be_loaded_are_refused(
    elsewhere: Elsewhere, source: dict[str, Any], found: str
) -> None:
    path, searched = card(elsewhere.folder, source), list(sys.path)
    with pytest.raises(CheckpointError, match=found) as caught:
        load_external(path)
    assert str(elsewhere.folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sys.path == searched


class _Opens:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.file),)


def test_weights_that_execute_code_are_refused_unexecuted(
    elsewhere: Elsewhere, tmp_path: Path
) -> None:
    mark = tmp_path / "executed"
    for write in (torch.save, _pickled):
        write({"conv1.weight": _Opens(mark)}, elsewhere.folder / "evil.pth")
        source = {"factory": f"{MODULE}:build", "weights": "evil.pth"}
        with pytest.raises(CheckpointError, match="executing code"):
            load_external(card(elsewhere.folder, source))
        assert not mark.exists()
    # The file would have done it.
    pickle.loads((elsewhere.folder / "evil.pth").read_bytes())
    assert mark.is_dir()


def _pickled(content: Any, file: Path) -> None:
    file.write_bytes(pickle.dumps(content, protocol=2))


def test_a_module_beside_the_card_is_never_mistaken_for_another(tmp_path: Path) -> None:
    # pickle is the standard library's, whatever lies beside the card.
    (tmp_path / "pickle.py").write_text("def build():\n    return None\n")
    with pytest.raises(CheckpointError, match="module beside the card, found another"):
        load_external(card(tmp_path, {"factory": "pickle:build"}))
