"""Figures of who is in a cohort."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
import numpy.typing as npt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.errors import ReportError
from boneage_xai.figures.style import (
    SEX_COLOURS,
    SEX_NAMES,
    WIDTH_INCHES,
    age_axis,
    age_limits,
    new_figure,
    styled,
)
from boneage_xai.types import Cohort, FloatImage, Sex


@styled
def bone_age_by_sex(reference_months: npt.ArrayLike, sex: npt.ArrayLike) -> Figure:
    """Draw the distribution of reference bone age, girls above and boys below.

    Args:
        reference_months: (n,) months; NaN (no reference) is left out and counted in the title.
        sex: (n,) 'F' or 'M'.

    Returns:
        Two axes on one age scale and one count scale.

    Raises:
        ReportError: no case with a reference bone age.
    """
    frame = pd.DataFrame(
        {
            "age": np.asarray(reference_months, dtype=np.float64),
            "sex": np.asarray(sex, dtype=object),
        }
    )
    known = frame.dropna(subset=["age"])
    if known.empty:
        raise ReportError("figure: expected at least one case with a bone age, found none")
    low, high = age_limits(known["age"])
    figure = new_figure(4.4)
    rows = figure.subplots(2, 1, sharex=True, sharey=True)
    for axes, code in zip(rows, SEX_NAMES, strict=True):
        ages = known.loc[known["sex"] == code, "age"]
        if len(ages):
            sns.histplot(
                x=ages,
                binrange=(low, high),
                binwidth=6.0,
                color=SEX_COLOURS[code],
                alpha=0.9,
                edgecolor="white",
                linewidth=0.5,
                ax=axes,
            )
            axes.axvline(float(ages.median()), color="black", linewidth=1.2, linestyle="--")
        name = f"{SEX_NAMES[code].capitalize()}, n = {len(ages):,}"
        median = f"; median {ages.median():.0f} months (dashed)" if len(ages) else ""
        axes.set_title(name + median)
        axes.set_ylabel("cases per 6 months")
    rows[0].yaxis.set_major_locator(MaxNLocator(5, integer=True))
    age_axis(rows[0], "x", low, high)
    missing = len(frame) - len(known)
    cases = "case" if missing == 1 else "cases"
    note = f"; {missing:,} {cases} without reference not shown" if missing else ""
    rows[1].set_xlabel(f"reference bone age (months){note}")
    rows[0].set_xlabel("")
    return figure


SHEET_AGES_MONTHS = (12.0, 36.0, 72.0, 108.0, 144.0, 180.0, 216.0)
"""Ages of a contact sheet's columns: 1, 3, 6, 9, 12, 15 and 18 years."""


@styled
def contact_sheet(
    images: Mapping[tuple[str, float], tuple[FloatImage, float]],
    ages_months: tuple[float, ...] = SHEET_AGES_MONTHS,
) -> Figure:
    """Draw radiographs of both sexes side by side by age, girls above and boys below.

    Each is shown between its own 1st and 99.5th percentile of grey, so that exposures do not
    distract from anatomy.

    Args:
        images: ('F' or 'M', age of the column in months) to (H, W) pixels and the case's own
            bone age in months; cells without an image stay empty.
        ages_months: the columns.

    Raises:
        ReportError: no image at all.
    """
    if not images:
        raise ReportError("figure: expected at least one radiograph, found none")
    width = WIDTH_INCHES / len(ages_months)
    figure = new_figure(2 * (1.3 * width + 0.25))
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.0, hspace=0.0)
    rows = figure.subplots(len(SEX_NAMES), len(ages_months), squeeze=False)
    for (row, code), (column, age) in product(enumerate(SEX_NAMES), enumerate(ages_months)):
        axes = rows[row, column]
        if (code, age) not in images:
            axes.set_axis_off()
            continue
        # All cells alike: what an image leaves of its cell is dark, like the film.
        axes.set(adjustable="datalim", facecolor="black", xticks=[], yticks=[])
        axes.grid(visible=False)
        pixels, own_months = images[code, age]
        low, high = np.percentile(pixels, (1, 99.5))
        axes.imshow(pixels, cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
        name = SEX_NAMES[code].removesuffix("s")
        axes.set_title(f"{name}, {own_months:.0f} months", loc="center", fontsize=8)
    return figure


def contact_sheet_of(cohort: Cohort, ages_months: tuple[float, ...] = SHEET_AGES_MONTHS) -> Figure:
    """Draw a cohort's contact sheet: of each sex the case whose bone age is nearest each age.

    Args:
        cohort: cases with bone ages; those without are passed over.
        ages_months: the columns; an age that no case comes within a year of stays empty.

    Raises:
        DataError: a radiograph that cannot be read.
        ReportError: no case near any of the ages.
    """
    images = {}
    for sex, age in product(Sex, ages_months):
        near = cohort.where(sex=sex, age_months=(age - 12, age + 12 + 1e-6))
        if not len(near):
            continue
        ages = near.bone_ages_months()
        nearest = int(np.argmin(np.abs(ages - age)))
        pixels = read_radiograph(near.cases[nearest].image).pixels
        images[sex.value, age] = pixels, float(ages[nearest])
    return contact_sheet(images, ages_months)
