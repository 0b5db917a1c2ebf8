"""The record of a phantom cohort, ``phantom.json``: all that it takes to draw it again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.special import ndtr

from boneage_xai import __version__
from boneage_xai.errors import DataError, first_problem
from boneage_xai.files import read_json
from boneage_xai.phantom.faults import Fault
from boneage_xai.phantom.settings import PhantomSettings

AgeDistribution = Literal["rsna", "uniform"]

MANIFEST_FILE = "phantom.json"
FORMAT: Literal["boneage_xai.phantom"] = "boneage_xai.phantom"
VERSION: Literal[3] = 3

AGE_RANGE_MONTHS = (1, 228)
"""Youngest and oldest true age, and label, of a cohort."""

READER_FULL_SD_FROM_MONTHS: Literal[60] = 60
"""Age from which a reader's labels have their full spread; below it is less in proportion."""

_CASES_AT_ONCE = 2048


class IrreducibleError(BaseModel):
    """How far a perfect reader of the truth is from the labels, in months.

    Args:
        expected_mae_months: mean over all labels that the reader could have given to these
            hands: about sqrt(2/π) of the mean spread, with rounding to whole months and the
            limits of the range taken into account.
        realised_mae_months: with the labels of this cohort.
        mean_reader_sd_months: mean spread of the labels about the truth.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    expected_mae_months: float
    realised_mae_months: float
    mean_reader_sd_months: float


class PhantomManifest(BaseModel):
    """The content of ``phantom.json``; unknown keys are refused.

    Args:
        n: number of cases.
        seed: seed of the cohort.
        ages: distribution of the true ages.
        reader_sd_months: spread of one reader's labels from 5 years on.
        reader_full_sd_from_months: age from which the spread is full, for the record.
        settings: size, side and nuisances.
        faults: what the images betray.
        sensitivity_delta_months: step in age of the sensitivity maps, None without maps.
        irreducible_error: how far a perfect reader is from the labels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["boneage_xai.phantom"] = FORMAT
    version: Literal[3] = VERSION
    toolkit_version: str = __version__
    n: int = Field(ge=1)
    seed: int = Field(ge=0)
    ages: AgeDistribution
    reader_sd_months: float = Field(ge=0)
    reader_full_sd_from_months: Literal[60] = READER_FULL_SD_FROM_MONTHS
    settings: PhantomSettings
    faults: tuple[Fault, ...] = ()
    sensitivity_delta_months: float | None = None
    irreducible_error: IrreducibleError


def irreducible_error(
    ages_months: npt.ArrayLike, labels_months: npt.ArrayLike, sd_months: npt.ArrayLike
) -> IrreducibleError:
    """Return how far the truth is from one reader's labels.

    A label is the truth with a normal error, rounded to whole months and kept within
    ``AGE_RANGE_MONTHS``. The expectation sums over all labels there are; without rounding and
    range it would be sqrt(2/π) times the mean spread.

    Args:
        ages_months: (n,) true ages.
        labels_months: (n,) labels.
        sd_months: (n,) spread of the normal error at each age.
    """
    ages = np.asarray(ages_months, dtype=np.float64)
    sds = np.asarray(sd_months, dtype=np.float64)
    low, high = AGE_RANGE_MONTHS
    labels = np.arange(low, high + 1, dtype=np.float64)
    limits = np.concatenate([[-math.inf], labels[:-1] + 0.5, [math.inf]])
    total = 0.0
    for start in range(0, len(ages), _CASES_AT_ONCE):
        age = ages[start : start + _CASES_AT_ONCE, None]
        sd = np.maximum(sds[start : start + _CASES_AT_ONCE, None], 1e-9)
        share = np.diff(ndtr((limits - age) / sd), axis=1)
        total += float((share * np.abs(labels - age)).sum())
    return IrreducibleError(
        expected_mae_months=round(total / len(ages), 4),
        realised_mae_months=round(float(np.abs(np.asarray(labels_months) - ages).mean()), 4),
        mean_reader_sd_months=round(float(sds.mean()), 4),
    )


def read_manifest(folder: Path) -> PhantomManifest:
    """Read and check ``phantom.json``.

    Args:
        folder: folder written by ``boneage-xai phantom``.

    Raises:
        DataError: not such a folder, or one of another version.
    """
    file = folder / MANIFEST_FILE
    if not file.is_file():
        raise DataError(
            f"{folder}: expected a cohort of phantoms (from `boneage-xai phantom`), "
            f"found no {MANIFEST_FILE} in it"
        )
    content = read_json(file)
    if not isinstance(content, dict):
        raise DataError(f"{file}: expected an object, found {type(content).__name__}")
    found = (content.get("format"), content.get("version"))
    if found != (FORMAT, VERSION):
        raise DataError(
            f"{file}: expected {FORMAT} version {VERSION}, found {found[0]} version {found[1]}"
        )
    try:
        return PhantomManifest.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{file}: {first_problem(error)}") from error
