"""What a search leaves behind: the table of trials, the best recipe and figures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from boneage_xai.figures.search import (
    KnobAxis,
    knob_importance,
    search_curves,
    search_history,
    search_knobs,
)
from boneage_xai.figures.style import figure_bytes
from boneage_xai.files import write_bytes, write_table, write_text
from trainers.recipe import Recipe
from trainers.search.space import Choices, Knob, with_values
from trainers.search.study import SURPLUS

TRIALS_FILE = "trials.csv"
BEST_FILE = "best.toml"
FIGURES_FOLDER = "figures"

_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
_FEWEST_FOR_IMPORTANCE = 8


@dataclass(frozen=True)
class SearchResult:
    """What is known of a search.

    Args:
        trials: trial, state, value (validation MAE in months, of complete ones), a column for each
            knob, epochs, seconds; in the order of their numbers.
        n_validation: cases that every trial was validated on.
        best: number, validation MAE in months and values of the best trial; None before one is
            complete.
        recipe: with these values.
        importance: share of the variance of the value that each knob explains (fANOVA, Hutter et
            al., 2014), empty with fewer than eight complete trials.
    """

    trials: pd.DataFrame
    n_validation: int
    best: Mapping[str, Any] | None
    recipe: Recipe | None
    importance: Mapping[str, float]

    def n(self, state: str) -> int:
        """Return how many trials are in this state."""
        return int((self.trials["state"] == state).sum())


def write_results(
    study: Any, recipe: Recipe, knobs: Sequence[Knob], out: Path, n_validation: int
) -> SearchResult:
    """Write the table of trials and, if one is complete, the best recipe.

    Args:
        study: an Optuna study.
        recipe: that was searched over.
        knobs: of the search.
        out: folder of the search.
        n_validation: cases that every trial was validated on.
    """
    trials = _trials_table(study, knobs)
    write_table(out / TRIALS_FILE, trials)
    complete = trials[trials["state"] == "complete"]
    best, tuned = None, None
    if len(complete):
        trial = study.best_trial
        values = {knob.key: knob.loaded(trial.params[knob.key]) for knob in knobs}
        best = {"trial": trial.number, "val_mae_months": float(trial.value), "values": values}
        tuned = with_values(recipe, {**values, "name": f"{recipe.name}-tuned"})
        head = (
            f"# Trial {trial.number}, the best of {len(complete)} complete ones by the MAE over "
            f"{n_validation} validation cases:\n# {trial.value:.2f} months. The same cases chose "
            "it, so that this is optimistic.\n"
        )
        write_text(out / BEST_FILE, head + recipe_toml(tuned))
    return SearchResult(trials, n_validation, best, tuned, _importance(study, len(complete)))


def _trials_table(study: Any, knobs: Sequence[Knob]) -> pd.DataFrame:
    trials = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in _STATES and SURPLUS not in trial.user_attrs
    ]
    rows = [
        {
            "trial": trial.number,
            "state": _STATES[trial.state.name],
            "value": trial.value if trial.state.name == "COMPLETE" else None,
            **{knob.key: _shown(knob, trial.params.get(knob.key)) for knob in knobs},
            "epochs": len(trial.intermediate_values),
            "seconds": trial.user_attrs.get("seconds"),
        }
        for trial in trials
    ]
    names = ["trial", "state", "value", *(knob.key for knob in knobs), "epochs", "seconds"]
    kinds = {"trial": int, "state": str, "value": float, "epochs": int, "seconds": float}
    # As objects, whole numbers of a knob stay whole beside a trial that has none.
    return pd.DataFrame(rows, columns=names, dtype=object).astype(kinds)


def _shown(knob: Knob, stored: Any) -> Any:
    value = None if stored is None else knob.loaded(stored)
    return value if isinstance(value, int | float | str | None) else json.dumps(value)


def _importance(study: Any, n_complete: int) -> dict[str, float]:
    import optuna

    if n_complete < _FEWEST_FOR_IMPORTANCE:
        return {}
    try:
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
    except RuntimeError:  # all trials have the same value
        return {}
    return {str(key): float(share) for key, share in found.items()}


def recipe_toml(recipe: Recipe) -> str:
    """Return a recipe as TOML; keys that are None are left out, which is their default."""
    content = recipe.model_dump(mode="json")
    plain = {key: value for key, value in content.items() if not isinstance(value, Mapping)}
    lines = [*_lines(plain)]
    for section, values in content.items():
        if isinstance(values, Mapping):
            lines += ["", f"[{section}]", *_lines(values)]
    return "\n".join(lines) + "\n"


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if value is not None:
            yield f"{key} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(_lines(value)) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # What JSON and TOML write alike: strings, numbers, true and false.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def write_figures(
    study: Any, recipe: Recipe, knobs: Sequence[Knob], out: Path, result: SearchResult
) -> None:
    """Draw the search into the folder ``figures``, as far as its trials allow.

    Args:
        study: an Optuna study.
        recipe: that was searched over.
        knobs: of the search.
        out: folder of the search.
        result: as from ``write_results``.
    """
    drawings = {}
    if result.n("complete"):
        drawings["search_history"] = search_history(result.trials)
        drawings["search_knobs"] = search_knobs(result.trials, [_axis(knob) for knob in knobs])
    # Another worker may have begun and ended a trial since the table was made.
    ended = result.trials.loc[result.trials["state"].isin(["complete", "pruned"]), "trial"]
    curves = {
        trial.number: dict(sorted(finite.items()))
        for trial in study.get_trials(deepcopy=False)
        if trial.number in set(ended) and (finite := _finite_values(trial))
    }
    if curves:
        drawings["search_curves"] = search_curves(
            curves, result.trials, _sizes_px(recipe, knobs, max(map(max, curves.values())))
        )
    if result.importance:
        drawings["search_importance"] = knob_importance(
            result.importance, n_trials=result.n("complete")
        )
    for name, figure in drawings.items():
        write_bytes(out / FIGURES_FOLDER / f"{name}.png", figure_bytes(figure))


def _finite_values(trial: Any) -> dict[int, float]:
    return {
        step: value for step, value in trial.intermediate_values.items() if math.isfinite(value)
    }


def _axis(knob: Knob) -> KnobAxis:
    if isinstance(knob, Choices):
        labels = tuple(str(_shown(knob, knob.stored(value))) for value in knob.values)
        return KnobAxis(knob.key, labels=labels)
    return KnobAxis(knob.key, limits=(knob.low, knob.high), log=knob.log)


def _sizes_px(recipe: Recipe, knobs: Sequence[Knob], epochs: int) -> list[int]:
    """Return the input size of each epoch, none where it is a knob."""
    if {"preprocessing.size_px", "training.stages"} & {knob.key for knob in knobs}:
        return []
    full_px = recipe.preprocessing.size_px
    return [recipe.training.size_px_of_epoch(epoch, full_px) for epoch in range(epochs)]
