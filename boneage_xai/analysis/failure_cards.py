"""Cards of the worst cases: picture, attribution in months, nearest training radiographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open

from boneage_xai.analysis.run_analysis import RunOnCohort
from boneage_xai.attribution.integrated_gradients import (
    attribute_batch,
    attributed_map,
    make_integrator,
)
from boneage_xai.attribution.interface import AttributedMap, AttributionSettings
from boneage_xai.attribution.requirements import check_methods
from boneage_xai.errors import AttributionError, DataError
from boneage_xai.files import write_safetensors
from boneage_xai.predict import as_images, evaluation_mode
from boneage_xai.types import FloatImage

CARDS_FILE = "failure_cards.safetensors"
N_SHOWN_NEIGHBOURS = 3

_ATTRIBUTION_BATCH = 8


@dataclass(frozen=True)
class Neighbour:
    """A training radiograph that the network finds like a case: its id, age and distance."""

    case_id: str
    months: float
    distance: float


@dataclass(frozen=True, eq=False)
class FailureCard:
    """One of the worst cases with what is needed to look at it.

    Args:
        case_id: the case.
        sex: ``F`` or ``M``.
        reference_months: reference bone age.
        predicted_months: predicted bone age, as the analysis states it.
        pixels: (S, S) uint8 network input.
        map_months: (S, S) float32 Integrated Gradients, None where they could not be computed.
        gap_months: completeness gap of the map, None likewise.
        neighbours: the nearest training radiographs of the same sex, the nearest first.
        neighbour_pixels: (k, S, S) uint8 their pictures as the network sees them.
    """

    case_id: str
    sex: str
    reference_months: float
    predicted_months: float
    pixels: npt.NDArray[np.uint8]
    map_months: FloatImage | None
    gap_months: float | None
    neighbours: tuple[Neighbour, ...]
    neighbour_pixels: npt.NDArray[np.uint8]

    @property
    def error_months(self) -> float:
        """Predicted minus reference."""
        return self.predicted_months - self.reference_months


def chosen_for_pictures(table: pd.DataFrame, pictures: int) -> list[str]:
    """Return the ids of the worst cases that are shown, over-estimated first.

    Args:
        table: of ``build_atlas``.
        pictures: how many; half of each direction, more of one where the other has fewer.

    Returns:
        Over- and then under-estimated cases, the largest error first.
    """
    ordered = table[table["worst"]].sort_values(
        "error_months", key=lambda errors: -errors.abs(), kind="stable"
    )
    sides = [ordered[ordered["direction"] == one]["case_id"].tolist() for one in ("over", "under")]
    half = pictures // 2 + pictures % 2
    first = min(len(sides[0]), max(half, pictures - len(sides[1])))
    return [*sides[0][:first], *sides[1][: pictures - first]]


def make_cards(
    prepared: RunOnCohort,
    table: pd.DataFrame,
    neighbours: pd.DataFrame | None,
    pictures: int,
    say: Callable[[str], None],
) -> list[FailureCard]:
    """Put pictures, Integrated Gradients and neighbours of the worst cases together."""
    ids = chosen_for_pictures(table, pictures)
    rows = table.set_index("case_id").loc[ids]
    cache = prepared.cache
    pixels = np.asarray(cache.pixels[cache.rows(ids)])
    maps = _explain(prepared, pixels, (rows["sex"] == "M").to_numpy(), say)
    cards = []
    for at, case_id in enumerate(ids):
        near = pd.DataFrame() if neighbours is None else neighbours
        if len(near):
            near = near[near["case_id"] == case_id].sort_values("rank").head(N_SHOWN_NEIGHBOURS)
        found = tuple(
            Neighbour(
                str(one["neighbour_id"]), float(one["neighbour_months"]), float(one["distance"])
            )
            for one in near.to_dict("records")
        )
        theirs = np.asarray(cache.pixels[cache.rows([one.case_id for one in found])])
        row = rows.iloc[at]
        cards.append(
            FailureCard(
                case_id,
                str(row["sex"]),
                float(row["reference_months"]),
                float(row["predicted_months"]),
                pixels[at],
                None if maps is None else maps[at].map_months,
                None if maps is None else maps[at].completeness_gap_months,
                found,
                theirs.reshape(-1, *pixels.shape[1:]),
            )
        )
    return cards


def _explain(
    prepared: RunOnCohort,
    pixels: npt.NDArray[np.uint8],
    is_male: npt.NDArray[np.bool_],
    say: Callable[[str], None],
) -> list[AttributedMap] | None:
    """Return Integrated Gradients of a few cases, None for a network that has none."""
    network, settings = prepared.run.network, AttributionSettings()
    try:
        check_methods(network, ["integrated_gradients"])
    except AttributionError as error:
        say(f"no attribution: {error}")
        return None
    device = next(network.parameters()).device
    images = as_images(pixels, device)
    sexes = torch.from_numpy(np.array(is_male)).to(device, torch.float32)
    with evaluation_mode(network):
        integrator = make_integrator(network, images, sexes, settings, n_cases=len(images))
        return [
            attributed_map(integral, precision, settings.baseline)
            for start in range(0, len(images), _ATTRIBUTION_BATCH)
            for integral, precision in attribute_batch(
                integrator,
                images[start : start + _ATTRIBUTION_BATCH],
                sexes[start : start + _ATTRIBUTION_BATCH],
            )
        ]


def write_cards(path: Path, cards: Sequence[FailureCard]) -> None:
    """Write cards as safetensors, whole or not at all; ``read_cards`` reads them."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    words: dict[str, str] = {"n": str(len(cards))}
    for number, one in enumerate(cards):
        arrays[f"{number}.pixels"] = np.ascontiguousarray(one.pixels)
        arrays[f"{number}.neighbour_pixels"] = np.ascontiguousarray(one.neighbour_pixels)
        if one.map_months is not None:
            arrays[f"{number}.map_months"] = np.ascontiguousarray(one.map_months)
        words |= {
            f"{number}.case_id": one.case_id,
            f"{number}.sex": one.sex,
            f"{number}.reference_months": repr(one.reference_months),
            f"{number}.predicted_months": repr(one.predicted_months),
            f"{number}.gap_months": "" if one.gap_months is None else repr(one.gap_months),
            f"{number}.n_neighbours": str(len(one.neighbours)),
        }
        for place, near in enumerate(one.neighbours):
            words |= {
                f"{number}.{place}.case_id": near.case_id,
                f"{number}.{place}.months": repr(near.months),
                f"{number}.{place}.distance": repr(near.distance),
            }
    write_safetensors(path, arrays, words)


def read_cards(path: Path) -> list[FailureCard]:
    """Read the cards that ``write_cards`` wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            words, names = file.metadata(), set(file.keys())
            return [
                FailureCard(
                    words[f"{at}.case_id"],
                    words[f"{at}.sex"],
                    float(words[f"{at}.reference_months"]),
                    float(words[f"{at}.predicted_months"]),
                    file.get_tensor(f"{at}.pixels"),
                    file.get_tensor(f"{at}.map_months") if f"{at}.map_months" in names else None,
                    float(words[f"{at}.gap_months"]) if words[f"{at}.gap_months"] else None,
                    tuple(
                        Neighbour(
                            words[f"{at}.{place}.case_id"],
                            float(words[f"{at}.{place}.months"]),
                            float(words[f"{at}.{place}.distance"]),
                        )
                        for place in range(int(words[f"{at}.n_neighbours"]))
                    ),
                    file.get_tensor(f"{at}.neighbour_pixels"),
                )
                for at in range(int(words["n"]))
            ]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: expected cards of a failure atlas, found {error!r}") from error
