"""Whatever file is given, it is read as what it shows or refused in one sentence."""

from __future__ import annotations

import os
import time
from itertools import islice

import numpy as np
import pytest

from corpus.__main__ import long_table
from corpus.codestreams import codestream_items
from corpus.collection import every_item
from corpus.dicoms import dicom_items
from corpus.items import Item, Outcome, Picture, Refused, Rows, complaint
from corpus.pictures import picture_items
from corpus.stored import stored_items
from corpus.tables import table_items
from corpus.workbooks import workbook_items
from corpus.worker import outcomes


@pytest.mark.timeout(600)
def test_every_item_is_read_right_or_refused_in_one_sentence() -> None:
    names = set()
    wrong = []
    for item, outcome in outcomes(every_item()):
        names.add((item.family, item.name))
        what = complaint(item, outcome)
        if what is not None:
            wrong.append(f"{item.family}, {item.name}: {what}")
    assert not wrong, "\n".join(wrong)
    assert len(names) >= 1500


def test_the_corpus_is_the_same_each_time() -> None:
    families = (
        picture_items, dicom_items, codestream_items, table_items, workbook_items, stored_items,
    )  # fmt: skip

    def begun() -> dict[str, dict[str, bytes]]:
        return {
            items.__name__: {item.name: item.content for item in islice(items(), 130)}
            for items in families
        }

    # The file formats note the time to two seconds.
    first = begun()
    time.sleep(2.1)
    again = begun()
    for family, contents in first.items():
        assert contents == again[family], family


@pytest.mark.skipif(
    "BONEAGE_XAI_LONG_TABLE" not in os.environ,
    reason="BONEAGE_XAI_LONG_TABLE is not set: no table of ten million rows is written",
)
def test_ten_million_rows_are_refused_at_once() -> None:
    [(_, outcome)] = outcomes([long_table(10_000_000)])
    assert outcome.is_refusal
    assert "32 MB" in outcome.message
    assert outcome.seconds < 1
    assert outcome.peak_mb < 50


GREY = np.full((2, 3), 0.5, dtype=np.float32)
ITEM = Item("PNG: sound", "a.png", b"", Picture(GREY))
CUT = Item("PNG: truncated", "a.png", b"", Picture(GREY), Refused("damage"))


@pytest.mark.parametrize(
    ("item", "outcome", "what"),
    [
        (ITEM, Outcome(pixels=GREY), None),
        (ITEM, Outcome(pixels=GREY + np.float32(0.1)), "off by 0.1"),
        (ITEM, Outcome(pixels=GREY.T), "expected (2, 3)"),
        (ITEM, Outcome(pixels=GREY, seconds=6), "6.0 s"),
        (ITEM, Outcome(pixels=GREY, peak_mb=1001), "1001 MB"),
        (ITEM, Outcome("DataError", True, "a.png: damage"), "refused"),
        (CUT, Outcome("DataError", True, "a.png: found damage"), None),
        (CUT, Outcome("DataError", True, "found damage"), "file and reason"),
        (CUT, Outcome("DataError", True, "a.png: found text"), "file and reason"),
        (CUT, Outcome("DataError", True, "a.png: damage\nmore"), "no sentence"),
        (CUT, Outcome("DataError", True, "a.png: damage. It is cut."), "several sentences"),
        (CUT, Outcome("ValueError", False, "a.png: damage"), "ValueError"),
    ],
)
def test_what_counts_as_wrong(item: Item, outcome: Outcome, what: str | None) -> None:
    found = complaint(item, outcome)
    assert found == what if what is None else what in str(found)


def test_a_row_that_is_dropped_in_silence_counts_as_wrong() -> None:
    item = Item("table: t", "t.csv", b"", Rows({"1": ("F", 2.0)}, ("line 3",)))
    facts = {"1": ("F", 2.0)}
    assert complaint(item, Outcome(message="t.csv, line 3: odd", facts=facts)) is None
    assert "no word of" in str(complaint(item, Outcome(facts=facts)))
    assert "expected" in str(complaint(item, Outcome(message="t.csv, line 3: odd", facts={})))
