"""Figures of who is in a cohort."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from boneage_xai.errors import ReportError
from boneage_xai.figures.style import (
    SEX_COLOURS,
    SEX_NAMES,
    age_axis,
    age_limits,
    new_figure,
    styled,
)


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
    note = f"; {missing:,} cases without reference not shown" if missing else ""
    rows[1].set_xlabel(f"reference bone age (months){note}")
    rows[0].set_xlabel("")
    return figure
