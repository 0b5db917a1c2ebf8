"""What the sex does to predictions: the same radiograph read as a girl's and as a boy's.

A hand of given maturity is a younger girl's or an older boy's, so a network that has learnt this
answers with more months for boys. By how much can be held against the ages at which girls and boys
pass the same milestone; how much the error owes to it shows when the sex is swapped or withheld.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from boneage_xai.analysis.metrics import N_RESAMPLES, bootstrap_mean, paired_difference
from boneage_xai.analysis.multiplicity import holm
from boneage_xai.analysis.run_analysis import RunOnCohort
from boneage_xai.analysis.subgroups import AGE_BINS_MONTHS, age_bin_indices
from boneage_xai.anatomy import CENTRES
from boneage_xai.errors import DataError
from boneage_xai.files import write_table
from boneage_xai.predict import Progress, predict_pixels
from boneage_xai.store import AnalysisFolder, check_same_analysis

SEX_TABLE = "sex_effect.parquet"

GIVEN = ("other sex", "sex withheld")
"""What the network is told instead of the sex; withheld is the mean of both answers."""


def predict_both(prepared: RunOnCohort, progress: Progress | None = None) -> pd.DataFrame:
    """Predict every case as a girl and as a boy; the network is left as it was found.

    Args:
        prepared: run and cases.
        progress: called with (done, total) predictions.

    Returns:
        Per case case_id, sex, reference_months (NaN where unknown), as_girl_months,
        as_boy_months and effect_months, boy minus girl.

    Raises:
        DataError: a prediction that is no finite number.
    """
    cohort, cache = prepared.cohort, prepared.cache
    rows = cache.rows([case.case_id for case in cohort])
    total = 2 * len(cohort)
    answers = {}
    for turn, is_male in enumerate((False, True)):

        def step(done: int, n: int, turn: int = turn) -> None:
            if progress is not None:
                progress(turn * n + done, total)

        sexes = np.full(len(cohort), is_male)
        answers[is_male] = predict_pixels(
            prepared.run.network, cache.pixels, sexes, progress=step, rows=rows
        )
    if not all(np.isfinite(months).all() for months in answers.values()):
        raise DataError(f"{prepared.source}: expected finite months for both sexes, found others")
    return pd.DataFrame(
        {
            "case_id": [case.case_id for case in cohort],
            "sex": [case.sex.value for case in cohort],
            "reference_months": cohort.bone_ages_months(),
            "as_girl_months": answers[False],
            "as_boy_months": answers[True],
            "effect_months": answers[True] - answers[False],
        }
    )


def milestones() -> pd.DataFrame:
    """Return the approximate median ages at which girls and boys pass the same milestone.

    Returns:
        Per ossification centre of the hand and event (``appears``, ``complete``): centre, event,
        girls_months, boys_months, difference_months, boys minus girls.

    Source:
        As in ``boneage_xai.anatomy``: Garn and others for appearance, Greulich and Pyle for
        completion; approximate, and medians of other children than those analysed.
    """
    rows = [
        {
            "centre": name,
            "event": event,
            "girls_months": ages.girls,
            "boys_months": ages.boys,
            "difference_months": ages.boys - ages.girls,
        }
        for name, centre in CENTRES.items()
        for event, ages in (
            ("appears", centre.appears_months),
            ("complete", centre.complete_months),
        )
    ]
    return pd.DataFrame(rows)


def summarise_sex_effect(
    table: pd.DataFrame, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> pd.DataFrame:
    """Average the effect by age, beside what milestones would let expect.

    Cases go by the answer for a girl and milestones by the girls' age, so that both stand for
    the same maturity; answers beyond the bins go to the nearest.

    Args:
        table: as from ``predict_both``.
        seed: of the resampling.
        n_resamples: number of resamples of cases.

    Returns:
        Per age bin that holds a case: age_from_months, age_to_months, n, effect_months with low
        and high (95% interval, NaN for one case); n_milestones in the bin, and the median,
        smallest and largest difference between boys and girls at them: milestone_months,
        milestone_low, milestone_high (NaN where there is none).
    """
    _refuse_empty(table)
    marks = milestones()
    places = age_bin_indices(marks["girls_months"])
    own = age_bin_indices(table["as_girl_months"].clip(AGE_BINS_MONTHS[0], AGE_BINS_MONTHS[-1]))
    rows = []
    for index, (low, high) in enumerate(pairwise(AGE_BINS_MONTHS)):
        effects = table["effect_months"].to_numpy()[own == index]
        if not effects.size:
            continue
        mean = bootstrap_mean(effects, seed=seed, n_resamples=n_resamples)
        passed = marks["difference_months"].to_numpy()[places == index]
        rows.append(
            {
                "age_from_months": low,
                "age_to_months": high,
                "n": int(effects.size),
                "effect_months": mean["value"],
                "low": np.nan if mean["low"] is None else mean["low"],
                "high": np.nan if mean["high"] is None else mean["high"],
                "n_milestones": int(passed.size),
                "milestone_months": float(np.median(passed)) if passed.size else np.nan,
                "milestone_low": float(passed.min()) if passed.size else np.nan,
                "milestone_high": float(passed.max()) if passed.size else np.nan,
            }
        )
    return pd.DataFrame(rows)


def errors_without_sex(
    table: pd.DataFrame, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> pd.DataFrame:
    """Measure how much the error grows when the sex is wrong or withheld.

    The network always needs a sex, so withholding it gives the mean of its answers for both: what
    it would say on average to someone who tosses a coin. No weight is changed.

    Args:
        table: as from ``predict_both``; cases without a reference do not count.
        seed: of the resampling.
        n_resamples: number of resamples of cases.

    Returns:
        Per kind of ``GIVEN`` and group (sex None for all, F, M): given, sex, n, mae_months,
        mae_change_months against the right sex with low and high (95%), p_value (Wilcoxon on
        absolute errors) and p_holm, corrected over the rows. Empty without references.
    """
    _refuse_empty(table)
    known = table.dropna(subset=["reference_months"])
    is_male = (known["sex"] == "M").to_numpy()
    reference, girl, boy = (
        known[name].to_numpy(dtype=np.float64)
        for name in ("reference_months", "as_girl_months", "as_boy_months")
    )
    own = np.where(is_male, boy, girl) - reference
    others = (np.where(is_male, girl, boy) - reference, (girl + boy) / 2 - reference)
    rows: list[dict[str, Any]] = []
    for given, errors in zip(GIVEN, others, strict=True):
        for sex, mask in ((None, np.ones_like(is_male)), ("F", ~is_male), ("M", is_male)):
            if not mask.any():
                continue
            found = paired_difference(errors[mask], own[mask], seed=seed, n_resamples=n_resamples)
            change, p_value = found["mae_difference_months"], found["wilcoxon_p"]
            rows.append(
                {
                    "given": given,
                    "sex": sex,
                    "n": found["n"],
                    "mae_months": float(np.abs(errors[mask]).mean()),
                    "mae_change_months": change["value"],
                    "low": np.nan if change["low"] is None else change["low"],
                    "high": np.nan if change["high"] is None else change["high"],
                    "p_value": np.nan if p_value is None else p_value,
                }
            )
    found_rows = pd.DataFrame(rows)
    return found_rows.assign(p_holm=holm(found_rows["p_value"])) if rows else found_rows


def _refuse_empty(table: pd.DataFrame) -> None:
    if table.empty:
        raise DataError("sex effect: expected at least one case, found none")


def sex_effect_run(
    prepared: RunOnCohort, out: Path, *, progress: Progress | None = None
) -> AnalysisFolder:
    """Predict every case as a girl and as a boy, and write what came of it.

    Args:
        prepared: run and cases.
        out: analysis folder, new or of the same run and data.
        progress: called with (done, total) predictions.

    Returns:
        The analysis folder with ``sex_effect.parquet``.

    Raises:
        ReportError: ``out`` holds another analysis.
    """
    run, data = prepared.record()
    check_same_analysis(out, run=run, data=data)
    table = predict_both(prepared, progress)
    detail = {"n": len(table)}
    folder = AnalysisFolder.add_step(out, run=run, data=data, step="sex_effect", detail=detail)
    write_table(out / SEX_TABLE, table)
    return folder
