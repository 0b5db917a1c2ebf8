"""A self-contained HTML report of an analysis folder."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from boneage_xai.errors import ReportError
from boneage_xai.figures.style import figure_bytes
from boneage_xai.store import AnalysisFolder, write_text
from reports.blocks import Drawing, Headline, Section, Table, Text
from reports.sections import ADDED_BY, SECTIONS
from reports.wording import RESEARCH_USE, run_name, split_sentence

REPORT_FILE = "report.html"
TEMPLATE = "report.html.j2"
# Radiographs at the width of the page on a screen of twice the usual density.
_PNG_DPI = 150


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of an analysis as one HTML file that needs nothing else.

    The same folder gives the same bytes; the file is whole or absent.

    Args:
        folder: analysis folder.
        out: file to write; None is ``report.html`` in the folder.

    Returns:
        The file written.

    Raises:
        ReportError: not an analysis folder, or ``out`` is a folder.
        DataError: a file of the analysis is damaged.
    """
    analysis = AnalysisFolder.open(folder)
    target = folder / REPORT_FILE if out is None else out
    if target.is_dir():
        raise ReportError(f"{target}: expected the name of a file to write, found a folder")
    write_text(target, render_report(analysis))
    return target


def render_report(folder: AnalysisFolder) -> str:
    """Return the report of an analysis as HTML."""
    sections = {name: build(folder) for name, build in SECTIONS.items()}
    present = [section for section in sections.values() if section is not None]
    missing = [
        (ADDED_BY[name][0], ADDED_BY[name][1].format(folder=folder.path))
        for name, section in sections.items()
        if section is None
    ]
    cohort = folder.manifest["data"].get("cohort") or "analysis"
    return render_page(
        title=f"Bone age report: {run_name(folder)}",
        subtitle=f"{cohort} – {split_sentence(folder)}",
        toolkit_version=folder.manifest["toolkit_version"],
        sections=present,
        missing=missing,
    )


def render_page(
    *,
    title: str,
    subtitle: str,
    toolkit_version: str,
    sections: Sequence[Section],
    missing: Sequence[tuple[str, str]] = (),
) -> str:
    """Return sections as one HTML page that needs nothing else.

    Args:
        title: heading of the page.
        subtitle: what stands under it.
        toolkit_version: version that made what is shown.
        sections: parts of the page, in order.
        missing: what could be there, and the step that would add it.
    """
    # Autoescape is on: ids, paths and names are text, whatever is in them.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["code"] = _with_code
    environment.filters["two_lines"] = _two_lines
    template = environment.from_string(
        resources.files("reports").joinpath("templates", TEMPLATE).read_text(encoding="utf-8")
    )
    return template.render(
        title=title,
        subtitle=subtitle,
        research_use=RESEARCH_USE,
        toolkit_version=toolkit_version,
        sections=[_shown_section(section) for section in sections],
        missing=list(missing),
    )


@dataclass(frozen=True)
class _Csv:
    """A link that saves the data behind a figure or table."""

    name: str
    uri: str


def _shown_section(section: Section) -> dict[str, Any]:
    blocks = []
    for number, block in enumerate(section.blocks, start=1):
        name = f"{section.id}-{number}"
        if isinstance(block, Text):
            blocks.append({"kind": "text", "block": block})
        elif isinstance(block, Headline):
            blocks.append({"kind": "headline", "block": block})
        elif isinstance(block, Table):
            blocks.append({"kind": "table", "block": block, "csv": _csv(name, block.data)})
        else:
            blocks.append(
                {
                    "kind": "drawing",
                    "block": block,
                    "uri": _image_uri(block),
                    "csv": _csv(name, block.data),
                }
            )
    return {"id": section.id, "title": section.title, "blocks": blocks}


def _image_uri(drawing: Drawing) -> str:
    # As an image rather than inline: ids of one SVG cannot meet those of another.
    if drawing.vector:
        return _data_uri("image/svg+xml", figure_bytes(drawing.figure, "svg"))
    return _data_uri("image/png", figure_bytes(drawing.figure, "png", dpi=_PNG_DPI))


def _csv(name: str, data: pd.DataFrame | None) -> _Csv | None:
    if data is None:
        return None
    content = data.to_csv(index=False).encode("utf-8")
    return _Csv(f"{name}.csv", _data_uri("text/csv;charset=utf-8", content))


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def _with_code(text: str) -> Markup:
    """Return escaped text in which what stands between backticks is set as code."""
    # Escaped first, so that the markup added here is the only one.
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text)))


def _two_lines(text: str) -> Markup:
    """Return an escaped cell whose second line is set small."""
    first, _, second = text.partition("\n")
    small = Markup("<small>{}</small>").format(second) if second else Markup("")
    return Markup("{}{}").format(first, small)
