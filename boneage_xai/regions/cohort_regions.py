"""The regions of many radiographs as a folder: a table, label images, and back to cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from boneage_xai.anatomy import REGION_NAMES
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.errors import DataError
from boneage_xai.files import staged_folder, write_json, write_table
from boneage_xai.regions.label_maps import NAMES_FILE
from boneage_xai.regions.locator import HandRegions, load_locator, locate
from boneage_xai.regions.user_regions import UserRegions, draw_regions, region_names
from boneage_xai.types import Cohort, Radiograph

REGIONS_TABLE = "regions.csv"
LABELS_FOLDER = "labels"
COLUMNS = (
    "case_id",
    "region",
    "finger",
    "x_px",
    "y_px",
    "width_px",
    "height_px",
    "confidence",
)

Located = Callable[[str, Radiograph, HandRegions], None]


def write_regions(
    images: Sequence[tuple[str, Path]],
    out: Path,
    *,
    user_regions: Mapping[str, UserRegions] | None = None,
    weights: Path | None = None,
    on_located: Located | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Find the regions of radiographs and write them as a folder, whole or not at all.

    Written are ``regions.csv`` (a row per region that was found), ``labels/<case_id>.png`` on the
    grid of each radiograph, and ``labels/labels.json``.

    Args:
        images: case ids, unique, and radiographs.
        out: folder to make; it must not exist.
        user_regions: cases whose regions a user drew; for them nothing is located.
        weights: of another locator than the shipped one.
        on_located: called with case id, radiograph and its regions, to show some of them.
        progress: called with (radiographs done, radiographs in all).

    Returns:
        The table, with the columns ``COLUMNS``.

    Raises:
        CheckpointError: weights that are no locator's.
        DataError: ``out`` exists, ids that cannot name files or are not unique, a radiograph that
            cannot be read, or a user's mask of another size.
    """
    _check_ids([case_id for case_id, _ in images])
    user_regions = user_regions or {}
    names = region_names(user_regions) if user_regions else dict(REGION_NAMES)
    network = load_locator(weights)
    rows: list[tuple[object, ...]] = []
    with staged_folder(out) as folder:
        (folder / LABELS_FOLDER).mkdir()
        for done, (case_id, image) in enumerate(images, start=1):
            radiograph = read_radiograph(image)
            if case_id in user_regions:
                shape = radiograph.pixels.shape
                found = HandRegions(*draw_regions(user_regions[case_id], shape, names))
            else:
                found = locate(radiograph, network)
            labels = found.labels.labels.astype(np.uint8)
            Image.fromarray(labels).save(folder / LABELS_FOLDER / f"{case_id}.png")
            rows += [_row(case_id, box) for box in found.boxes]
            if on_located is not None:
                on_located(case_id, radiograph, found)
            if progress is not None:
                progress(done, len(images))
        table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"finger": "Int64"})
        write_table(folder / REGIONS_TABLE, table)
        write_json(folder / LABELS_FOLDER / NAMES_FILE, names)
    return table


def with_regions(cohort: Cohort, folder: Path) -> Cohort:
    """Return a cohort whose cases have the label maps of a folder, in place of their own.

    Args:
        cohort: the cases.
        folder: from ``write_regions``, or one that directly holds ``<case_id>.png`` and
            ``labels.json``. Cases without a map there have none.

    Raises:
        DataError: no such folder, or no map for any of the cases.
    """
    home = folder / LABELS_FOLDER if (folder / LABELS_FOLDER).is_dir() else folder
    if not (home / NAMES_FILE).is_file():
        raise DataError(
            f"{folder}: expected regions (from `boneage-xai regions`), found no {NAMES_FILE}"
        )
    files = {case.case_id: home / f"{case.case_id}.png" for case in cohort}
    there = {case_id: file for case_id, file in files.items() if file.is_file()}
    if not there:
        raise DataError(f"{folder}: expected label maps of the cases, found none for any of them")
    return replace(
        cohort,
        cases=tuple(replace(case, region_file=there.get(case.case_id)) for case in cohort),
    )


def _row(case_id: str, box: object) -> tuple[object, ...]:
    values = [getattr(box, name) for name in COLUMNS[1:]]
    return case_id, *(round(v, 3) if isinstance(v, float) else v for v in values)


def _check_ids(case_ids: Iterable[str]) -> None:
    seen: set[str] = set()
    for case_id in case_ids:
        if not case_id or Path(case_id).name != case_id or case_id.startswith("."):
            raise DataError(f"regions: expected case ids that can name files, found {case_id!r}")
        if case_id in seen:
            raise DataError(f"regions: expected each case once, found {case_id} twice")
        seen.add(case_id)
