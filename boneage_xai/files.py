"""Files on disk: writes that are whole or absent, and reads that refuse damage.

A file is written under a temporary name beside its target and then renamed, so a reader
never sees half of it, also after a kill. Only open formats are used: JSON, CSV, Parquet,
safetensors. Nothing is pickled and nothing is executed on load.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyarrow.parquet import read_schema
from safetensors import SafetensorError
from safetensors.numpy import save_file

from boneage_xai.errors import DataError, one_clause

# A RuntimeError is raised of an entry that says it is encrypted or packed in an unknown way.
ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)
"""What reading a damaged ZIP archive may raise, one by one."""


# Only setting it tells it, which is not to happen while other threads write.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


@contextmanager
def staged_file(path: Path, mode: int = 0o666 & ~_UMASK) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block succeeds.

    The temporary name keeps the suffix of ``path``, for writers that choose by suffix.

    Args:
        path: the file.
        mode: its permissions; those that the process gives new files, unless others are asked for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    staged = Path(name)
    try:
        yield staged
        staged.chmod(mode)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that becomes ``path`` when the block succeeds.

    Raises:
        DataError: ``path`` exists already.
    """
    if path.exists():
        raise DataError(f"{path} exists already: expected a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield staged
        staged.chmod(0o777 & ~_UMASK)
        try:
            staged.rename(path)
        except OSError as error:
            raise DataError(f"{path} appeared while it was being written") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def write_durably(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all, on disk when this returns, also if the power fails then."""
    with staged_file(path) as staged, staged.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    sync(path.parent)


def link_durably(existing: Path, path: Path) -> None:
    """Give a file that is only ever replaced as a whole a second name, in place of what has it.

    Raises:
        OSError: also where the file system knows no such links.
    """
    with staged_file(path) as staged:
        staged.unlink()
        os.link(existing, staged)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or the names in a folder are on disk; folders only where that exists."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with staged_file(path) as staged:
        staged.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all; NaN and infinities become null."""
    write_text(path, json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n")


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if hasattr(content, "item") and getattr(content, "ndim", None) == 0:
        content = content.item()
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, Path):
        return str(content)
    return content


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    # Also numbers of more digits than Python converts, and lists in lists without end.
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: expected JSON, found something unreadable ({one_clause(error)})"
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        DataError: the file is missing or holds none.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object, found {type(content).__name__}")
    return content


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as Parquet or CSV, by the suffix of ``path``, whole or not at all."""
    with staged_file(path) as staged:
        if path.suffix == ".parquet":
            frame.to_parquet(staged, index=False, write_page_checksum=True)
        else:
            frame.to_csv(staged, index=False)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a Parquet or CSV table that the toolkit wrote.

    Args:
        path: the file.
        columns: of a Parquet file, those to read, where it has them; None reads all.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        if path.suffix == ".parquet":
            if columns is not None:
                there = set(read_schema(path).names)
                columns = [name for name in columns if name in there]
            return pd.read_parquet(path, columns=columns, page_checksum_verification=True)
        # A converter, because a case may be called NA.
        return pd.read_csv(path, converters={"case_id": str})
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    # What pandas and Arrow raise on damage has no common kind.
    except Exception as error:
        raise DataError(
            f"{path}: expected a table, found something unreadable ({one_clause(error)})"
        ) from error


def write_safetensors(
    path: Path, arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named arrays as safetensors, whole or not at all.

    Raises:
        DataError: there is no room.
    """
    # safetensors writes the memory as it lies, and networks in channels-last order lie otherwise.
    ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with staged_file(path) as staged:
        try:
            save_file(ordered, staged, metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:
            raise DataError(f"{path}: expected room for the file, found none ({error})") from error


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
