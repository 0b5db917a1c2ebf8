"""Data sets as the command line takes and shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.console import bars, note, say_table
from apps.models import note_unknown_training
from boneage_xai.data.cohort import CohortReading, read_source, require_clean, select_cohort
from boneage_xai.data.inspection import inspect_images
from boneage_xai.errors import ConfigError
from boneage_xai.types import Cohort

if TYPE_CHECKING:
    from boneage_xai.analysis.run_analysis import RunOnCohort, SplitName
    from boneage_xai.models.interface import Model


def parse_columns(pairs: Sequence[str] | None) -> dict[str, str] | None:
    """Turn ``ROLE=HEADER`` options into a mapping.

    Raises:
        ConfigError: an option of another form.
    """
    if not pairs:
        return None
    columns: dict[str, str] = {}
    for pair in pairs:
        role, separator, header = pair.partition("=")
        if not separator or not role or not header:
            raise ConfigError(f"--column {pair}: expected ROLE=HEADER")
        columns[role.strip()] = header.strip()
    return columns


def one_cohort(
    source: Path, columns: Sequence[str] | None, skip_problems: bool, wanted: str | None
) -> tuple[Cohort, int]:
    """Return the cohort to work on and the number of rows left out of it.

    Of several sets the one called ``wanted`` is taken; problems of the others do not count.
    """
    reading = read_source(source, parse_columns(columns))
    names = [one.name for one in reading.cohorts]
    name = wanted if wanted in names else None
    chosen = select_cohort(reading, name)
    at = names.index(chosen.name)
    if not skip_problems:
        require_clean(reading.of_set[at], source)
        return chosen, 0
    with bars("Checking images") as (bar,):
        unreadable = [
            problem.case_id
            for problem in inspect_images(chosen, progress=bar).problems
            if problem.severity == "error"
        ]
    kept = [case.case_id for case in chosen if case.case_id not in set(unreadable)]
    left_out = reading.n_rows[at] - len(kept)
    if left_out:
        note(f"{source}: {left_out} rows with problems left out")
    return chosen.select(kept), left_out


def prepared_cases(
    model: Model,
    source: Path,
    *,
    split: SplitName,
    column: Sequence[str] | None = None,
    skip_problems: bool = False,
    regions: Path | None = None,
    cache: Path | None = None,
    quiet: bool = False,
) -> tuple[RunOnCohort, Cohort]:
    """Read a data set and prepare those of its cases that a network is to be analysed on.

    Args:
        model: the network.
        source: the data set.
        split: as for ``prepare_run``.
        column: ``ROLE=HEADER`` options.
        skip_problems: whether rows with problems are left out.
        regions: folder of region maps that take the place of the data set's own.
        cache: where prepared pixels are kept.
        quiet: show no progress.

    Returns:
        The network with its cases, and all cases of the data set.
    """
    from boneage_xai.analysis.run_analysis import prepare_run
    from boneage_xai.regions.cohort_regions import with_regions

    note_unknown_training(model)
    cohort, left_out = one_cohort(source, column, skip_problems, model.cohort_name)
    if regions is not None:
        cohort = with_regions(cohort, regions)
    with bars("Decoding", quiet=quiet) as (decoding,):
        prepared = prepare_run(
            model,
            cohort,
            source=str(source),
            split=split,
            skipped_problem_rows=left_out,
            cache_folder=cache,
            progress=decoding,
        )
    return prepared, cohort


def say_cohorts(reading: CohortReading, described: Sequence[dict[str, Any]]) -> None:
    """Print the description of each set of a source, side by side."""
    columns = [_described(summary) for summary in described]
    say_table(
        f"{reading.source} ({reading.layout})",
        ["set", *[str(summary["name"]) for summary in described]],
        [[name, *[column[name] for column in columns]] for name in columns[0]] if columns else [],
    )


def _heaped(found: dict[str, dict[str, float]] | None) -> str:
    if found is None:
        return "–"
    shares = [f"{found[name]['share']:.0%}" for name in ("12", "6")]
    expected = [f"{found[name]['expected']:.0%}" for name in ("12", "6")]
    return f"{', '.join(shares)} (evenly: {', '.join(expected)})"


def _described(summary: dict[str, Any]) -> dict[str, str]:
    ages = summary.get("bone_age_months")
    sides = [summary.get("width_px"), summary.get("height_px")]
    return {
        "cases": f"{summary['n']:,}",
        "boys, girls": f"{summary['male']:,}, {summary['female']:,}",
        "with bone age": f"{summary['labelled']:,}",
        "bone age, mean ± sd": f"{ages['mean']:.1f} ± {ages['sd']:.1f} months" if ages else "–",
        "bone age, range": f"{ages['min']:g} to {ages['max']:g} months" if ages else "–",
        "whole years, half years": _heaped(summary.get("heaping")),
        "with chronological age": f"{summary['with_chronological_age']:,}",
        "with region maps": f"{summary['with_regions']:,}",
        "width × height": " × ".join(f"{side[0]}–{side[1]} px" for side in sides if side) or "–",
        "with pixel spacing": f"{summary.get('with_pixel_spacing', 0):,}",
    }
