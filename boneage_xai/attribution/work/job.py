"""What is to be attributed, and a hash of everything that decides the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from boneage_xai import __version__
from boneage_xai.attribution.baselines import SameSexReferences
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.errors import DataError
from boneage_xai.types import FloatImage, RegionMap

# Libraries whose arithmetic or encoding ends up in a result.
_LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-image", "captum", "zarr")


@dataclass(frozen=True, eq=False)
class Job:
    """An attribution to be done.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        case_ids: (n,) unique ids.
        pixels: (m, H, W) uint8, may be memory-mapped.
        rows: (n,) row of ``pixels`` for each case.
        is_male: (n,) True for boys.
        methods: names in ``METHODS``.
        layers: module names for activation maps.
        settings: of the methods.
        mean_image: (H, W), for the baseline ``mean``.
        references: for the baseline ``expected``.
        regions_of: returns a case's region map on the input grid, None where it has none.
        regions_id: tells one set of region maps from another.
        model_id: tells one network from another where its tensors do not, as those of frozen
            TorchScript.
    """

    network: nn.Module
    case_ids: tuple[str, ...]
    pixels: npt.NDArray[np.uint8]
    rows: tuple[int, ...]
    is_male: npt.NDArray[np.bool_]
    methods: tuple[str, ...]
    layers: tuple[str, ...]
    settings: AttributionSettings
    mean_image: FloatImage | None = None
    references: SameSexReferences | None = None
    regions_of: Callable[[str], RegionMap | None] | None = None
    regions_id: str | None = None
    model_id: str | None = None

    def pixels_of(self, members: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Return the prepared images (k, H, W) of some cases."""
        return np.stack([self.pixels[self.rows[index]] for index in members])

    def tensors(
        self, pixels: npt.NDArray[np.uint8], members: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return images (k, 1, H, W) in [0, 1] and sexes (k,) as the network takes them."""
        like = next(self.network.parameters(), torch.zeros(0))
        images = torch.tensor(pixels / 255.0, dtype=like.dtype, device=like.device)[:, None]
        sexes = np.array([float(self.is_male[index]) for index in members])
        return images, torch.tensor(sexes, dtype=like.dtype, device=like.device)


def check_rows(
    case_ids: Sequence[str],
    pixels: npt.NDArray[np.uint8],
    is_male: npt.NDArray[np.bool_],
    rows: Sequence[int] | npt.NDArray[np.integer[Any]] | None,
) -> tuple[int, ...]:
    """Return the row of ``pixels`` for each case.

    Raises:
        DataError: cases, pixels and sexes that do not fit together.
    """
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise DataError(
            f"attribution: expected pixels (m, H, W) of uint8, found {pixels.shape} "
            f"of {pixels.dtype}"
        )
    positions = tuple(range(len(pixels))) if rows is None else tuple(int(row) for row in rows)
    if not len(case_ids) == len(is_male) == len(positions) or not positions:
        raise DataError(
            "attribution: expected one sex and one image for each of at least one case, found "
            f"{len(case_ids)} cases, {len(is_male)} sexes and {len(positions)} images"
        )
    if len(set(case_ids)) != len(case_ids):
        raise DataError("attribution: expected unique case ids, found one more than once")
    if not 0 <= min(positions) <= max(positions) < len(pixels):
        raise DataError(
            f"attribution: expected rows from 0 to {len(pixels) - 1}, "
            f"found {min(positions)} to {max(positions)}"
        )
    return positions


def identity(job: Job, machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that decides the result, as JSON holds it.

    Args:
        job: what is to be attributed; its pixels are read once, case by case.
        machine: what computes, from :func:`machine`.
    """
    references = job.references
    return {
        "model": _model_hash(job.network),
        "model_id": job.model_id,
        "data": _data_hash(job),
        "shape_px": list(job.pixels.shape[1:]),
        "case_ids": list(job.case_ids),
        "methods": list(job.methods),
        "layers": list(job.layers),
        "settings": job.settings.model_dump(mode="json"),
        "mean_image": None if job.mean_image is None else _array_hash(job.mean_image),
        "references": (
            None
            if references is None
            else [_array_hash(references.girls), _array_hash(references.boys)]
        ),
        "regions": job.regions_of is not None,
        "regions_id": job.regions_id,
        "machine": dict(machine),
    }


def machine(network: nn.Module) -> dict[str, Any]:
    """Return what computes: device, instructions and versions, all of which decide rounding."""
    device = next(network.parameters(), torch.zeros(0)).device
    name = torch.backends.cpu.get_cpu_capability()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    versions = {library: version(library) for library in _LIBRARIES}
    return {"device": device.type, "name": name, "boneage_xai": __version__, **versions}


def digest(content: Any) -> str:
    """Return the SHA-256 of anything that JSON holds, in hexadecimal."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _model_hash(network: nn.Module) -> str:
    total = hashlib.sha256(repr(network).encode())
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        total.update(flat.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _data_hash(job: Job) -> str:
    total = hashlib.blake2b(np.packbits(job.is_male).tobytes(), digest_size=16)
    for row in job.rows:
        total.update(np.ascontiguousarray(job.pixels[row]).data)
    return total.hexdigest()


def _array_hash(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(f"{array.shape}".encode() + array.tobytes()).hexdigest()
