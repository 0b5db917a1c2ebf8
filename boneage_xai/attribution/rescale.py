"""DeepLIFT's Rescale rule for whatever a network calls while it runs.

The rule is put into the calls themselves (``torch`` functions and tensor methods), not into
modules. Functional and in-place activations and modules that run more than once are then
treated like any other, and a call for which no rule is known is seen and refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from boneage_xai.errors import AttributionError


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Affine in what depends on the image: their own gradient is the rule.
_LINEAR = _names(
    """
    conv1d conv2d conv_transpose2d linear batch_norm avg_pool2d adaptive_avg_pool2d dropout
    dropout2d feature_dropout flatten unflatten view reshape permute transpose t movedim
    contiguous squeeze unsqueeze cat concat stack chunk split unbind __getitem__ narrow select
    expand repeat flip roll clone to float double type type_as pad interpolate pixel_shuffle add
    add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __rsub__ __isub__ rsub subtract neg __neg__
    sum mean
    """
)
# Linear as long as one factor alone depends on the image.
_PRODUCTS = _names(
    """
    mul mul_ __mul__ __rmul__ __imul__ multiply matmul __matmul__ mm bmm einsum
    """
)
_QUOTIENTS = _names(
    """
    div div_ divide __truediv__ __itruediv__ __div__ true_divide
    """
)
_PIECEWISE = _names(
    """
    relu relu_ leaky_relu leaky_relu_ relu6 hardtanh hardtanh_ prelu abs clamp_min hardsigmoid
    """
)
_SMOOTH = _names(
    """
    elu elu_ selu selu_ celu celu_ silu gelu mish hardswish softplus sigmoid sigmoid_ tanh tanh_
    logsigmoid softsign exp sqrt square
    """
)
_NODES, _WEIGHTS = (each.tolist() for each in np.polynomial.legendre.leggauss(16))
# Logits that part by this much from end to end of a panel are integrated to about 1e-9.
_PANEL_LOGITS = 8.0
_MOST_PANELS = 1024


class RescaleRule(TorchFunctionMode):
    """Within this context a network run on a pair (image, baseline) differentiates by the rule.

    The gradient of the first answer with respect to the image is then the multiplier of each
    pixel. Every tensor that depends on the image is (2, …): image first, baseline second.

    Raises:
        AttributionError: a call that depends on the image and for which no rule is known.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call ``func`` and give its result the gradient of the rule."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        if not _depends((args, kwargs)):
            return func(*args, **kwargs)
        if name in _PIECEWISE | _SMOOTH:
            return _elementwise(func, name, args, kwargs)
        if name == "softmax":
            return _softmax(func, args, kwargs)
        if name == "max_pool2d":
            return _max_pool(*args, **kwargs)
        result = func(*args, **kwargs)
        if _depends(result) and not _is_linear(name, args, kwargs):
            raise AttributionError(
                "deep_lift: expected operations for which the Rescale rule is defined, "
                f"found {name}"
            )
        return result


class _Multiplied(torch.autograd.Function):
    """Pass a value on, whose gradient with respect to the input is a given multiplier."""

    @staticmethod
    def forward(ctx: Any, before: Tensor, after: Tensor, multiplier: Tensor) -> Tensor:
        ctx.save_for_backward(multiplier)
        return after.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        (multiplier,) = ctx.saved_tensors
        return slopes[0] * multiplier, None, None


class _PooledMax(torch.autograd.Function):
    """Give what a maximum gained to the image's brightest place, what it lost to the baseline's."""

    @staticmethod
    def forward(ctx: Any, before: Tensor, options: dict[str, Any]) -> Tensor:
        after, places = F.max_pool2d(before, return_indices=True, **options)
        ctx.save_for_backward(before, after, places)
        result: Tensor = after.clone()
        return result

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        before, after, places = ctx.saved_tensors
        slope = slopes[0][:1]
        change = after[:1] - after[1:]
        shared = torch.zeros_like(before[:1]).flatten(2)
        plain = shared.clone()
        for place, part in ((places[:1], change.clamp_min(0)), (places[1:], change.clamp_max(0))):
            shared.scatter_add_(2, place.flatten(2), (slope * part).flatten(2))
        plain.scatter_add_(2, places[:1].flatten(2), slope.flatten(2))
        difference = (before[:1] - before[1:]).flatten(2)
        moved = difference != 0
        multiplied = torch.where(moved, shared / torch.where(moved, difference, 1), plain)
        multiplied = multiplied.view_as(before[:1])
        return torch.cat([multiplied, torch.zeros_like(multiplied)]), None


