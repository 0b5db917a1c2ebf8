"""The page of benchmarks/pretraining.py, written from the trainings that are finished."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from boneage_xai.analysis.comparison import compare_errors, differences_from_first
from boneage_xai.analysis.metrics import bootstrap_mean
from boneage_xai.errors import ConfigError
from boneage_xai.figures.style import SERIES_COLOURS, figure_bytes, new_figure, styled
from boneage_xai.files import read_json, write_bytes, write_text
from boneage_xai.models.checkpoint import MANIFEST_FILE, read_manifest
from boneage_xai.store import AnalysisFolder
from reports.groups_section import p_text
from reports.reproduction_cells import markdown_table
from reports.wording import age_span, months

ARMS = {
    "scratch": "from scratch",
    "phantom-age": "phantoms: age",
    "phantom-all": "phantoms: age, sex, regions",
    "imagenet": "ImageNet",
}
"""Where a training begins, in words; the first is what the others are compared with."""

SETTINGS_FILE = "settings.json"


def write_page(out: Path, target: Path) -> None:
    """Write the page, and its figure into a folder ``images`` beside it."""
    images = f"images/{target.stem}"
    parts, figure = page(out, images)
    write_bytes(target.parent / images / "curve.png", figure_bytes(figure))
    write_text(target, "\n\n".join(parts) + "\n")


def found(out: Path) -> pd.DataFrame:
    """Return a row per finished training: arm, fraction, rate, seed, val_mae_months, path."""
    rows = []
    for path in sorted((out / "analyses").glob("*_*_*_*")):
        if not (path / "metrics.json").is_file():
            continue
        arm, fraction, rate, seed = path.name.split("_")
        manifest = read_manifest(out / "runs" / path.name)
        rows.append(
            {
                "arm": arm,
                "fraction": float(fraction),
                "rate": float(rate),
                "seed": int(seed),
                "n_train": manifest.data.n_train,
                "n_validation": manifest.data.n_validation,
                "epochs": manifest.epochs,
                "val_mae_months": manifest.val_mae_months,
                "path": path,
            }
        )
    if not rows:
        raise ConfigError(f"{out}: expected finished trainings, found none")
    return pd.DataFrame(rows)


def absolute_errors(paths: Sequence[Path]) -> pd.DataFrame:
    """Return case_id, sex, reference_months and the absolute error, its mean over trainings."""
    tables = [AnalysisFolder.open(path).predictions() for path in paths]
    every = pd.concat(tables).assign(error_months=lambda table: table["error_months"].abs())
    return every.groupby("case_id", as_index=False).agg(
        sex=("sex", "first"),
        reference_months=("reference_months", "first"),
        error_months=("error_months", "mean"),
    )


def chosen(runs: pd.DataFrame) -> dict[tuple[float, str], pd.DataFrame]:
    """Return, per fraction and arm, the trainings at the rate that its own validation chose."""
    best: dict[tuple[float, str], pd.DataFrame] = {}
    for fraction in sorted(set(runs["fraction"]), reverse=True):
        for arm in ARMS:
            part = runs[(runs["fraction"] == fraction) & (runs["arm"] == arm)]
            if len(part):
                rate = part.groupby("rate")["val_mae_months"].mean().idxmin()
                best[fraction, arm] = part[part["rate"] == rate]
    return best


def cases_of(best: dict[tuple[float, str], pd.DataFrame], fraction: float) -> pd.DataFrame:
    return pd.concat(
        absolute_errors(list(part["path"])).assign(model=arm)
        for (share, arm), part in best.items()
        if share == fraction
    )


def with_interval(value: float, low: float, high: float, signed: bool = False) -> str:
    cells = [months(one, signed=signed, digits=2) for one in (value, low, high)]
    # A single case has no interval.
    return cells[0] if math.isnan(low) else f"{cells[0]} ({cells[1]} to {cells[2]})"


@styled
def curve(points: pd.DataFrame) -> Figure:
    """Draw the error over the number of radiographs, one line per beginning."""
    figure = new_figure(4.2)
    axes = figure.add_subplot()
    # A little beside each other, so that intervals can be told apart.
    for index, (arm, name) in enumerate(ARMS.items()):
        line = points[points["arm"] == arm].sort_values("n")
        if line.empty:
            continue
        value = line["mae"].to_numpy()
        bars = [value - line["low"].to_numpy(), line["high"].to_numpy() - value]
        axes.errorbar(
            line["n"] * 1.03 ** (index - 1.5),
            value,
            yerr=bars,
            marker="o",
            markersize=5,
            capsize=3,
            color=SERIES_COLOURS[index],
            label=name,
        )
    ticks = sorted(set(points["n"]))
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("radiographs to learn from (log scale)")
    axes.set_ylabel("MAE, months, 95% interval")
    axes.set_title("Error on the radiographs held out, by where a training begins")
    axes.legend(loc="lower left")
    return figure


def page(out: Path, images: str) -> tuple[Iterator[str], Figure]:
    """Return the page's paragraphs and its figure."""
    runs = found(out)
    best = chosen(runs)
    fractions = list(dict.fromkeys(fraction for fraction, _ in best))
    points, rows, ages = [], [], []
    for fraction in fractions:
        cases = cases_of(best, fraction)
        compared = differences_from_first(cases).set_index("model")
        of_ages = age_rows(cases)
        ages.append((fraction, of_ages))
        for arm in compared.index:
            part = best[fraction, arm]
            n = int(part["n_train"].iloc[0] + part["n_validation"].iloc[0])
            mae = bootstrap_mean(cases.loc[cases["model"] == arm, "error_months"])
            points.append({"arm": arm, "n": n, "mae": mae["value"]} | mae)
            beside = compared.loc[arm]
            known = arm != "scratch" and "scratch" in compared.index
            rows.append(
                [
                    f"{100 * fraction:g}% ({n:,})",
                    ARMS[arm],
                    f"{part['rate'].iloc[0]:g}",
                    with_interval(mae["value"], mae["low"], mae["high"]),
                    with_interval(
                        beside["mae_difference_months"], beside["low"], beside["high"], signed=True
                    )
                    if known
                    else "–",
                    p_text(beside["p_holm"]) if known else "–",
                ]
            )
    return paragraphs(out, images, runs, best, rows, ages), curve(pd.DataFrame(points))


