"""The site: it builds strictly, fetches nothing from elsewhere and leaves no page out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

# What a browser would fetch by itself; a link that a reader may follow is none.
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Fetches(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        address = given.get(FETCHED.get(tag, ""))
        if address and (tag != "link" or given.get("rel") not in ("canonical", "prev", "next")):
            self.found.append(address)


@pytest.fixture(scope="module")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason="the extra docs is not installed")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", out]
    # Whatever asks for a network would be refused by this proxy, where nobody listens.
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    environment = os.environ | proxies | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return out


def test_every_page_is_built(site: Path, root: Path) -> None:
    pages = {file.relative_to(root / "docs") for file in (root / "docs").rglob("*.md")}
    pages |= {file.relative_to(root / "docs") for file in (root / "docs").rglob("*.ipynb")}
    assert Path("index.md") in pages
    missing = [page for page in pages if not (site / page.with_suffix(".html")).is_file()]
    assert not missing
    assert not (site / "hooks").exists()


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    n = 0
    for file in [*site.rglob("*.html")]:
        reader = Fetches()
        reader.feed(file.read_text(encoding="utf-8"))
        n += len(reader.found)
        outside = [a for a in reader.found if re.match(r"(https?:)?//", a)]
        assert not outside, file
    assert n > 100
    for file in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )['\"]?(https?:)?//", file.read_text("utf-8")), file


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("data", ["boneage_xai.data.cohort.read_source", "boneage_xai.data.cache.open_cache"]),
        ("attribution", ["boneage_xai.attribution.interface.AttributionSettings"]),
        ("types", ["boneage_xai.types.Cohort.where", "boneage_xai.store.AnalysisFolder"]),
        ("trainers", ["trainers.engine.train"]),
    ],
)
def test_reference_has_what_docstrings_say(site: Path, page: str, names: list[str]) -> None:
    html = (site / "reference" / f"{page}.html").read_text(encoding="utf-8")
    for name in names:
        assert f'id="{name}"' in html


def test_models_of_pydantic_show_types_and_defaults(site: Path) -> None:
    html = (site / "reference" / "attribution.html").read_text(encoding="utf-8")
    start = html.index('id="boneage_xai.attribution.interface.AttributionSettings"')
    text = re.sub(r"<[^>]+>", "", html[start : start + 60_000])
    assert re.search(r"min_nodes: int = Field\(\s*default=17", text)


def test_every_module_of_the_library_is_in_the_reference(site: Path, root: Path) -> None:
    html = "".join(file.read_text("utf-8") for file in (site / "reference").glob("*.html"))
    for file in (root / "boneage_xai").rglob("*.py"):
        name = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        if name != "boneage_xai":
            assert f'id="{name}"' in html, name
