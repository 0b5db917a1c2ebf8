"""The maps of an analysis as they are read: what is damaged or missing is found, not served."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from boneage_xai.errors import DataError, one_clause

CHUNK_CODECS = (ZstdCodec(), Crc32cCodec())
"""How chunks are compressed, and then given a checksum that is compared when they are read."""

WRITTEN = "written_rows"
"""Attribute of arrays: ``all``, or the rows that have a chunk; a missing one is damage."""

CHECKSUM = "metadata_sha256"
"""Attribute of groups and arrays: what ``metadata_checksum`` gives for their ``zarr.json``."""

METADATA_FILE = "zarr.json"

MOST_PIXELS = 4096**2
"""Of a map: as many as the largest network input has."""


def metadata_checksum(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a ``zarr.json`` says, without the checksum in it."""
    attributes = dict(document.get("attributes", {}))
    attributes.pop(CHECKSUM, None)
    text = json.dumps({**document, "attributes": attributes}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class StoredMaps:
    """The group ``attributions.zarr``: inputs, maps by method, activations, regions.

    Args:
        path: the group's folder.

    Raises:
        DataError: not a Zarr group of maps, or one whose description is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # What Zarr raises on metadata that it cannot follow has no common kind, here and below.
        try:
            self._group = zarr.open_group(path, mode="r")
        except Exception as error:
            raise DataError(
                f"{path}: expected a Zarr group, found none ({one_clause(error)})"
            ) from error
        _check_metadata(path)

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Return case_ids, methods, layers and the claim of what made them."""
        return self._group.attrs

    def __contains__(self, name: str) -> bool:
        """Return whether there is an array of this name."""
        return (self.path / name / METADATA_FILE).is_file()

    def __getitem__(self, name: str) -> StoredArray:
        """Return an array, none of whose chunks is read yet.

        Raises:
            DataError: it is missing, its description is damaged, or it is no array of maps.
        """
        path = self.path / name
        _check_metadata(path)
        try:
            array = self._group[name]
        except Exception as error:
            raise _damaged(path, one_clause(error)) from error
        if not isinstance(array, zarr.Array):
            raise _damaged(path, "that of a group")
        shape = array.shape
        if len(shape) != 3 or math.prod(shape[1:]) > MOST_PIXELS:
            raise _damaged(path, f"the shape {shape}")
        if array.chunks != (1, *shape[1:]):
            raise _damaged(path, f"chunks of {array.chunks} for the shape {shape}")
        return StoredArray(path, array)


class StoredArray:
    """One array of the group, a chunk per case.

    Args:
        path: the array's folder.
        array: the array itself.
    """

    def __init__(self, path: Path, array: Any) -> None:
        self.path = path
        self._array = array

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Return what is recorded beside the values."""
        attributes: Mapping[str, Any] = self._array.attrs
        return attributes

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (cases, H, W)."""
        return tuple(self._array.shape)

    def __getitem__(self, rows: int | slice) -> npt.NDArray[Any]:
        """Return the values of one case (H, W), or of several (n, H, W).

        Raises:
            DataError: a chunk is damaged or missing.
            IndexError: there is no such case.
        """
        chosen = range(self.shape[0])[rows]
        try:
            values = np.asarray(self._array[rows])
        except Exception as error:
            raise self._damage(rows, one_clause(error)) from error
        asked = set(chosen) if isinstance(chosen, range) else {chosen}
        written = self.attrs.get(WRITTEN, ())
        for row in sorted(asked if written == "all" else asked.intersection(written)):
            if not self._chunk(row).is_file():
                raise self._damage(row, "its file is missing")
        return values

    def _chunk(self, row: int) -> Path:
        return self.path / str(self._array.metadata.encode_chunk_key((row, 0, 0)))

    def _damage(self, rows: int | slice, what: str) -> DataError:
        return DataError(
            f"{self.path}: expected the whole chunk of row {rows}, found damage ({what}); "
            "`boneage-xai attribute --replace` makes the maps again"
        )


def _check_metadata(path: Path) -> None:
    """Refuse a group or array whose description is not the one that was written."""
    file = path / METADATA_FILE
    try:
        document = json.loads(file.read_bytes())
        stated = document.get("attributes", {}).get(CHECKSUM)
        # Folders written before there were checksums have none.
        changed = stated is not None and stated != metadata_checksum(document)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise _damaged(file, one_clause(error)) from error
    if changed:
        raise _damaged(file, "it differs from its checksum")


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: expected the description of an array, found damage ({what}); "
        "`boneage-xai attribute --replace` makes the maps again"
    )
