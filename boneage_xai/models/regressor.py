"""The sex-aware bone-age regressor: a backbone, a branch for the sex, and a head in months."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from boneage_xai.errors import ConfigError
from boneage_xai.models.backbones import build_backbone, feature_blocks

MAX_BONE_AGE_MONTHS = 240


class ArchitectureSettings(BaseModel):
    """What a network is made of; together with a state dict it is the whole model.

    Args:
        backbone: torchvision's name of the feature extractor.
        sex_features: width of the dense layer that receives the sex; 0 reads the image only.
        hidden: widths of the hidden layers between the joined features and the output.
        dropout: dropout before the output layer.
        output: ``value`` predicts the age directly; ``expectation`` predicts a distribution
            over ages and returns its mean (deep label distribution learning, Gao et al. 2017).
        normalised_stem: the stem has the ImageNet normalisation folded in, as pretrained
            weights need it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: str = "resnet18"
    sex_features: int = Field(default=16, ge=0, le=1024)
    # Bounds, because a network is built before its weights are compared with it.
    hidden: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = Field(default=(256,), max_length=8)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    output: Literal["value", "expectation"] = "value"
    normalised_stem: bool = False


class BoneAgeRegressor(nn.Module):
    """Predict bone age in months from a grey radiograph and the sex.

    The sex enters as in the RSNA tables, male = 1 and female = 0, through a dense layer of
    its own that is joined to the pooled image features.

    Args:
        settings: the architecture.
        weights: initial weights of the backbone, see :func:`build_backbone`.
        age_mean_months: mean bone age of the training cases; the network learns the rest
            in units of ``age_sd_months``.
        age_sd_months: standard deviation of bone age of the training cases.
    """

    age_mean_months: Tensor
    age_sd_months: Tensor
    age_bins_months: Tensor

    def __init__(
        self,
        settings: ArchitectureSettings,
        *,
        weights: str = "none",
        age_mean_months: float = 0.0,
        age_sd_months: float = 1.0,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.backbone = build_backbone(
            settings.backbone, weights, fold_normalisation=settings.normalised_stem
        )
        width = self.feature_width = _feature_width(self.backbone)
        if settings.sex_features:
            self.sex_branch = nn.Sequential(nn.Linear(1, settings.sex_features), nn.ReLU())
            width += settings.sex_features
        layers: list[nn.Module] = []
        for hidden in settings.hidden:
            layers += [nn.Linear(width, hidden), nn.ReLU()]
            width = hidden
        bins = torch.arange(0.0, MAX_BONE_AGE_MONTHS + 1, 2.0)
        outputs = len(bins) if settings.output == "expectation" else 1
        self.head = nn.Sequential(*layers, nn.Dropout(settings.dropout), nn.Linear(width, outputs))
        self.register_buffer("age_mean_months", torch.tensor(age_mean_months))
        self.register_buffer("age_sd_months", torch.tensor(age_sd_months))
        self.register_buffer("age_bins_months", bins, persistent=False)
        self._frozen: list[nn.Module] = []

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        """Predict bone age.

        Args:
            image: (N, 1, H, W) grey pixels in [0, 1], bone bright.
            is_male: (N,) 1.0 for boys, 0.0 for girls.

        Returns:
            (N,) predicted bone age in months.
        """
        return self.months(self.raw(image, is_male))

    def raw(self, image: Tensor, is_male: Tensor) -> Tensor:
        """Return the head's output before it becomes months, (N, 1) or (N, bins), float32."""
        return self.raw_and_features(image, is_male)[0]

    def raw_and_features(self, image: Tensor, is_male: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``raw`` and the pooled features of the image alone, (N, C) float32."""
        features = self.backbone(image).flatten(1)
        # bfloat16 resolves a bone age to no better than half a month: the head is float32.
        with torch.autocast(image.device.type, enabled=False):
            features = joined = features.to(self.age_mean_months.dtype)
            if self.settings.sex_features:
                sex = self.sex_branch(is_male.to(joined.dtype).unsqueeze(1))
                joined = torch.cat([joined, sex], dim=1)
            raw: Tensor = self.head(joined)
        return raw, features

    def months(self, raw: Tensor) -> Tensor:
        """Turn the head's output into (N,) months."""
        if self.settings.output == "expectation":
            return (raw.softmax(dim=1) * self.age_bins_months).sum(dim=1)
        return self.age_mean_months + self.age_sd_months * raw.squeeze(1)

    def fine_tune(self, blocks: int | Literal["all"]) -> None:
        """Leave the last ``blocks`` blocks of the backbone trainable and freeze those before.

        Frozen blocks also keep their BatchNorm statistics, whatever mode the network is in.
        The sex branch and the head are always trainable.

        Raises:
            ConfigError: the backbone has fewer blocks.
        """
        every = feature_blocks(self.backbone)
        count = len(every) if blocks == "all" else blocks
        if not 0 <= count <= len(every):
            raise ConfigError(
                f"fine_tuned_blocks: expected 0 to {len(every)} for {self.settings.backbone}, "
                f"found {blocks}"
            )
        self.backbone.requires_grad_(True)
        self._frozen = [module for block in every[: len(every) - count] for module in block]
        for module in self._frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> BoneAgeRegressor:
        """Set the mode of everything but the frozen blocks, which stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


def _feature_width(backbone: nn.Module) -> int:
    """Return the number of pooled features, from a forward pass that leaves no trace."""
    with torch.inference_mode():
        backbone.eval()
        width = backbone(torch.zeros(1, 1, 96, 96)).flatten(1).shape[1]
        backbone.train()
    return int(width)
