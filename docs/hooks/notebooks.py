"""Notebooks as pages: what is stored in them is shown, nothing is run."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Turn a notebook into Markdown.

    Args:
        path: the notebook, with its outputs stored.

    Returns:
        The page, and the pictures that it shows by file name, which lie in ``NAME_files``.
    """
    notebook = nbformat.read(path, as_version=4)
    resources = {"output_files_dir": f"{path.stem}_files", "unique_key": path.stem}
    text, found = MarkdownExporter().from_notebook_node(notebook, resources=resources)
    # The exporter indents plain output by four spaces; a fence keeps it apart from the code.
    text = re.sub(r"(?m)(?:^ {4}.*\n(?:\s*\n(?= {4}))*)+", _as_output, text)
    source = f"\n*This page is the notebook [`{path.name}`]({path.name}) as it was run.*\n"
    head, _, rest = text.partition("\n\n")
    pictures = {PurePosixPath(name).name: data for name, data in found["outputs"].items()}
    return f"{head}\n{source}\n{rest}", pictures


def _as_output(block: re.Match[str]) -> str:
    lines = [line.removeprefix("    ") for line in block[0].rstrip().splitlines()]
    return "```text\n" + "\n".join(lines) + "\n```\n"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add a page per notebook and its pictures to the site (mkdocs calls this)."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        text, pictures = notebook_page(Path(str(file.abs_src_path)))
        uri = PurePosixPath(file.src_uri)
        files.append(File.generated(config, str(uri.with_suffix(".md")), content=text))
        for name, data in pictures.items():
            picture = uri.with_name(f"{uri.stem}_files") / name
            files.append(File.generated(config, str(picture), content=data))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to a notebook lead to its page, but for a notebook's own (mkdocs calls this)."""
    if page.file.src_uri.startswith("notebooks/"):
        return markdown
    return re.sub(r"\]\(((?:\.\./)?notebooks/\w+)\.ipynb\)", r"](\1.md)", markdown)
