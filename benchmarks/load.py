"""Whether the dashboard holds many readers at once: headless sessions for minutes on one server.

Each session is a tab of its own that walks through cases or looks at the errors in another way,
waits as a reader does, and goes on. Measured are the time until a page is drawn and nothing runs
any more, what failed, and the memory of the server. Browsers and server share the machine.

    python benchmarks/load.py --folder large --sessions 20 --minutes 10
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dashboard import MIBI, is_idle, resident, seconds_until, text_of, wait
from large_analysis import write_large_analysis
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By

from browsing import chromium, serving

TABS_PER_BROWSER = 4
PAGES = ("case", "performance")
STAGGER_SECONDS = 2.0
# Looking more often takes processor time from what is measured.
LOOK_SECONDS = 0.25


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
class Tab:
    handle: str
    page: str
    due: float = 0.0
    turn: int = 0


def interact(browser: Any, tab: Tab) -> float:
    """Ask for the next case or view, and return how long it takes until it is there."""
    tab.turn += 1
    if tab.page == "case":
        shown = "//p[strong[starts-with(., 'Case ')]]"
        before = browser.find_element(By.XPATH, shown).text
        button = browser.find_element(By.XPATH, "//button[contains(., 'Next →')]")
        return seconds_until(
            browser,
            button.click,
            lambda: [one.text for one in browser.find_elements(By.XPATH, shown)] != [before],
            LOOK_SECONDS,
        )
    group = browser.find_element(By.XPATH, "//div[@role='radiogroup' and @aria-label='Look at']")
    choices = group.find_elements(By.TAG_NAME, "label")

    def headings() -> list[str]:
        return [one.text for one in browser.find_elements(By.TAG_NAME, "h3")]

    before_all = headings()
    choice = choices[tab.turn % len(choices)]
    return seconds_until(browser, choice.click, lambda: headings() != before_all, LOOK_SECONDS)


def wrong(browser: Any) -> str | None:
    """Return what a page says went wrong, None where nothing did."""
    boxes = browser.find_elements(By.CSS_SELECTOR, "[data-testid='stException']")
    if boxes:
        return f"exception: {boxes[0].text[:200]}"
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    return f"console: {errors[0]['message'][:200]}" if errors else None


def read(
    address: str, work: Path, number: int, pages: list[str], pause: float, end: float, found: Found
) -> None:
    """Be several readers, each in a tab of one browser."""
    with chromium(work / f"profile-{number}") as browser:
        tabs: list[Tab] = []
        for place, page in enumerate(pages):
            if place:
                browser.switch_to.new_window("tab")
            browser.get(f"{address}/?page={page}")
            ready = "What each region" if page == "case" else "Look at"
            wait(browser).until(lambda _, ready=ready: ready in text_of(browser))
            wait(browser).until(lambda _: is_idle(browser))
            first = time.monotonic() + pause * (number + place / len(pages)) / max(1, len(pages))
            tabs.append(Tab(browser.current_window_handle, page, first))
        while time.monotonic() < end:
            tab = min(tabs, key=lambda one: one.due)
            time.sleep(max(0.0, min(tab.due, end) - time.monotonic()))
            try:
                browser.switch_to.window(tab.handle)
                seconds = interact(browser, tab)
                found.note(seconds, wrong(browser))
            except WebDriverException as error:
                found.note(None, f"{tab.page}: {str(error).splitlines()[0][:200]}")
            tab.due = time.monotonic() + pause


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--pause", type=float, default=20, help="seconds a reader looks at a page")
    parser.add_argument("--cases", type=int, default=12611)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--folder", type=Path, help="where the analysis is kept")
    parser.add_argument("--out", type=Path, help="JSON file for what was found")
    options = parser.parse_args()
    pages = [PAGES[number % len(PAGES)] for number in range(options.sessions)]
    groups = [
        pages[start : start + TABS_PER_BROWSER] for start in range(0, len(pages), TABS_PER_BROWSER)
    ]
    found = Found()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = options.folder or work / "analysis"
        if not (folder / "analysis.json").is_file():
            write_large_analysis(folder, options.cases, options.size)
        with serving(folder, work) as (address, pid), ThreadPoolExecutor(len(groups)) as readers:
            end = time.monotonic() + 60 * options.minutes
            running = []
            for number, group in enumerate(groups):
                running.append(
                    readers.submit(read, address, work, number, group, options.pause, end, found)
                )
                time.sleep(STAGGER_SECONDS)
            while any(not one.done() for one in running):
                found.resident.append(resident(pid))
                time.sleep(5)
            for one in running:
                one.result()
    said = {
        "sessions": len(pages),
        "minutes": options.minutes,
        "pause_seconds": options.pause,
        "cases": options.cases,
        "interactions": len(found.seconds),
        "failed": len(found.failures),
        "median_seconds": statistics.median(found.seconds),
        "p95_seconds": statistics.quantiles(found.seconds, n=20)[-1],
        "quarter_mib": found.resident[len(found.resident) // 4] / MIBI,
        "end_mib": found.resident[-1] / MIBI,
        "most_mib": max(found.resident) / MIBI,
    }
    for name, value in said.items():
        print(f"{name}: {value:.2f}" if isinstance(value, float) else f"{name}: {value}")
    for failure in found.failures[:5]:
        print(failure)
    if options.out is not None:
        options.out.write_text(json.dumps(said, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
