"""All items of the corpus."""

from __future__ import annotations

from collections.abc import Iterator

from .codestreams import codestream_items
from .dicoms import dicom_items
from .items import Item
from .pictures import picture_items
from .stored import stored_items
from .tables import table_items
from .workbooks import workbook_items


def every_item() -> Iterator[Item]:
    """Yield every item, drawn and written anew: none is kept as a file."""
    yield from picture_items()
    yield from dicom_items()
    yield from codestream_items()
    yield from table_items()
    yield from workbook_items()
    yield from stored_items()
