"""torchvision classification networks turned into feature extractors for grey radiographs.

A backbone takes (N, 1, H, W) grey pixels in [0, 1] and returns (N, C) pooled features. Its
first convolution is folded from RGB to grey, and with pretrained weights the normalisation
those weights expect is folded into it too, so that the grey network computes exactly what
the RGB network computes on the grey image repeated three times.
"""

from __future__ import annotations

import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from urllib.error import URLError

import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from boneage_xai.errors import CheckpointError, ConfigError

IMAGENET_NORMALISATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# torchvision feeds the two Inceptions (x - 0.5) / 0.5 through their ``transform_input``; the
# weights of the third were published with it.
INCEPTION_NORMALISATION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_INCEPTIONS = ("inception_v3", "googlenet")
_CENTRED = (*_INCEPTIONS, "efficientnet_v2_l")
_WITHOUT_FEATURE_MAP = ("vit_", "swin", "maxvit")
# Their tensors alone do not say which of two stems they belong to.
_VERSIONED = ("mnasnet",)
# What is left of a classifier (ConvNeXt keeps a norm there) belongs to the last block.
_CONTAINERS = ("features", "trunk_output", "layers", "classifier")
_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


class GreyStem(nn.Conv2d):
    """First convolution of an RGB network, folded to one grey channel, normalisation included.

    With zero padding, the normalisation's offset is absent outside the image, so it cannot
    become a plain bias. It becomes the filter of a second channel of ones, which the padding
    cuts off exactly where it cuts the image off.
    """

    @classmethod
    def fold(
        cls, rgb: nn.Conv2d, mean: tuple[float, float, float], std: tuple[float, float, float]
    ) -> GreyStem:
        """Fold ``rgb`` applied to ``(grey - mean) / std`` repeated over three channels.

        Args:
            rgb: convolution with three input channels; left unchanged.
            mean: normalisation mean per channel, on the [0, 1] scale.
            std: normalisation standard deviation per channel.

        Returns:
            The equivalent convolution of the grey image.
        """
        stem = cls(2, rgb.out_channels, **_geometry(rgb))
        offsets = torch.tensor(mean, dtype=torch.float64).view(1, 3, 1, 1)
        scales = torch.tensor(std, dtype=torch.float64).view(1, 3, 1, 1)
        scaled = rgb.weight.detach().double() / scales
        with torch.no_grad():
            stem.weight[:, :1] = scaled.sum(dim=1, keepdim=True).float()
            stem.weight[:, 1:] = -(scaled * offsets).sum(dim=1, keepdim=True).float()
            if rgb.bias is not None and stem.bias is not None:
                stem.bias.copy_(rgb.bias)
        return stem

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Conv2d's own name
        """Convolve (N, 1, H, W) grey pixels in [0, 1]."""
        return super().forward(torch.cat([input, torch.ones_like(input)], dim=1))


def _geometry(convolution: nn.Conv2d) -> dict[str, Any]:
    return {
        "kernel_size": convolution.kernel_size,
        "stride": convolution.stride,
        "padding": convolution.padding,
        "dilation": convolution.dilation,
        "bias": convolution.bias is not None,
    }


def backbone_names() -> list[str]:
    """Return the torchvision networks that can serve as a backbone."""
    return [
        name
        for name in torchvision.models.list_models(module=torchvision.models)
        if not name.startswith((*_WITHOUT_FEATURE_MAP, *_VERSIONED))
    ]


def build_backbone(
    name: str, weights: str = "none", *, fold_normalisation: bool = False
) -> nn.Module:
    """Build a grey feature extractor from a torchvision classification network.

    Args:
        name: torchvision's name, e.g. ``resnet18``.
        weights: ``none``, ``imagenet`` or the path of a file in torchvision's format
            (``.pth`` or ``.safetensors`` state dict of the network with its classifier).
        fold_normalisation: build the stem that pretrained weights get although ``weights``
            is ``none``: for loading a checkpoint that was trained from them.

    Returns:
        The network with its classifier removed: (N, 1, H, W) → (N, C).

    Raises:
        ConfigError: no such network, or one without convolutional feature maps.
        CheckpointError: weights that are absent, damaged or of another network.
    """
    if name not in backbone_names():
        if name.startswith(_WITHOUT_FEATURE_MAP):
            raise ConfigError(
                f"backbone {name}: expected a convolutional network, found a transformer, "
                "whose input size is fixed and which has no feature maps to show"
            )
        raise ConfigError(
            f"backbone {name}: expected the name of a torchvision classification network "
            "such as vgg16, resnet18, resnet101, inception_v3 or squeezenet1_0"
        )
    options: dict[str, Any] = {"weights": None}
    if name in _INCEPTIONS:
        options |= {"aux_logits": False, "transform_input": False, "init_weights": True}
    network: nn.Module = torchvision.models.get_model(name, **options)
    if weights != "none":
        _load_weights(network, name, weights)
    _fold_stem(network, name, normalised=fold_normalisation or weights != "none")
    _remove_head(network)
    return network


