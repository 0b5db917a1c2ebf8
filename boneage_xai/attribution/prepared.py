"""A private copy of a network, made ready for many gradients with respect to its input."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights

from boneage_xai.attribution.forward import untouched
from boneage_xai.attribution.gradients import gradients
from boneage_xai.errors import AttributionError
from boneage_xai.models.adapter import ExternalModel
from boneage_xai.models.averaged import AveragedNetwork
from boneage_xai.models.backbones import feature_children

logger = logging.getLogger(__name__)

PARITY_MONTHS = 0.01
# Where rounding moves a pixel over a kink of a ReLU or a max pooling, its gradient jumps.
PARITY_GRADIENT = 0.05
_ROUNDING = 1e-5

HALF_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types of two bytes that gradients may be computed in."""

# float16 has no numbers below 6e-8: inside, gradients are larger by this power of two.
_GRADIENT_SCALE = 2.0**10


@dataclass(frozen=True, eq=False)
class PreparedNetwork:
    """A frozen copy in evaluation mode, with its BatchNorms folded where that holds.

    Args:
        network: the copy; nobody else holds it.
        folded: how many BatchNorms went into the convolution before them.
        parity_months: largest difference from the original's predictions on the images it
            was checked with; 0 where nothing was folded.
        note: what was folded, or why nothing was.
    """

    network: nn.Module
    folded: int
    parity_months: float
    note: str


class _Scaled(torch.autograd.Function):
    """Leave values as they are and multiply their gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


class _Casting(nn.Module):
    """Run a part of a network in a type of its own."""

    def __init__(self, part: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner = part.to(dtype)
        self.dtype = dtype

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as modules name it
        if input.dtype == torch.float32 != self.dtype:
            input = _Scaled.apply(input, 1 / _GRADIENT_SCALE)  # noqa: A001
        output: Tensor = self.inner(input.to(self.dtype))
        return output


class _InHalf(nn.Module):
    """Run a copy of a backbone in two bytes from a max pooling on, between float32 and float32.

    A max pooling gives its gradient to the largest of its inputs. In bfloat16 neighbours of a
    smooth image are often equal, and which of them gets it is chance; in the first stages, where
    that decides on single pixels, maps suffer. So what comes before stays in float32.
    """

    def __init__(self, backbone: nn.Module, float32_poolings: int, dtype: torch.dtype) -> None:
        super().__init__()
        in_float32 = ([0, *_after_poolings(backbone)])[float32_poolings]
        # Part by part: a whole copy in float32 would be most of the memory it takes.
        cast: dict[int, Any] = {
            id(part): _Casting(copy.deepcopy(part), torch.float32 if n < in_float32 else dtype)
            for n, (_, _, part) in enumerate(feature_children(backbone))
        }
        self.inner = copy.deepcopy(backbone, cast)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.inner(image)
        if features.dtype == torch.float32:
            return features
        scaled: Tensor = _Scaled.apply(features.float(), _GRADIENT_SCALE)
        return scaled


def _after_poolings(backbone: nn.Module) -> list[int]:
    """Return for each max pooling between the parts of a backbone the number of the next part."""
    parts = feature_children(backbone)
    return [n + 1 for n, (_, _, part) in enumerate(parts) if isinstance(part, nn.MaxPool2d)]


class _LayerTracer(fx.Tracer):
    """Trace down to convolutions and BatchNorms, subclasses such as a folded stem included."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | _BatchNorm) or super().is_leaf_module(
            m, module_qualified_name
        )


