"""CONTRIBUTING.md, SECURITY.md and CHANGELOG.md, which lie beside docs/, as pages."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages to the site (mkdocs calls this)."""
    for name, uri in PAGES.items():
        text = Path(config.config_file_path).with_name(name).read_text(encoding="utf-8")
        files.append(File.generated(config, uri, content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to these files lead to their pages (mkdocs calls this)."""
    for name, uri in PAGES.items():
        markdown = markdown.replace(f"](../{name}", f"]({uri}")
    return markdown
