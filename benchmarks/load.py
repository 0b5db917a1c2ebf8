"""Whether the dashboard holds many readers at once: headless sessions for minutes on one server.

Each session is a browser of its own, as readers have them, that walks through cases or looks at
the errors in another way, thinks for some seconds, and goes on. The clock begins when all pages are
open and drawn. An interaction lasts from the click until the page has settled: what was asked for
is there, nothing runs in the server, charts and pictures are drawn and the page's own thread has
been free for a quarter of a second (which is not counted). Beside it stand the script's runs in the
server, what failed, and the memory of the server. Browsers and server share the machine.

    python benchmarks/load.py --folder large --sessions 20 --minutes 10
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dashboard import MIBI, resident
from large_analysis import write_large_analysis
from selenium.common.exceptions import WebDriverException

from boneage_xai.store import AnalysisFolder
from browsing import chromium, cpu_seconds, serving

PAGES = ("case", "performance")
# Opening is not measured: how many pages open at a time.
OPENING = 2
OPENING_SECONDS = 300
PATIENCE_SECONDS = 60
BARRIER_SECONDS = 900
SAMPLE_SECONDS = 5
SEED = 0

# Clicks, and returns the milliseconds until the page settled. Everything is looked at in the page
# itself, because asking from outside takes processor time from what is measured.
SETTLED = """
const [page, turn, done] = arguments;
const shown = () => page === 'case'
  ? [...document.querySelectorAll('p > strong')].map((one) => one.innerText)
      .filter((text) => text.startsWith('Case ')).join()
  : [...document.querySelectorAll('h3')].map((one) => one.innerText).join();
const clicked = () => {
  if (page === 'case')
    return [...document.querySelectorAll('button')].find((one) => one.innerText.includes('Next'));
  const group = document.querySelector('[role=radiogroup][aria-label="Look at"]');
  const choices = group.querySelectorAll('label');
  return choices[turn % choices.length];
};
const drawn = () => {
  const app = document.querySelector('[data-testid=stApp]');
  return app !== null && app.dataset.testScriptState === 'notRunning'
    && document.querySelector('[data-stale=true], [data-testid=stSkeleton]') === null
    && [...document.querySelectorAll('[data-testid=stVegaLiteChart]')]
      .every((one) => one.querySelector('canvas, svg') !== null)
    && [...document.querySelectorAll('img')].every((one) => one.complete);
};
const before = turn === 0 ? null : shown();
const began = performance.now();
if (turn > 0) clicked().click();
// Drawing holds up the page's own thread, but so does a machine that is busy with others: only the
// first gaps count as drawing.
let since = null, last = began, gaps = 0;
const look = () => {
  const now = performance.now(), late = now - last > 120;
  last = now;
  const there = shown();
  if (there === '' || there === before || !drawn()) { since = null; gaps = 0; }
  else if (since === null) since = now;
  else if (late && gaps < 3) { since = now; gaps += 1; }
  else if (now - since > 250) return done(since - began);
  setTimeout(look, 40);
};
look();
"""


@dataclass
class Found:
    """What all sessions found together."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, seconds: float | None, failure: str | None) -> None:
        with self.lock:
            if seconds is not None:
                self.seconds.append(seconds)
            if failure is not None:
                self.failures.append(failure)


@dataclass
class Start:
    """Where all sessions wait for each other, and when they then began."""

    barrier: threading.Barrier
    opening: threading.Semaphore
    began: float = 0.0


def settle(browser: Any, page: str, turn: int) -> float:
    """Ask for the next case or view, with turn 0 for nothing; return the seconds it takes."""
    return float(browser.execute_async_script(SETTLED, page, turn)) / 1000


def wrong(browser: Any) -> str | None:
    """Return what a page says went wrong, None where nothing did."""
    boxes = browser.find_elements("css selector", "[data-testid='stException']")
    if boxes:
        return f"exception: {boxes[0].text[:200]}"
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    return f"console: {errors[0]['message'][:200]}" if errors else None


def read(
    address: str,
    work: Path,
    number: int,
    case: str,
    options: argparse.Namespace,
    start: Start,
    found: Found,
) -> None:
    """Be one reader, who begins at a case of the reader's own."""
    thinking = random.Random(1000 * SEED + number)
    page = PAGES[number % len(PAGES)]
    with chromium(work / f"profile-{number}") as browser:
        browser.set_script_timeout(OPENING_SECONDS)
        try:
            with start.opening:
                browser.get(f"{address}/?page={page}&case={quote(case)}")
                settle(browser, page, 0)
            browser.set_script_timeout(PATIENCE_SECONDS)
        except WebDriverException:
            start.barrier.abort()
            raise
        start.barrier.wait(BARRIER_SECONDS)
        turn = 0
        while True:
            pause = thinking.uniform(options.least_pause, options.most_pause)
            if time.monotonic() + pause > start.began + 60 * options.minutes:
                return
            time.sleep(pause)
            turn += 1
            try:
                seconds = settle(browser, page, turn)
                found.note(seconds, wrong(browser))
            except WebDriverException as error:
                found.note(None, f"{page}: {str(error).splitlines()[0][:200]}")


