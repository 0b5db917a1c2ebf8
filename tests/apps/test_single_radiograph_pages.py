"""The pages that read one radiograph: Try it, and what the case page computes on request."""

from __future__ import annotations

import json
import shutil
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

import apps.dashboard as dashboard
from apps.options import UPLOAD_LIMIT_MB
from apps.views.links import plain
from boneage_xai.analysis.neighbours import neighbours_run
from boneage_xai.analysis.run_analysis import evaluate_run, prepare_run
from boneage_xai.analysis.run_attribution import attribute_run
from boneage_xai.analysis.stored_calibration import CALIBRATION_FILE, fit_calibration
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.files import write_json
from boneage_xai.models.checkpoint import load_run
from browsing import chromium, cpu_seconds, serving
from dicom_files import dataset, written

SCRIPT = Path(dashboard.__file__)
WAIT_S = 200


@pytest.fixture(scope="module")
def template(sex_run: Path, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of a calibrated run and two analyses of it, one whose maps take for ever."""
    home = tmp_path_factory.mktemp("single")
    run_folder, cache = home / "run", home / "cache"
    shutil.copytree(sex_run, run_folder, ignore=shutil.ignore_patterns("engine"))
    stored = json.loads((run_folder / "run.json").read_text(encoding="utf-8"))
    stored["data"]["source"] = str(phantoms)
    write_json(run_folder / "run.json", stored)
    run = load_run(run_folder)
    reference = np.random.default_rng(0).uniform(20, 200, 200)
    frame = pd.DataFrame(
        {
            "sex": ["F", "M"] * 100,
            "reference_months": reference,
            "predicted_months": reference + np.random.default_rng(1).normal(0, 8, 200),
        }
    )
    found = fit_calibration(frame)
    parts = {
        "correction": found.correction.to_dict(),
        "intervals": found.intervals.to_dict(),
        "corrected_intervals": found.corrected_intervals.to_dict(),
    }
    record = {"format": "boneage_xai.calibration", "version": 1, "model_id": run.model_id}
    write_json(run_folder / CALIBRATION_FILE, record | parts)
    cohort = select_cohort(read_source(phantoms))
    prepared = prepare_run(run, cohort, source=str(phantoms), cache_folder=cache)
    for name in ("analyses/quick", "analyses/slow"):
        evaluate_run(prepared, home / name)
        attribute_run(
            prepared, home / name, limit=3, settings=AttributionSettings(max_nodes=33), layers=()
        )
    training = cohort.select(prepared.train_ids)
    neighbours_run(prepared, training, home / "analyses/quick", k=3)
    manifest = json.loads((home / "analyses/slow/analysis.json").read_text(encoding="utf-8"))
    manifest["steps"]["attribute"]["settings"] |= {
        "max_nodes": 200_000,
        "gap_tolerance_months": 0.0,
        "gap_tolerance_fraction": 0.0,
        "map_tolerance_fraction": 1e-12,
    }
    write_json(home / "analyses/slow/analysis.json", manifest)
    return home


@pytest.fixture
def open_single(monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(folder: Path, **parameters: str) -> AppTest:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(folder)])
        app = AppTest.from_file(str(SCRIPT), default_timeout=WAIT_S)
        for name, value in parameters.items():
            app.query_params[name] = value
        return app.run()

    return run


def _text(app: AppTest) -> str:
    parts = [*app.header, *app.subheader, *app.markdown, *app.caption, *app.info]
    return "\n".join(str(part.value) for part in [*parts, *app.error, *app.warning])


def _button(app: AppTest, beginning: str) -> Any:
    return next(button for button in app.button if button.label.startswith(beginning))


def test_the_limit_of_uploads_is_the_same_for_both_ways_to_start() -> None:
    config = (SCRIPT.parent.parent / ".streamlit" / "config.toml").read_text(encoding="utf-8")
    assert f"maxUploadSize = {UPLOAD_LIMIT_MB}\n" in config
    assert 'address = "localhost"' in config


def test_case_page_erases_a_region_and_all_of_them(open_single: Any, template: Path) -> None:
    app = open_single(template / "analyses", page="case", analysis="quick", region="carpals")
    assert not app.exception
    assert "Nearest training radiographs" in _text(app)
    regions = app.selectbox(key="choice-region").options
    assert "carpals" in regions
    _button(app, "Erase carpals").click().run()
    assert not app.exception
    assert "without carpals" in _text(app)
    _button(app, "Erase each region").click().run()
    assert not app.exception
    assert len(app.get("arrow_vega_lite_chart") or app.get("vega_lite_chart")) >= 1
    # Another case has no result yet; coming back, the result is still there.
    first = app.selectbox(key="choice-case").value
    other = next(one for one in app.selectbox(key="choice-case").options if first not in one)
    app.selectbox(key="choice-case").select(other.split(" ")[0]).run()
    assert "without carpals" not in _text(app)


def test_without_its_run_the_pages_say_so(open_single: Any, template: Path, tmp_path: Path) -> None:
    home = tmp_path / "alone"
    shutil.copytree(template / "analyses" / "quick", home)
    manifest = json.loads((home / "analysis.json").read_text(encoding="utf-8"))
    manifest["run"]["path"] = "../../<script>gone"
    write_json(home / "analysis.json", manifest)
    for page in ("try_it", "case"):
        app = open_single(home, page=page)
        assert not app.exception
        assert plain("expected the run that it analyses in ../../<script>gone") in _text(app)
        assert not any(button.label.startswith("Erase") for button in app.button)
    manifest["run"] |= {"path": str(template / "run"), "model_id": "0" * 12}
    write_json(home / "analysis.json", manifest)
    app = open_single(home, page="try_it")
    assert "expected the weights that were analysed" in _text(app)


def _bomb() -> bytes:
    """Return a PNG whose header promises 60,000 × 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_a_radiograph_is_tried_in_a_real_browser(
    template: Path, phantoms: Path, tmp_path: Path
) -> None:
    image = next(path for path in sorted(phantoms.rglob("*.png")) if path.parent.name != "regions")
    strange = tmp_path / "<img src=x onerror=alert(1)>.png"
    shutil.copyfile(image, strange)
    grey = np.round(read_radiograph(image).pixels * 4095).astype(np.uint16)
    dicom = written(
        tmp_path / "object",
        dataset(grey, PatientName="Doe^John^<script>", PatientID="../../77", PatientSex="M"),
    )
    broken, bomb = tmp_path / "broken.png", tmp_path / "bomb.png"
    broken.write_bytes(image.read_bytes()[:200])
    bomb.write_bytes(_bomb())
    wide = tmp_path / "wide.png"
    ramp = np.linspace(0, 200, 1200, dtype=np.uint8)
    noise = np.random.default_rng(0).integers(0, 50, (1500, 1200), dtype=np.uint8)
    Image.fromarray(ramp + noise).save(wide)
    assert wide.stat().st_size > 2**20
    exceptions = pytest.importorskip("selenium.common.exceptions")
    wait_for = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait
    with (
        serving(template / "analyses", tmp_path) as (address, pid),
        chromium(tmp_path / "profile") as browser,
    ):
        wait = wait_for(browser, WAIT_S)

        def retried(act: Callable[[], Any], what: str) -> None:
            """Act until it comes true: a page may be drawn anew between a look and a touch."""

            def acted(_: Any) -> bool:
                try:
                    return act() is not False
                except (IndexError, exceptions.WebDriverException):
                    return False

            wait.until(acted, what)

        def until(words: str) -> None:
            main = "[data-testid='stMain']"
            retried(lambda: words in browser.find_element("css selector", main).text, words)

        def touch(path: str) -> None:
            # Streamlit has a Stop of its own above the page, and icons put their names first.
            def touched() -> None:
                found = browser.find_elements("xpath", f"//*[@data-testid='stMain']{path}")[-1]
                browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
                found.click()

            retried(touched, path)

        def press(label: str) -> None:
            touch(f"//button[contains(normalize-space(.), '{label}')]")

        def give(path: Path) -> None:
            retried(
                lambda: browser.find_element("css selector", "input[type='file']").send_keys(
                    str(path)
                ),
                f"a place for {path.name}",
            )

        # From a link to a case, its overlay, and a region that is taken out.
        browser.get(f"{address}/?analysis=quick&page=case&opacity=40&region=radius")
        until("Nearest training radiographs")
        wait.until(
            lambda b: len(b.find_elements("css selector", "[data-testid='stImage'] img")) > 4
        )
        press("Erase radius")
        until("without radius;")
        assert "opacity=40" in browser.current_url

        browser.get(f"{address}/?analysis=quick&page=try_it")
        until("Drop a radiograph")
        give(strange)
        until("Say whether it is a girl or a boy")
        touch("//label[contains(., 'girl')]")
        until("Bone age as a girl")
        until("90% interval")
        press("Explain")
        until("What each region of the hand adds")
        until("Completeness gap")
        assert not browser.find_elements("css selector", "img[src='x']")
        press("Find the nearest")
        until("distance")

        give(dicom)
        until("states a boy")
        shown = browser.page_source
        assert "Doe" not in shown
        assert "../../77" not in shown
        give(wide)
        until("No hand was found")
        for path, words in (
            (broken, "expected a complete PNG image"),
            (bomb, "expected at most 50 megapixels"),
        ):
            give(path)
            until(words)
        # Nothing of it lies in a file: also none that is open and has no name any more.
        opened = [str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir() if one.exists()]
        assert not [name for name in opened if "/tmp" in name and "deleted" in name]
        assert not browser.find_elements("css selector", "[data-testid='stException']")
        log = (tmp_path / "server.log").read_text(encoding="utf-8")
        assert "Doe" not in log
        assert "onerror" not in log

        # Long work ends when it is stopped.
        browser.get(f"{address}/?analysis=slow&page=try_it")
        until("Drop a radiograph")
        give(strange)
        until("Say whether it is a girl or a boy")
        touch("//label[contains(., 'boy')]")
        until("Bone age as a boy")
        press("Explain")
        until("of 200,000")
        before = cpu_seconds(pid)
        deadline = time.monotonic() + WAIT_S
        while cpu_seconds(pid) < before + 0.5:
            assert time.monotonic() < deadline, "the work does not go on"
            time.sleep(0.1)
        press("Stop")
        until("Stopped before it was done")
        until("Activation maps by layer")
        time.sleep(1)
        before = cpu_seconds(pid)
        time.sleep(3)
        assert cpu_seconds(pid) < before + 0.3
