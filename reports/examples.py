"""Which attributed cases a report shows."""

from __future__ import annotations

from typing import Any

import pandas as pd

from boneage_xai.store import PREDICTION_COLUMNS, AnalysisFolder


def attributed_cases(folder: AnalysisFolder) -> pd.DataFrame | None:
    """Return the attributed cases in the order of their maps, None where there are none.

    Returns:
        Row (position in the Zarr arrays), case_id, and sex, reference_months,
        predicted_months and error_months where the case was evaluated (else missing).
    """
    maps = folder.maps()
    attributions = folder.attributions()
    if maps is None or attributions is None:
        return None
    case_ids: Any = maps.attrs["case_ids"]
    cases = pd.DataFrame({"case_id": pd.Series(list(case_ids), dtype="string")})
    cases.insert(0, "row", range(len(cases)))
    if (folder.path / "predictions.parquet").is_file():
        predictions = folder.predictions()
        known = predictions.assign(case_id=predictions["case_id"].astype("string"))
        return cases.merge(known[PREDICTION_COLUMNS], on="case_id", how="left")
    first = attributions.drop_duplicates("case_id")[["case_id", "prediction_months"]]
    first = first.rename(columns={"prediction_months": "predicted_months"})
    first = first.assign(case_id=first["case_id"].astype("string"))
    unknown = cases.assign(sex=None, reference_months=float("nan"), error_months=float("nan"))
    return unknown.merge(first, on="case_id", how="left")


def examples(cases: pd.DataFrame, typical: int = 6, worst: int = 2) -> pd.DataFrame:
    """Choose cases to show: some spread over sex and age, and those with the largest errors.

    Args:
        cases: of ``attributed_cases``.
        typical: how many are spread over sex and age.
        worst: how many have the largest errors among the others.

    Returns:
        The chosen rows with a column ``why``; the spread ones ordered by reference age.
    """
    ages = cases["reference_months"].fillna(cases["predicted_months"])
    chosen: list[int] = []
    pools = [cases.index[cases["sex"] == sex] for sex in ("F", "M")]
    present = [pool for pool in pools if len(pool)] or [cases.index]
    for turn, pool in enumerate(present):
        wanted = typical // len(present) + (1 if turn < typical % len(present) else 0)
        ordered = ages.loc[pool].sort_values(kind="stable").index
        # The middle of each of as many equal parts of the age order.
        positions = [int((part + 0.5) * len(ordered) / wanted) for part in range(wanted)]
        chosen += [int(ordered[position]) for position in positions if len(ordered)]
    chosen = sorted(dict.fromkeys(chosen), key=lambda index: float(ages.loc[index]))
    rest = cases.drop(index=chosen).dropna(subset=["error_months"])
    largest = rest["error_months"].abs().sort_values(ascending=False, kind="stable").index[:worst]
    spread = cases.loc[chosen].assign(why="spread over sex and age")
    failed = cases.loc[largest].assign(why="largest error among the other attributed cases")
    return pd.concat([spread, failed], ignore_index=True)
