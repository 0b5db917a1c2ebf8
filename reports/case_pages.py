"""One page for each attributed case and a list of them, written one after another.

Pages are HTML without figures by matplotlib: thousands of cases are a matter of minutes, and memory
does not grow with their number but for the tables.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from boneage_xai.errors import ReportError
from boneage_xai.figures.overlay import analysis_limit_months, overlay_pixels
from boneage_xai.figures.style import OLDER_COLOUR, YOUNGER_COLOUR, signed_colormap
from boneage_xai.files import read_table, staged_folder, write_text
from boneage_xai.store import AnalysisFolder
from reports.examples import attributed_cases
from reports.report import data_uri, templates
from reports.wording import (
    RESEARCH_USE,
    SEX_WORDS,
    baseline_words,
    method_name,
    months,
    preferred_method,
    run_name,
    split_sentence,
)

PAGES_FOLDER = "cases"
INDEX_FILE = "index.html"
_PICTURE_PX = 560
_QUALITY = 88
_LEGEND_STOPS = 21

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class _Tables:
    """What is known about the cases, by case id."""

    attributions: dict[str, dict[Hashable, Any]]
    regions: dict[str, list[dict[Hashable, Any]]]
    neighbours: dict[str, list[dict[Hashable, Any]]]
    intervals: dict[str, tuple[float, float]]
    coverage: float | None


def write_case_pages(
    folder: Path, out: Path | None = None, progress: Progress | None = None
) -> tuple[Path, int]:
    """Write a page for each attributed case of an analysis, and a list that leads to them.

    Each page needs no other file but for the links between them. Names of files are numbers; ids
    of cases, whatever is in them, are text on the pages.

    Args:
        folder: analysis folder that holds attributions.
        out: folder to write, new; None is ``cases`` in the analysis folder. It is whole or absent.
        progress: called with (done, total).

    Returns:
        The folder written, and how many cases it shows.

    Raises:
        ReportError: no attributions, or a folder that exists already.
        DataError: a file of the analysis is damaged.
    """
    analysis = AnalysisFolder.open(folder)
    target = folder / PAGES_FOLDER if out is None else out
    if target.exists():
        raise ReportError(f"{target}: expected a new folder to write, found one that exists")
    cases, found, maps = attributed_cases(analysis), analysis.attributions(), analysis.maps()
    if cases is None or found is None or maps is None or cases.empty:
        raise ReportError(
            f"{folder}: expected attributed cases (from `boneage-xai attribute`), found none"
        )
    method = preferred_method(list(dict.fromkeys(found["method"])))
    tables = _tables(analysis, method)
    limit = analysis_limit_months(maps, method)
    environment = templates()
    page = environment.get_template("case.html.j2")
    shared = {
        "research_use": RESEARCH_USE,
        "toolkit_version": analysis.manifest["toolkit_version"],
        "run": run_name(analysis),
    }
    inputs: Any = maps["inputs"]
    values: Any = maps[method]
    legend = _legend(limit)
    rows = []
    with staged_folder(target) as staged:
        for number, case in enumerate(cases.to_dict("records")):
            image, map_months = (array[int(case["row"])] for array in (inputs, values))
            content = _case(case, tables, method)
            rows.append({**content, "file": _file_name(number)})
            html = page.render(
                **shared,
                case=content,
                method=method_name(method),
                radiograph=_picture(image),
                overlay=_picture(overlay_pixels(image, map_months, limit, size_px=_PICTURE_PX)),
                legend=legend,
                previous=_file_name(number - 1) if number else None,
                following=_file_name(number + 1) if number + 1 < len(cases) else None,
                index=INDEX_FILE,
            )
            (staged / _file_name(number)).write_text(html, encoding="utf-8")
            if progress is not None:
                progress(number + 1, len(cases))
        listing = environment.get_template("cases.html.j2").render(
            **shared,
            title=f"Cases: {run_name(analysis)}",
            subtitle=f"{len(rows):,} attributed; {split_sentence(analysis)}",
            cases=rows,
            coverage=_percent(tables.coverage),
        )
        write_text(staged / INDEX_FILE, listing)
    return target, len(rows)


def _file_name(number: int) -> str:
    return f"case-{number + 1:06d}.html"


def _tables(folder: AnalysisFolder, method: str) -> _Tables:
    found = folder.attributions()
    attributions = {} if found is None else _by_case(found[found["method"] == method])
    regions = folder.regions()
    if regions is not None:
        regions = regions[regions["method"] == method]
    intervals, coverage = dict[str, tuple[float, float]](), None
    if (folder.path / "intervals.parquet").is_file():
        stored = read_table(folder.path / "intervals.parquet")
        ends = stored[["low_months", "high_months"]].to_numpy(dtype=float).tolist()
        intervals = {
            str(case_id): (low, high)
            for case_id, (low, high) in zip(stored["case_id"], ends, strict=True)
            if math.isfinite(low) and math.isfinite(high)
        }
        coverage = ((folder.intervals() or {}).get("settings") or {}).get("coverage")
    return _Tables(
        {case_id: rows[0] for case_id, rows in attributions.items()},
        {} if regions is None else _by_case(regions),
        _by_case(folder.neighbours()),
        intervals,
        coverage,
    )


def _by_case(table: pd.DataFrame | None) -> dict[str, list[dict[Hashable, Any]]]:
    if table is None:
        return {}
    return {str(case_id): rows.to_dict("records") for case_id, rows in table.groupby("case_id")}


def _case(case: Mapping[Hashable, Any], tables: _Tables, method: str) -> dict[str, Any]:
    """Return what is said about a case."""
    case_id = str(case["case_id"])
    found = tables.attributions.get(case_id, {})
    low_high = tables.intervals.get(case_id)
    return {
        "id": case_id,
        "sex": SEX_WORDS.get(str(case["sex"]), "sex not evaluated"),
        "predicted": months(_known(case["predicted_months"])),
        "reference": months(_known(case["reference_months"])),
        "error": months(_known(case["error_months"]), signed=True),
        "interval": None if low_high is None else f"{months(low_high[0])} to {months(low_high[1])}",
        "coverage": _percent(tables.coverage),
        "gap": months(_known(found.get("completeness_gap_months")), signed=True, digits=2),
        "map": list(_map_sentences(found, method)),
        "regions": _bars(tables.regions.get(case_id, [])),
        "neighbours": [
            {
                "id": str(row["neighbour_id"]),
                "months": months(_known(row["neighbour_months"])),
            }
            for row in sorted(
                tables.neighbours.get(case_id, []), key=lambda row: float(str(row["rank"]))
            )
        ],
    }


def _map_sentences(found: Mapping[Hashable, Any], method: str) -> Iterator[str]:
    gap, baseline = _known(found.get("completeness_gap_months")), found.get("baseline")
    start = _known(found.get("baseline_prediction_months"))
    end = _known(found.get("prediction_months"))
    if gap is None or baseline is None or start is None or end is None:
        yield f"{method_name(method)} promises no completeness: its values do not add up to months."
    else:
        yield (
            f"The map divides the {months(end - start, signed=True)} months between the answer for "
            f"{baseline_words(str(baseline))} ({months(start)}) and for this radiograph "
            f"({months(end)}). Completeness gap: {months(gap, signed=True, digits=2)} months."
        )
        converged = found.get("converged")
        if not (converged is None or pd.isna(converged) or converged):
            yield "This map is less exact than was asked for."
    effect = _known(found.get("sex_effect_months"))
    if effect is not None:
        yield (
            "Told the other sex, the network's answer to the same image would change by "
            f"{months(effect, signed=True)} months; the map holds sex fixed."
        )


def _bars(regions: list[dict[Hashable, Any]]) -> list[dict[str, Any]]:
    """Return the regions of a case with the length of their bars, the strongest first."""
    reach = max((abs(float(str(row["signed_months"]))) for row in regions), default=0.0) or 1.0
    bars = []
    for row in regions:
        signed = float(str(row["signed_months"]))
        bars.append(
            {
                "name": str(row["region"]).replace("_", " "),
                "text": months(signed, signed=True, digits=1),
                "older": signed >= 0,
                "percent": round(50 * abs(signed) / reach, 2),
                "size": abs(signed),
            }
        )
    return sorted(bars, key=lambda bar: -float(bar["size"]))


def _legend(limit: float) -> dict[str, str]:
    """Return the colour scale over mid grey as a CSS gradient, and its end."""
    stops = signed_colormap()(np.linspace(0.0, 1.0, _LEGEND_STOPS))
    blended = 255 * (stops[:, :3] * stops[:, 3:] + 0.5 * (1 - stops[:, 3:]))
    colours = ", ".join("rgb({:.0f} {:.0f} {:.0f})".format(*colour) for colour in blended)
    return {
        "gradient": f"linear-gradient(90deg, {colours})",
        "end": f"{limit:.2g}",
        "older": OLDER_COLOUR,
        "younger": YOUNGER_COLOUR,
    }


def _picture(pixels: npt.NDArray[np.uint8]) -> str:
    image = Image.fromarray(pixels)
    if max(image.size) < _PICTURE_PX:
        factor = _PICTURE_PX / max(image.size)
        size = (round(image.width * factor), round(image.height * factor))
        image = image.resize(size, Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=2)
    return data_uri("image/webp", buffer.getvalue())


def _known(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:g}%"
