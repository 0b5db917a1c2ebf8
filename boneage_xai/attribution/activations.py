"""Activation maps: how strongly each place of a layer responds to a radiograph."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from boneage_xai.attribution.forward import months, untouched
from boneage_xai.errors import AttributionError, ConfigError
from boneage_xai.types import FloatImage

Reduction = Literal["mean", "max", "signed_mean"]

_MOST_LAYERS = 5
_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda output: output.abs().mean(dim=1),
    "max": lambda output: output.abs().amax(dim=1),
    "signed_mean": lambda output: output.mean(dim=1),
}


@dataclass(frozen=True)
class _Output:
    """One spatial output of a module during one forward: when, at what scale."""

    name: str
    order: int
    octave: int
    computes: bool


def default_layers(network: nn.Module, size_px: int = 256) -> list[str]:
    """Choose up to five layers from early to late, one per spatial scale of the backbone.

    One forward of a black image shows which modules give (1, C, h, h). Modules are grouped
    by how often the side has been halved (rounded, so that Inception's 149 and 147 are one
    scale); scales reached by pooling only are left out, and so is
    pooling to a fixed size. Of each scale the last module is
    taken, the outermost where several are nested (``backbone.layer1``, not its last ReLU).
    Modules that run more than once in a forward, as ResNet's shared ReLUs do, and trunks
    that hold many scales cannot be chosen. The five latest scales are kept.

    Args:
        network: ``network(image (N, 1, H, W), is_male (N,))``; the layers of its attribute
            ``backbone`` are searched, or all its layers where it has none.
        size_px: side of the network's input.

    Returns:
        Module names as in ``network.named_modules()``, early to late; none where no module has such
        an output, or where all is TorchScript, whose modules cannot be observed.
    """
    outputs = _spatial_outputs(network, size_px)
    calls: dict[str, int] = {}
    for output in outputs:
        calls[output.name] = calls.get(output.name, 0) + 1
    computed = {output.octave for output in outputs if output.computes}
    chosen: dict[int, _Output] = {}
    for output in outputs:
        if calls[output.name] > 1 or output.octave not in computed:
            continue
        inside = {o.octave for o in outputs if o.name.startswith(f"{output.name}.")}
        # A block may halve the side once on its way; what spans more is a trunk.
        if len(inside | {output.octave}) > 2:
            continue
        best = chosen.get(output.octave)
        if best is None or output.name.count(".") <= best.name.count("."):
            chosen[output.octave] = output
    ordered = sorted(chosen.values(), key=lambda output: output.order)
    return [output.name for output in ordered[-_MOST_LAYERS:]]


def layer_activations(
    network: nn.Module,
    images: Tensor,
    is_male: Tensor,
    layers: Sequence[str],
    reduce: Reduction = "mean",
    batch_size: int = 16,
) -> dict[str, FloatImage]:
    """Compute one map per image and layer from the layer's channels.

    ``mean`` averages the channels' magnitudes: where a layer responds, in whatever channel
    and with whatever sign. ``max`` takes the strongest channel instead; ``signed_mean``
    averages with sign, which is ``mean`` after a ReLU. Maps are in the layer's own units:
    comparable between images, not between layers or networks.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,))``.
        images: (n, 1, H, W) in [0, 1].
        is_male: (n,) 0 or 1.
        layers: module names as in ``network.named_modules()``.
        reduce: how channels become one value.
        batch_size: images per forward; does not change the maps.

    Returns:
        Per layer (n, h, w) float32.

    Raises:
        ConfigError: a layer, reduction or batch size that does not exist.
        AttributionError: a layer that does not run exactly once, or without (N, C, h, w).
    """
    if reduce not in _REDUCTIONS or batch_size < 1:
        raise ConfigError(
            f"activation maps: expected a reduction of {', '.join(_REDUCTIONS)} and a batch "
            f"size of at least 1, found {reduce} and {batch_size}"
        )
    modules = dict(network.named_modules())
    for layer in layers:
        if layer not in modules or not layer:
            raise ConfigError(
                f"{type(network).__name__}: expected the name of one of its layers, found {layer!r}"
            )
        if isinstance(modules[layer], torch.jit.ScriptModule):
            raise AttributionError(
                f"{layer}: expected a layer that can be observed, found TorchScript"
            )
    if images.shape[0] == 0 or images.shape[:1] != is_male.shape:
        raise AttributionError(
            "activation maps: expected at least one image and as many sexes, "
            f"found {tuple(images.shape)} and {tuple(is_male.shape)}"
        )
    reduction = _REDUCTIONS[reduce]
    parts: dict[str, list[FloatImage]] = {layer: [] for layer in layers}
    running: dict[str, FloatImage] = {}

    def keep(layer: str, output: Any) -> None:
        if not isinstance(output, Tensor) or output.ndim != 4:
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise AttributionError(f"{layer}: expected outputs (N, C, h, w), found {found}")
        if layer in running:
            raise AttributionError(
                f"{layer}: expected a layer that runs once per image, found one that is reused"
            )
        # Reduced at once: a following in-place ReLU would overwrite the output.
        running[layer] = reduction(output.detach()).float().cpu().numpy()

    hooked = {layer: modules[layer] for layer in parts}
    with untouched(network), torch.no_grad(), _observed(hooked, keep):
        for start in range(0, images.shape[0], batch_size):
            running.clear()
            months(network, images[start : start + batch_size], is_male[start : start + batch_size])
            for layer in parts:
                if layer not in running:
                    raise AttributionError(
                        f"{layer}: expected a layer that runs once per image, found one that "
                        "does not run"
                    )
                parts[layer].append(running[layer])
    return {layer: np.concatenate(maps) for layer, maps in parts.items()}


@contextmanager
def _observed(modules: dict[str, nn.Module], see: Callable[[str, Any], None]) -> Iterator[None]:
    """Call ``see(name, output)`` whenever a module has run; the hooks never outlive this."""

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def observe(module: nn.Module, inputs: Any, output: Any) -> None:
            see(name, output)

        return observe

    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(hook(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _spatial_outputs(network: nn.Module, size_px: int) -> list[_Output]:
    prefix = "backbone." if isinstance(getattr(network, "backbone", None), nn.Module) else ""
    modules = {
        name: module
        for name, module in network.named_modules()
        if name and name.startswith(prefix) and not isinstance(module, torch.jit.ScriptModule)
    }
    outputs: list[_Output] = []

    def see(name: str, output: Any) -> None:
        if not isinstance(output, Tensor) or output.ndim != 4:
            return
        height, width = output.shape[2:]
        # Not square for a square image: channels-last inside, as in ConvNeXt's blocks.
        if height != width or height < 2:
            return
        module = modules[name]
        if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
            return
        computes = not any(module.children()) and any(True for _ in module.parameters())
        octave = round(math.log2(size_px / height))
        outputs.append(_Output(name, len(outputs), octave, computes))

    first = next(network.parameters(), torch.zeros(0))
    image = torch.zeros((1, 1, size_px, size_px), dtype=first.dtype, device=first.device)
    with untouched(network), torch.no_grad(), _observed(modules, see):
        months(network, image, torch.zeros(1, dtype=first.dtype, device=first.device))
    return outputs
