"""The page that lists every command with its options, made from the command line itself."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

PAGE = "reference/command-line.md"
HEAD = """# Command line
What `boneage-xai COMMAND --help` says, for all commands. Exit codes: 0 done; 2 a mistake that its
user can mend, told in one sentence. `SOURCE` is a folder in a known layout or a label table, see
[Data](../data.md).

"""


def command_line_page() -> str:
    """Return Markdown with a heading per command, its arguments and its options."""
    # The module and not an installed copy: the page is that of the tree it is built from.
    root = str(Path(__file__).resolve().parents[2])
    if root not in sys.path:
        sys.path.insert(0, root)
    from apps.cli import app

    command = typer.main.get_command(app)
    with command.make_context("boneage-xai", [], resilient_parsing=True) as context:
        text = get_docs_for_click(obj=command, ctx=context, name="boneage-xai")
    commands = text[text.index("\n## ") + 1 :]
    commands = re.sub(r"^## `boneage-xai (\S+)`$", r"## \1 { #\1 }", commands, flags=re.M)
    commands = re.sub(r"^\* `--help`: .*\n", "", commands, flags=re.M)
    return HEAD + re.sub(r"^Example: (.+)$", _as_code, commands, flags=re.M)


def _as_code(example: re.Match[str]) -> str:
    return f"```console\n$ {example[1].strip()}\n```\n"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the page to the site (mkdocs calls this)."""
    files.append(File.generated(config, PAGE, content=command_line_page()))
    return files
