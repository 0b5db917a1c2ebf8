"""The command that sets analyses side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps.console import say, say_json
from apps.options import JsonOption


def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR DIR …", help="Analysis folders of the same data.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR|FILE", help="Folder, or an HTML file to write.")
    ],
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare analyses case by case: errors by sex and age, maps and regions.

    Example: boneage-xai compare analyses/with-sex analyses/image-only --out compared
    """
    from reports.comparison import comparison_sentences, write_comparison

    found = write_comparison(folders, out, seed=seed)
    if as_json:
        groups = [
            {str(key): None if value != value else value for key, value in row.items()}
            for row in found.groups.to_dict("records")
        ]
        say_json(
            {
                "models": list(found.names),
                "n": int(found.cases["case_id"].nunique()),
                "left_out": list(found.left_out),
                "groups": groups,
            }
        )
        return
    for sentence in comparison_sentences(found):
        say(sentence)
    say(f"Written to {out}")
