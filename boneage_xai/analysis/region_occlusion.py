"""Does a region matter? Predictions with one region of the hand removed after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage_xai.analysis.run_analysis import RunOnCohort, choose_cases
from boneage_xai.attribution.interventions import Predictor, run_predictor
from boneage_xai.errors import AttributionError, ConfigError, DataError
from boneage_xai.files import staged_file, write_table
from boneage_xai.predict import Progress
from boneage_xai.regions.label_maps import read_region_map, regions_on_input
from boneage_xai.regions.removable import WHOLE_HAND, Removable, control_of, removables
from boneage_xai.regions.removal import FILL_NAMES, FillName, feather_px, remove_region
from boneage_xai.store import AnalysisFolder, check_same_analysis
from boneage_xai.types import Case, RegionMap

OCCLUSION_TABLE = "occlusion.parquet"
EXAMPLE_FILE = "occlusion_example.npz"

COLUMNS = (
    "case_id",
    "sex",
    "reference_months",
    "predicted_months",
    "fill",
    "region",
    "kind",
    "delta_months",
    "delta_absolute_error_months",
    "area_fraction",
    "hand_fraction",
)

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class OcclusionExample:
    """A region removed from one radiograph, and its control, by every filling.

    Args:
        case_id: the case.
        pixels: (H, W) uint8 as it is.
        names: what is removed, one a row.
        masks: (rows, H, W) True where it is.
        fills: how, one a column.
        pictures: (rows, columns, H, W) uint8.
        delta_months: (rows, columns) change of the prediction.
    """

    case_id: str
    pixels: Grey
    names: tuple[str, ...]
    masks: npt.NDArray[np.bool_]
    fills: tuple[str, ...]
    pictures: Grey
    delta_months: npt.NDArray[np.float64]


def occlude_case(
    model: Predictor,
    case: Case,
    pixels: Grey,
    areas: Sequence[Removable],
    fills: Sequence[FillName] = FILL_NAMES,
) -> list[dict[str, Any]]:
    """Predict a case as it is and with each area removed.

    Args:
        model: from prepared pixels (n, S, S) uint8 and is_male (n,) to months (n,).
        case: who it is.
        pixels: (S, S) uint8, prepared for the model; not changed.
        areas: what is removed, as from ``regions.removable.removables``.
        fills: how, see ``regions.removal.remove_region``.

    Returns:
        A row per filling and area with the columns ``COLUMNS``: delta_months is the prediction
        without the area minus that for the whole picture, delta_absolute_error_months the same
        of |prediction − reference|, NaN without a reference.

    Raises:
        AttributionError: the model's answer is not one finite number per picture.
    """
    removed = [remove_region(pixels, area.mask, fill) for fill in fills for area in areas]
    stack = np.stack([pixels, *removed])
    is_male = np.full(len(stack), case.sex.is_male, dtype=np.bool_)
    months = np.asarray(model(stack, is_male), dtype=np.float64)
    if months.shape != (len(stack),) or not np.isfinite(months).all():
        raise AttributionError(
            f"case {case.case_id}: expected {len(stack)} finite predictions in months, "
            f"found {months.shape} with {int((~np.isfinite(months)).sum())} that are not finite"
        )
    whole, without = float(months[0]), months[1:].tolist()
    reference = math.nan if case.bone_age_months is None else case.bone_age_months
    taken = [(fill, area) for fill in fills for area in areas]
    return [
        {
            "case_id": case.case_id,
            "sex": case.sex.value,
            "reference_months": reference,
            "predicted_months": whole,
            "fill": fill,
            "region": area.name,
            "kind": area.kind,
            "delta_months": value - whole,
            "delta_absolute_error_months": abs(value - reference) - abs(whole - reference),
            "area_fraction": float(area.mask.mean()),
            "hand_fraction": area.hand_fraction,
        }
        for (fill, area), value in zip(taken, without, strict=True)
    ]


def occlude_run(
    prepared: RunOnCohort,
    out: Path,
    *,
    fills: Sequence[str] = FILL_NAMES,
    limit: int | None = None,
    regions_from: str | None = None,
    progress: Progress | None = None,
) -> AnalysisFolder:
    """Remove each region of each case and measure what the predictions of a run do.

    Args:
        prepared: run and cases, of which those with region maps are taken.
        out: analysis folder, new or of the same run and data.
        fills: how regions are removed, each once.
        limit: at most so many cases, chosen evenly over sex and age as ``attribute`` does.
        regions_from: folder that the region maps come from, for the record.
        progress: called with (done, total) cases.

    Returns:
        The analysis folder with ``occlusion.parquet`` and an example in ``EXAMPLE_FILE``.

    Raises:
        ConfigError: an unknown or repeated filling, or a limit under 1.
        DataError: no case has a region map with a hand in it.
        ReportError: ``out`` holds another analysis.
    """
    if not fills or len(set(fills)) != len(fills) or not set(fills) <= set(FILL_NAMES):
        raise ConfigError(
            f"fill: expected some of {', '.join(FILL_NAMES)}, each once, "
            f"found {', '.join(fills) or 'none'}"
        )
    chosen_fills = [name for name in FILL_NAMES if name in fills]
    run, data = prepared.record()
    check_same_analysis(out, run=run, data=data)
    chosen = choose_cases(prepared.cohort, limit)
    cases = [case for case in chosen if case.region_file is not None]
    if not cases:
        raise DataError(
            f"{prepared.source}: expected cases with region maps (from `boneage-xai regions`, "
            "named by --regions), found none"
        )
    model = run_predictor(prepared.run)
    rows: list[dict[str, Any]] = []
    without_hand: list[str] = []
    for done, case in enumerate(cases, start=1):
        if areas := removables(_regions_of(prepared, case)):
            rows += occlude_case(model, case, _pixels_of(prepared, case), areas, chosen_fills)
        else:
            without_hand.append(case.case_id)
        if progress is not None:
            progress(done, len(cases))
    if not rows:
        raise DataError(
            f"{prepared.source}: expected region maps of hands, found only background in each of "
            f"{len(cases)}"
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    detail = {
        "n": int(table["case_id"].nunique()),
        "limit": limit,
        "fills": chosen_fills,
        "regions": regions_from,
        "n_without_region_map": len(chosen) - len(cases),
        "n_without_hand": len(without_hand),
        "feather_px": feather_px(prepared.cache.pixels.shape[1:]),
    }
    folder = AnalysisFolder.add_step(out, run=run, data=data, step="occlude", detail=detail)
    write_table(out / OCCLUSION_TABLE, table)
    _write_example(out / EXAMPLE_FILE, prepared, table, chosen_fills)
    return folder


def read_example(path: Path) -> OcclusionExample:
    """Read the example that ``occlude_run`` wrote.

    Raises:
        DataError: a file that is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return OcclusionExample(
                str(archive["case_id"]),
                archive["pixels"],
                tuple(str(name) for name in archive["names"]),
                archive["masks"],
                tuple(str(name) for name in archive["fills"]),
                archive["pictures"],
                archive["delta_months"],
            )
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such example") from error
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: expected an example of occlusion, found {error}") from error


