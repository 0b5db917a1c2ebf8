"""Networks of another maker's kind, saved in every way that a model card can point at."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

SIZE_PX = 32
MODULE = "a_network_from_elsewhere"

# Not the toolkit's: three channels, the sex as (N, 1), BatchNorm, dropout, an in-place ReLU.
SOURCE = '''
import torch
from torch import nn


class Elsewhere(nn.Module):
    def __init__(self, outputs=1, sex_inputs=1, channels=3, form="tensor"):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8 + sex_inputs, outputs)
        self.form = form

    def forward(self, image, sex):
        features = self.relu(self.norm(self.conv1(image)))
        features = torch.relu(self.conv2(features)).mean(dim=(2, 3))
        return self.head(self.drop(torch.cat([features, sex], dim=1)))


class Wrapped(nn.Module):
    """Calls Elsewhere in other ways."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.inner = Elsewhere(outputs=4 if how == "classes" else 1)

    def forward(self, *inputs, gender=None):
        if self.how == "before":
            return self.inner(inputs[1], inputs[0])
        if self.how == "keyword":
            return self.inner(inputs[0], gender[:, None])[:, 0]
        if self.how == "embedding":
            return self.inner(inputs[0], nn.functional.one_hot(inputs[1], 3)[:, 2:].float())
        if self.how == "channel":
            return self.inner(inputs[0][:, :3], inputs[0][:, 3:].mean(dim=(2, 3)))
        if self.how == "none":
            return self.inner(inputs[0], torch.zeros(len(inputs[0]), 1))
        out = self.inner(*inputs)
        return {"dictionary": {"age": out}, "tuple": (None, out)}.get(self.how, out)


class Odd(nn.Module):
    """Does what a network must not do."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.inner = Elsewhere()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, image, sex):
        out = self.inner(image, sex)
        if self.what == "nan":
            return out * float("nan")
        if self.what == "two":
            return torch.cat([out, out], dim=1)
        if self.what == "random":
            return out + torch.randn(1)
        if self.what == "mixes":
            return out - 9 * image.mean()
        if self.what == "counts":
            self.calls += 1
        if self.what == "detached":
            return out.detach()
        if self.what == "text":
            return "eight years"
        return out


def build(**options):
    return Elsewhere(**options)


def fail():
    raise ValueError("no licence found")


def number():
    return 3


not_a_function = 3
'''

NORMALISED: dict[str, Any] = {
    "channels": 3,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


def network_module(folder: Path) -> Any:
    """Write the module beside the cards and return it, apart from ``sys.modules``."""
    file = folder / f"{MODULE}.py"
    file.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location(f"{MODULE}_of_the_test", file)
    if spec is None or spec.loader is None:
        raise ImportError(file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settle(network: nn.Module, seed: int = 5) -> nn.Module:
    """Give a network weights and statistics as after training, and evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                low, high = (0.3, 2.0) if name.endswith("running_var") else (-0.5, 0.5)
                value.uniform_(low, high, generator=generator)
    return network.eval()


def save_in_every_way(network: nn.Module, folder: Path) -> None:
    """Write weights, TorchScript (scripted, traced, frozen) and exported programs."""
    inputs = torch.rand(2, 3, SIZE_PX, SIZE_PX), torch.ones(2, 1)
    safetensors.torch.save_file(network.state_dict(), folder / "weights.safetensors")
    nested = {"epoch": 3, "model": {f"module.{k}": v for k, v in network.state_dict().items()}}
    torch.save(nested, folder / "weights.pth")
    scripted = torch.jit.script(network)
    scripted.save(str(folder / "scripted.pt"))
    torch.jit.trace(network, inputs).save(str(folder / "traced.pt"))
    torch.jit.freeze(scripted).save(str(folder / "frozen.pt"))
    batch = torch.export.Dim("batch", min=1, max=64)
    for name, shapes in (("dynamic", ({0: batch}, {0: batch})), ("fixed2", None)):
        program = torch.export.export(network, inputs, dynamic_shapes=shapes)
        torch.export.save(program, folder / f"{name}.pt2")
    one = tuple(part[:1] for part in inputs)
    torch.export.save(torch.export.export(network, one), folder / "fixed1.pt2")


SOURCES: dict[str, dict[str, Any]] = {
    "factory": {"factory": f"{MODULE}:build", "weights": "weights.safetensors"},
    "nested weights": {
        "factory": f"{MODULE}:build",
        "weights": "weights.pth",
        "weights_key": "model",
        "weights_prefix": "module.",
    },
    "scripted": {"torchscript": "scripted.pt"},
    "traced": {"torchscript": "traced.pt"},
    "frozen": {"torchscript": "frozen.pt"},
    "dynamic": {"exported": "dynamic.pt2"},
    "fixed at two": {"exported": "fixed2.pt2"},
    "fixed at one": {"exported": "fixed1.pt2"},
}


def card(
    folder: Path,
    source: Mapping[str, Any],
    *,
    sex: Mapping[str, Any] | None = None,
    output: Mapping[str, Any] | None = None,
    **parts: Mapping[str, Any],
) -> Path:
    """Write a card whose parts default to those of the network above, and return its path."""
    content: dict[str, Mapping[str, Any]] = {
        "source": source,
        "preprocessing": {"size_px": SIZE_PX, "fit": "pad", "stretch_percentiles": [1, 99]},
        "input": NORMALISED,
        "sex": {"passed_as": "argument", "shape": "N1"} if sex is None else sex,
        "output": {"unit": "months"} if output is None else output,
        **parts,
    }
    lines = ['name = "elsewhere"']
    for part, settings in content.items():
        # JSON's strings, numbers, lists and booleans are TOML's; nested tables are inline.
        values = [f"{key} = {_toml(value)}" for key, value in settings.items()]
        lines += [f"[{part}]", *values]
    number = len(list(folder.glob("card*.toml")))
    path = folder / f"card{number}.toml"
    path.write_text("\n".join(lines))
    return path


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


def plain_answer(network: nn.Module, image: Tensor, sex: Tensor) -> Tensor:
    """Normalise and call the plain network by hand, (N,)."""
    mean = torch.tensor(NORMALISED["mean"]).view(1, 3, 1, 1)
    std = torch.tensor(NORMALISED["std"]).view(1, 3, 1, 1)
    result: Tensor = network((image.repeat(1, 3, 1, 1) - mean) / std, sex[:, None])[:, 0]
    return result
