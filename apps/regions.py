"""The commands on hand regions: finding them, and training the locator that finds them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps.console import bars, note, say, say_json
from apps.options import ColumnOption, JsonOption, SkipOption
from apps.sources import one_cohort
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.types import Radiograph
from reports.wording import counted

_MOST_SHOWN = 24
_UNUSUAL = {
    "no_hand": "no hand found",
    "turned": "the hand seems to be turned",
    "looks_right": "the hand seems to be a right one or the mirror image of a left one",
}


def regions(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="Data set, folder of images, or a radiograph."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder.")],
    own: Annotated[
        Path | None,
        typer.Option(
            "--own",
            metavar="DIR",
            help="Your own boxes or masks (Pascal VOC, LabelMe, COCO, PNG with labels.json); "
            "they win over the locator.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A locator of your own, from train-locator."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="At most so many cases, the first ones.", min=1)
    ] = None,
    column: ColumnOption = None,
    skip_problems: SkipOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find joints, carpus, forearm bones and marker on hand radiographs.

    Example: boneage-xai regions ~/rsna --out rsna-regions
    """
    from boneage_xai.figures.located import LocatedCase, located_sheet
    from boneage_xai.figures.style import figure_bytes
    from boneage_xai.files import write_bytes
    from boneage_xai.regions.cohort_regions import write_regions
    from boneage_xai.regions.locator import HandRegions
    from boneage_xai.regions.pose import hand_pose
    from boneage_xai.regions.user_regions import read_user_regions

    if (bare := _bare_images(source)) is not None:
        if column:
            raise ConfigError(f"{source}: expected a label table for --column, found images alone")
        images = _readable(bare) if skip_problems else bare
    else:
        chosen, _ = one_cohort(source, column, skip_problems, "training")
        images = [(case.case_id, case.image) for case in chosen]
    images = images[:limit]
    drawn = read_user_regions(own, [case_id for case_id, _ in images]) if own else {}
    step = max(1, -(-len(images) // _MOST_SHOWN))
    shown: list[LocatedCase] = []
    unusual: dict[str, list[str]] = {which: [] for which in _UNUSUAL}
    seen = 0

    def keep(case_id: str, radiograph: Radiograph, found: HandRegions) -> None:
        nonlocal seen
        if not found.boxes and case_id not in drawn:
            unusual["no_hand"].append(case_id)
        pose = hand_pose(found.boxes)
        if pose is not None and pose.quarter_turns:
            unusual["turned"].append(case_id)
        if pose is not None and pose.looks_right:
            unusual["looks_right"].append(case_id)
        if seen % step == 0:
            case = LocatedCase(case_id, radiograph.pixels, found.labels, found.boxes)
            shown.append(case.thinned())
        seen += 1

    with bars("Locating", quiet=as_json) as (bar,):
        table = write_regions(
            images, out, user_regions=drawn, weights=weights, on_located=keep, progress=bar
        )
    write_bytes(out / "overlay.png", figure_bytes(located_sheet(shown), dpi=150))
    if as_json:
        counts = {str(name): int(count) for name, count in table["region"].value_counts().items()}
        say_json(
            {
                "n": len(images),
                "n_own": len(drawn),
                **unusual,
                "found_by_region": counts,
            }
        )
        return
    for which, case_ids in unusual.items():
        if case_ids:
            some = ", ".join(case_ids[:10]) + (" …" if len(case_ids) > 10 else "")
            note(f"{_UNUSUAL[which]} on {len(case_ids)} of {len(images)}: {some}")
    say(f"{len(table)} regions on {len(images)} radiographs in {out}; look at overlay.png")


def _readable(images: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Return those that can be read, and say how many cannot."""
    from boneage_xai.data.radiograph import read_radiograph

    sound = []
    for case_id, path in images:
        try:
            read_radiograph(path)
        except DataError:
            continue
        sound.append((case_id, path))
    if left := len(images) - len(sound):
        note(f"left out {counted(left, 'image')} that cannot be read")
    if not sound:
        raise DataError("regions: expected a radiograph that can be read, found none")
    return sound


def _bare_images(source: Path) -> list[tuple[str, Path]] | None:
    """Return id and path of a radiograph, or of those in a folder of nothing but images.

    No sex and no age is needed to find regions, so no table either. DICOM is left to the layouts,
    which read ids from it.
    """
    from boneage_xai.data.layouts import DICOM_SUFFIXES
    from boneage_xai.data.radiograph import IMAGE_SUFFIXES

    if source.is_file():
        return [(source.stem, source)] if source.suffix.lower() in IMAGE_SUFFIXES else None
    if not source.is_dir():
        return None
    files = sorted(path for path in source.iterdir() if not path.name.startswith("."))
    plain = IMAGE_SUFFIXES - set(DICOM_SUFFIXES)
    if not files or any(not path.is_file() or path.suffix.lower() not in plain for path in files):
        return None
    return [(path.stem, path) for path in files]


def train_locator(
    data: Annotated[
        Path, typer.Option("--data", metavar="PHANTOMS", help="Folder from `phantom`.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder.")],
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file. [default: the shipped recipe]")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="e.g. training.learning_rate=1e-3."),
    ] = None,
) -> None:
    """Train a region locator from phantoms, for `regions --weights`.

    Example: boneage-xai train-locator --data phantoms --out locator
    """
    from trainers.locator.recipe import load_locator_recipe
    from trainers.locator.run import train_locator as train

    checked = load_locator_recipe(recipe, settings or [])
    with bars("Reading phantoms") as (reading,):

        def on_report(row: dict[str, float]) -> None:
            note(
                f"step {row['step']:.0f} at {row['size_px']:.0f} px: landmarks "
                f"{row['landmark_loss']:.3f}, segmentation {row['segmentation_loss']:.3f} "
                f"({row['seconds']:.0f} s)"
            )

        card = train(checked, data, out, on_read=reading, on_report=on_report)
    figures = card["held_out_phantoms"]
    say(
        f"{out}: {figures['n']} held-out phantoms, {100 * figures['found']:.1f} % of landmarks "
        f"found, {100 * figures['in_box']:.1f} % inside their boxes"
    )
