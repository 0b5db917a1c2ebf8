"""A self-contained HTML report of an analysis folder."""

from __future__ import annotations

import base64
import html
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from boneage_xai.errors import ConfigError, ReportError, first_problem
from boneage_xai.figures.style import figure_bytes
from boneage_xai.files import write_bytes, write_text
from boneage_xai.store import AnalysisFolder
from reports.blocks import Drawing, Headline, Section, Table, Text
from reports.sections import ADDED_BY, SECTIONS
from reports.wording import RESEARCH_USE, run_name, split_sentence

REPORT_FILE = "report.html"
PDF_FILE = "report.pdf"
TEMPLATE = "report.html.j2"
# Radiographs at the width of the page on a screen of twice the usual density.
_PNG_DPI = 150


class ReportSettings(BaseModel):
    """What a report holds.

    Args:
        title: heading of the page; None names the run.
        sections: names of sections, in order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str | None = None
    sections: tuple[str, ...] = tuple(SECTIONS)

    @field_validator("sections")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in SECTIONS:
                raise ValueError(f"expected some of {', '.join(SECTIONS)}, not {name!r}")
        if not value or len(set(value)) < len(value):
            raise ValueError("expected at least one section, and none twice")
        return value


def load_report_settings(file: Path) -> ReportSettings:
    """Read what a report is to hold from a TOML file.

    Raises:
        ConfigError: absent, no TOML, an unknown key or an unknown section.
    """
    try:
        return ReportSettings.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{file}: expected a TOML file, found none ({error.strerror})") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{file}: {first_problem(error)}") from error


def write_report(
    folder: Path,
    out: Path | None = None,
    settings: ReportSettings | None = None,
    *,
    pdf: bool = False,
) -> Path:
    """Write the report of an analysis as one HTML file that needs nothing else, or as PDF.

    The same folder gives the same HTML; the file is whole or absent.

    Args:
        folder: analysis folder.
        out: file to write; None is ``report.html`` or ``report.pdf`` in the folder.
        settings: which sections it holds; None takes all.
        pdf: typeset it for printing.

    Returns:
        The file written.

    Raises:
        ReportError: not an analysis folder, or ``out`` is a folder.
        ConfigError: PDF without the extra ``pdf``.
        DataError: a file of the analysis is damaged.
    """
    analysis = AnalysisFolder.open(folder)
    target = folder / (PDF_FILE if pdf else REPORT_FILE) if out is None else out
    if target.is_dir():
        raise ReportError(f"{target}: expected the name of a file to write, found a folder")
    if pdf:
        typeset = _typesetter()
        write_bytes(target, typeset(render_report(analysis, settings, vector=False)))
    else:
        write_text(target, render_report(analysis, settings))
    return target


def _typesetter() -> Callable[[str], bytes]:
    """Return what makes a PDF of a page.

    Raises:
        ConfigError: WeasyPrint, or the Pango that it needs, is not installed.
    """
    try:
        from weasyprint import HTML
    except (ImportError, OSError) as error:
        raise ConfigError(
            "PDF: expected WeasyPrint and Pango, found neither or one alone; `pip install "
            "'boneage-xai[pdf]'` brings the first, the system's packages the second "
            f"({str(error).splitlines()[0]})"
        ) from error

    def typeset(page: str) -> bytes:
        # Without an address nothing outside the page can be fetched.
        content: bytes = HTML(string=page, base_url=None).write_pdf()
        return content

    return typeset


def render_report(
    folder: AnalysisFolder, settings: ReportSettings | None = None, *, vector: bool = True
) -> str:
    """Return the report of an analysis, or the sections of it that are asked for, as HTML.

    Args:
        folder: the analysis.
        settings: which sections; None takes all.
        vector: as for :func:`render_page`.
    """
    settings = settings or ReportSettings()
    sections = {name: SECTIONS[name](folder) for name in settings.sections}
    present = [section for section in sections.values() if section is not None]
    missing = [
        (ADDED_BY[name][0], ADDED_BY[name][1].format(folder=folder.path))
        for name, section in sections.items()
        if section is None
    ]
    cohort = folder.manifest["data"].get("cohort") or "analysis"
    return render_page(
        title=settings.title or f"Bone age report: {run_name(folder)}",
        subtitle=f"{cohort} – {split_sentence(folder)}",
        toolkit_version=folder.manifest["toolkit_version"],
        sections=present,
        missing=missing,
        vector=vector,
    )


def render_page(
    *,
    title: str,
    subtitle: str,
    toolkit_version: str,
    sections: Sequence[Section],
    missing: Sequence[tuple[str, str]] = (),
    vector: bool = True,
) -> str:
    """Return sections as one HTML page that needs nothing else.

    Args:
        title: heading of the page.
        subtitle: what stands under it.
        toolkit_version: version that made what is shown.
        sections: parts of the page, in order.
        missing: what could be there, and the step that would add it.
        vector: whether figures that can be are kept as SVG, over which PDF makers take minutes.
    """
    return (
        templates()
        .get_template(TEMPLATE)
        .render(
            title=title,
            subtitle=subtitle,
            research_use=RESEARCH_USE,
            toolkit_version=toolkit_version,
            sections=[_shown_section(section, vector) for section in sections],
            missing=list(missing),
        )
    )


def templates() -> Environment:
    """Return the templates of pages; ids, paths and names are text, whatever is in them."""
    environment = Environment(
        loader=PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["code"] = _with_code
    environment.filters["two_lines"] = _two_lines
    return environment


def data_uri(media_type: str, content: bytes) -> str:
    """Return content as an address that stands for it, so that a page needs no other file."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


@dataclass(frozen=True)
class _Csv:
    """A link that saves the data behind a figure or table."""

    name: str
    uri: str


def _shown_section(section: Section, vector: bool) -> dict[str, Any]:
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
                    "uri": _image_uri(block, vector),
                    "csv": _csv(name, block.data),
                }
            )
    return {"id": section.id, "title": section.title, "blocks": blocks}


def _image_uri(drawing: Drawing, vector: bool) -> str:
    # As an image rather than inline: ids of one SVG cannot meet those of another.
    if drawing.vector and vector:
        return data_uri("image/svg+xml", figure_bytes(drawing.draw(), "svg"))
    return data_uri("image/png", figure_bytes(drawing.draw(), "png", dpi=_PNG_DPI))


def _csv(name: str, data: pd.DataFrame | None) -> _Csv | None:
    if data is None:
        return None
    content = data.to_csv(index=False).encode("utf-8")
    return _Csv(f"{name}.csv", data_uri("text/csv;charset=utf-8", content))


def _with_code(text: str) -> Markup:
    """Return escaped text in which what stands between backticks is set as code."""
    # Escaped first, so that the markup added here is the only one.
    marked = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))
    return Markup(marked)  # nosec B704


def _two_lines(text: str) -> Markup:
    """Return an escaped cell whose second line is set small."""
    first, _, second = text.partition("\n")
    small = Markup("<small>{}</small>").format(second) if second else Markup("")
    return Markup("{}{}").format(first, small)
