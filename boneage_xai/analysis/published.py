"""What two published studies of bone age report, each number with the set it was measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MeasuredOn = Literal["test", "validation", "not stated"]


@dataclass(frozen=True)
class PublishedError:
    """One mean absolute error from the literature.

    Args:
        study: ``wouters`` (fine-tuned) or ``kimmel`` (from scratch); None for what the studies
            are held against.
        what: the network by torchvision's name, or in words what was measured.
        with_sex: whether the sex was given; None where the number is not of one arm.
        measured_on: ``test`` is the official RSNA 2017 test set of 200 cases, ``validation`` the
            study's own part of the training set.
        mae_months: the value, or the lowest of several.
        highest_mae_months: the highest of several.
    """

    study: Literal["wouters", "kimmel"] | None
    what: str
    with_sex: bool | None
    measured_on: MeasuredOn
    mae_months: float
    highest_mae_months: float | None = None


STUDY_NAMES = {"wouters": "Wouters", "kimmel": "Kimmel, Ojeh and Safwan"}
STUDY_CASES = {"train": 10_088, "validation": 2_523, "test": 200}
"""Cases of both studies, all of the RSNA 2017 challenge."""

PUBLISHED: tuple[PublishedError, ...] = (
    PublishedError("wouters", "vgg16", True, "test", 15.9),
    PublishedError("wouters", "vgg16", False, "test", 16.9),
    PublishedError("wouters", "resnet18", True, "test", 11.7),
    PublishedError("wouters", "resnet18", False, "test", 14.6),
    PublishedError("wouters", "vgg16", None, "validation", 10.6),
    PublishedError("wouters", "resnet18", None, "validation", 10.6),
    PublishedError("wouters", "mean of the data", None, "not stated", 33.7),
    PublishedError("kimmel", "inception_v3", True, "test", 7.279),
    PublishedError("kimmel", "resnet101", True, "test", 8.766),
    PublishedError(None, "radiologists", None, "test", 6.0),
    PublishedError(None, "top ten of the RSNA 2017 challenge", None, "test", 4.265, 4.907),
)


def published_error(
    study: str | None, network: str, with_sex: bool | None, measured_on: MeasuredOn
) -> PublishedError | None:
    """Return what a study reports for one arm on one set, None where it reports nothing."""
    for one in PUBLISHED:
        key = (one.study, one.what, one.with_sex, one.measured_on)
        if key == (study, network, with_sex, measured_on):
            return one
    return None
