"""Trying a network from elsewhere before anything relies on it."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from boneage_xai.errors import CheckpointError
from boneage_xai.models.adapter import ExternalModel, check_output

logger = logging.getLogger(__name__)

# How far answers may differ by rounding, between batches of different sizes.
_ROUNDING_MONTHS = 0.01
_ROUNDING = 1e-4


def _pictures(model: ExternalModel) -> tuple[Tensor, Tensor]:
    """Return a black image and a textured one, each for a girl and a boy: (4, 1, S, S), (4,)."""
    size_px = model.card.preprocessing.size_px
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand((1, 1, size_px, size_px), generator=generator)
    images = torch.cat([torch.zeros_like(texture), texture]).repeat_interleave(2, dim=0)
    return images.to(model.image_scale.device), torch.tensor([0.0, 1.0] * 2).to(
        model.image_scale.device
    )


def takes(model: ExternalModel, n: int, where: str) -> bool:
    """Return whether the network takes n images at once; one by one it must take them.

    Raises:
        CheckpointError: it does not take a single image of the card's size either.
    """
    images, is_male = _pictures(model)
    try:
        with torch.no_grad():
            output = model.output(images[:n], is_male[:n])
            check_output(output, n, model.card.output, where)
    # A network of someone else's may refuse in any way.
    except Exception as refusal:
        logger.info("%s: not taken %d at once (%s)", where, n, first_line(refusal))
        try:
            with torch.no_grad():
                output = model.output(images[:1], is_male[:1])
        except Exception as error:
            raise CheckpointError(f"{where}: {_cannot_run(model, error)}") from error
        check_output(output, 1, model.card.output, where)
        return False
    return True


def _cannot_run(model: ExternalModel, error: Exception) -> str:
    card = model.card
    size_px = card.preprocessing.size_px
    channels = card.input.channels + (card.sex.passed_as == "channel")
    return (
        f"expected a network that takes images (N, {channels}, {size_px}, {size_px}) with the sex "
        f"passed as {card.sex.passed_as}, found {first_line(error)}"
    )


def try_out(model: ExternalModel, where: str) -> None:
    """Predict two pictures for both sexes and refuse a network that cannot be relied upon.

    Args:
        model: the network behind its adapter.
        where: the card, for the message.

    Raises:
        CheckpointError: an output that the card does not describe, months that are not finite,
            answers that change from one time or one batch to another, or buffers that change.
    """
    images, is_male = _pictures(model)
    before = [buffer.clone() for buffer in model.buffers()]
    n = model.batch[0]
    try:
        with torch.no_grad():
            many = images[:1].expand(n, -1, -1, -1), is_male[:1].expand(n)
            check_output(model.output(*many), n, model.card.output, where)
            together, again = model(images, is_male), model(images, is_male)
            singly = [slice(index, index + 1) for index in range(len(images))]
            alone = torch.cat([model(images[one], is_male[one]) for one in singly])
    except CheckpointError:
        raise
    # A network of someone else's may fail in any way.
    except Exception as error:
        raise CheckpointError(f"{where}: {_cannot_run(model, error)}") from error
    if together.shape != (len(images),) or not bool(together.isfinite().all()):
        raise CheckpointError(
            f"{where}: expected finite months for a blank image and a textured one, found "
            f"{', '.join(f'{value:g}' for value in together.flatten()[:4].tolist())}"
        )
    allowed = _ROUNDING_MONTHS + _ROUNDING * float(together.abs().max())
    for other, what in (
        (again, "the same answer when asked again"),
        (alone, "answers that do not depend on the other images of a batch"),
    ):
        # Written so that NaN fails too.
        if not float((other - together).abs().max()) <= allowed:
            raise CheckpointError(
                f"{where}: expected {what}, found a change of "
                f"{float((other - together).abs().max()):.3g} months; was the network saved in "
                "training mode?"
            )
    if not all(torch.equal(old, new) for old, new in zip(before, model.buffers(), strict=True)):
        raise CheckpointError(
            f"{where}: expected a network that stays as it is, found one whose buffers change as "
            "it predicts; was it saved in training mode?"
        )


def gradients_flow(model: ExternalModel) -> bool:
    """Return whether predictions can be differentiated with respect to the pixels."""
    images, is_male = _pictures(model)
    start = images[-1:].clone().requires_grad_()
    try:
        with torch.enable_grad():
            months = model(start, is_male[-1:])
            if not months.requires_grad:
                return False
            (slope,) = torch.autograd.grad(months.sum(), start, allow_unused=True)
    # A network of someone else's may not be differentiable in any of many ways.
    except Exception as refusal:
        logger.info("%s cannot be differentiated (%s)", model.card.name, first_line(refusal))
        return False
    return slope is not None


def first_line(error: Exception) -> str:
    """Return the type of an error and the line of its message that tells most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # TorchScript's first lines only say that something failed.
    telling = next((line for line in reversed(lines) if "Error" in line), lines[0] if lines else "")
    return f"{type(error).__name__}: {telling}"[:300] if telling else type(error).__name__
