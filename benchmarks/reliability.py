"""Write docs/reliability.md from what corpus, fuzzing, faults and the load test found.

python -m tests.corpus --json corpus.json
python benchmarks/fuzz.py table --minutes 30 --home fuzz --out fuzz.json    # and each other kind
python benchmarks/faults.py --faults 120 --out faults.json
python benchmarks/load.py --sessions 20 --minutes 10 --out load.json
python benchmarks/reliability.py corpus.json fuzz.json faults.json load.json \\
    --out docs/reliability.md
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

Found = Mapping[str, Any]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(str(cell) for cell in row) + " |"
    yield ""


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    names = ("torch", "pillow", "pydicom", "streamlit", "zarr", "pyarrow")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, {platform.system()}, "
        f"Python {platform.python_version()}, {versions}"
    )


def corpus(found: Found) -> Iterator[str]:
    every = found["all"]
    yield "## Bad, odd and hostile inputs"
    yield "`python -m tests.corpus`"
    yield ""
    yield (
        f"{every['items']:,} files are drawn from phantoms: cut off, with flipped bits, of odd "
        "kinds, lying about themselves, or made to fill the memory. Each must be read as what it "
        "is known to hold, or be refused in one sentence that names the file and the reason."
    )
    yield ""
    yield from table(
        ("read", "refused", "otherwise", "most processor time", "most memory added"),
        [
            (
                f"{every['read']:,}",
                f"{every['refused']:,}",
                every["wrong"],
                f"{every['max_seconds']:.1f} s",
                f"{every['max_mb']:.0f} MB",
            )
        ],
    )
    yield from table(
        ("kind", "files", "read", "refused", "otherwise"),
        [
            (family, one["items"], one["read"], one["refused"], one["wrong"])
            for family, one in found.items()
            if family != "all"
        ],
    )


FUZZED = {
    "table": "label tables as text",
    "workbook": "label tables in workbooks",
    "image": "radiographs in picture formats",
    "dicom": "radiographs in DICOM",
    "folder": "run and analysis folders",
}


def fuzzing(found: Found) -> Iterator[str]:
    yield "## Inputs that a program makes up"
    yield "`python benchmarks/fuzz.py table` and so on, with atheris"
    yield ""
    yield (
        "A program changes sound files over and over, keeps what reaches code that nothing reached "
        "before, and stops at an input that is neither read nor refused, takes more than 15 s or "
        "more than 2.5 GB. What it finds is mended and becomes a file of the corpus above. Run and "
        "analysis folders are changed one file at a time: manifests, tables, the metadata and a "
        "chunk of the maps, and the header of the weights."
    )
    yield ""
    yield from table(
        ("read", "processor time", "executions", "inputs found and mended"),
        [
            (
                FUZZED[kind],
                f"{one['seconds'] / 60:.0f} min",
                f"{one['executions']:,}",
                one["findings"],
            )
            for kind, one in found.items()
        ],
    )


def faults(found: Found) -> Iterator[str]:
    rows = found["faults"]
    commands = sorted({row["command"] for row in rows})
    yield "## Faults at random moments"
    yield f"`python benchmarks/faults.py --faults {len(rows)}`"
    yield ""
    yield (
        f"{len(rows)} faults met {', '.join(f'`{name}`' for name in commands)} at random moments. "
        "After each, what earlier commands had written was compared byte by byte (but for "
        "`analysis.json`, which every command adds to), and the command "
        "was run again and its results compared with those of an undisturbed chain. A fault must "
        "be told in one sentence, without a traceback; a killed process says nothing."
    )
    yield ""
    if earlier := found.get("earlier"):
        yield earlier
        yield ""
    kinds = list(dict.fromkeys(row["fault"] for row in rows))

    def bad(kind: str, key: str) -> int:
        return sum(bool(row[key]) for row in rows if row["fault"] == kind)

    yield from table(
        ("fault", "times", "earlier results lost", "not run again", "other results", "badly told"),
        [
            (
                kind,
                sum(row["fault"] == kind for row in rows),
                *(bad(kind, key) for key in ("lost", "again", "differs", "reported")),
            )
            for kind in kinds
        ],
    )
    compared = {name for names in found["compared"].values() for name in names}
    yield (
        f"{len(compared)} files are compared. Full disks and read-only folders are file systems "
        "in memory (one in which a file is open for writing at the moment stays writable); memory "
        "runs out by a limit on the address space; the clock moves for the process alone."
    )
    yield ""


def load(found: Found) -> Iterator[str]:
    sessions, minutes = found["sessions"], f"{found['minutes']:g}"
    yield "## Many readers"
    pauses = [f"{found[f'{end}_pause_seconds']:g}" for end in ("least", "most")]
    yield (
        f"`python benchmarks/load.py --sessions {sessions} --minutes {minutes} "
        f"--least-pause {pauses[0]} --most-pause {pauses[1]}`"
    )
    yield ""
    yield (
        f"{sessions} headless browsers read one analysis of {found['cases']:,} cases for {minutes} "
        "minutes, on the machine of the server. The clock begins when all pages are open and "
        f"drawn; between two interactions a reader thinks {pauses[0]} to "
        f"{pauses[1]} seconds. {found['interactions']:,} changes of case or "
        f"view, {found['failed']} failed: median {found['median_seconds']:.1f} s, 95th percentile "
        f"{found['p95_seconds']:.1f} s from the click until the page has settled, of which the "
        f"script in the server runs {found['server_median_seconds']:.2f} s (95th percentile "
        f"{found['server_p95_seconds']:.2f} s). An interaction takes "
        f"{found['server_cpu_seconds_per_interaction']:.2f} s of processor time in the server and "
        f"{found['browser_cpu_seconds_per_interaction']:.2f} s in the browser. The server's "
        f"memory: {found['quarter_mib']:.0f} MiB after a quarter of the time, "
        f"{found['end_mib']:.0f} MiB at the end."
    )
    yield ""


READ = {"corpus": corpus, "fuzz": fuzzing, "faults": faults, "load": load}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in READ:
        parser.add_argument(name, type=Path, help=f"what the measurement of {name} wrote")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    lines = ["# Reliability"]
    lines += [f"Written by `benchmarks/reliability.py`. Measured on {machine()}.", ""]
    for name, read in READ.items():
        lines += read(json.loads(getattr(options, name).read_text(encoding="utf-8")))
    options.out.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
