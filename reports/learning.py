"""Learning curves as people read them: epochs counted from 1, the epoch that was kept marked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd


def shown_history(history: pd.DataFrame, run: Mapping[str, Any]) -> pd.DataFrame:
    """Return a history with epochs counted from 1 and the column ``kept``.

    Where inputs grow in stages the kept epoch is the best at full size, and an earlier one may
    have had a smaller error.

    Args:
        history: of ``AnalysisFolder.history``, with a validation MAE.
        run: the analysis's record of its run; without the kept epoch the lowest validation MAE
            counts.
    """
    recorded = (run.get("training") or {}).get("best_epoch")
    kept = history["epoch"] == recorded
    if not kept.any():
        lowest = history["val_mae_months"].idxmin()
        kept = pd.Series(history.index == lowest, index=history.index)
    return history.assign(epoch=history["epoch"] + 1, kept=kept)
