"""Rectangular parts of an image, as rows and columns."""

from __future__ import annotations

Window = tuple[slice, slice]
"""Rows and columns of a part of an image, with start and stop and a step of one."""


def whole(shape: tuple[int, int]) -> Window:
    """Return the window that holds an image of (H, W)."""
    return slice(0, shape[0]), slice(0, shape[1])


def mirror(columns: slice, width: int) -> slice:
    """Return the same columns of an image of this width, counted from the other side."""
    return slice(width - columns.stop, width - columns.start)


def grow(window: Window, margin: int, shape: tuple[int, int]) -> Window:
    """Return a window with a margin around it, as far as the image of (H, W) reaches."""
    rows, columns = (
        slice(max(0, part.start - margin), min(size, part.stop + margin))
        for part, size in zip(window, shape, strict=True)
    )
    return rows, columns


def area(window: Window) -> int:
    """Return the number of pixels in a window."""
    height, width = (int(part.stop - part.start) for part in window)
    return height * width


def join(one: Window, other: Window) -> Window:
    """Return the smallest window that holds both."""
    rows, columns = (
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )
    return rows, columns


def overlap(one: Window, other: Window) -> tuple[Window, Window] | None:
    """Return where two windows of an image meet, counted within each; None when they do not."""
    within: list[tuple[slice, slice]] = []
    for a, b in zip(one, other, strict=True):
        low, high = max(a.start, b.start), min(a.stop, b.stop)
        if low >= high:
            return None
        within.append((slice(low - a.start, high - a.start), slice(low - b.start, high - b.start)))
    (rows_a, rows_b), (columns_a, columns_b) = within
    return (rows_a, columns_a), (rows_b, columns_b)
