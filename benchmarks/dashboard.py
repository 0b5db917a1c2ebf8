"""How quickly the dashboard answers on a large analysis, seen from a headless browser.

Writes an analysis of made-up cases, opens the dashboard on it and measures the first useful paint
(the page's numbers are there), of the first reader of all and of later ones, then changes of case
and of filter until the page is drawn and nothing runs any more, and the memory of the server.

    python benchmarks/dashboard.py --cases 12611 --size 128
    python benchmarks/dashboard.py --folder large --cases 12611    # keep the analysis for next time
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from large_analysis import write_large_analysis
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from browsing import chromium, serving

PATIENCE_SECONDS = 60
PAINTS = 5
MIBI = 2**20


def resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


def is_idle(browser: Any) -> bool:
    app = browser.find_element(By.CSS_SELECTOR, "[data-testid='stApp']")
    return app.get_attribute("data-test-script-state") == "notRunning"


def text_of(browser: Any) -> str:
    return str(browser.find_element(By.TAG_NAME, "body").text)


def wait(browser: Any, every: float = 0.02) -> WebDriverWait:
    """Return what waits, also over elements that are drawn anew while it looks."""
    redrawn = (NoSuchElementException, StaleElementReferenceException)
    return WebDriverWait(browser, PATIENCE_SECONDS, every, ignored_exceptions=redrawn)


def seconds_until(
    browser: Any, act: Callable[[], None], ready: Callable[[], bool], every: float = 0.02
) -> float:
    """Act, and return how long it takes until the page is ready and nothing runs."""
    started = time.perf_counter()
    act()
    wait(browser, every).until(lambda _: ready() and is_idle(browser))
    return time.perf_counter() - started


def first_paint(browser: Any, address: str) -> float:
    """Return how long it takes until the page's numbers are there; then wait for all of it."""
    browser.get("about:blank")
    started = time.perf_counter()
    browser.get(f"{address}/?page=performance")
    wait(browser).until(lambda _: "Mean absolute error" in text_of(browser))
    taken = time.perf_counter() - started
    wait(browser).until(lambda _: is_idle(browser))
    return taken


def change_cases(browser: Any, address: str, n: int) -> list[float]:
    browser.get(f"{address}/?page=case")
    wait(browser).until(lambda _: "What each region" in text_of(browser) and is_idle(browser))
    taken = []
    for _ in range(n):
        before = browser.find_element(By.XPATH, "//p[strong[starts-with(., 'Case ')]]").text
        button = browser.find_element(By.XPATH, "//button[contains(., 'Next →')]")

        def changed(before: str = before) -> bool:
            found = browser.find_elements(By.XPATH, "//p[strong[starts-with(., 'Case ')]]")
            return len(found) == 1 and found[0].text != before

        taken.append(seconds_until(browser, button.click, changed))
    return taken


def change_views(browser: Any, address: str, n: int) -> list[float]:
    browser.get(f"{address}/?page=performance")
    wait(browser).until(lambda _: "Look at" in text_of(browser) and is_idle(browser))
    taken = []
    for turn in range(n):
        group = browser.find_element(
            By.XPATH, "//div[@role='radiogroup' and @aria-label='Look at']"
        )
        choices = group.find_elements(By.TAG_NAME, "label")
        choice = choices[(turn + 1) % len(choices)]
        before = [heading.text for heading in browser.find_elements(By.TAG_NAME, "h3")]

        def changed(before: list[str] = before) -> bool:
            return [heading.text for heading in browser.find_elements(By.TAG_NAME, "h3")] != before

        taken.append(seconds_until(browser, choice.click, changed))
    return taken


def tell(what: str, taken: list[float]) -> None:
    late = statistics.quantiles(taken, n=20)[-1] if len(taken) > 1 else taken[0]
    print(f"{what}: median {statistics.median(taken):.2f} s, 95th percentile {late:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=12611)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--interactions", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where the analysis is kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = options.folder or work / "analysis"
        if not (folder / "analysis.json").is_file():
            write_large_analysis(folder, options.cases, options.size)
        with serving(folder, work) as (address, pid), chromium(work / "profile") as browser:
            paints = [first_paint(browser, address) for _ in range(PAINTS)]
            print(f"first paint of all: {paints[0]:.2f} s")
            tell("later first paints", paints[1:])
            half = options.interactions // 2
            cases, views = (
                change_cases(browser, address, half),
                change_views(browser, address, half),
            )
            tell("another case", cases)
            tell("another view of the errors", views)
            tell("all interactions", cases + views)
            print(f"memory of the server after all: {resident(pid) / MIBI:.0f} MiB")


if __name__ == "__main__":
    main()
