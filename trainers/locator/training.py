"""Training the locator: from a cohort of phantoms to weights and what they achieve."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import deepcopy

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from boneage_xai.anatomy import BACKGROUND, MARKER, SOFT_TISSUE
from boneage_xai.models.precision import computes_bfloat16_fast
from boneage_xai.regions.locator_network import CLASSES, SEGMENTATION_STRIDE, LocatorNetwork
from trainers.locator.examples import Examples
from trainers.locator.exposure import expose, without_hand
from trainers.locator.placement import draw_placement, happens, place
from trainers.locator.recipe import LocatorRecipe, LocatorTrainingSettings, RandomisationSettings

StepReport = Callable[[dict[str, float]], None]

_REPORT_EVERY = 100
_CLASS_WEIGHTS = {BACKGROUND: 0.4, SOFT_TISSUE: 0.6, MARKER: 2.0}


def fit(
    recipe: LocatorRecipe,
    examples: Examples,
    on_report: StepReport | None = None,
    initial: LocatorNetwork | None = None,
) -> LocatorNetwork:
    """Train a locator.

    Args:
        recipe: the checked recipe.
        examples: the phantoms to learn from.
        on_report: called every hundred steps with step, size_px, both losses, learning rate
            and seconds.
        initial: a locator to go on from, left as it is; None begins anew.

    Returns:
        The moving average of the network, in evaluation mode.
    """
    settings = recipe.training
    rng = np.random.default_rng(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = LocatorNetwork()
    if initial is not None:
        network.load_state_dict(initial.state_dict())
    network.to(memory_format=torch.channels_last)
    average = deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    steps = sum(stage.steps for stage in settings.stages)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=steps, pct_start=settings.warmup_fraction
    )
    precise = not computes_bfloat16_fast()
    started, step = time.perf_counter(), 0
    sums = np.zeros(2)
    rows = _row_batches(rng, len(examples), settings.batch_size)
    for stage in settings.stages:
        for _ in range(stage.steps):
            batch = draw_batch(examples, next(rows), stage.size_px, recipe.randomisation, generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
                scores = network(batch[0].contiguous(memory_format=torch.channels_last))
            place_loss = landmark_loss(scores[0], scores[1], batch[1], settings)
            class_loss = F.cross_entropy(scores[2].float(), batch[2], weight=_class_weights())
            optimiser.zero_grad(set_to_none=True)
            loss = place_loss + settings.segmentation_weight * class_loss
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip)
            optimiser.step()
            schedule.step()
            _average(average, network, min(settings.ema_decay, (1 + step) / (10 + step)))
            step += 1
            sums += place_loss.item(), class_loss.item()
            if on_report is not None and step % _REPORT_EVERY == 0:
                on_report(
                    {
                        "step": step,
                        "size_px": stage.size_px,
                        "landmark_loss": float(sums[0] / _REPORT_EVERY),
                        "segmentation_loss": float(sums[1] / _REPORT_EVERY),
                        "learning_rate": float(schedule.get_last_lr()[0]),
                        "seconds": time.perf_counter() - started,
                    }
                )
                sums[:] = 0
    return average.eval()


def draw_batch(
    examples: Examples,
    rows: npt.NDArray[np.intp],
    size_px: int,
    settings: RandomisationSettings,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a random image of each of some phantoms.

    Args:
        examples: the phantoms.
        rows: (N,) which of them.
        size_px: side of the images.
        settings: how far each change may go.
        generator: source of randomness.

    Returns:
        Images (N, 1, S, S) in [0, 1], landmarks (N, L, 2) in shares of the side, NaN where there
        is no hand, and labels (N, S/2, S/2) int64.
    """
    points = torch.from_numpy(examples.points[rows])
    forward = draw_placement(points, settings, generator)
    placed = place(
        torch.from_numpy(examples.images[rows]),
        torch.from_numpy(examples.labels[rows]),
        points,
        forward,
        size_px,
        SEGMENTATION_STRIDE,
    )
    images = expose(placed, settings, generator)
    points, labels = placed.points, placed.labels
    empty = happens(generator, len(rows), settings.no_hand_share)
    if empty.any():
        images[empty] = without_hand(images[empty], settings, generator)
        points, labels = points.clone(), labels.clone()
        points[empty] = torch.nan
        labels[empty] = 0
    return images, points, labels


def landmark_loss(
    places: Tensor, absence: Tensor, points: Tensor, settings: LocatorTrainingSettings
) -> Tensor:
    """Return the cross-entropy between where landmarks are looked for and where they lie.

    The target is a Gaussian about the landmark, or absence where it is not in the image.

    Args:
        places: (N, L, h, w) scores of each place.
        absence: (N, L) scores of absence.
        points: (N, L, 2) landmarks in shares of the side; NaN where there is none.
        settings: spread of the target.
    """
    height, width = places.shape[2:]
    inside = ((points >= 0) & (points < 1)).all(dim=2)
    scores = torch.cat([places.float().flatten(2), absence.float()[:, :, None]], dim=2)
    x = torch.arange(width, dtype=torch.float32) + 0.5
    y = torch.arange(height, dtype=torch.float32) + 0.5
    at = torch.nan_to_num(points) * torch.tensor([width, height])
    across = torch.exp(-0.5 * ((x - at[:, :, :1]) / settings.landmark_sd).square())
    down = torch.exp(-0.5 * ((y - at[:, :, 1:]) / settings.landmark_sd).square())
    gaussian = (down[:, :, :, None] * across[:, :, None, :]).flatten(2)
    gaussian = gaussian / gaussian.sum(dim=2, keepdim=True).clamp_min(1e-6)
    target = torch.cat([gaussian * inside[:, :, None], (~inside).float()[:, :, None]], dim=2)
    return -(target * scores.log_softmax(dim=2)).sum(dim=2).mean()


def _class_weights() -> Tensor:
    """Return weights by which rare classes count more: background and soft tissue least."""
    return torch.tensor([_CLASS_WEIGHTS.get(name, 1.0) for name in CLASSES])


def _row_batches(rng: np.random.Generator, n: int, size: int) -> Iterator[npt.NDArray[np.intp]]:
    """Yield sorted rows of a batch, in a new random order each time all were drawn."""
    size = min(size, n)
    while True:
        order = rng.permutation(n)
        for start in range(0, n - size + 1, size):
            yield np.sort(order[start : start + size])


@torch.no_grad()
def _average(average: LocatorNetwork, network: LocatorNetwork, decay: float) -> None:
    for ours, theirs in zip(
        average.state_dict().values(), network.state_dict().values(), strict=True
    ):
        if ours.is_floating_point():
            ours.lerp_(theirs, 1 - decay)
        else:
            ours.copy_(theirs)
