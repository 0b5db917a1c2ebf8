"""A network from elsewhere behind the call that everything here makes: image and sex to months."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from boneage_xai.errors import CheckpointError
from boneage_xai.models.model_card import ModelCard, OutputSettings, SexSettings

MONTHS_PER_YEAR = 12.0


class ExternalModel(nn.Module):
    """Predict months from a grey radiograph and the sex with a network that a card describes.

    It stays in evaluation mode, whatever mode is asked for: a network that is only used has no
    other, and exported programs and frozen TorchScript cannot change theirs.

    Args:
        network: the network as it was loaded, in evaluation mode; parameters are frozen.
        card: how it is called.
        batch: fewest and most images that it takes at once; None for no limit. Smaller batches
            are filled up with copies, larger ones are split.
    """

    network: Callable[..., Any]
    image_offset: Tensor
    image_scale: Tensor

    def __init__(
        self, network: nn.Module, card: ModelCard, batch: tuple[int, int | None] = (1, None)
    ) -> None:
        super().__init__()
        self.card = card
        self.batch = batch
        black, white = card.input.range
        mean = torch.tensor(card.input.mean or (0.0,), dtype=torch.float64)
        sd = torch.tensor(card.input.std or (1.0,), dtype=torch.float64)
        # Parameters, since a network is asked for its device and type through its first one,
        # and frozen TorchScript has none of its own.
        self.image_scale = _constant((white - black) / sd)
        self.image_offset = _constant((black - mean) / sd)
        if card.output.classes:
            self.register_buffer("classes", torch.tensor(card.output.classes), persistent=False)
        if hasattr(network, "training"):
            self.network = network
        else:
            # Frozen TorchScript has lost its mode, which every submodule is asked for.
            self.__dict__["network"] = network
        # Not by train(), which exported programs do not have.
        self.training = False

    def extra_repr(self) -> str:
        """Tell networks that are called otherwise apart."""
        return f"card={self.card.model_dump_json()}, batch={self.batch}"

    @property
    def hidden_layers(self) -> str | None:
        """Why single layers of the network cannot be observed; None where they can."""
        return {
            "factory": None,
            "torchscript": "a TorchScript network, whose layers take no hooks",
            "exported": "an exported program, in which layers are no longer apart",
        }[self.card.source.kind]

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, submodules too."""
        return self

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        """Predict bone age.

        Args:
            image: (N, 1, H, W) grey pixels in [0, 1], bone bright.
            is_male: (N,) 1.0 for boys, 0.0 for girls.

        Returns:
            (N,) predicted bone age in months.
        """
        fewest, most = self.batch
        # An export is one call for any number of images: to split them would fix it.
        if (fewest == 1 and most is None) or torch.compiler.is_compiling():
            return self._months(image, is_male)
        size = image.shape[0] if most is None else most
        parts = []
        for images, sexes in zip(torch.split(image, size), torch.split(is_male, size), strict=True):
            n = images.shape[0]
            missing = max(0, fewest - n)
            full = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)])
            months = self._months(full, torch.cat([sexes, sexes[-1:].expand(missing)]))
            parts.append(months[:n])
        return torch.cat(parts)

    def output(self, image: Tensor, is_male: Tensor) -> Any:
        """Return what the network itself answers, in whatever form.

        Args:
            image: (N, 1, H, W) grey pixels in [0, 1]; N must suit ``batch``.
            is_male: (N,) 1.0 for boys, 0.0 for girls.
        """
        shape = (1, -1, 1, 1)
        # One channel's scale and offset are broadcast over all of them.
        pixels = image.expand(-1, self.card.input.channels, -1, -1)
        pixels = pixels * self.image_scale.view(shape) + self.image_offset.view(shape)
        sex = self.card.sex
        if sex.passed_as == "none":
            return self.network(pixels)
        value = sex.female + (sex.male - sex.female) * is_male
        if sex.passed_as == "channel":
            plane = value.view(-1, 1, 1, 1) * torch.ones_like(image)
            return self.network(torch.cat([pixels, plane], dim=1))
        coded = _coded(value, sex)
        if sex.keyword:
            return self.network(pixels, **{sex.keyword: coded})
        return self.network(*((coded, pixels) if sex.position == "before" else (pixels, coded)))

    def _months(self, image: Tensor, is_male: Tensor) -> Tensor:
        output, settings = self.output(image, is_male), self.card.output
        if settings.element is not None:
            output = output[settings.element]
        if settings.classes:
            shares = output.softmax(dim=1) if settings.scores == "logits" else output
            value = (shares * self.classes).sum(dim=1)
        elif settings.column is not None:
            value = output[:, settings.column]
        else:
            value = output.reshape(-1)
        return _in_months(value, settings)


def check_output(output: Any, n: int, settings: OutputSettings, where: str) -> None:
    """Refuse an output that the card does not describe.

    Args:
        output: what the network returned for n images.
        n: number of images.
        settings: the card's.
        where: the card, for the message.

    Raises:
        CheckpointError: no such element, no tensor, or a tensor of another shape.
    """
    if settings.element is not None:
        try:
            output = output[settings.element]
        except (TypeError, KeyError, IndexError, ValueError) as error:
            raise CheckpointError(
                f"{where}: expected an output with element {settings.element!r}, "
                f"found {_described(output)}"
            ) from error
    k = len(settings.classes)
    if k:
        expected = f"({n}, {k})"
        fits = isinstance(output, Tensor) and output.shape == (n, k)
    elif settings.column is not None:
        expected = f"({n}, k) with a column {settings.column}"
        fits = (
            isinstance(output, Tensor)
            and output.ndim == 2
            and output.shape[0] == n
            and settings.column < output.shape[1]
        )
    else:
        expected = f"({n},) or ({n}, 1)"
        # A squeezed answer to one image has no dimension left.
        fits = isinstance(output, Tensor) and (
            output.shape in ((n,), (n, 1)) or (n == 1 and output.ndim == 0)
        )
    if not fits:
        raise CheckpointError(
            f"{where}: expected an output of shape {expected} for {n} images, "
            f"found {_described(output)}; [output] in the card says where the age is"
        )


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, dict):
        return f"a dictionary with {', '.join(repr(key) for key in output)}"
    if isinstance(output, tuple | list):
        return f"{type(output).__name__} of {len(output)}"
    return type(output).__name__


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.float(), requires_grad=False)


def _coded(value: Tensor, sex: SexSettings) -> Tensor:
    if sex.type == "integer":
        value = value.round().long()
    return value.unsqueeze(1) if sex.shape == "N1" else value


def _in_months(value: Tensor, settings: OutputSettings) -> Tensor:
    if settings.mean_months is not None and settings.sd_months is not None:
        return settings.mean_months + settings.sd_months * value
    return MONTHS_PER_YEAR * value if settings.unit == "years" else value
