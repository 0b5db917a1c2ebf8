"""Maps of many cases, as they go into an analysis folder."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from boneage_xai.errors import DataError
from boneage_xai.files import read_json, sync, write_json
from boneage_xai.stored_maps import (
    CHECKSUM,
    CHUNK_CODECS,
    METADATA_FILE,
    WRITTEN,
    metadata_checksum,
)
from boneage_xai.types import RegionMap

_HIGHEST_LABEL = 255


class MapsWriter:
    """The Zarr group of one cohort, filled chunk by chunk, by one process or several.

    Args:
        path: of a group made by :meth:`create`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.group = zarr.open_group(path, mode="r+")
        self.arrays: dict[str, Any] = {}

    @classmethod
    def create(
        cls,
        path: Path,
        case_ids: Sequence[str],
        shape: tuple[int, ...],
        methods: Sequence[str],
        layers: Mapping[str, Sequence[int]],
        *,
        regions: bool,
        claim: str,
    ) -> None:
        """Make the group with all its arrays and no data.

        Args:
            path: of the new group.
            case_ids: n ids.
            shape: (H, W) of inputs and maps.
            methods: names.
            layers: names with the shape (h, w) of their activation maps.
            regions: whether cases may have region maps.
            claim: digest of what decides the result, for the group's attributes.
        """
        attributes = {
            "case_ids": list(case_ids),
            "methods": list(methods),
            "layers": list(layers),
            "claim": claim,
        }
        group = zarr.create_group(store=path, zarr_format=3, attributes=attributes)
        arrays = {"inputs": (shape, "uint8")} | dict.fromkeys(methods, (shape, "float32"))
        for layer, size in layers.items():
            arrays[f"activations/{layer}"] = (tuple(size), "float32")
        if regions:
            arrays["regions"] = (shape, "uint8")
        for name, (size, dtype) in arrays.items():
            # Zarr leaves out chunks of zeros by default; then a lost one would be read as zeros.
            array = group.create_array(
                name,
                shape=(len(case_ids), *size),
                chunks=(1, *size),
                dtype=dtype,
                compressors=CHUNK_CODECS,
                config={"write_empty_chunks": True},
            )
            if name != "regions":
                array.attrs[WRITTEN] = "all"

    def write(self, name: str, index: int, values: npt.NDArray[Any]) -> dict[str, int]:
        """Write a case's chunk (H, W) of an array and wait until it is on disk.

        Returns:
            The chunk's file inside the group with its checksum.
        """
        if name not in self.arrays:
            array: Any = self.group[name]
            self.arrays[name] = array.with_config({"write_empty_chunks": True})
        array = self.arrays[name]
        array[index] = values
        key = f"{name}/{array.metadata.encode_chunk_key((index, 0, 0))}"
        file = self.path / key
        sync(file)
        return {key: zlib.crc32(file.read_bytes())}

    def finish(self, names: Mapping[str, str], with_regions: Sequence[str]) -> None:
        """Record the names of the regions, clear away what a kill left half written, and seal."""
        for leftover in self.path.rglob("*.partial"):
            leftover.unlink()
        if "regions" in self.group:
            self._describe_regions(names, with_regions)
        for folder, folders, files in os.walk(self.path):
            if METADATA_FILE in files:
                file = Path(folder, METADATA_FILE)
                document = read_json(file)
                document["attributes"][CHECKSUM] = metadata_checksum(document)
                write_json(file, document)
                if document["node_type"] == "array":
                    folders.clear()

    def _describe_regions(self, names: Mapping[str, str], with_regions: Sequence[str]) -> None:
        if not with_regions:
            del self.group["regions"]
            return
        ids: Any = self.group.attrs["case_ids"]
        having = set(with_regions)
        self.group["regions"].attrs.update(
            {
                "names": {value: names[value] for value in sorted(names, key=int)},
                "case_ids": list(with_regions),
                WRITTEN: [row for row, case_id in enumerate(ids) if case_id in having],
            }
        )


def check_regions(case_id: str, regions: RegionMap, shape: tuple[int, ...]) -> None:
    """Refuse a region map that cannot be written.

    Raises:
        DataError: another grid, or labels out of range.
    """
    if regions.labels.shape != shape:
        raise DataError(
            f"case {case_id}: expected a region map on the input grid {shape}, "
            f"found {regions.labels.shape}"
        )
    if not 0 <= regions.labels.min() <= regions.labels.max() <= _HIGHEST_LABEL:
        raise DataError(
            f"case {case_id}: expected region labels from 0 to {_HIGHEST_LABEL}, "
            f"found {regions.labels.min()} to {regions.labels.max()}"
        )


def labels_of(regions: RegionMap) -> npt.NDArray[np.uint8]:
    """Return the labels as they are written."""
    return regions.labels.astype(np.uint8)
