"""Drawing a hand again with something changed, and nothing else.

Moving a region in age changes a few pieces of bone. Only the windows that they reach are drawn
and exposed again, with the same operations in the same order as in a whole rendering, so that
the result equals the whole rendering bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from boneage_xai.phantom.film import scattered_share, white_attenuation
from boneage_xai.phantom.growth import maturities
from boneage_xai.phantom.labelling import outline
from boneage_xai.phantom.nuisances import draw_pose
from boneage_xai.phantom.rendering import (
    FINER,
    Drawing,
    DrawnBone,
    attenuation,
    draw_bone,
    draw_bones,
    expose,
)
from boneage_xai.phantom.skeleton import Skeleton, build_skeleton
from boneage_xai.phantom.soft_tissue import soft_tissue
from boneage_xai.phantom.windows import Window, area, grow, join, mirror, whole
from boneage_xai.types import FloatImage


def draw_with_region_ages(drawing: Drawing, region_ages: Mapping[str, float]) -> FloatImage:
    """Draw the same hand with regions moved in age.

    Args:
        drawing: the hand, with or without regions moved.
        region_ages: region name to age in months; all others have the hand's own age.

    Returns:
        (H, W) float32 in [0, 1], equal to that of ``rendering.render`` with these ages.

    Raises:
        ConfigError: a region without ossification centres, or an age that is negative.
    """
    hand = drawing.hand
    maturity = maturities(hand, region_ages)
    if maturity == drawing.maturity:
        return drawing.pixels.copy()
    skeleton = build_skeleton(hand, maturity, draw_pose(drawing.settings, drawing.seed))
    bones, windows = _compare(drawing, skeleton)
    pixels = drawing.pixels.copy()
    for window in windows:
        pixels[window] = _draw_window(drawing, bones, window)
    return pixels


def draw_at_age(drawing: Drawing, age_months: float) -> FloatImage:
    """Draw the same individual at another age, magnified to the same size.

    Pose, nuisances, marker and the image's shape are those of ``drawing``; a pixel holds as
    many mm as the hand has grown, so that the hand stays where it is, and the exposure follows its
    thickness, as it does in every phantom.

    Args:
        drawing: the hand at its own age.
        age_months: the other age, in months.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        ConfigError: an age that is negative.
    """
    settings, film = drawing.settings, drawing.film
    hand = replace(drawing.hand, age_months=age_months)
    skeleton = build_skeleton(hand, maturities(hand), draw_pose(settings, drawing.seed))
    ratio = skeleton.scale / drawing.skeleton.scale
    frame = replace(
        drawing.frame,
        mm_per_px=drawing.frame.mm_per_px * ratio,
        left_mm=drawing.frame.left_mm * ratio,
        top_mm=drawing.frame.top_mm * ratio,
    )
    _, thickness = soft_tissue(hand, skeleton, frame.finer(FINER), drawing.uneven)
    bones = draw_bones(skeleton, frame.finer(FINER), drawing.texture, drawing.uneven)
    seen = thickness[:, ::-1] if drawing.mirrored else thickness
    film = replace(
        film,
        white=white_attenuation(seen, film.exposure),
        scattered=scattered_share(seen, film.exposure),
    )
    everywhere = whole(film.shape)
    shadow = attenuation(
        thickness, bones, drawing.marker, film.exposure, drawing.mirrored, everywhere
    )
    return expose(shadow, film, everywhere)


def _compare(drawing: Drawing, skeleton: Skeleton) -> tuple[list[DrawnBone], list[Window]]:
    """Return every piece of bone of the skeleton, and the windows in which images differ."""
    fine = drawing.frame.finer(FINER)
    before = {bone.outline.part: bone for bone in drawing.bones}
    kept = set(skeleton.parts)
    changed = [bone for part, bone in before.items() if part not in kept]
    bones: list[DrawnBone] = []
    for part in skeleton.parts:
        bone = before.get(part)
        if bone is None and (place := outline(part, fine, drawing.uneven)) is not None:
            bone = draw_bone(place, drawing.texture)
            changed.append(bone)
        if bone is not None:
            bones.append(bone)
    film = drawing.film
    windows = [grow(_on_image(bone, drawing), film.reach_px, film.shape) for bone in changed]
    return bones, _join_near(windows)


def _on_image(bone: DrawnBone, drawing: Drawing) -> Window:
    """Return the window of a piece of bone on the image's grid, as seen."""
    place = bone.outline
    rows, columns = (
        slice(part.start // FINER, -(-part.stop // FINER)) for part in (place.rows, place.columns)
    )
    return rows, mirror(columns, drawing.frame.width_px) if drawing.mirrored else columns


def _join_near(windows: list[Window]) -> list[Window]:
    """Join windows where drawing both by themselves would be more work."""
    joined: list[Window] = []
    for window in windows:
        merging = True
        while merging:
            merging = False
            for other in joined:
                both = join(window, other)
                if area(both) <= area(window) + area(other):
                    joined.remove(other)
                    window, merging = both, True
                    break
        joined.append(window)
    return joined


def _draw_window(drawing: Drawing, bones: list[DrawnBone], window: Window) -> FloatImage:
    """Return (h, w) pixels of a window."""
    film = drawing.film
    # What lies around the window is blurred into it.
    wider = grow(window, film.reach_px, film.shape)
    shadow = attenuation(
        drawing.thickness_mm, bones, drawing.marker, film.exposure, drawing.mirrored, wider
    )
    rows, columns = (
        slice(inner.start - outer.start, inner.stop - outer.start)
        for inner, outer in zip(window, wider, strict=True)
    )
    return expose(shadow, film, wider)[rows, columns]