def cpu_of_browsers() -> float:
    """Return the processor time of all processes under this one but for servers, which are Python.

    Those that ended are left out; browsers keep theirs for as long as a session lasts.
    """
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    ours, more = {os.getpid()}, True
    while more:
        below = {pid for pid, parent in parents.items() if parent in ours} - ours
        ours, more = ours | below, bool(below)
    total = 0.0
    for pid in ours - {os.getpid()}:
        try:
            name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8")
            total += cpu_seconds(pid) if name.startswith("chrom") else 0.0
        except OSError:
            continue
    return total


def late(values: Sequence[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(values, n=20)[-1]


def measure(options: argparse.Namespace, folder: Path, work: Path) -> dict[str, Any]:
    """Let all sessions read, and return what was found."""
    ids = list(AnalysisFolder.open(folder).predictions()["case_id"])
    cases = [ids[number * len(ids) // options.sessions] for number in range(options.sessions)]
    found, log = Found(), work / "runs.txt"
    program = (str(Path(__file__).with_name("timed_streamlit.py")), str(log))
    with (
        serving(folder, work, program) as (address, pid),
        ThreadPoolExecutor(options.sessions) as readers,
    ):

        def begin() -> None:
            start.began = time.monotonic()

        start = Start(threading.Barrier(options.sessions + 1, begin), threading.Semaphore(OPENING))
        running = [
            readers.submit(read, address, work, number, case, options, start, found)
            for number, case in enumerate(cases)
        ]
        try:
            start.barrier.wait(BARRIER_SECONDS)
        except threading.BrokenBarrierError:
            errors = [one.exception() for one in running]
            named = [one for one in errors if isinstance(one, WebDriverException)]
            raise SystemExit(f"a page did not open: {named[0] if named else errors[0]}") from None
        before, browsing = cpu_seconds(pid), [cpu_of_browsers()]
        while any(not one.done() for one in running):
            browsing.append(cpu_of_browsers())
            found.resident.append(resident(pid))
            time.sleep(SAMPLE_SECONDS)
        for one in running:
            one.result()
        used = cpu_seconds(pid) - before
        taken = time.monotonic() - start.began
    lines = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    runs = [(float(wall), float(cpu)) for at, wall, cpu in lines if float(at) >= start.began]
    return {
        "sessions": options.sessions,
        "minutes": options.minutes,
        "least_pause_seconds": options.least_pause,
        "most_pause_seconds": options.most_pause,
        "seed": SEED,
        "cases": len(ids),
        "interactions": len(found.seconds),
        "failed": len(found.failures),
        "median_seconds": statistics.median(found.seconds),
        "p95_seconds": late(found.seconds),
        "most_seconds": max(found.seconds),
        "server_runs": len(runs),
        "server_median_seconds": statistics.median(wall for wall, _ in runs),
        "server_p95_seconds": late([wall for wall, _ in runs]),
        "server_cpu_median_seconds": statistics.median(cpu for _, cpu in runs),
        "server_cpu_seconds_per_interaction": used / len(found.seconds),
        "browser_cpu_seconds_per_interaction": (max(browsing) - browsing[0]) / len(found.seconds),
        "server_cpu_share": used / taken / len(os.sched_getaffinity(0)),
        "start_mib": found.resident[0] / MIBI,
        "quarter_mib": found.resident[len(found.resident) // 4] / MIBI,
        "end_mib": found.resident[-1] / MIBI,
        "most_mib": max(found.resident) / MIBI,
        "failures": found.failures[:5],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument(
        "--least-pause", type=float, default=5, help="seconds a reader thinks, at least"
    )
    parser.add_argument("--most-pause", type=float, default=15, help="seconds, at most")
    parser.add_argument("--cases", type=int, default=12611)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--folder", type=Path, help="where the analysis is kept")
    parser.add_argument("--out", type=Path, help="JSON file for what was found")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = (options.folder or work / "analysis").resolve()
        if not (folder / "analysis.json").is_file():
            write_large_analysis(folder, options.cases, options.size)
        said = measure(options, folder, work)
    for name, value in said.items():
        print(f"{name}: {value:.2f}" if isinstance(value, float) else f"{name}: {value}")
    if options.out is not None:
        options.out.write_text(json.dumps(said, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
