"""The shortcut audit: whether data or network use something that is not the hand.

Three looks: at the data alone, at predictions while something beside the hand changes, and at
where attribution lies. The first two raise alarms by rules that are stated; attribution is
evidence only, since bright things gather it whether they are used or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage_xai.analysis.metrics import bootstrap_mean
from boneage_xai.analysis.run_analysis import RunOnCohort, choose_cases
from boneage_xai.analysis.shortcut_data import LEAST_AUC, LEAST_R2, SIGNIFICANCE, audit_data
from boneage_xai.analysis.shortcut_edits import Places, edits
from boneage_xai.analysis.shortcut_features import features_of
from boneage_xai.analysis.shortcut_network import (
    GLOBAL_TESTS,
    LEAST_MONTHS,
    LEAST_SLOPE,
    TESTS,
    measure_changes,
    places_of,
    summarise_changes,
)
from boneage_xai.analysis.shortcut_words import data_alarm, network_alarm
from boneage_xai.attribution.interventions import Predictor, run_predictor
from boneage_xai.files import staged_file, write_json, write_table
from boneage_xai.predict import Progress
from boneage_xai.store import AnalysisFolder, check_same_analysis
from boneage_xai.types import Cohort

CHANGES_TABLE = "shortcuts.parquet"
EXAMPLE_FILE = "shortcuts_example.npz"
RESULT_FILE = "shortcuts.json"

DEFAULT_LIMIT = 200
"""Cases whose predictions are looked at unless told otherwise."""

NO_MAPS = "no case has a label map of hand and marker; `boneage-xai regions` makes them"


def audit_run(
    prepared: RunOnCohort,
    everyone: Cohort,
    out: Path,
    *,
    limit: int | None = DEFAULT_LIMIT,
    data_limit: int | None = None,
    seed: int = 0,
    predict: Predictor | None = None,
    on_read: Progress | None = None,
    on_predict: Progress | None = None,
) -> AnalysisFolder:
    """Audit a run and the data it is analysed on, and write what was found.

    Args:
        prepared: run and cases whose predictions are looked at.
        everyone: every case of the source, also those that the run was trained on: that is
            where a network learns shortcuts.
        out: analysis folder, new or of the same run and data; maps of attribution in it are
            looked at, too.
        limit: at most so many predictions, chosen evenly over sex and age.
        data_limit: at most so many radiographs are read again for the look at the data.
        seed: of folds, shuffling and resampling.
        predict: another way to months than the run's network, in its own precision.
        on_read: called with (done, total) radiographs read.
        on_predict: called with (done, total) cases predicted.

    Returns:
        The analysis folder with ``shortcuts.json`` and ``shortcuts.parquet``.

    Raises:
        ConfigError: a limit below 1.
        DataError: a radiograph or label map that cannot be read or is of another size.
        ReportError: ``out`` holds another analysis.
    """
    run, data = prepared.record()
    check_same_analysis(out, run=run, data=data)
    cohort = choose_cases(prepared.cohort, limit)
    groups = features_of(everyone, prepared.cache, limit=data_limit, progress=on_read)
    found, skipped = audit_data(groups, everyone.bone_ages_months(), everyone.is_male(), seed=seed)
    if all(case.region_file is None for case in everyone):
        skipped |= {key: NO_MAPS for key in skipped if key.startswith(("marker", "background"))}
    predict = predict or run_predictor(prepared.run)
    changes = measure_changes(prepared, cohort, predict, on_predict)
    network, untested = summarise_changes(changes, seed=seed)
    if all(case.region_file is None for case in cohort):
        untested = {
            test: why if test in GLOBAL_TESTS else NO_MAPS for test, why in untested.items()
        }
    attribution, unseen = _audit_attribution(prepared, out, seed)
    alarms = [data_alarm(row) for row in found[found["alarm"]].to_dict("records")]
    alarms += [network_alarm(row) for row in network[network["alarm"]].to_dict("records")]
    step = {
        "n": len(cohort),
        "limit": limit,
        "n_data": len(everyone),
        "data_limit": data_limit,
        "seed": seed,
    }
    folder = AnalysisFolder.add_step(out, run=run, data=data, step="shortcuts", detail=step)
    write_table(out / CHANGES_TABLE, changes)
    _write_example(prepared, changes, out)
    result = {
        "alarm": bool(alarms),
        "alarms": alarms,
        "data": found.to_dict("records"),
        "network": network.to_dict("records"),
        "attribution": attribution,
        "not_checked": {"data": skipped, "network": untested, "attribution": unseen},
        "rules": {
            "significance": SIGNIFICANCE,
            "least_r2": dict(LEAST_R2),
            "least_auc": LEAST_AUC,
            "least_months": LEAST_MONTHS,
            "least_slope": LEAST_SLOPE,
            "tests": list(TESTS),
        },
    }
    write_json(out / RESULT_FILE, result)
    return folder


def _write_example(prepared: RunOnCohort, changes: pd.DataFrame, out: Path) -> None:
    """Keep the pictures of the case that moves by the median amount when its marker is erased."""
    file = out / EXAMPLE_FILE
    moves = changes[(changes["test"] == "marker_moved") & changes["control_months"].notna()]
    if moves.empty:
        file.unlink(missing_ok=True)
        return
    erased = changes[
        (changes["test"] == "marker_erased") & changes["case_id"].isin(moves["case_id"])
    ]
    order = erased["change_months"].abs().sort_values(kind="stable")
    case_id = str(erased.loc[order.index[len(order) // 2], "case_id"])
    places = places_of(prepared, prepared.cohort[case_id])
    if places is None:
        return
    pixels = np.array(prepared.cache.pixels[prepared.cache.rows([case_id])[0]])
    made = edits(pixels, places)
    control = made["marker_erased"].control
    pictures: dict[str, Any] = {
        "original": pixels,
        "marker_erased": made["marker_erased"].pixels,
        "marker_moved": made["marker_moved"].pixels,
        "control": pixels if control is None else control,
    }
    with staged_file(file) as staged:
        np.savez_compressed(staged, **pictures, case_id=np.array(case_id))


def attribution_shares(
    map_months: npt.NDArray[np.floating[Any]], places: Places
) -> Mapping[str, tuple[float, float, float]]:
    """Return how much of |map| lies on what is not the hand.

    Args:
        map_months: (S, S) attribution.
        places: what is not the hand.

    Returns:
        ``marker``, ``border`` and ``background``: share of |map|, share of the area, and share of
        |map| on as large a part elsewhere: the marker's shape in the background, the strip inside
        of the border; NaN for the background. What has no pixels is left out.
    """
    size = np.abs(map_months.astype(np.float64))
    total = float(size.sum()) or 1.0
    parts = {
        "marker": (places.marker, places.away),
        "border": (places.border, places.ring),
        "background": (places.background, np.zeros_like(places.background)),
    }
    return {
        name: (
            float(size[mask].sum()) / total,
            float(mask.mean()),
            # Of another area where the hand is nearer, so per pixel.
            float(size[other].mean()) * float(mask.sum()) / total if other.any() else np.nan,
        )
        for name, (mask, other) in parts.items()
        if mask.any()
    }


def _audit_attribution(
    prepared: RunOnCohort, out: Path, seed: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return a row per method and part, and why there is none."""
    folder = AnalysisFolder.open(out) if (out / "analysis.json").is_file() else None
    maps = folder.maps() if folder is not None else None
    if maps is None:
        return [], {"maps": "no maps in the folder; `boneage-xai attribute` makes them"}
    attributes: Mapping[str, Any] = dict(maps.attrs)
    rows: list[dict[str, Any]] = []
    prepared_ids = {case.case_id for case in prepared.cohort}
    for index, case_id in enumerate(attributes["case_ids"]):
        if case_id not in prepared_ids:
            continue
        places = places_of(prepared, prepared.cohort[case_id])
        if places is None:
            continue
        for method in attributes["methods"]:
            values: Any = maps[method]
            shares = attribution_shares(np.asarray(values[index]), places)
            rows += [
                {"method": method, "part": part, "share": s, "area": area, "elsewhere": other}
                for part, (s, area, other) in shares.items()
            ]
    if not rows:
        return [], {"maps": f"of the cases with maps {NO_MAPS.partition(';')[0]}"}
    summary: list[dict[str, Any]] = []
    for (method, part), group in pd.DataFrame(rows).groupby(["method", "part"], sort=False):
        mean = bootstrap_mean(group["share"], seed=seed)
        known = group["elsewhere"].dropna()
        summary.append(
            {
                "method": method,
                "part": part,
                "n": len(group),
                "share": mean["value"],
                "low": mean["low"],
                "high": mean["high"],
                "area": float(group["area"].mean()),
                "elsewhere": float(known.mean()) if len(known) else None,
            }
        )
    return summary, {}