def prepare(network: nn.Module, images: Tensor, is_male: Tensor) -> PreparedNetwork:
    """Copy a network, freeze the copy, fold its BatchNorms and lay it out channels-last.

    Each BatchNorm that alone follows a convolution becomes part of it, in float64. The folded
    copy is used only if it predicts what the original predicts and has its gradients;
    otherwise, and where ``torch.fx`` cannot trace the network, the copy stays unfolded.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months; not
            touched. Where it has an attribute ``backbone``, that part is folded.
        images: (n, 1, H, W) in [0, 1], a few images to compare folded and unfolded on.
        is_male: (n,) 0 or 1.

    Returns:
        The copy, with what was done to it.

    Raises:
        AttributionError: a network for which attributions are not defined, or that cannot be
            copied.

    Source: folding as in Jacob et al., Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference, 2018.
    """
    with torch.inference_mode(False):
        # Before the copy, which then takes the memory that this has freed.
        with untouched(network):
            months_before, slope_before = _answers(network, images, is_male)
        duplicate = frozen_copy(network)
        pairs, note = _foldable_pairs(duplicate)
        # Folded in place: a second copy of a large network would be most of the memory it takes.
        for convolution, norm in pairs:
            _fold(duplicate, convolution, norm)
        _channels_last(duplicate)
        if not pairs:
            return PreparedNetwork(duplicate, 0, 0.0, note)
        with untouched(duplicate):
            months_after, slope_after = _answers(duplicate, images, is_male)
    parity_months = float((months_after - months_before).abs().max())
    parity_slope = float((slope_after - slope_before).norm() / slope_before.norm().clamp_min(1e-30))
    allowed_months = PARITY_MONTHS + _ROUNDING * float(months_before.abs().max())
    # Written so that NaN fails too.
    if not (parity_months <= allowed_months and parity_slope <= PARITY_GRADIENT):
        note = (
            f"BatchNorm not folded: predictions would move by {parity_months:.3g} months and "
            f"gradients by {parity_slope:.2g} of their size"
        )
        logger.warning("%s", note)
        return PreparedNetwork(_channels_last(frozen_copy(network)), 0, 0.0, note)
    return PreparedNetwork(
        duplicate, len(pairs), parity_months, f"{len(pairs)} BatchNorms folded into convolutions"
    )


def prepare_as(network: nn.Module, folded: int, parity_months: float, note: str) -> PreparedNetwork:
    """Prepare a network as :func:`prepare` once decided to, without checking again.

    Args:
        network: as for :func:`prepare`; not touched.
        folded: how many BatchNorms were folded then.
        parity_months: what was measured then.
        note: what was said then.

    Raises:
        AttributionError: a network that cannot be copied, or that folds otherwise.
    """
    with torch.inference_mode(False):
        duplicate = frozen_copy(network)
        pairs = _foldable_pairs(duplicate)[0] if folded else []
        if len(pairs) != folded:
            raise AttributionError(
                f"{type(network).__name__}: expected {folded} BatchNorms to fold as before, "
                f"found {len(pairs)}"
            )
        for convolution, norm in pairs:
            _fold(duplicate, convolution, norm)
        return PreparedNetwork(_channels_last(duplicate), folded, parity_months, note)


def float32_poolings(prepared: PreparedNetwork, dtype: torch.dtype) -> range:
    """Return up to how many of its max poolings a network that computes in two bytes may stay out.

    Args:
        prepared: the copy in float32.
        dtype: of the two bytes; float16, which rounds eight times finer than bfloat16, may compute
            the first pooling, too.

    Returns:
        The numbers that :func:`in_half` takes, the fastest first: up to those of the first two
        poolings, 0 alone for a backbone without any, none where there is no float32
        ``backbone``.
    """
    first = next(prepared.network.parameters(), None)
    backbone = getattr(prepared.network, "backbone", None)
    if first is None or first.dtype != torch.float32 or not isinstance(backbone, nn.Module):
        return range(0)
    poolings = len(_after_poolings(backbone))
    fewest = 0 if dtype == torch.float16 or not poolings else 1
    return range(fewest, min(poolings, 2) + 1)


def in_half(prepared: PreparedNetwork, n_float32_poolings: int, dtype: torch.dtype) -> nn.Module:
    """Return a copy whose backbone computes in two bytes but for its stem, its head in float32.

    Args:
        prepared: the copy in float32; not touched.
        n_float32_poolings: one of :func:`float32_poolings`: everything up to this max pooling
            stays in float32.
        dtype: one of ``HALF_TYPES``.
    """
    with torch.inference_mode(False):
        backbone = prepared.network.get_submodule("backbone")
        half = _InHalf(backbone, n_float32_poolings, dtype).eval()
        return _channels_last(copy.deepcopy(prepared.network, {id(backbone): half}))


def frozen_copy(network: nn.Module) -> nn.Module:
    """Return a deep copy in evaluation mode whose parameters collect no gradient.

    Raises:
        AttributionError: a network that holds what cannot be copied.
    """
    try:
        # Copies of TorchScript would be computed from its parameters, and could not be frozen.
        with torch.no_grad():
            duplicate = copy.deepcopy(network)
    except (RuntimeError, TypeError) as error:
        raise AttributionError(
            f"{type(network).__name__}: expected a network that can be copied, found {error}"
        ) from error
    # One by one, since a network may override train() to keep parts of it in another mode.
    for module in duplicate.modules():
        module.training = False
    for parameter in duplicate.parameters():
        parameter.requires_grad_(False)
    return duplicate


