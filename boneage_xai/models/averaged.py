"""Networks that predict the average of several networks, or of several views of a radiograph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms


class Views(BaseModel):
    """Views of one radiograph that are averaged over (test-time augmentation).

    Args:
        flip: the radiograph and its mirror image.
        rotation_degrees: besides upright, turned by this angle to either side; 0 for upright only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    flip: bool = False
    rotation_degrees: float = Field(default=0.0, ge=0, le=45)

    @property
    def count(self) -> int:
        """How many views there are."""
        return (2 if self.flip else 1) * (3 if self.rotation_degrees else 1)

    def of(self, images: Tensor) -> list[Tensor]:
        """Return the views of images (N, 1, H, W), each of the same shape; corners are black."""
        mirrored = [images, images.flip(-1)] if self.flip else [images]
        if not self.rotation_degrees:
            return mirrored
        return [
            transforms.rotate_image(view, angle, interpolation=InterpolationMode.BILINEAR)
            if angle
            else view
            for view in mirrored
            for angle in (0.0, self.rotation_degrees, -self.rotation_degrees)
        ]


class AveragedNetwork(nn.Module):
    """The mean prediction of several networks over several views.

    Args:
        members: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months, all on
            inputs prepared alike.
        views: of each radiograph.
    """

    hidden_layers = "an average, each of whose networks has layers of its own"

    def __init__(self, members: Sequence[nn.Module], views: Views) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.views = views

    def extra_repr(self) -> str:
        """Tell averages over other views apart."""
        return f"views={self.views!r}"

    def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
        """Predict (N,) months from (N, 1, H, W) in [0, 1] and (N,) sex, 1.0 for boys."""
        predicted = [
            member(view, is_male) for view in self.views.of(image) for member in self.members
        ]
        return torch.stack(predicted).mean(dim=0)
