"""Notebooks as pages: what is stored in them is shown, nothing is run."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Turn a notebook into Markdown.

    Args:
        path: the notebook (format 4), with its outputs stored.

    Returns:
        The page, and the pictures that it shows by file name, which lie in ``NAME_files``.
    """
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for place, output in enumerate(cell["outputs"]):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}_{number}_{place}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![Output of the cell above]({path.stem}_files/{name})")
            elif shown := _as_text(output.get("text"), data):
                parts.append(shown)
    head, rest = "\n\n".join(parts).split("\n", 1)
    note = f"*This page is the notebook [{path.name}]({path.name}) as it was run.*"
    return f"{head}\n\n{note}\n\n{rest}\n", pictures


def _as_text(stream: str | list[str] | None, data: Mapping[str, Any]) -> str:
    html = "".join(data.get("text/html", ""))
    if table := re.search(r"<table.*</table>", html, flags=re.S):
        # Without blank lines Markdown leaves a table as it is; without a class the site styles it.
        compact = re.sub(r">\s+<", "><", table[0])
        return re.sub(r"^<table[^>]*>", "<table>", compact)
    text = "".join(stream if stream is not None else data.get("text/plain", "")).strip("\n")
    return f"```text\n{text}\n```" if text else ""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add a page per notebook and its pictures to the site (mkdocs calls this)."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        text, pictures = notebook_page(Path(str(file.abs_src_path)))
        uri = PurePosixPath(file.src_uri)
        files.append(File.generated(config, str(uri.with_suffix(".md")), content=text))
        for name, content in pictures.items():
            picture = uri.with_name(f"{uri.stem}_files") / name
            files.append(File.generated(config, str(picture), content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to a notebook lead to its page, but for a notebook's own (mkdocs calls this)."""
    if page.file.src_uri.startswith("notebooks/"):
        return markdown
    return re.sub(r"\]\(((?:\.\./)?notebooks/\w+)\.ipynb\)", r"](\1.md)", markdown)
