"""The nouns of the toolkit: sex, radiograph, case, cohort, prediction, attribution, region map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from boneage_xai.errors import DataError

FloatImage = npt.NDArray[np.float32]
LabelImage = npt.NDArray[np.integer[Any]]


class Sex(Enum):
    """Sex of the child, as networks and reference standards for bone age need it."""

    FEMALE = "F"
    MALE = "M"

    @property
    def is_male(self) -> bool:
        """Whether this is ``Sex.MALE``: the coding (male = 1) of the RSNA tables."""
        return self is Sex.MALE


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One radiograph in memory.

    Args:
        pixels: (H, W) float32 in [0, 1], bone bright.
        source: file it was read from.
        pixel_spacing_mm: (row, column) spacing in mm, None when the file does not tell.
        sex: sex stated inside the file (DICOM), None when absent or unknown.
        chronological_age_months: age stated inside the file (DICOM), None when absent.
    """

    pixels: FloatImage
    source: Path
    pixel_spacing_mm: tuple[float, float] | None = None
    sex: Sex | None = None
    chronological_age_months: float | None = None

    def __post_init__(self) -> None:
        """Refuse pixels that are not a two-dimensional float32 image.

        Raises:
            DataError: wrong number of dimensions, type, or no pixels at all.
        """
        if self.pixels.ndim != 2 or self.pixels.dtype != np.float32 or self.pixels.size == 0:
            raise DataError(
                f"{self.source}: expected (H, W) float32 pixels, "
                f"found shape {self.pixels.shape} of {self.pixels.dtype}"
            )


@dataclass(frozen=True)
class Case:
    """One child's radiograph with what is known about it.

    Args:
        case_id: unique within its cohort.
        image: path of the radiograph.
        sex: required; an unknown sex never becomes a case.
        bone_age_months: reference reading, None when there is none.
        chronological_age_months: age at the radiograph, None when unknown.
        region_file: label map (PNG) of hand regions, None when there is none.
        attributes: what further columns of the label table say, header to text.
    """

    case_id: str
    image: Path
    sex: Sex
    bone_age_months: float | None = None
    chronological_age_months: float | None = None
    region_file: Path | None = None
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Cohort:
    """A named sequence of cases with unique ids."""

    name: str
    cases: tuple[Case, ...]
    _index: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the cases by id.

        Raises:
            DataError: two cases share an id.
        """
        index: dict[str, int] = {}
        for position, case in enumerate(self.cases):
            if case.case_id in index:
                raise DataError(
                    f"cohort {self.name}: case id {case.case_id} appears more than once"
                )
            index[case.case_id] = position
        object.__setattr__(self, "_index", index)

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        """Iterate over the cases in order."""
        return iter(self.cases)

    def __getitem__(self, case_id: str) -> Case:
        """Return the case with this id.

        Raises:
            DataError: no such case.
        """
        if case_id not in self._index:
            raise DataError(f"cohort {self.name}: no case with id {case_id}")
        return self.cases[self._index[case_id]]

    def where(
        self,
        *,
        sex: Sex | None = None,
        age_months: tuple[float, float] | None = None,
    ) -> Cohort:
        """Return the cases of one sex and/or with bone age in ``[low, high)`` months.

        Cases without a reference bone age match no age range.
        """

        def keep(case: Case) -> bool:
            if sex is not None and case.sex is not sex:
                return False
            if age_months is None:
                return True
            age = case.bone_age_months
            return age is not None and age_months[0] <= age < age_months[1]

        return replace(self, cases=tuple(case for case in self.cases if keep(case)))

    def select(self, case_ids: Sequence[str]) -> Cohort:
        """Return the cases with these ids, in that order.

        Raises:
            DataError: an id that the cohort does not hold.
        """
        return replace(self, cases=tuple(self[case_id] for case_id in case_ids))

    def labelled(self) -> Cohort:
        """Return the cases that have a reference bone age."""
        return replace(
            self, cases=tuple(case for case in self.cases if case.bone_age_months is not None)
        )

    def bone_ages_months(self) -> npt.NDArray[np.float64]:
        """Return the reference bone ages, (n,) float64 in months, NaN where absent."""
        return np.array(
            [np.nan if c.bone_age_months is None else c.bone_age_months for c in self.cases],
            dtype=np.float64,
        )

    def is_male(self) -> npt.NDArray[np.bool_]:
        """Return (n,) bool, True for boys."""
        return np.array([case.sex.is_male for case in self.cases], dtype=np.bool_)

    def describe(self) -> dict[str, Any]:
        """Return counts by sex and the distribution of reference bone age in months."""
        ages = self.bone_ages_months()
        known = ages[~np.isnan(ages)]
        male = int(self.is_male().sum())
        summary: dict[str, Any] = {
            "name": self.name,
            "n": len(self),
            "male": male,
            "female": len(self) - male,
            "labelled": len(known),
            "with_chronological_age": sum(
                case.chronological_age_months is not None for case in self.cases
            ),
            "with_regions": sum(case.region_file is not None for case in self.cases),
        }
        if len(known):
            quartiles = np.percentile(known, [25, 50, 75])
            summary["bone_age_months"] = {
                "mean": float(known.mean()),
                "sd": float(known.std()),
                "min": float(known.min()),
                "q1": float(quartiles[0]),
                "median": float(quartiles[1]),
                "q3": float(quartiles[2]),
                "max": float(known.max()),
            }
        return summary


@dataclass(frozen=True)
class Prediction:
    """A model's answer for one case.

    Args:
        case_id: the case.
        predicted_months: predicted bone age.
        reference_months: reference bone age, None when the case has none.
        sex: the sex the model was given.
        model_id: identifier of the model (hash of its weights).
    """

    case_id: str
    predicted_months: float
    reference_months: float | None
    sex: Sex
    model_id: str

    @property
    def error_months(self) -> float | None:
        """Predicted minus reference, None without a reference."""
        if self.reference_months is None:
            return None
        return self.predicted_months - self.reference_months


@dataclass(frozen=True, eq=False)
class Attribution:
    """A signed explanation of one prediction, on the grid of the network's input.

    Args:
        case_id: the case.
        method: name of the method, e.g. ``integrated_gradients``.
        map_months: (H, W) float32, months each pixel adds; positive means older.
        baseline: name of the baseline the map is measured against.
        settings: what the method was run with.
        completeness_gap_months: sum of the map minus (prediction - prediction at the
            baseline); None where the method promises no completeness.
    """

    case_id: str
    method: str
    map_months: FloatImage
    baseline: str
    settings: Mapping[str, Any]
    completeness_gap_months: float | None = None


@dataclass(frozen=True, eq=False)
class RegionMap:
    """Which anatomical region each pixel belongs to.

    Args:
        labels: (H, W) integers; 0 is background.
        names: label value to region name, background included.
    """

    labels: LabelImage
    names: Mapping[int, str]

    def __post_init__(self) -> None:
        """Refuse labels without a name.

        Raises:
            DataError: not an integer image, or a label value that has no name.
        """
        if self.labels.ndim != 2 or not np.issubdtype(self.labels.dtype, np.integer):
            raise DataError(
                f"region map: expected (H, W) integers, found shape {self.labels.shape} "
                f"of {self.labels.dtype}"
            )
        nameless = set(np.unique(self.labels).tolist()) - set(self.names)
        if nameless:
            raise DataError(f"region map: labels {sorted(nameless)} have no name")
