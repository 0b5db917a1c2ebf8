"""Results in plain words: numbers with intervals, names of groups, the sentences of a summary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from boneage_xai.store import AnalysisFolder

if TYPE_CHECKING:
    from boneage_xai.analysis.single_reading import HandSeen

SEX_WORDS = {"F": "girl", "M": "boy"}
SEX_PLURALS = {"F": "girls", "M": "boys"}
BASELINE_NAMES = {
    "mean": "Mean age of the training cases",
    "sex_mean": "Mean age per sex",
    "intensity_ridge": "Image brightness only (ridge regression)",
}
SPLIT_WORDS = {
    "held-out": "none of which the network was trained on",
    "validation": "not trained on, but used to choose the best epoch",
    "train": "on which the network was trained",
    "all": "some of which the network may have been trained on",
}
# What a map is measured against, and what follows for reading it.
BASELINE_WORDS = {
    "black": (
        "a black image",
        "Against black every bright pixel may count, the outline of the hand and its brightness "
        "included; dark places can hardly count, whatever they mean.",
    ),
    "blurred": (
        "the same image, blurred",
        "Against the blurred image edges and fine structure count; what blurring leaves, such as "
        "the size and the brightness of the hand, does not.",
    ),
    "mean": (
        "the mean of the training images",
        "Against the mean image it counts how this hand differs from the average one, of both "
        "sexes and all ages, and also how differently it lies.",
    ),
    "expected": (
        "training images of the same sex",
        "Against other children's images, averaged, it counts how this hand differs from theirs; "
        "another draw of children gives a somewhat different map.",
    ),
}
OPTIMISTIC = (
    "The network was trained on cases of this analysis, so that the errors are likely to be "
    "smaller than on children it has not seen."
)
UNRECORDED = (
    "What the network was trained on is not recorded, since it was trained elsewhere. If cases of "
    "this analysis were among it, the errors are smaller than on children it has not seen. No "
    "baselines could be fitted for the same reason."
)
_FINGERS_POINT = {1: "to the right", 2: "down", 3: "to the left"}
RESEARCH_USE = "For research use only. Not a medical device; not for diagnosis."


def months(value: float | None, *, signed: bool = False, digits: int = 1) -> str:
    """Return a number of months as text, with a true minus sign, '–' where unknown."""
    if value is None or math.isnan(value):
        return "–"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", "−")


def counted(number: int, noun: str, nouns: str = "") -> str:
    """Return a number with its noun, ``1 case`` and ``1,600 cases``."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def percent(share: float | None) -> str:
    """Return a share from 0 to 1 in percent, '–' where unknown."""
    return "–" if share is None or math.isnan(share) else f"{100 * share:.0f}%"


def estimate_text(metric: str, estimate: Mapping[str, float | None]) -> tuple[str, str]:
    """Return the value of a metric and its 95% interval as text.

    Args:
        metric: its name in metrics.json.
        estimate: ``{value, low, high}``.

    Returns:
        The value, and 'low to high' or an empty text where there is no interval.
    """
    value, low, high = (estimate.get(key) for key in ("value", "low", "high"))
    if metric.startswith("within_"):
        return percent(value), "" if low is None else f"{percent(low)} to {percent(high)}"
    signed = metric == "bias_months"
    interval = f"{months(low, signed=signed)} to {months(high, signed=signed)}"
    return months(value, signed=signed), "" if low is None else interval


def estimate_cell(metric: str, estimate: Mapping[str, float | None]) -> str:
    """Return value and interval as a table cell of two lines."""
    value, interval = estimate_text(metric, estimate)
    return f"{value}\n{interval}" if interval else value


def age_span(span: tuple[float, float] | list[float]) -> str:
    """Return an age bin as text, in months and years."""
    low, high = span
    return f"{low:g}–{high:g} months ({low / 12:g}–{high / 12:g} years)"


def group_name(group: Mapping[str, Any]) -> str:
    """Return what the cases of a subgroup have in common, e.g. 'girls, 24–60 months …'."""
    parts = []
    if "sex" in group:
        parts.append(SEX_PLURALS.get(group["sex"], str(group["sex"])))
    if "age_months" in group:
        parts.append(age_span(group["age_months"]))
    return ", ".join(parts)


def layer_name(name: str) -> str:
    """Return the name of a layer without the part that all share."""
    return name.removeprefix("backbone.")


def method_name(name: str) -> str:
    """Return the name of an attribution method as words."""
    return name.replace("_", " ").replace(" x ", " × ").capitalize()


def baseline_words(name: str) -> str:
    """Return the image, or images, that a baseline's name stands for."""
    return BASELINE_WORDS.get(name, (f"a {name} image", ""))[0]


def baseline_sentences(name: str) -> str:
    """Return which baseline maps were measured from and why it matters."""
    words, reading = BASELINE_WORDS.get(name, (f"a {name} image", ""))
    return (
        f"The maps divide the difference between the prediction for the radiograph and that for "
        f"{words} (the baseline). The choice matters, because a map can only show what differs "
        f"between the two. {reading}"
    ).strip()


def preferred_method(methods: list[str]) -> str:
    """Return the method shown where there is room for one: that which adds up to months."""
    return "integrated_gradients" if "integrated_gradients" in methods else methods[0]


