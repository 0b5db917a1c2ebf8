"""A report as tests look at it."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import pandas as pd


class Page(HTMLParser):
    """What a browser would make of a report, in lists."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.downloads: dict[str, str] = {}
        self.images: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.tags.append(tag)
        self.addresses += [found[key] for key in ("href", "src", "action") if key in found]
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "img":
            self.images.append(found["src"])
            assert found["alt"]
        if "download" in found:
            self.downloads[found["download"]] = found["href"]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def csv_of(page: Page, name: str) -> pd.DataFrame:
    """Return the table that stands behind a figure."""
    content = page.downloads[name].partition("base64,")[2]
    return pd.read_csv(io.BytesIO(base64.b64decode(content)))
