from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

from boneage_xai.errors import ReportError
from boneage_xai.store import AnalysisFolder
from reports.case_pages import INDEX_FILE, PAGES_FOLDER, write_case_pages
from reports.examples import attributed_cases
from reports.wording import months, preferred_method


def picture(page: str, number: int) -> np.ndarray:
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', page)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[number]))).convert("RGB"))


def test_every_attributed_case_has_a_page_with_its_numbers(analysis_folder: Path) -> None:
    told = list[tuple[int, int]]()
    out, n = write_case_pages(analysis_folder, progress=lambda *now: told.append(now))
    folder = AnalysisFolder.open(analysis_folder)
    cases, regions = attributed_cases(folder), folder.regions()
    assert cases is not None
    assert regions is not None
    assert out == analysis_folder / PAGES_FOLDER
    assert n == len(cases) == len(list(out.glob("case-*.html")))
    assert told[-1] == (n, n)
    method = preferred_method(sorted(set(regions["method"])))
    for number, case in enumerate(cases.to_dict("records"), start=1):
        page = (out / f"case-{number:06d}.html").read_text(encoding="utf-8")
        assert f"<h1>Case {escape(case['case_id'])}</h1>" in page
        assert months(case["predicted_months"]) in page
        assert months(case["error_months"], signed=True) in page
        ours = regions[(regions["case_id"] == case["case_id"]) & (regions["method"] == method)]
        for row in ours.to_dict("records"):
            name, value = row["region"].replace("_", " "), months(row["signed_months"], signed=True)
            assert f"{escape(name)}</td><td>{value}</td>" in page
        # Nothing is fetched from elsewhere, and the map leaves colour on the grey radiograph.
        assert not re.search(r'(src|href)="(?!data:|case-|index)', page)
        assert np.ptp(picture(page, 0), axis=2).max() <= 2
        assert np.ptp(picture(page, 1), axis=2).max() > 20
    index = (out / INDEX_FILE).read_text(encoding="utf-8")
    assert re.findall(r'href="(case-\d+\.html)"', index) == [
        f"case-{number:06d}.html" for number in range(1, n + 1)
    ]


def test_pages_lead_to_their_neighbours(analysis_folder: Path) -> None:
    out, n = write_case_pages(analysis_folder)
    assert n > 2
    first, second, last = (
        (out / f"case-{number:06d}.html").read_text(encoding="utf-8") for number in (1, 2, n)
    )
    assert 'rel="prev"' not in first
    assert 'rel="next" href="case-000002.html"' in first
    assert 'rel="prev" href="case-000001.html"' in second
    assert 'rel="next"' not in last


def test_ids_are_text_and_name_no_file(analysis_folder: Path) -> None:
    before = set(analysis_folder.parent.rglob("*"))
    out, _ = write_case_pages(analysis_folder)
    pages = [(out / f"case-{number:06d}.html").read_text(encoding="utf-8") for number in (1, 2)]
    assert "Case &lt;script&gt;alert(" in pages[0]
    assert "<script" not in pages[0]
    assert "Case ../../$" in pages[1]
    # The list has one script, its own.
    assert (out / INDEX_FILE).read_text(encoding="utf-8").count("<script") == 1
    made = set(analysis_folder.parent.rglob("*")) - before
    assert all(path == out or path.parent == out for path in made)


def test_pages_are_whole_or_absent(analysis_folder: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_case_pages(analysis_folder, progress=stop)
    assert not (analysis_folder / PAGES_FOLDER).exists()
    assert not list(analysis_folder.glob(".cases*"))
    write_case_pages(analysis_folder)
    with pytest.raises(ReportError, match="expected a new folder"):
        write_case_pages(analysis_folder)


def test_an_analysis_without_maps_is_refused(analysis_folder: Path) -> None:
    (analysis_folder / "attributions.parquet").unlink()
    with pytest.raises(ReportError, match="expected attributed cases"):
        write_case_pages(analysis_folder)
