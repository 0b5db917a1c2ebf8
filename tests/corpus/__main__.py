"""Read the whole corpus and count what came of it: ``python -m tests.corpus [--json FILE]``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from .collection import every_item
from .items import Item, Outcome, complaint
from .tables import HEADER
from .worker import outcomes


@dataclass
class Count:
    """What came of the items of one family.

    Args:
        items: how many there are.
        read: of them read.
        refused: of them refused in one sentence.
        wrong: of them neither as they must be.
        max_seconds: most processor time that one took.
        max_mb: most memory that one took.
    """

    items: int = 0
    read: int = 0
    refused: int = 0
    wrong: int = 0
    max_seconds: float = 0.0
    max_mb: float = 0.0

    def add(self, outcome: Outcome, wrong: str | None) -> None:
        """Count one more."""
        self.items += 1
        self.read += wrong is None and outcome.error is None
        self.refused += wrong is None and outcome.error is not None
        self.wrong += wrong is not None
        self.max_seconds = max(self.max_seconds, round(outcome.seconds, 3))
        self.max_mb = max(self.max_mb, round(outcome.peak_mb, 1))


def summary(items: Iterable[Item]) -> tuple[dict[str, Count], list[str]]:
    """Read items; return the counts by family, and a line for each that went wrong."""
    counts: dict[str, Count] = {}
    complaints = []
    for item, outcome in outcomes(items):
        wrong = complaint(item, outcome)
        if wrong is not None:
            complaints.append(f"{item.family}, {item.name}: {wrong}")
        for family in (item.family, "all"):
            counts.setdefault(family, Count()).add(outcome, wrong)
    counts["all"] = counts.pop("all")
    return counts, complaints


def long_table(n: int) -> Item:
    """Return a table of n rows, which is far more than is read."""
    rows = b"".join(b"%d,120,True\n" % i for i in range(n))
    content = f"{HEADER}\n".encode() + rows
    return Item("table: a long one", f"{n}-rows.csv", content, truth=None)


def main() -> int:
    """Print the summary; return 1 when anything went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the counts there as well")
    parser.add_argument(
        "--rows", metavar="N", type=int, help="read a table of N rows instead, and say how it went"
    )
    chosen = parser.parse_args()
    if chosen.rows is not None:
        for item, outcome in outcomes([long_table(chosen.rows)]):
            size = len(item.content) / 1e6
            said = outcome.message.replace(tempfile.gettempdir(), "") if outcome.error else "read"
            print(f"{size:.0f} MB, {outcome.seconds:.2f} s, {outcome.peak_mb:.0f} MB added: {said}")
        return 0
    counts, complaints = summary(every_item())
    print(f"{'':42}{'items':>6}{'read':>6}{'refused':>9}{'wrong':>7}{'max s':>8}{'max MB':>8}")
    for family, count in counts.items():
        print(
            f"{family:42}{count.items:6}{count.read:6}{count.refused:9}{count.wrong:7}"
            f"{count.max_seconds:8.2f}{count.max_mb:8.0f}"
        )
    for line in complaints:
        print(line)
    if chosen.json is not None:
        counted = {family: asdict(count) for family, count in counts.items()}
        chosen.json.write_text(json.dumps(counted, indent=2) + "\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
