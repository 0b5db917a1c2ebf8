from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boneage_xai.analysis.multiplicity import difference_shown, holm
from boneage_xai.errors import DataError


def test_by_hand() -> None:
    # 4 × .01, 3 × .02 (raised to no less), 2 × .03, 1 × .5
    np.testing.assert_allclose(holm([0.5, 0.01, 0.03, 0.02]), [0.5, 0.04, 0.06, 0.06])
    np.testing.assert_array_equal(holm([0.4, np.nan, 0.9]), [0.8, np.nan, 0.9])
    assert holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_corrected_lie_between_the_raw_and_bonferroni(values: list[float]) -> None:
    raw, corrected = np.array(values), holm(values)
    assert (corrected >= raw).all()
    assert (corrected <= np.minimum(1, len(raw) * raw) + 1e-12).all()
    assert (np.diff(corrected[np.argsort(raw, kind="stable")]) >= 0).all()


@pytest.mark.parametrize("values", [[1.5], [-0.1], [[0.5]]])
def test_what_is_no_p_value_is_refused(values: list[float]) -> None:
    with pytest.raises(DataError, match="expected p-values"):
        holm(values)


def test_a_difference_needs_the_test_and_the_interval() -> None:
    shown = difference_shown(
        [0.01, 0.01, 0.01, 0.05, np.nan, 0.01],
        [0.1, -2.0, -0.1, 0.1, 0.1, np.nan],
        [2.0, -0.1, 2.0, 2.0, 2.0, np.nan],
    )
    assert shown.tolist() == [True, True, False, False, False, False]
