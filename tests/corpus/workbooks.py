"""Label tables in XLSX workbooks: typed, computed, damaged and hostile."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import openpyxl

from .items import Item, Refused, Rows, damaged
from .tables import FACTS, HEADER, plain_rows, table_of


def workbook(rows: Iterable[Iterable[Any]]) -> bytes:
    """Return an XLSX workbook of one sheet."""
    book = openpyxl.Workbook()
    assert book.active is not None
    for row in rows:
        book.active.append(list(row))
    buffer = io.BytesIO()
    book.save(buffer)
    # Without the times that openpyxl writes: the corpus is the same each time.
    space = "http://schemas.openxmlformats.org/package/2006/metadata/core-properties"
    core = f'<cp:coreProperties xmlns:cp="{space}"/>'.encode()
    return _replaced(buffer.getvalue(), "docProps/core.xml", core)


def _replaced(content: bytes, member: str, data: bytes) -> bytes:
    """Return a workbook with another content of one of its parts."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(zipfile.ZipInfo(name), data if name == member else old.read(name), _PACKED)
    return buffer.getvalue()


_PACKED = zipfile.ZIP_DEFLATED
_SHEET = "xl/worksheets/sheet1.xml"


def workbook_items() -> Iterator[Item]:
    """Yield every workbook."""
    family = "table: workbook"
    typed = [[int(i), float(a), m == "True"] for i, a, m in plain_rows()]
    sound = workbook([HEADER.split(","), *typed])
    yield Item(family, "sound.xlsx", sound, Rows(FACTS))
    texts = workbook([HEADER.split(","), *plain_rows()])
    yield Item(family, "texts.xlsx", texts, Rows(FACTS))
    yield from damaged("table, workbook", "labels", ".xlsx", sound, Rows(FACTS), n=60)
    ids = list(FACTS)
    formulas = [
        [i, "=12*10" if n == 2 else float(a), m == "True"]
        for n, (i, a, m) in enumerate(plain_rows())
    ]
    others = {i: fact for i, fact in FACTS.items() if i != ids[2]}
    lost = (f"case {ids[2]} has an empty bone age",)
    name = "formula-never-computed.xlsx"
    yield Item(family, name, workbook([HEADER.split(","), *formulas]), Rows(others, lost))
    formulas = [
        [i, float(a), '=HYPERLINK("http://localhost")' if n == 2 else m == "True"]
        for n, (i, a, m) in enumerate(plain_rows())
    ]
    lost = (f"case {ids[2]} has the male",)
    content = workbook([HEADER.split(","), *formulas])
    yield Item(family, "formula-as-sex.xlsx", content, Rows(others, lost))
    yield Item(
        family, "csv-inside.xlsx", table_of(HEADER, plain_rows()), refusal=Refused("workbook")
    )
    yield Item(family, "empty.xlsx", b"", refusal=Refused("workbook"))
    yield Item(family, "no-cells.xlsx", workbook([]), refusal=Refused("empty"))
    hollow = io.BytesIO()
    with zipfile.ZipFile(hollow, "w") as archive:
        archive.writestr(zipfile.ZipInfo("readme.txt"), "no workbook")
    yield Item(family, "other-zip.xlsx", hollow.getvalue(), refusal=Refused("workbook"))
    with zipfile.ZipFile(io.BytesIO(sound)) as archive:
        sheet = archive.read(_SHEET).decode()
    wide = sheet.replace("A1:C9", "A1:XFD1048576")
    assert wide != sheet
    yield Item(family, "declared-wide.xlsx", _replaced(sound, _SHEET, wide.encode()), Rows(FACTS))
    small = sheet.replace("A1:C9", "A1:B3")
    yield Item(family, "declared-small.xlsx", _replaced(sound, _SHEET, small.encode()), Rows(FACTS))
    far = sheet.replace('r="9"', 'r="1048576"')
    yield Item(
        family, "far-row.xlsx", _replaced(sound, _SHEET, far.encode()), Rows(FACTS), Refused()
    )
    laughs = "".join(
        f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "lol" * 10}">' for i in range(10)
    )
    evil = f"<!DOCTYPE x [{laughs}]>" + sheet.split("?>")[-1].replace("<v>", "<v>&l9;", 1)
    content = _replaced(sound, _SHEET, evil.encode())
    yield Item(family, "entities.xlsx", content, refusal=Refused())
    outside = '<!DOCTYPE x [<!ENTITY o SYSTEM "file:///etc/hostname">]>'
    evil = outside + sheet.split("?>")[-1].replace("<v>", "<v>&o;", 1)
    content = _replaced(sound, _SHEET, evil.encode())
    yield Item(family, "outside-entity.xlsx", content, refusal=Refused())
    yield Item(
        family,
        "bomb.xlsx",
        _replaced(sound, _SHEET, sheet.replace("</sheetData>", " " * 600_000_000).encode()),
        refusal=Refused("MB"),
    )
    rng = np.random.default_rng(9)
    noise = b"PK\x03\x04" + rng.integers(256, size=4000, dtype=np.uint8).tobytes()
    yield Item(family, "noise.xlsx", noise, refusal=Refused("workbook"))
    lying = bytearray(sound)
    at = lying.rindex(b"PK\x05\x06")
    struct.pack_into("<H", lying, at + 10, 65535)
    yield Item(family, "lying-directory.xlsx", bytes(lying), Rows(FACTS), Refused("workbook"))