def _write_example(
    path: Path, prepared: RunOnCohort, table: pd.DataFrame, fills: Sequence[FillName]
) -> None:
    """Keep the pictures of the case of middling age: the region that matters most, its control."""
    singles = table[(table["kind"] == "region") & (table["hand_fraction"] == 1)]
    controlled = set(table.loc[table["kind"] == "control", "region"])
    singles = singles[[control_of(name) in controlled for name in singles["region"]]]
    effects = singles.groupby("region", sort=False)["delta_months"].agg(lambda d: d.abs().mean())
    wanted = [] if effects.empty else [effects.idxmax(), control_of(str(effects.idxmax()))]
    ages = table.drop_duplicates("case_id").set_index("case_id")
    having = table.groupby("case_id")["region"].agg(set)
    able = [case_id for case_id in ages.index if set(wanted) <= having[case_id]]
    middling = ages.loc[able, "predicted_months"].sort_values(kind="stable").index[len(able) // 2]
    case = prepared.cohort[str(middling)]
    pixels = _pixels_of(prepared, case)
    areas = {area.name: area for area in removables(_regions_of(prepared, case))}
    names = [name for name in (*wanted, WHOLE_HAND) if name in areas]
    if not names:
        path.unlink(missing_ok=True)
        return
    found = table[table["case_id"] == case.case_id].set_index(["region", "fill"])["delta_months"]
    with staged_file(path) as staged:
        np.savez_compressed(
            staged,
            case_id=np.array(case.case_id),
            pixels=pixels,
            names=np.array(names),
            masks=np.stack([areas[name].mask for name in names]),
            fills=np.array(list(fills)),
            pictures=np.stack(
                [
                    np.stack([remove_region(pixels, areas[name].mask, fill) for fill in fills])
                    for name in names
                ]
            ),
            delta_months=np.array(
                [[float(found.loc[(name, fill)]) for fill in fills] for name in names]
            ),
        )


def _pixels_of(prepared: RunOnCohort, case: Case) -> Grey:
    return np.array(prepared.cache.pixels[prepared.cache.rows([case.case_id])[0]])


def _regions_of(prepared: RunOnCohort, case: Case) -> RegionMap:
    if case.region_file is None:
        raise DataError(f"case {case.case_id}: expected a region map, found none")
    found = read_region_map(case.region_file)
    source_map = prepared.cache.source_map(case.case_id)
    return regions_on_input(found, source_map, prepared.run.preprocessing.size_px)