def performance_sentences(metrics: Mapping[str, Any], model: str) -> tuple[str, ...]:
    """Return what the metrics say, in plain words with the numbers filled in."""
    overall = metrics["overall"]
    mae, interval = estimate_text("mae_months", overall["mae_months"])
    first = (
        f"On {counted(overall['n'], 'case')} the bone age predicted by “{model}” lies {mae} months "
        f"from the reference on average"
        + (f" (95% interval {interval} months)" if interval else "")
    )
    near = [
        f"{estimate_text(f'within_{limit}_months', overall[f'within_{limit}_months'])[0]} within "
        f"{limit} months"
        for limit in (6, 12, 24)
    ]
    sentences = [f"{first}; {near[0]}, {near[1]}, {near[2]}."]
    sentences.append(_bias_sentence(overall["bias_months"]) + _trend_sentence(metrics["agreement"]))
    if baselines := metrics.get("baselines"):
        named = [
            f"{BASELINE_NAMES.get(name, name)}: {months(entry['mae_months']['value'])}"
            for name, entry in baselines.items()
        ]
        best = min(entry["mae_months"]["value"] for entry in baselines.values())
        verdict = (
            "not closer than the best baseline"
            if overall["mae_months"]["value"] >= best
            else "closer than every baseline"
            if all(_surely_closer(metrics, name) for name in baselines)
            else "closer than every baseline in these cases, but not surely so in others"
        )
        sentences.append(
            f"The model is {verdict} on the same cases (mean absolute error in months – "
            f"{'; '.join(named)})."
        )
    if worst := _hardest_group(metrics["subgroups"]):
        value, interval = estimate_text("mae_months", worst["mae_months"])
        sentences.append(
            f"Of the groups by sex and age with at least 20 cases, the largest error is that of "
            f"{group_name(worst)}: {value} months ({interval}) on {worst['n']:,} cases."
        )
    return tuple(sentences)


def _surely_closer(metrics: Mapping[str, Any], baseline: str) -> bool:
    """Return whether the interval of the paired difference to a baseline lies below 0."""
    found = metrics.get("paired", {}).get(baseline, {}).get("mae_difference_months", {})
    high = found.get("high")
    return high is not None and high < 0


def _bias_sentence(bias: Mapping[str, float | None]) -> str:
    value, low, high = bias["value"], bias["low"], bias["high"]
    if value is None or low is None or high is None:
        return ""
    text, interval = estimate_text("bias_months", bias)
    if low <= 0 <= high:
        return f"Over all cases no bias can be shown: {text} months ({interval}). "
    return (
        f"Over all cases it reads {months(abs(value))} months too "
        f"{'old' if value > 0 else 'young'} (bias {text}, {interval}). "
    )


def _trend_sentence(agreement: Mapping[str, Any]) -> str:
    slope = agreement["slope"]
    if slope["value"] is None:
        return ""
    value, low, high = (months(12 * slope[key], signed=True) for key in ("value", "low", "high"))
    numbers = (
        f"{value} months per year of the mean of prediction and reference, "
        f"95% interval {low} to {high}"
    )
    if slope["low"] <= 0 <= slope["high"]:
        return f"No trend of the difference over age can be shown ({numbers})."
    if slope["value"] < 0:
        return f"It reads towards the middle: the young too old, the old too young ({numbers})."
    return f"It overstates the spread: the young too young, the old too old ({numbers})."


def _hardest_group(subgroups: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    groups = [
        group
        for group in subgroups
        if "sex" in group and "age_months" in group and not group["few_cases"]
    ]
    return max(groups, key=lambda group: float(group["mae_months"]["value"]), default=None)


def run_name(folder: AnalysisFolder) -> str:
    """Return how the model of an analysis is named: its recipe."""
    return str(folder.manifest["run"].get("recipe") or "the model")


def split_sentence(folder: AnalysisFolder) -> str:
    """Return which cases were analysed, in words."""
    data = folder.manifest["data"]
    words = SPLIT_WORDS.get(str(data.get("split")))
    # Of the run's own data, what it was not trained on is what its best epoch was chosen by.
    chose = folder.manifest["steps"].get("evaluate", {}).get("n_validation", 0)
    if words and chose and data.get("split") == "held-out":
        words += f"; {chose:,} of them chose its best epoch"
    return counted(data.get("n", 0), "case") + (f", {words}" if words else "")


def optimism(folder: AnalysisFolder) -> str | None:
    """Return why errors may be smaller than on children the network has not seen, None if not."""
    if folder.manifest["run"].get("card"):
        whole = folder.manifest["data"].get("split") in ("train", "all")
        return UNRECORDED if whole else None
    return OPTIMISTIC if folder.has_training_cases() else None


def hand_warning(seen: HandSeen) -> str | None:
    """Return what to warn of before an answer for one radiograph is believed, None for nothing."""
    if not seen.found:
        return (
            "No hand was found on the radiograph. The network answers all the same, but its answer "
            "need not mean anything."
        )
    if seen.pose is None or seen.usually_months is None:
        return None
    turned = _FINGERS_POINT.get(seen.pose.quarter_turns)
    looks = [f"to be turned (fingers pointing {turned})"] if turned else []
    if seen.pose.looks_right:
        looks.append("to be a right one, or the mirror image of a left one")
    return (
        f"The hand seems {' and '.join(looks)}. Laid as most hands in training are, upright and "
        f"a left one, it is read as {months(seen.usually_months)} months."
    )