def _answers(network: nn.Module, images: Tensor, is_male: Tensor) -> tuple[Tensor, Tensor]:
    """Return predictions (2n,) and gradients (2n, 1, H, W) at the images and half as bright."""
    dtype = next(network.parameters(), images).dtype
    # One by one: together they would need more memory than the maps.
    both = torch.cat([images, images / 2]).to(dtype)
    values, slopes = gradients(network, both, is_male.to(dtype).repeat(2), batch_size=1)
    return values, slopes.double()


def _channels_last(network: nn.Module) -> nn.Module:
    """Lay a network out for speed, unless it comes from elsewhere and relies on its own layout."""
    network.to(memory_format=torch.channels_last)
    if isinstance(network, ExternalModel) and not _still_answers(network):
        network.to(memory_format=torch.contiguous_format)
    return network


def _still_answers(network: ExternalModel) -> bool:
    """Return whether a network answers at all: a ``view`` of what is laid out otherwise fails."""
    size_px = network.card.preprocessing.size_px
    blank = network.image_scale.new_zeros(2, 1, size_px, size_px)
    try:
        with torch.no_grad():
            network(blank, blank[:, 0, 0, 0])
    except RuntimeError:
        return False
    return True


def _foldable_pairs(network: nn.Module) -> tuple[list[tuple[str, str]], str]:
    """Return names (convolution, BatchNorm) that follow each other and nothing else."""
    if isinstance(network, AveragedNetwork):
        found = [_foldable_pairs(member) for member in network.members]
        named = [
            (f"members.{number}.{convolution}", f"members.{number}.{norm}")
            for number, (of_member, _) in enumerate(found)
            for convolution, norm in of_member
        ]
        return named, "" if named else found[0][1]
    has_backbone = isinstance(getattr(network, "backbone", None), nn.Module)
    root = network.get_submodule("backbone") if has_backbone else network
    prefix = "backbone." if has_backbone else ""
    try:
        graph = _LayerTracer().trace(root)
    # Tracing runs the network's own Python on stand-ins, which may fail in any way; what is
    # wrong with the network itself shows in its predictions, outside of this.
    except Exception as error:
        return [], f"BatchNorm not folded: the network cannot be traced ({type(error).__name__})"
    modules = dict(root.named_modules())
    calls: dict[int, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            module = modules[str(node.target)]
            calls[id(module)] = calls.get(id(module), 0) + 1
    pairs: list[tuple[str, str]] = []
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules[str(node.target)], nn.BatchNorm2d):
            continue
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        convolution, norm = modules[str(before.target)], modules[str(node.target)]
        if not isinstance(convolution, nn.Conv2d) or _is_altered(convolution) or _is_altered(norm):
            continue
        if norm.running_mean is not None and calls[id(convolution)] == calls[id(norm)] == 1:
            pairs.append((prefix + str(before.target), prefix + str(node.target)))
    return pairs, "" if pairs else "no BatchNorm that can be folded"


def _is_altered(module: nn.Module) -> bool:
    """Return whether hooks or parametrisations see or change what the module computes."""
    hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    return bool(hooked or module._backward_pre_hooks) or parametrize.is_parametrized(module)


def _fold(network: nn.Module, convolution: str, norm: str) -> None:
    old, batch_norm = network.get_submodule(convolution), network.get_submodule(norm)
    if not isinstance(old, nn.Conv2d) or not isinstance(batch_norm, nn.BatchNorm2d):
        return
    if batch_norm.running_mean is None or batch_norm.running_var is None:
        return
    # Folded into ones, which gives each channel's factor: whole weights in float64 would be most
    # of the memory that preparing takes.
    scale, bias = fuse_conv_bn_weights(
        batch_norm.running_var.new_ones((old.out_channels, 1, 1, 1), dtype=torch.float64),
        None if old.bias is None else old.bias.double(),
        batch_norm.running_mean.double(),
        batch_norm.running_var.double(),
        batch_norm.eps,
        None if batch_norm.weight is None else batch_norm.weight.double(),
        None if batch_norm.bias is None else batch_norm.bias.double(),
    )
    weight = torch.mul(old.weight, scale, out=torch.empty_like(old.weight))
    for name, value in (("weight", weight), ("bias", bias)):
        setattr(old, name, nn.Parameter(value.detach().to(old.weight.dtype), requires_grad=False))
    parent, _, attribute = norm.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Identity().eval())