class _MeanSoftmax(torch.autograd.Function):
    """A softmax whose gradient is its Jacobian averaged along the line between both logits."""

    @staticmethod
    def forward(ctx: Any, before: Tensor, after: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(before)
        ctx.dim = dim
        return after.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        (before,) = ctx.saved_tensors
        image, baseline = before.double().split(1)
        slope = slopes[0][:1].double()
        # The further the logits move apart, the sharper the turn: more panels along the line.
        change = image - baseline
        spread = float((change.amax(ctx.dim) - change.amin(ctx.dim)).max())
        panels = min(_MOST_PANELS, 1 + int(spread / _PANEL_LOGITS))
        total = torch.zeros_like(slope)
        for panel in range(panels):
            for node, weight in zip(_NODES, _WEIGHTS, strict=True):
                place = (panel + (node + 1) / 2) / panels
                shares = torch.lerp(baseline, image, place).softmax(ctx.dim)
                mean_slope = (shares * slope).sum(ctx.dim, keepdim=True)
                total += weight / (2 * panels) * shares * (slope - mean_slope)
        return torch.cat([total, torch.zeros_like(total)]).to(before.dtype), None, None


def _elementwise(
    func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """Rescale: the multiplier of a unit is its change of output over its change of input."""
    before, *rest = args if args else (kwargs.pop("input"),)
    if _depends((rest, kwargs)):
        raise AttributionError(f"deep_lift: expected {name} of fixed parameters, found others")
    _check_pair(before, name)
    start = before.detach().clone().requires_grad_()
    with torch.enable_grad():
        # A copy, which func may change in place.
        after = func(start.clone(), *rest, **kwargs)
        (slope,) = torch.autograd.grad(after.sum(), start)
    after, start = after.detach(), start.detach()
    difference = start[:1] - start[1:]
    # A smooth function's gradient is nearer the truth than a quotient of rounding errors.
    least = torch.zeros_like(difference)
    if name in _SMOOTH:
        largest = torch.maximum(start[:1].abs(), start[1:].abs())
        least = torch.finfo(start.dtype).eps ** 0.5 * (1 + largest)
    moved = difference.abs() > least
    quotient = (after[:1] - after[1:]) / torch.where(moved, difference, 1)
    multiplier = torch.where(moved, quotient, slope[:1])
    result: Tensor = _Multiplied.apply(before.clone(), after, multiplier)
    if name.endswith("_") or kwargs.get("inplace"):
        result = before.copy_(result)
    return result


def _softmax(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    before, *rest = args if args else (kwargs.pop("input"),)
    _check_pair(before, "softmax")
    dim = kwargs.get("dim", rest[0] if rest else None)
    if not isinstance(dim, int) or dim % before.ndim == 0:
        raise AttributionError(
            f"deep_lift: expected a softmax within each image, found one over dimension {dim}"
        )
    after = func(before.detach(), *rest, **kwargs)
    result: Tensor = _MeanSoftmax.apply(before, after, dim)
    return result


def _max_pool(
    input: Tensor,  # noqa: A002 - torch's own name
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    _check_pair(input, "max_pool2d")
    options = {
        "kernel_size": kernel_size,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "ceil_mode": ceil_mode,
    }
    result: Tensor = _PooledMax.apply(input, options)
    return result


def _is_linear(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if name in _LINEAR:
        # A convolution or addition of fixed weights; weights made from the image are not.
        linear_in_all = not name.startswith(("conv", "linear", "batch_norm"))
        return linear_in_all or not _depends((args[1:], kwargs))
    if name in _PRODUCTS:
        return sum(_depends(part) for part in _tensors((args, kwargs))) <= 1
    if name in _QUOTIENTS:
        return not _depends((args[1:], kwargs))
    return False


def _depends(parts: Any) -> bool:
    """Return whether anything in there depends on the image: all else has no gradient."""
    return any(tensor.requires_grad for tensor in _tensors(parts))


def _tensors(parts: Any) -> Iterator[Tensor]:
    if isinstance(parts, Tensor):
        yield parts
    elif isinstance(parts, Mapping):
        for part in parts.values():
            yield from _tensors(part)
    elif isinstance(parts, tuple | list):
        for part in parts:
            yield from _tensors(part)


def _check_pair(tensor: Any, name: str) -> None:
    if not isinstance(tensor, Tensor) or tensor.ndim < 2 or tensor.shape[0] != 2:
        found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise AttributionError(
            f"deep_lift: expected {name} of one entry per image (2, …), found {found}"
        )
