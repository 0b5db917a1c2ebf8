"""What can be wrong with a data set: one frozen record per problem, nothing dropped silently."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from boneage_xai.errors import DataError

Severity = Literal["error", "note"]

# Every kind of problem the readers report, and what it means for the case.
PROBLEM_KINDS: dict[str, str] = {
    "malformed_row": "a row with more or fewer cells than the header",
    "missing_id": "a row without a usable case id",
    "duplicate_id": "several rows or files claim one case id: none of them becomes a case",
    "unknown_sex": "a sex that is missing or not one of the documented spellings",
    "missing_age": "an empty bone age in a table that has a bone age column",
    "impossible_age": "an age that is no number or outside what is possible",
    "ages_like_years": "bone ages that are all so low that they may be years",
    "missing_image": "a row whose radiograph is not there",
    "ambiguous_image": "a row for which several radiographs could be meant",
    "unreadable_file": "a file that cannot be read as a radiograph",
    "sex_disagrees": "a DICOM header and a label table that state different sexes",
    "repeated_image": "several cases whose radiographs are the same, pixel by pixel",
    "empty_table": "a label table with a header and no rows",
    "image_without_row": "radiographs that no row of a label table names",
    "spare_table": "a label table whose radiographs belong to a published set beside it",
    "unlisted_folder": "a folder that cannot be listed",
    "unrecognised_table": "a table beside the data that is no label table",
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a data set, in one sentence.

    Args:
        kind: one of ``PROBLEM_KINDS``.
        severity: ``error`` when a case is lost by it, ``note`` when none is.
        message: one sentence that names file and case, what was expected, what was found.
        case_id: the case, None when no case is known.
        path: the table or image it was found in.
    """

    kind: str
    severity: Severity
    message: str
    case_id: str | None = None
    path: Path | None = None


def require_no_errors(problems: Iterable[Problem], source: Path | str) -> None:
    """Refuse problems of severity ``error``.

    Args:
        problems: what the readers reported; notes are let pass.
        source: what was read, as the user named it.

    Raises:
        DataError: at least one error; the sentence counts them and quotes the first.
    """
    errors = [problem for problem in problems if problem.severity == "error"]
    if not errors:
        return
    if len(errors) == 1:
        raise DataError(
            f"{source}: 1 problem must be mended first: {errors[0].message} "
            f"(`boneage-xai cohort {source}` shows it)"
        )
    raise DataError(
        f"{source}: {len(errors)} problems must be mended first, "
        f"the first of them: {errors[0].message} (`boneage-xai cohort {source}` lists all)"
    )