def feature_blocks(backbone: nn.Module) -> list[list[nn.Module]]:
    """Split a backbone into its blocks, from the input to the output.

    A block is one composite child (a residual stage, an Inception or Fire module, a dense
    block) or a run of plain layers up to and including a pooling layer (VGG). Plain layers
    without a convolution belong to the block before them.

    Returns:
        Modules of each block; every parameter of the backbone is in exactly one block.
    """
    blocks: list[list[nn.Module]] = []
    open_run = False
    for _, _, child in feature_children(backbone):
        is_layer = next(child.children(), None) is None
        if not is_layer:
            blocks.append([child])
            open_run = False
        elif open_run or (blocks and not isinstance(child, nn.Conv2d)):
            blocks[-1].append(child)
            open_run = open_run and not isinstance(child, _POOLING)
        else:
            blocks.append([child])
            open_run = True
    return blocks


def feature_children(backbone: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Return the parts of a backbone in order, those in torchvision's containers one by one.

    Returns:
        For each part the module it is an attribute of, its name there, and itself.
    """
    children: list[tuple[nn.Module, str, nn.Module]] = []
    for name, child in backbone.named_children():
        if name in _CONTAINERS:
            children.extend((child, inner, part) for inner, part in child.named_children())
        else:
            children.append((backbone, name, child))
    return children


def normalisation_of(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and standard deviation per channel that a network's published weights expect."""
    return INCEPTION_NORMALISATION if name in _CENTRED else IMAGENET_NORMALISATION


def _fold_stem(network: nn.Module, name: str, *, normalised: bool) -> None:
    path, rgb = next(
        (path, module)
        for path, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == 3
    )
    if normalised:
        stem: nn.Conv2d = GreyStem.fold(rgb, *normalisation_of(name))
    else:
        stem = nn.Conv2d(1, rgb.out_channels, **_geometry(rgb))
        with torch.no_grad():
            stem.weight.copy_(rgb.weight.sum(dim=1, keepdim=True))
            if rgb.bias is not None and stem.bias is not None:
                stem.bias.copy_(rgb.bias)
    parent, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(parent), attribute, stem)


def _remove_head(network: nn.Module) -> None:
    if hasattr(network, "fc"):
        network.fc = nn.Identity()
    elif isinstance(network, torchvision.models.ConvNeXt):
        network.classifier[-1] = nn.Identity()
    elif isinstance(network, torchvision.models.SqueezeNet):
        network.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1))
    else:
        if isinstance(network, torchvision.models.VGG | torchvision.models.AlexNet):
            network.avgpool = nn.AdaptiveAvgPool2d(1)
        network.classifier = nn.Sequential()


def _load_weights(network: nn.Module, name: str, weights: str) -> None:
    file = Path(weights).expanduser()
    if weights != "imagenet" and not file.is_file():
        raise CheckpointError(f"weights {file}: expected a file, `none` or `imagenet`, found none")
    state = _imagenet_state(name) if weights == "imagenet" else read_state_dict(file)
    expected = network.state_dict()
    state = {key: value for key, value in state.items() if not key.startswith("AuxLogits")}
    state = {key: value for key, value in state.items() if not key.startswith(("aux1", "aux2"))}
    if name.startswith("densenet"):
        # Published before torchvision took the dots out of these names.
        state = {re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", key): state[key] for key in state}
    misfits = sorted(
        [key for key in expected.keys() - state.keys() if not key.endswith("num_batches_tracked")]
        + list(state.keys() - expected.keys())
        + [
            key
            for key in expected.keys() & state.keys()
            if getattr(state[key], "shape", None) != expected[key].shape
        ]
    )
    if misfits:
        raise CheckpointError(
            f"weights {weights}: expected the tensors of torchvision's {name}, found "
            f"{len(misfits)} that are missing, unknown or of another shape, first {misfits[0]}"
        )
    network.load_state_dict(state, strict=False)


def _imagenet_state(name: str) -> dict[str, Any]:
    every = torchvision.models.get_model_weights(name)
    # The weights of the studies, where a network has several.
    published: WeightsEnum = getattr(every, "IMAGENET1K_V1", None) or every.DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / published.url.rpartition("/")[2]
    if file.is_file():
        return read_state_dict(file)
    try:
        # torch.hub writes to the standard output, which may be read by a program.
        with redirect_stdout(sys.stderr):
            state: dict[str, Any] = published.get_state_dict(check_hash=True, weights_only=True)
    except (URLError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"ImageNet weights of {name} are not at {file} and could not be downloaded ({error}): "
            "put the file there, or give the path of one as weights"
        ) from error
    return state


def read_state_dict(path: Path) -> dict[str, Any]:
    """Read weights without executing anything.

    Args:
        path: safetensors, or a file of ``torch.save`` that holds tensors in plain containers.

    Raises:
        CheckpointError: absent, damaged, or a file that only loads by executing code.
    """
    if not path.is_file():
        raise CheckpointError(f"weights {path}: expected a file, found none")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"weights {path}: not a readable state dict ({error})") from error
    except Exception as error:
        # An UnpicklingError, or whatever the restricted unpickler meets in a file of another kind.
        raise CheckpointError(
            f"weights {path}: expected tensors alone, found something damaged or that only loads "
            "by executing code, which is refused"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(
            f"weights {path}: expected a state dict, found {type(state).__name__}"
        )
    return state
