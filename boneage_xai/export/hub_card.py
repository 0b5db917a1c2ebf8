"""A card for publishing a run on a model hub, of nothing but what was recorded and measured.

It is not the card that describes a network from elsewhere to the toolkit: that is
``boneage_xai.models.model_card``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from boneage_xai.analysis.stress import summarise_stress
from boneage_xai.errors import ReportError, one_clause
from boneage_xai.figures.style import SEX_NAMES
from boneage_xai.models.checkpoint import RunManifest, read_manifest
from boneage_xai.store import AnalysisFolder

_METRICS = {
    "mae_months": ("mae", "MAE, months"),
    "rmse_months": ("rmse", "RMSE, months"),
    "bias_months": ("bias", "Bias, months"),
    "within_12_months": ("share_within_12_months", "Share within 12 months"),
}
_BASELINES = {
    "mean": "mean of the training cases",
    "sex_mean": "mean per sex",
    "intensity_ridge": "ridge on global image intensity",
}
# Steps of analysis.json, named like the commands that take them.
_STEPS = ("evaluate", "stress", "shortcuts")
_STRESS_SHOWN = 5
_SIGNIFICANT = 0.05

Estimate = Mapping[str, Any]


def hub_card(run: Path, analysis: Path | None = None) -> str:
    """Write the card of a run in the format of Hugging Face: YAML front matter and Markdown.

    Paths, case ids and sources are left out, since the card is made to be published. The license is
    left empty: nothing recorded says what it is.

    Args:
        run: the run folder.
        analysis: of this run; None leaves errors and limitations unmeasured.

    Returns:
        The card's text.

    Raises:
        CheckpointError: no finished run.
        ReportError: an analysis of another run.

    Source:
        Mitchell et al., Model Cards for Model Reporting, 2019, for the sections.
    """
    manifest = read_manifest(run)
    folder = None if analysis is None else AnalysisFolder.open(analysis)
    if folder is not None and folder.manifest["run"].get("model_id") != _model_id(manifest):
        raise ReportError(
            f"{folder.path}: expected the analysis of {run} (model {_model_id(manifest)}), found "
            f"that of model {folder.manifest['run'].get('model_id')}"
        )
    metrics = folder.metrics() if folder is not None and "evaluate" in _steps(folder) else None
    try:
        sections = [
            _front_matter(manifest, folder, metrics),
            *_opening(manifest),
            *_training(manifest),
            *_errors(manifest, folder, metrics),
            *_limitations(folder, metrics),
        ]
    except (KeyError, TypeError, AttributeError) as error:
        if folder is None:
            raise
        raise ReportError(
            f"{analysis}: expected in its JSON what this toolkit writes, found another form "
            f"({one_clause(error)})"
        ) from error
    return "\n".join(sections) + "\n"


def _model_id(manifest: RunManifest) -> str:
    return manifest.weights_sha256[:12]


def _steps(folder: AnalysisFolder) -> Mapping[str, Any]:
    return dict(folder.manifest["steps"])


def _front_matter(
    manifest: RunManifest, folder: AnalysisFolder | None, metrics: Mapping[str, Any] | None
) -> str:
    content: dict[str, Any] = {
        "library_name": "boneage_xai",
        "tags": ["bone-age", "hand-radiograph", "medical-imaging", "regression", "research-only"],
        "license": None,
    }
    # A leaderboard would take errors on children that the network has seen for those of a test.
    if folder is not None and metrics is not None and not folder.has_training_cases():
        data = folder.manifest["data"]
        confidence = metrics["settings"]["confidence"]
        content["model-index"] = [
            {
                "name": manifest.recipe_name,
                "results": [
                    {
                        "task": {"type": "bone-age", "name": "Bone age from a hand radiograph"},
                        "dataset": {
                            "name": str(data.get("cohort")),
                            "type": _slug(str(data.get("cohort"))),
                            "split": str(data.get("split")),
                        },
                        "metrics": [
                            {
                                "type": kind,
                                "name": name,
                                "value": metrics["overall"][key]["value"],
                                "args": {
                                    "n": metrics["overall"]["n"],
                                    "confidence": confidence,
                                    "low": metrics["overall"][key]["low"],
                                    "high": metrics["overall"][key]["high"],
                                },
                            }
                            for key, (kind, name) in _METRICS.items()
                        ],
                    }
                ],
            }
        ]
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    # Whoever publishes the network must choose: weights, data and code may each set terms.
    text = text.replace("license: null", "license:  # to be filled in by whoever publishes this")
    return f"---\n{text}---"


def _opening(manifest: RunManifest) -> Iterator[str]:
    settings = manifest.architecture
    reads = "and the sex" if settings.sex_features else "alone"
    answers = {
        "value": "a single value",
        "expectation": "the mean of a distribution over ages that the network predicts",
    }
    prepared = manifest.preprocessing
    fit = {"pad": "padded to a square", "squash": "squashed to a square"}[prepared.fit]
    stretch = prepared.stretch_percentiles
    yield f"# {_plain(manifest.recipe_name)}"
    yield ""
    yield (
        f"Predicts bone age in months from a hand radiograph {reads}. For research use only. This "
        "is not a medical device."
    )
    yield ""
    yield "## Network"
    yield f"- Backbone: {_plain(settings.backbone)}, one grey channel; output: " + (
        f"{answers[settings.output]}."
    )
    yield (
        f"- Input: {prepared.size_px} × {prepared.size_px} pixels, {fit}; contrast "
        + (
            "as it is"
            if stretch is None
            else f"stretched between percentiles {stretch[0]:g} and {stretch[1]:g}"
        )
        + (", CLAHE" if prepared.clahe else "")
        + (", uniform margins of the film cut away" if prepared.remove_border else "")
        + "."
    )
    if settings.sex_features:
        yield "- Sex: male = 1, female = 0. The prediction depends on it."
    yield f"- Weights: `model.safetensors`, SHA-256 `{manifest.weights_sha256}`."
    yield ""
    yield "```python"
    yield "from pathlib import Path"
    yield "from boneage_xai.models.checkpoint import load_run"
    yield 'run = load_run(Path("."))  # this folder'
    yield "```"
    yield ""


def _training(manifest: RunManifest) -> Iterator[str]:
    data, training = manifest.data, manifest.recipe.get("training", {})
    weights = manifest.recipe.get("initialisation", {}).get("weights", "none")
    began = {"none": "from scratch", "imagenet": "from ImageNet weights"}
    yield "## Training"
    yield (
        f"- Data: {data.n_train:,} cases of the set {_plain(data.cohort)}; {data.n_validation:,} "
        "more for validation, which also chose the best epoch."
    )
    if data.skipped_problem_rows:
        yield f"- {data.skipped_problem_rows:,} rows with problems were left out."
    yield (
        f"- Bone age of the training cases: {manifest.age_mean_months:.1f} ± "
        f"{manifest.age_sd_months:.1f} months."
    )
    yield (
        f"- Begun {began.get(weights, 'from earlier weights')}; {manifest.epochs} epochs, the best "
        f"was number {manifest.best_epoch + 1}; seed {manifest.seed}."
    )
    named = ("optimiser", "learning_rate", "weight_decay", "batch_size", "loss", "schedule")
    shown = ", ".join(
        f"{name.replace('_', ' ')} {_plain(str(training[name]))}"
        for name in named
        if training.get(name) is not None
    )
    if shown:
        yield f"- {shown[0].upper()}{shown[1:]}."
    versions = ", ".join(f"{name} {number}" for name, number in manifest.versions.items())
    yield f"- boneage_xai {manifest.toolkit_version}; {_plain(versions)}."
    yield ""


def _errors(
    manifest: RunManifest, folder: AnalysisFolder | None, metrics: Mapping[str, Any] | None
) -> Iterator[str]:
    yield "## Measured errors"
    yield (
        f"On the {manifest.data.n_validation:,} validation cases the MAE was "
        f"{manifest.val_mae_months:.2f} months; they chose the epoch, so expect more elsewhere."
    )
    yield ""
    if folder is None or metrics is None:
        return
    data, detail = folder.manifest["data"], _steps(folder)["evaluate"]
    confidence = f"{100 * metrics['settings']['confidence']:g}%"
    corrected = (
        " Predictions are those after the run's linear correction."
        if detail.get("corrected")
        else ""
    )
    yield (
        f"On {metrics['overall']['n']:,} cases of the set {_plain(str(data.get('cohort')))} "
        f"(split: {_plain(str(data.get('split')))}), with {confidence} "
        f"intervals:{corrected}"
    )
    yield ""
    if folder.has_training_cases():
        yield (
            "**The network was trained on cases among these**, so that these errors are likely to "
            "be smaller than on children it has not seen."
        )
        yield ""
    elif chosen_by := detail.get("n_validation"):
        yield (
            f"{chosen_by:,} of these cases chose the best epoch, so that errors on them come out "
            "a little too small."
        )
        yield ""
    yield "| | cases | MAE, months | RMSE, months | bias, months | within 12 months |"
    yield "|---|---|---|---|---|---|"
    yield _row("this network", metrics["overall"])
    for group in metrics["subgroups"]:
        if group["by"] == "sex":
            yield _row(SEX_NAMES[group["sex"]], group)
    for name, block in metrics["baselines"].items():
        yield _row(f"baseline: {_plain(_BASELINES.get(name, name))}", block)
    yield ""
    intervals = folder.intervals()
    if intervals is not None:
        overall = intervals["overall"]
        coverage = overall["coverage"]
        yield (
            f"{100 * intervals['settings']['coverage']:g}% prediction intervals, calibrated on "
            f"{intervals['settings']['n_calibrated']:,} of these cases, held the reference in "
            f"{_with_interval(coverage, percent=True)} of the other {overall['n']:,}; they are "
            f"{overall['width_months']:.1f} months wide on average."
        )
        yield ""


def _row(name: str, block: Mapping[str, Any]) -> str:
    cells = [_with_interval(block[key], percent=key.startswith("within")) for key in _METRICS]
    return f"| {name} | {block['n']:,} | " + " | ".join(cells) + " |"


def _limitations(folder: AnalysisFolder | None, metrics: Mapping[str, Any] | None) -> Iterator[str]:
    yield "## Limitations"
    yield "All of these were measured; what was not is named below."
    yield ""
    if metrics is not None:
        yield from (f"- {line}" for line in _of_errors(metrics))
    if folder is not None:
        yield from (f"- {line}" for line in _of_stress(folder))
        yield from (f"- {line}" for line in _of_shortcuts(folder))
    done = set() if folder is None else set(_steps(folder))
    for step in _STEPS:
        if step not in done:
            yield f"- Not measured: what `boneage-xai {step}` would tell."


def _of_errors(metrics: Mapping[str, Any]) -> Iterator[str]:
    overall = metrics["overall"]
    beyond = overall["within_12_months"]
    yield (
        f"{100 * (1 - beyond['value']):.0f}% of cases were read wrong by more than 12 months, "
        f"{100 * (1 - overall['within_24_months']['value']):.0f}% by more than 24."
    )
    bias = overall["bias_months"]
    if _excludes(bias, 0.0):
        word = "old" if bias["value"] > 0 else "young"
        yield f"Read too {word} on average: bias {_with_interval(bias, signed=True)} months."
    ages = [one for one in metrics["subgroups"] if one["by"] == "age" and not one["few_cases"]]
    if len(ages) > 1:
        worst = max(ages, key=lambda one: float(one["mae_months"]["value"]))
        low, high = worst["age_months"]
        yield (
            f"Largest error by age: {low:g} to {high:g} months, MAE "
            f"{_with_interval(worst['mae_months'])} over {worst['n']:,} cases."
        )
    few = [one for one in metrics["subgroups"] if one["by"] == "age" and one["few_cases"]]
    if few:
        spans = ", ".join(f"{one['age_months'][0]:g} to {one['age_months'][1]:g}" for one in few)
        yield f"Too few cases to tell at {spans} months."
    pulled = (metrics["calibration"]["line"] or {}).get("regression_to_the_mean")
    if pulled is not None and _excludes(pulled, 0.0) and pulled["value"] > 0:
        yield (
            "Predictions are drawn towards the mean: of each month of distance from it "
            f"{_with_interval(pulled, digits=2)} month is lost."
        )
    for name, block in metrics["baselines"].items():
        if overall["mae_months"]["value"] >= block["mae_months"]["value"]:
            yield f"No better than the baseline {_plain(_BASELINES.get(name, name))}."


def _of_stress(folder: AnalysisFolder) -> Iterator[str]:
    table = folder.stress()
    if table is None:
        return
    summary = summarise_stress(table)
    harmful = summary[(summary["p_holm"] < _SIGNIFICANT) & (summary["low"] > 0)]
    count = len(summary)
    if harmful.empty:
        yield (
            f"None of {count} changes of appearance raised the error beyond chance, over "
            f"{table['case_id'].nunique():,} cases."
        )
        return
    yield (
        f"{len(harmful)} of {count} changes of appearance raised the error beyond chance; most: "
        + "; ".join(
            f"{str(row['transform']).replace('_', ' ')} by {row['mae_change_months']:.1f} months "
            f"({row['low']:.1f} to {row['high']:.1f}, {row['n_labelled']:,} cases)"
            for row in harmful.nlargest(_STRESS_SHOWN, "mae_change_months").to_dict("records")
        )
        + "."
    )


def _of_shortcuts(folder: AnalysisFolder) -> Iterator[str]:
    found = folder.shortcuts()
    if found is None:
        return
    yield from (f"Shortcut alarm. {_plain(str(sentence))}" for sentence in found["alarms"])
    if not found["alarms"]:
        yield "The shortcut audit raised no alarm by its rules."
    missing = [*found["not_checked"]["data"], *found["not_checked"]["network"]]
    if missing:
        names = ", ".join(_plain(name.replace("_", " ")) for name in missing)
        yield f"The shortcut audit could not check: {names}."


def _excludes(estimate: Estimate, value: float) -> bool:
    low, high = estimate.get("low"), estimate.get("high")
    return low is not None and high is not None and not low <= value <= high


def _with_interval(
    estimate: Estimate, *, percent: bool = False, signed: bool = False, digits: int = 1
) -> str:
    value, low, high = (estimate.get(key) for key in ("value", "low", "high"))
    if value is None:
        return "–"
    scale, places = (100, 0) if percent else (1, digits)
    sign = "+" if signed else ""
    text = f"{value * scale:{sign}z.{places}f}" + ("%" if percent else "")
    if low is None or high is None:
        return text
    return f"{text} ({low * scale:{sign}z.{places}f} to {high * scale:{sign}z.{places}f})"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "data"


def _plain(text: str) -> str:
    """Return text that Markdown and HTML show as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#$])", r"\\\1", " ".join(text.split()))
