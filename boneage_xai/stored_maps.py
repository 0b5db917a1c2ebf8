"""The maps of an analysis as they are read: what is damaged or missing is found, not served."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from boneage_xai.errors import DataError

CHUNK_CODECS = (ZstdCodec(), Crc32cCodec())
"""How chunks are compressed, and then given a checksum that is compared when they are read."""

WRITTEN = "written_rows"
"""Attribute of arrays: ``all``, or the rows that have a chunk; a missing one is damage."""


CHECKSUM = "metadata_sha256"
"""Attribute of groups and arrays: what ``metadata_checksum`` gives for their ``zarr.json``."""

METADATA_FILE = "zarr.json"

# What Zarr raises on metadata that mean nothing, one by one.
_DAMAGE = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError)


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
        try:
            self._group = zarr.open_group(path, mode="r")
        except _DAMAGE as error:
            raise DataError(
                f"{path}: expected a Zarr group, found none ({_in_one_line(error)})"
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
            DataError: it is missing, or its description is damaged.
        """
        path = self.path / name
        _check_metadata(path)
        try:
            return StoredArray(path, self._group[name])
        except _DAMAGE as error:
            raise _damaged(path, _in_one_line(error)) from error


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
        """
        try:
            values = np.asarray(self._array[rows])
        except (ValueError, RuntimeError, OSError) as error:
            raise self._damage(rows, str(error)) from error
        chosen = range(self.shape[0])[rows]
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
    except _DAMAGE as error:
        raise _damaged(file, _in_one_line(error)) from error
    if changed:
        raise _damaged(file, "it differs from its checksum")


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: expected the description of an array, found damage ({what}); "
        "`boneage-xai attribute --replace` makes the maps again"
    )


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
