"""Settings of the phantom's radiographs: which nuisances are in, each with its own switch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Side = Literal["left", "right"]


class PhantomSettings(BaseModel):
    """What a rendering includes besides the hand itself.

    Every switch is independent: each nuisance draws from a random stream of its own, so
    turning one off changes nothing but that nuisance.

    Args:
        size_px: longer side of the image, even.
        side: the hand that lies on the film; a right one is the mirror image of a left one.
        pose: finger spread and bending, thumb abduction, rotation, turn of the forearm.
        framing: how much of the image the hand fills and where, and the image's aspect.
        texture: trabecular texture of bone.
        shape: irregular outlines of bones, uneven thickness of soft tissue.
        exposure: beam energy, scatter, edge enhancement, brightness, contrast and tone curve.
        blur: unsharpness of focus and detector, varying from image to image.
        noise: quantum noise.
        heel_effect: gradient of the beam across the image.
        collimation: tilted collimated plates and bright borders in a share of the images.
        marker: the ``L`` or ``R`` with initials, on its plate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_px: int = Field(default=256, ge=64, le=2048, multiple_of=2)
    side: Side = "left"
    pose: bool = True
    framing: bool = True
    texture: bool = True
    shape: bool = True
    exposure: bool = True
    blur: bool = True
    noise: bool = True
    heel_effect: bool = True
    collimation: bool = True
    marker: bool = True

    @classmethod
    def clean(cls, size_px: int = 256) -> PhantomSettings:
        """Return settings with every nuisance off."""
        return cls(
            size_px=size_px,
            pose=False,
            framing=False,
            texture=False,
            shape=False,
            exposure=False,
            blur=False,
            noise=False,
            heel_effect=False,
            collimation=False,
            marker=False,
        )


NUISANCES: tuple[str, ...] = tuple(
    name for name, field in PhantomSettings.model_fields.items() if field.annotation is bool
)
"""The switches of ``PhantomSettings``."""
