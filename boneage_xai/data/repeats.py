"""The same radiograph under several ids: learnt from and measured on, it flatters a network."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping

from boneage_xai.data.problems import Problem
from boneage_xai.types import FloatImage

_NAMED = 5


def pixels_digest(pixels: FloatImage) -> str:
    """Return a hash of a radiograph's pixels (H, W) and their shape."""
    height, width = pixels.shape
    content = f"{height} {width} ".encode() + pixels.tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def repeated_images(digests: Mapping[str, Mapping[str, str]]) -> list[Problem]:
    """Find radiographs that several cases share, within a set and across sets.

    Args:
        digests: name of each set to the hash of each case's pixels, by case id.

    Returns:
        A note per radiograph that more than one case shows.
    """
    owners: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, of_set in digests.items():
        for case_id, digest in of_set.items():
            owners[digest].append((name, case_id))
    notes = []
    for shared in owners.values():
        if len(shared) == 1:
            continue
        listed = ", ".join(f"{case_id} of {name}" for name, case_id in shared[:_NAMED])
        if len(shared) > _NAMED:
            listed += f" and {len(shared) - _NAMED:,} more"
        across = len({name for name, _ in shared}) > 1
        why = "the sets share it" if across else "a split may put it on both sides"
        sentence = f"the cases {listed} show the same radiograph, pixel by pixel: {why}"
        notes.append(Problem("repeated_image", "note", sentence, shared[0][1]))
    return notes