def age_rows(cases: pd.DataFrame) -> list[list[str]]:
    """Return per age bin the error of every arm, with its difference from scratch."""
    names = list(dict.fromkeys(cases["model"]))
    if names[0] != "scratch" or len(names) < 2:
        return []
    groups = compare_errors(cases)
    groups = groups[(groups["by"] == "age") & (groups["model_a"] == "scratch")]
    rows = []
    for (low, high), part in groups.groupby(["age_from_months", "age_to_months"]):
        row = [age_span((low, high)), f"{part['n'].iloc[0]}", months(part["mae_a_months"].iloc[0])]
        for arm in names[1:]:
            one = part[part["model_b"] == arm].iloc[0]
            # Theirs minus from scratch, as everywhere on the page.
            row.append(
                with_interval(-one["mae_difference_months"], -one["high"], -one["low"], signed=True)
            )
        rows.append(row)
    return [["bone age", "n", "from scratch", *(ARMS[arm] for arm in names[1:])], *rows]


def paragraphs(
    out: Path,
    images: str,
    runs: pd.DataFrame,
    best: dict[tuple[float, str], pd.DataFrame],
    rows: list[list[str]],
    ages: list[tuple[float, list[list[str]]]],
) -> Iterator[str]:
    settings = read_json(out / SETTINGS_FILE)
    seeds = sorted(set(runs["seed"]))
    n_held_out = len(absolute_errors([runs["path"].iloc[0]]))
    yield "# Pretraining on phantoms"
    yield "Written by `benchmarks/pretraining.py`, which says how each training is done."
    epochs = {f"{100 * f:g}%": int(part["epochs"].max()) for (f, _), part in best.items()}
    rates = ", ".join(f"{rate:g}" for rate in sorted(set(runs["rate"])))
    epoch_words = ", ".join(f"{epoch} at {share}" for share, epoch in epochs.items())
    yield (
        f"{settings['backbone']} at {settings['size']} pixels, batches of "
        f"{settings['batch_size']}; epochs: {epoch_words}; learning rates {rates}, "
        "of which each training's own validation cases chose; "
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}. Measured on "
        f"{n_held_out:,} radiographs that no training has seen or been chosen on. Intervals are "
        "bootstrap 95% intervals over these radiographs: what another seed of the training would "
        "change is not in them."
    )
    for arm, name in ARMS.items():
        if (out / "pretrained" / arm / "full" / MANIFEST_FILE).is_file():
            yield untuned_words(out, arm, name)
    yield "## Error by beginning and number of radiographs"
    yield "Differences are paired, case by case, from the training from scratch: below 0 is better."
    yield markdown_table(
        ["radiographs", "begins", "rate", "MAE, months", "difference", "p (Holm)"], rows
    )
    yield f"![Error over the number of radiographs]({images}/curve.png)"
    yield "## Where it helps"
    yield "The MAE from scratch in months, and by how much the others differ from it."
    for fraction, table in ages:
        if table:
            yield f"### {100 * fraction:g}% of the radiographs"
            yield markdown_table(table[0], table[1:])


def untuned_words(out: Path, arm: str, name: str) -> str:
    home = out / "pretrained" / arm
    clean, full = (read_manifest(home / step) for step in ("clean", "full"))
    words = (
        f"*{name}*: {clean.epochs} epochs on {clean.data.n_train:,} clean phantoms, "
        f"{full.epochs} on {full.data.n_train:,} with all nuisances; MAE "
        f"{full.val_mae_months:.1f} months on {full.data.n_validation:,} other phantoms"
    )
    untuned = out / "untuned" / arm
    if (untuned / "metrics.json").is_file():
        mae = AnalysisFolder.open(untuned).metrics()["overall"]["mae_months"]
        words += f"; on the radiographs, before it has seen any, {with_interval(**mae)}"
    return f"{words}."
