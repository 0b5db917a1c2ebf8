"""The training step: augmentation on the device, loss, optimiser and schedule."""

from __future__ import annotations

import math
from typing import Any, cast

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric

from boneage_xai.models.regressor import BoneAgeRegressor
from trainers.augmentation import augment, resize
from trainers.auxiliary import AuxiliaryHeads
from trainers.cuda_graph import RecordedPass
from trainers.feeding import Batch
from trainers.recipe import Recipe
from trainers.share import WHOLE, Share

_LABEL_SD_MONTHS = 6.0  # about the disagreement of two readers


class BoneAgeTraining(lightning.LightningModule):
    """Train a bone-age network by a recipe.

    Args:
        network: the network to train, in place.
        recipe: loss, optimiser, schedule and augmentation.
        steps_per_epoch: optimiser steps an epoch.
        share: this process's part of every batch.
    """

    def __init__(
        self,
        network: BoneAgeRegressor,
        recipe: Recipe,
        steps_per_epoch: int,
        share: Share = WHOLE,
    ) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.steps_per_epoch = steps_per_epoch
        self.share = share
        # Beside the network, not in it: what is trained is written without them.
        self.auxiliary = AuxiliaryHeads(recipe.auxiliary, network.feature_width)
        # Means over the cases of all processes, which may have unequal numbers of them.
        # A NaN stays one: looking for it would make the processor wait for the device.
        self.measured = nn.ModuleDict(
            {
                f"{part}_{what}": MeanMetric(nan_strategy="disable")
                for part in ("train", "val")
                for what in ("loss", "mae_months")
            }
        )
        self._raw_and_features: Any = network.raw_and_features
        if recipe.training.compiled:
            self._raw_and_features = torch.compile(network.raw_and_features, dynamic=False)
        elif torch.cuda.is_available() and share.count == 1:
            # Several processes exchange batch statistics inside the pass: not to be recorded.
            self._raw_and_features = RecordedPass(network)

    def _prepared(self, pixels: Tensor) -> Tensor:
        images = pixels.unsqueeze(1).float().div_(255)
        size_px = self.recipe.training.size_px_of_epoch(
            self.current_epoch, self.recipe.preprocessing.size_px
        )
        return resize(images, size_px)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one augmented batch.

        Dropout and augmentation are seeded by seed, epoch and batch, so that a resumed
        training draws what the uninterrupted one would have drawn. Augmentation is the same
        for any number of processes, dropout is not.
        """
        position = (self.recipe.training.seed, self.current_epoch, batch_idx)
        _seed(position)
        pixels, is_male = batch[:2]
        images = augment(self._prepared(pixels), self.recipe.augmentation, self.share)
        if self.share.count > 1:
            _seed((*position, self.share.rank))
        images = images.contiguous(memory_format=torch.channels_last)
        return self._measure("train", batch, *self._raw_and_features(images, is_male))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure one batch as it is."""
        pixels, is_male = batch[:2]
        images = self._prepared(pixels).contiguous(memory_format=torch.channels_last)
        self._measure("val", batch, *self.network.raw_and_features(images, is_male))

    def _measure(self, part: str, batch: Batch, raw: Tensor, features: Tensor) -> Tensor:
        _, is_male, bone_age_months, region_ages_months = batch
        predicted = self.network.months(raw)
        loss = self._loss(raw, predicted, bone_age_months)
        scaled = (region_ages_months - self.network.age_mean_months) / self.network.age_sd_months
        loss = loss + self.auxiliary.loss(features, is_male, scaled)
        self._log(part, loss, predicted, bone_age_months)
        return loss

    def _loss(self, raw: Tensor, predicted: Tensor, bone_age_months: Tensor) -> Tensor:
        settings = self.recipe.training
        error = (predicted - bone_age_months) / self.network.age_sd_months
        if settings.loss == "l1":
            loss = error.abs().mean()
        elif settings.loss == "mse":
            loss = error.square().mean()
        else:
            loss = F.huber_loss(error, torch.zeros_like(error))
        if self.network.settings.output == "expectation":
            bins = self.network.age_bins_months
            distance = (bins - bone_age_months.unsqueeze(1)) / _LABEL_SD_MONTHS
            target = (-0.5 * distance.square()).softmax(dim=1)
            loss = loss - (target * raw.log_softmax(dim=1)).sum(dim=1).mean()
        return loss

    def _log(self, part: str, loss: Tensor, predicted: Tensor, bone_age_months: Tensor) -> None:
        mae = (predicted.detach() - bone_age_months).abs().mean()
        for name, value in ((f"{part}_loss", loss.detach()), (f"{part}_mae_months", mae)):
            measured = cast(MeanMetric, self.measured[name])
            # Once for each case: torchmetrics forgets weights where it does not look for NaN.
            measured.update(value.expand(len(predicted)))
            self.log(name, measured, on_step=False, on_epoch=True)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient norm here: Lightning refuses to beside a fused optimiser.

        It does so because float16 gradients are still scaled at that point; bfloat16 and
        float32 gradients, the only ones used, never are.
        """
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Leave the plateau schedule to :meth:`on_train_epoch_end`."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    def on_train_epoch_end(self) -> None:
        """Step a plateau schedule before the epoch's checkpoint is written.

        Lightning does so afterwards, and a resumed training would miss the step.
        """
        schedule = self.lr_schedulers()
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(float(self.trainer.callback_metrics["val_mae_months"]))

    def configure_optimizers(self) -> Any:
        """Return the recipe's optimiser over the trainable parameters, and its schedule."""
        settings = self.recipe.training
        kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
        optimiser = kind(
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        if settings.schedule == "constant":
            return optimiser
        if settings.schedule == "plateau":
            plateau = ReduceLROnPlateau(
                optimiser, factor=settings.plateau_factor, patience=settings.plateau_patience
            )
            scheduled = {"scheduler": plateau, "interval": "epoch", "monitor": "val_mae_months"}
        else:
            steps = settings.epochs * self.steps_per_epoch
            warmup = settings.warmup_fraction
            one_cycle = torch.optim.lr_scheduler.OneCycleLR(
                optimiser,
                settings.learning_rate,
                total_steps=steps,
                # Of exactly one step of warming up it divides by its length less one.
                pct_start=1.5 / steps if math.isclose(warmup * steps, 1) else warmup,
            )
            scheduled = {"scheduler": one_cycle, "interval": "step"}
        return {"optimizer": optimiser, "lr_scheduler": scheduled}


def _seed(position: tuple[int, ...]) -> None:
    torch.manual_seed(hash(position) & 0x7FFFFFFFFFFFFFFF)
