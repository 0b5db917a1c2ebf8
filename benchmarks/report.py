"""How long a page for each of many cases takes, and what memory, from maps computed before.

    python benchmarks/report.py --cases 1000 --size 256

Also measures the summary report of the first hundred of as large an analysis: its time and size.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from large_analysis import write_large_analysis
from resident_memory import resident_bytes

from reports.case_pages import write_case_pages
from reports.report import write_report

MIBI = 2**20
MEMORY_AT_CASE = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = write_large_analysis(Path(name) / "analysis", options.cases, options.size)
        resident: dict[int, int] = {}

        def note(done: int, total: int) -> None:
            if done in (MEMORY_AT_CASE, total):
                resident[done] = resident_bytes()

        started = time.perf_counter()
        out, n = write_case_pages(folder, progress=note)
        seconds = time.perf_counter() - started
        size = sum(file.stat().st_size for file in out.iterdir())
        print(f"{n} pages: {seconds:.0f} s, {1000 * seconds / n:.0f} ms a page, one core")
        print(f"{size / MIBI:.0f} MiB in all, {size / n / 1024:.0f} KiB a page")
        for done, held in resident.items():
            print(f"resident memory after {done} pages: {held / MIBI:.0f} MiB")
        small = write_large_analysis(Path(name) / "small", 100, options.size)
        started = time.perf_counter()
        report = write_report(small)
        seconds, size = time.perf_counter() - started, report.stat().st_size
        print(f"report of 100 cases: {seconds:.0f} s, {size / MIBI:.1f} MiB")


if __name__ == "__main__":
    main()
