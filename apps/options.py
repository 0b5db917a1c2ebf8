"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

UPLOAD_LIMIT_MB = 64
"""Largest radiograph that the dashboard takes, as in .streamlit/config.toml."""

RunArgument = Annotated[
    Path | None,
    typer.Argument(metavar="RUN", help="Run folder from `train`; left out with --card."),
]
CardOption = Annotated[
    Path | None,
    typer.Option(
        "--card",
        metavar="FILE",
        help="Model card (TOML) of a network trained elsewhere, instead of RUN. Executes the code "
        "of its factory, TorchScript file or exported program: only use what you trust.",
    ),
]
DataOption = Annotated[
    Path,
    typer.Option("--data", metavar="SOURCE", help="Folder in a known layout, or a label table."),
]
AnalysisOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Analysis folder.")]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="ROLE=HEADER",
        help="Header of a role (id, sex, male, age, chronological_age, image, dir) "
        "in a table of your own.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="Where prepared pixels are kept. [default: $BONEAGE_XAI_CACHE or the user's cache]",
    ),
]
SkipOption = Annotated[
    bool,
    typer.Option(
        "--skip-problems",
        help="Go on without the rows that `cohort` reports as errors; their number is recorded.",
    ),
]
SplitOption = Annotated[
    Literal["held-out", "validation", "train", "all"],
    typer.Option(
        help="held-out: every case of SOURCE that the run was not trained on (with --card: "
        "every case); validation, train: those parts of the run's own data; all: every case."
    ),
]


CorrectedOption = Annotated[
    bool,
    typer.Option("--corrected", help="Apply the correction that `calibrate` keeps with RUN."),
]


def device() -> str:
    """Return where networks are put: the GPU where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
