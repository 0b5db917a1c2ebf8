"""The command that copies DICOM radiographs without what identifies the children."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps.console import bars, note, say, say_json
from apps.options import JsonOption
from boneage_xai.errors import ConfigError


def deidentify(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="DICOM file, or a folder of any depth.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the copies.")],
    keep_patient_characteristics: Annotated[
        bool,
        typer.Option(
            "--keep-patient-characteristics",
            help="Keep sex, age, size, weight, ethnic group, and what is stated on pregnancy and "
            "smoking. Left out by default, since what was given away cannot be taken back: bone "
            "age needs the sex, which a label table can state instead.",
        ),
    ] = False,
    mapping: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Write which copy is whose; it identifies as SOURCE does. [default: not written]",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File of 16 bytes or more, kept secret: gives the same new UIDs, ids and names "
            "each time. [default: another key each time, kept nowhere]",
        ),
    ] = None,
    skip_problems: Annotated[
        bool,
        typer.Option(
            "--skip-problems", help="Leave out DICOM files that cannot be read as radiographs."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy DICOM radiographs without the identifiers of the DICOM basic profile.

    Example: boneage-xai deidentify ~/clinic copies --keep-patient-characteristics

    Follows PS3.15 Annex E; private elements go, UIDs and file names become new ones. Text that is
    burned into the picture stays: look at the copies before you give them away.
    """
    from boneage_xai.export.deidentified_files import deidentify_files

    secret = None
    if key is not None:
        try:
            secret = key.read_bytes()
        except OSError as error:
            raise ConfigError(f"{key}: expected a key file, found {error.strerror}") from error
    with bars("Copying", quiet=as_json) as (copying,):
        made = deidentify_files(
            source,
            out,
            key=secret,
            keep_patient_characteristics=keep_patient_characteristics,
            mapping=mapping,
            skip_problems=skip_problems,
            progress=copying,
        )
    if as_json:
        say_json(
            {
                "out": str(out),
                "copies": len(made.copies),
                "left_out": list(made.left_out),
                "other_files": made.n_other,
                "burned_in_annotation": dict(made.burned_in),
                "patient_characteristics": keep_patient_characteristics,
            }
        )
        return
    for sentence in made.left_out:
        note(f"left out: {sentence}")
    if made.n_other:
        note(f"note: {made.n_other:,} files that are no DICOM radiographs were not copied")
    if not keep_patient_characteristics:
        note("note: the copies state neither sex nor age; a label table can")
    n_stated, n_unknown = made.burned_in["YES"], made.burned_in["unstated"]
    note(
        "warning: text that is burned into the pictures was not looked for and is still there; "
        f"{n_stated:,} of {len(made.copies):,} copies state that there is some, {n_unknown:,} do "
        "not say"
    )
    say(f"{out}: {len(made.copies):,} copies without the identifiers of the basic profile")
