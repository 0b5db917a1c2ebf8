"""Stored values of a DICOM image, compressed ones decoded in a process of its own.

What decodes JPEG, JPEG-LS and JPEG 2000 is native code, which may end its process on a damaged
picture instead of raising an error. In another process it costs that one picture. This file is
also what that process runs, so it imports nothing else of the toolkit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom.dataset import FileDataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import RLELossless

MOST_SECONDS = 60.0
"""A compressed picture that takes longer than this to decode is given up."""


class StoredValues(NamedTuple):
    """The decoded values of an image.

    Attributes:
        values: (H, W) or, in colour, (H, W, 3), in a type of the bits allocated; not to be changed.
        photometric_interpretation: of these values; decoding may change that of colour.
    """

    values: npt.NDArray[Any]
    photometric_interpretation: str


def stored_values(dataset: FileDataset, *, correct_unused_bits: bool) -> StoredValues:
    """Decode the one frame of an image.

    Args:
        dataset: with its pixels as they are in the file.
        correct_unused_bits: clear the bits above those stored, or extend the sign into them.

    Raises:
        RuntimeError: a compressed picture that cannot be decoded, crashes its decoder or takes
            longer than ``MOST_SECONDS``; a transfer syntax without a decoder.
        Exception: what pydicom raises on other damaged pixels.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    options = as_pixel_options(dataset, correct_unused_bits=correct_unused_bits)
    # Run lengths are unpacked by pydicom, which is no native code.
    if not syntax.is_encapsulated or syntax == RLELossless:
        values, properties = get_decoder(syntax).as_array(dataset, **options)
        return StoredValues(values, str(properties["photometric_interpretation"]))
    # They tell frames apart, of which there is one.
    options.pop("extended_offsets", None)
    return _decode_apart(str(syntax), options, bytes(dataset.PixelData))


_lock = threading.Lock()
# By the process that started it: a fork must not share it.
_decoders: dict[int, subprocess.Popen[bytes]] = {}


def _decode_apart(syntax: str, options: dict[str, Any], picture: bytes) -> StoredValues:
    asked = json.dumps({"syntax": syntax, "options": options, "length": len(picture)})
    late = threading.Event()

    def give_up() -> None:
        late.set()
        decoder.kill()

    with _lock:
        decoder = _running_decoder()
        alarm = threading.Timer(MOST_SECONDS, give_up)
        alarm.start()
        try:
            answer, content = _exchange(decoder, asked.encode() + b"\n" + picture)
        except BaseException as error:
            # What is left in the pipes belongs to no other picture.
            decoder.kill()
            decoder.wait()
            if not isinstance(error, OSError | EOFError):
                raise
            reason = (
                f"decoding takes over {MOST_SECONDS:g} s" if late.is_set() else "decoder crashed"
            )
            raise RuntimeError(reason) from None
        finally:
            alarm.cancel()
    if "error" in answer:
        raise RuntimeError(answer["error"])
    values = np.frombuffer(content, dtype=answer["type"]).reshape(answer["shape"])
    return StoredValues(values, answer["photometric_interpretation"])


def _running_decoder() -> subprocess.Popen[bytes]:
    decoder = _decoders.get(os.getpid())
    if decoder is None or decoder.poll() is not None:
        # -P: the folder of this file is no place to import from.
        decoder = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        _decoders[os.getpid()] = decoder
    return decoder


def _exchange(decoder: subprocess.Popen[bytes], message: bytes) -> tuple[dict[str, Any], bytes]:
    if decoder.stdin is None or decoder.stdout is None:
        raise EOFError
    decoder.stdin.write(message)
    decoder.stdin.flush()
    line = decoder.stdout.readline()
    if not line:
        raise EOFError
    answer = json.loads(line)
    content = decoder.stdout.read(answer["length"])
    if len(content) < answer["length"]:
        raise EOFError
    return answer, content


def _serve() -> None:
    """Decode what is asked for on standard input until it ends."""
    # Ctrl-C is for the process that asks, which then closes the input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    if sys.platform != "win32":
        import resource

        # What a crash would leave on disk holds the picture.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Native code prints to standard output, too: answers leave by another way.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    while line := sys.stdin.buffer.readline():
        asked = json.loads(line)
        picture = sys.stdin.buffer.read(asked["length"])
        content = b""
        try:
            values, properties = get_decoder(asked["syntax"]).as_array(picture, **asked["options"])
            content = values.tobytes()
            answer = {
                "type": values.dtype.str,
                "shape": values.shape,
                "photometric_interpretation": str(properties["photometric_interpretation"]),
            }
        except Exception as error:  # Whatever is wrong with it, the next one is asked for.
            answer = {"error": str(error) or type(error).__name__}
        answers.write(json.dumps(answer | {"length": len(content)}).encode() + b"\n" + content)
        answers.flush()


if __name__ == "__main__":
    _serve()
