from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from captum.attr import DeepLift
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from boneage_xai.attribution.deep_lift import deep_lift
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.errors import AttributionError

GIRL, BOY = torch.zeros(1), torch.ones(1)
SETTINGS = AttributionSettings()


class Calls(nn.Module):
    """months = a function of the image, given as it is."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        return self.function(image) + 20 * is_male


@pytest.mark.parametrize("sex", [GIRL, BOY], ids=["girl", "boy"])
def test_linear_network_gives_weight_times_difference(
    linear_network: Callable[[Tensor], nn.Module], sex: Tensor
) -> None:
    weight = torch.tensor([[2.0, -3.0], [0.5, 10.0]])
    image = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    mean = np.array([[0.3, 0.1], [0.0, 0.4]], dtype=np.float32)
    options = AttributionSettings(baseline="mean")
    found = deep_lift(linear_network(weight), image[None, None], sex, options, mean)
    np.testing.assert_allclose(found.map_months, weight * (image - mean), atol=1e-5)
    assert found.completeness_gap_months == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    "relu",
    [
        F.relu,
        torch.relu,
        Tensor.relu,
        lambda x: F.relu(x, inplace=True),
        lambda x: x.relu_(),
        nn.ReLU(inplace=True),
    ],
    ids=["functional", "torch", "method", "functional in place", "method in place", "module"],
)
def test_units_that_saturate_however_relu_is_called(relu: Callable[[Tensor], Tensor]) -> None:
    # Section 3.5.1: min(i1, i2) = i1 - relu(i1 - i2), and a second ReLU that saturates.
    def minimum(image: Tensor) -> Tensor:
        one, two = image[:, 0, 0, 0], image[:, 0, 0, 1]
        hidden = relu((one - two)[:, None])[:, 0]
        return relu((one - hidden + 1)[:, None])[:, 0]

    image = torch.tensor([[[[0.75, 0.25]]]])
    found = deep_lift(Calls(minimum), image, GIRL, SETTINGS).map_months
    # relu(0.5) - relu(0) = 0.5: multiplier 1 for the difference.
    np.testing.assert_allclose(found, [[0.0, 0.25]], atol=1e-6)


def test_a_saturated_unit_by_hand() -> None:
    # relu(1 - i1 - i2) at (1, 1) changes from 1 to 0 over a difference of -2.
    found = deep_lift(
        Calls(lambda image: F.relu(1 - image.sum(dim=(2, 3)))[:, 0]),
        torch.ones(1, 1, 1, 2),
        GIRL,
        SETTINGS,
    )
    np.testing.assert_allclose(found.map_months, [[-0.5, -0.5]], atol=1e-6)


def test_maximum_by_hand() -> None:
    mean = np.array([[0.1, 0.9, 0.2, 0.3]], dtype=np.float32)
    image = torch.tensor([[[[0.6, 0.4, 0.8, 0.3]]]])
    found = deep_lift(
        Calls(lambda image: F.max_pool2d(image, (1, 2)).sum(dim=(1, 2, 3))),
        image,
        GIRL,
        AttributionSettings(baseline="mean"),
        mean,
    )
    # 0.9 -> 0.6 is lost where the baseline was brightest; 0.3 -> 0.8 is gained at the image's.
    np.testing.assert_allclose(found.map_months, [[0.0, -0.3, 0.5, 0.0]], atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), scale=st.floats(0.1, 500))
def test_a_softmax_expectation_is_complete_and_of_two_ages_a_sigmoid(
    seed: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn((6, 2), generator=generator, dtype=torch.float64)
    image = torch.rand((1, 1, 2, 3), generator=generator, dtype=torch.float64)
    ages = torch.tensor([0.0, 240.0], dtype=torch.float64)

    def expectation(image: Tensor) -> Tensor:
        return ((image.flatten(1) @ weight).softmax(dim=1) * ages).sum(dim=1)

    found = deep_lift(Calls(expectation), image, GIRL.double(), SETTINGS)
    # With two ages it is 240 * sigmoid of the difference of the logits: Rescale by hand.
    drive = (weight[:, 1] - weight[:, 0]) * image.flatten()
    change = 240 * (torch.sigmoid(drive.sum()) - 0.5)
    expected = change * drive / drive.sum()
    np.testing.assert_allclose(found.map_months.ravel(), expected, rtol=1e-4, atol=1e-4)
    assert found.completeness_gap_months == pytest.approx(0, abs=1e-3)


class Plain(nn.Module):
    """Modules that each run once, which Captum treats right."""

    def __init__(self, pooling: nn.Module) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.ReLU(),
            pooling,
            nn.Conv2d(4, 6, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(24, 8), nn.Sigmoid(), nn.Linear(8, 1))

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        return 120 + 1000 * self.head(self.backbone(image))[:, 0] + 20 * is_male


class AsOneColumn(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image, torch.zeros(len(image), dtype=image.dtype))[:, None]


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
def test_against_captum_on_modules_that_run_once(image: Tensor) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Plain(nn.AvgPool2d(2)).double().eval()
    image = image.double()
    expected = DeepLift(copy.deepcopy(AsOneColumn(network))).attribute(
        image, torch.zeros_like(image), target=0
    )
    found = deep_lift(network, image, GIRL.double(), SETTINGS)
    np.testing.assert_allclose(
        found.map_months, expected[0, 0].detach().numpy(), rtol=1e-4, atol=1e-5
    )
    assert found.completeness_gap_months == pytest.approx(0, abs=1e-4)


def by_hand(network: Plain, image: Tensor) -> np.ndarray:
    """The rule from the output back to the pixels, layer by layer, from black."""
    convolution, _, pool, later, _, mean, _ = network.backbone
    joined, _, last = network.head
    ends = (image, torch.zeros_like(image))
    first = [convolution(end) for end in ends]
    lit = [each.relu() for each in first]
    second = [later(pool(each)) for each in lit]
    seen = [each.relu() for each in second]
    hidden = [joined(mean(each).flatten(1)) for each in seen]

    def quotient(after: list[Tensor], before: list[Tensor]) -> Tensor:
        change = before[0] - before[1]
        return torch.where(change == 0, 0, (after[0] - after[1]) / change)

    multiplier = 1000 * last.weight[0] * quotient([each.sigmoid() for each in hidden], hidden)
    multiplier = (multiplier @ joined.weight).view(1, 6, 2, 2)
    multiplier = multiplier.repeat_interleave(3, 2).repeat_interleave(3, 3) / 9
    multiplier = multiplier * quotient(seen, second)
    multiplier = F.conv_transpose2d(multiplier, later.weight, padding=1)
    below = torch.zeros_like(lit[0])
    for channel, y, x in np.ndindex(4, 6, 6):
        place = (0, channel, slice(2 * y, 2 * y + 2), slice(2 * x, 2 * x + 2))
        mine, other = lit[0][place].flatten(), lit[1][place].flatten()
        top = torch.maximum(mine.max(), other.max())
        for at, share in (
            (int(mine.argmax()), top - other.max()),
            (int(other.argmax()), mine.max() - top),
        ):
            if mine[at] != other[at]:
                share = share * multiplier[0, channel, y, x] / (mine[at] - other[at])
                below[place][at // 2, at % 2] += share
    below = F.conv_transpose2d(below * quotient(lit, first), convolution.weight, padding=1)
    return (below * image)[0, 0].detach().numpy()


def test_against_the_rule_by_hand_with_max_pooling(image: Tensor) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Plain(nn.MaxPool2d(2)).double().eval()
    found = deep_lift(network, image.double(), GIRL.double(), SETTINGS)
    with torch.no_grad():
        expected = by_hand(network, image.double())
    np.testing.assert_allclose(found.map_months, expected, rtol=1e-5, atol=1e-7)
    assert found.completeness_gap_months == pytest.approx(0, abs=1e-6)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return value**2

    @staticmethod
    def backward(ctx: object, slope: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * slope


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: (x * torch.sigmoid(x)).sum(dim=(1, 2, 3)), "found mul"),
        (lambda x: F.layer_norm(x, x.shape[1:]).sum(dim=(1, 2, 3)), "found layer_norm"),
        (lambda x: F.relu(x.flatten()).view(len(x), -1).sum(dim=1), r"one entry per image"),
        (lambda x: x.softmax(dim=0).sum(dim=(1, 2, 3)), "within each image"),
        (lambda x: 100 * Square.apply(x).sum(dim=(1, 2, 3)), "does not see"),
        (lambda x: x.detach().sum(dim=(1, 2, 3)), "does not see"),
    ],
    ids=["gate", "layer norm", "mixed batch", "softmax over the batch", "hidden", "detached"],
)
def test_what_has_no_rule_is_refused(
    function: Callable[[Tensor], Tensor], reason: str, image: Tensor
) -> None:
    with pytest.raises(AttributionError, match=reason):
        deep_lift(Calls(function), image, BOY, SETTINGS)


def test_compiled_modules_are_refused(small_network: nn.Module, image: Tensor) -> None:
    small_network.eval()
    small_network.head = torch.jit.trace(small_network.head, torch.zeros(1, 27))
    with pytest.raises(AttributionError, match="found the compiled module 'head'"):
        deep_lift(small_network, image, BOY, SETTINGS)
