from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from boneage_xai.figures.training import learning_curve
from reports.learning import shown_history

HISTORY = pd.DataFrame(
    {
        "epoch": np.arange(4),
        "train_mae_months": [30.0, 25.0, 20.0, 18.0],
        "val_mae_months": [40.0, 21.0, 30.0, 22.5],
    }
)


@pytest.mark.parametrize(
    ("run", "epoch"), [({"training": {"best_epoch": 3}}, 4), ({"training": {}}, 2), ({}, 2)]
)
def test_the_kept_epoch_is_marked_and_not_a_lower_error(run: dict[str, object], epoch: int) -> None:
    shown = shown_history(HISTORY, run)
    assert shown["epoch"].tolist() == [1, 2, 3, 4]
    assert shown.loc[shown["kept"], "epoch"].tolist() == [epoch]


def test_the_figure_rings_the_kept_epoch() -> None:
    shown = shown_history(HISTORY, {"training": {"best_epoch": 3}})
    (legend,) = learning_curve(shown, 4).legends
    assert "kept: 22.5 months at epoch 4" in [text.get_text() for text in legend.get_texts()]
