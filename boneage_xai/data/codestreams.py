"""How large a compressed picture is, and of how many components, before anyone decodes it."""

from __future__ import annotations

import struct

_JPEG_2000 = b"\xff\x4f\xff\x51"
_JPEG = b"\xff\xd8"
# Start of frame, of every process of JPEG and of JPEG-LS; not DHT, JPG and DAC.
_FRAMES = (frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}) | {0xF7}
_LONE = frozenset({0x01, *range(0xD0, 0xD9)})


def declared_shape(stream: bytes) -> tuple[int, int, int] | None:
    """Return width, height and components that a JPEG, JPEG-LS or JPEG 2000 codestream declares.

    Args:
        stream: the compressed picture.

    Returns:
        Width and height in pixels (a height of 0: it stands behind the picture) and the number
        of components, None for another kind of codestream or a damaged one.

    Source:
        ITU-T T.81 B.2.2, T.87 C.2.2 and T.800 A.5.1.
    """
    start = stream.find(_JPEG_2000)
    if start >= 0:
        # Length, capabilities, then the reference grid.
        size = stream[start + 8 : start + 42]
        if len(size) < 34:
            return None
        width, height, left, top, *_, components = struct.unpack(">8IH", size)
        return width - left, height - top, components
    if not stream.startswith(_JPEG):
        return None
    at = 2
    while at + 10 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF or marker in _LONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES:
            height, width, components = struct.unpack(">2HB", stream[at + 5 : at + 10])
            return width, height, components
        at += 2 + struct.unpack(">H", stream[at + 2 : at + 4])[0]
    return None


def rle_length(frame: bytes) -> int:
    """Return how many bytes the first segment of a DICOM RLE frame unpacks to.

    Args:
        frame: header and segments.

    Raises:
        struct.error: a frame shorter than its header.

    Source:
        DICOM PS3.5 2024, G.3.1 and G.5.
    """
    n_segments, first, second = struct.unpack("<3I", frame[:12])
    segment = frame[first : second if n_segments > 1 else len(frame)]
    at = length = 0
    while at + 1 < len(segment):
        head = segment[at]
        if head < 128:
            length += min(head + 1, len(segment) - at - 1)
            at += head + 2
        elif head == 128:
            at += 1
        else:
            length += 257 - head
            at += 2
    return length
