"""Heads that learn other things from the same features, to pretrain a backbone on phantoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boneage_xai.anatomy import AGE_REGIONS
from boneage_xai.phantom.cohorts import read_phantom_cohort
from boneage_xai.phantom.growth import region_ages_months
from trainers.recipe import AuxiliarySettings

RegionAges = Mapping[str, Sequence[float]]
"""Case id to the ages of its regions in months, in the order of ``anatomy.AGE_REGIONS``."""


def phantom_region_ages(folder: Path) -> RegionAges:
    """Return the true ages of every phantom's regions, drawn again from the cohort's record.

    Args:
        folder: from ``boneage-xai phantom``; its pictures are not read.

    Raises:
        DataError: not such a folder, or one of another version.
    """
    _, cases = read_phantom_cohort(folder)
    return {case.case_id: tuple(region_ages_months(case.hand).values()) for case in cases}


class AuxiliaryHeads(nn.Module):
    """A linear head for the sex, and one for the ages of the regions, on pooled features.

    Args:
        settings: weights of their losses; a head whose weight is 0 is left out.
        feature_width: number of pooled features.
    """

    def __init__(self, settings: AuxiliarySettings, feature_width: int) -> None:
        super().__init__()
        self.settings = settings
        if settings.sex:
            self.sex = nn.Linear(feature_width, 1)
        if settings.region_ages:
            self.region_ages = nn.Linear(feature_width, len(AGE_REGIONS))

    def loss(self, features: Tensor, is_male: Tensor, scaled_region_ages: Tensor) -> Tensor:
        """Return the weighted sum of the losses, 0 without heads.

        Args:
            features: (N, C) float32, of the image alone.
            is_male: (N,) 1.0 for boys, 0.0 for girls.
            scaled_region_ages: (N, R) standardised; without columns where no head needs them.
        """
        total = features.new_zeros(())
        with torch.autocast(features.device.type, enabled=False):
            if self.settings.sex:
                logits = self.sex(features).squeeze(1)
                wrong = F.binary_cross_entropy_with_logits(logits, is_male)
                total = total + self.settings.sex * wrong
            if self.settings.region_ages:
                error = F.l1_loss(self.region_ages(features), scaled_region_ages)
                total = total + self.settings.region_ages * error
        return total
