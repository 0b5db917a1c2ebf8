"""What can be asked of one radiograph: the nearest training radiographs, a region taken out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from apps.views import live, pictures, region_charts, results
from apps.views.links import linked_choice, plain
from boneage_xai.analysis.neighbours import (
    TrainingFeatures,
    nearest_training,
    reference_pixels,
    training_features,
)
from boneage_xai.analysis.occlusion_summary import preferred_fill
from boneage_xai.analysis.single_reading import activations_of, erase_in_turn
from boneage_xai.anatomy import NOT_BONE
from boneage_xai.data.preprocess import PreprocessSettings
from boneage_xai.errors import BoneAgeError, DataError
from boneage_xai.figures.occlusion import FILL_WORDS
from boneage_xai.models.checkpoint import TrainedRun
from boneage_xai.predict import Progress
from boneage_xai.regions.removable import Removable, control_of, removables
from boneage_xai.regions.removal import FILL_NAMES, remove_region
from boneage_xai.store import AnalysisFolder
from boneage_xai.types import RegionMap, Sex
from reports.profile_wording import region_words
from reports.wording import months


@dataclass(frozen=True, eq=False)
class Subject:
    """The radiograph that is asked about.

    Args:
        key: tells it from others.
        pixels: (S, S) uint8, what the network sees.
        sex: what the network is told.
        regions_of: returns its region map on the same grid.
        case_id: of a case of the analysis, None for a radiograph from elsewhere.
        kind: with which the keys of its results begin.
    """

    key: str
    pixels: pictures.Grey
    sex: Sex
    regions_of: Callable[[], RegionMap]
    case_id: str | None = None
    kind: str = "case"

    def result(self, what: str, *parts: object) -> str:
        """Return the key of a result on this radiograph."""
        return results.key_of(f"{self.kind}-{what}", self.key, self.sex, *parts)


def erasing(folder: AnalysisFolder, subject: Subject) -> None:
    """Let a region be taken out, and show what the prediction does."""
    st.subheader("Erase a region")
    st.caption(
        "Attribution says where the network's answer comes from; taking a region out tests it. "
        "The same shape moved elsewhere is taken out, too, for comparison."
    )
    loaded = live.loaded_run(folder)
    regions_key = subject.result("regions")
    regions = results.kept(regions_key)
    if regions is None:
        with st.spinner("Looking for the regions of the hand …"):
            regions = subject.regions_of()
        results.keep(regions_key, regions)
    names = _names(regions)
    if not names:
        st.info("No hand was found on this radiograph, so that no region can be taken out.")
        return
    chosen, how, _ = st.columns([4, 4, 3], vertical_alignment="bottom")
    with chosen:
        region = linked_choice(st.selectbox, "Region", names, "region", format_func=region_words)
    with how:
        fills = [preferred_fill(FILL_NAMES)]
        fills += [name for name in FILL_NAMES if name not in fills]
        chosen_fill = linked_choice(
            st.radio,
            "What takes its place",
            fills,
            "fill",
            format_func=lambda name: FILL_WORDS.get(name, name),
            horizontal=True,
        )

    fill = next(name for name in FILL_NAMES if name == chosen_fill)

    def areas(*, every: bool) -> list[Removable]:
        wanted = [*names, *map(control_of, names)] if every else [region, control_of(region)]
        found = [area for area in removables(regions) if area.name in wanted]
        if not any(area.kind == "region" for area in found):
            raise DataError("the region: expected some but not all of the picture, found all")
        return found

    def erase(progress: Progress, areas: list[Removable]) -> pd.DataFrame:
        return erase_in_turn(loaded.run, subject.pixels, subject.sex, areas, fill, progress)

    def erase_one(progress: Progress) -> tuple[pd.DataFrame, pictures.Grey]:
        both = areas(every=False)
        mask = next(area.mask for area in both if area.kind == "region")
        return erase(progress, both), remove_region(subject.pixels, mask, fill)

    one = live.on_request(
        subject.result("erase", region, fill),
        plain(f"Erase {region_words(region)}"),
        plain(f"Erasing {region_words(region)}"),
        erase_one,
        lock=loaded.lock,
    )
    if one is not None:
        _erased(subject, one, region)
    every = live.on_request(
        subject.result("erase-all", fill),
        "Erase each region in turn",
        "Erasing one region after the other",
        lambda progress: erase(progress, areas(every=True)),
        lock=loaded.lock,
    )
    if every is not None:
        st.altair_chart(region_charts.erased_chart(every))
        st.caption(
            f"Change of the prediction without each region ({FILL_WORDS.get(fill, fill)}), months. "
            "A region whose bar is longer than that of its moved shape (ring) matters to the "
            "network where it lies."
        )


def _erased(subject: Subject, found: tuple[pd.DataFrame, pictures.Grey], region: str) -> None:
    table, without = found
    deltas = dict(zip(table["region"], table["delta_months"], strict=True))
    before = float(table["predicted_months"].iloc[0])
    delta = float(deltas[region])
    control = deltas.get(control_of(region))
    st.markdown(
        f"Prediction **{months(before)} → {months(before + delta)} months "
        f"({months(delta, signed=True)})** without {plain(region_words(region))}; "
        + (
            "no place was found to take out the same shape for comparison."
            if control is None
            else f"{months(float(control), signed=True)} without the same shape moved elsewhere."
        )
    )
    with st.container(horizontal=True):
        for picture, words in ((subject.pixels, "as it is"), (without, "without the region")):
            with st.container(width=320, gap="small"):
                pictures.radiograph(picture, width=320)
                st.caption(words)


def _names(regions: RegionMap) -> list[str]:
    """Return the regions of the hand that have pixels, bones first."""
    there = set(np.unique(regions.labels).tolist())
    names = [name for value, name in sorted(regions.names.items()) if value in there]
    names = list(dict.fromkeys(names))
    bones = [name for name in names if name not in NOT_BONE]
    return [*bones, *(name for name in names if name in NOT_BONE)] if bones else []


def nearest(folder: AnalysisFolder, subject: Subject) -> None:
    """Show the nearest training radiographs, computed on request."""
    loaded = live.loaded_run(folder)
    run = loaded.run

    def compute(progress: Progress) -> tuple[pd.DataFrame, dict[str, pictures.Grey]]:
        store = live.training_store()
        if run.model_id not in store:
            store[run.model_id] = training_features(
                run, source=_training_source(folder, run), on_decode=progress, progress=progress
            )
        training: TrainingFeatures = store[run.model_id]
        table = nearest_training(
            run, subject.pixels, subject.sex, training, case_id=subject.case_id
        )
        return table, {one: training.pixels(one) for one in table["neighbour_id"]}

    found = live.on_request(
        subject.result("nearest"),
        "Find the nearest training radiographs",
        "Reading the training radiographs",
        compute,
        lock=loaded.lock,
    )
    if found is not None:
        pictures.neighbour_row(*found)


def _training_source(folder: AnalysisFolder, run: TrainedRun) -> Path | None:
    """Return the source of the analysis where the run's own is not there any more."""
    own, analysed = run.manifest.data.source, str(folder.manifest["data"].get("source") or "")
    return Path(analysed) if analysed and not (own and Path(own).exists()) else None


def stored_neighbours(folder: AnalysisFolder, table: pd.DataFrame) -> None:
    """Show neighbours that the analysis holds, with their pictures where they can be read."""
    ids = tuple(str(case_id) for case_id in table["neighbour_id"])
    data, run = folder.manifest["data"], folder.manifest["run"]
    training = run.get("training") or {}
    found: dict[str, pictures.Grey] = {}
    reason = ""
    try:
        found = _reference_pixels(
            str(data.get("source") or ""),
            training.get("cohort"),
            ids,
            PreprocessSettings.model_validate(run.get("preprocessing") or {}).model_dump_json(),
        )
    except (BoneAgeError, ValueError) as error:
        reason = str(error)
    pictures.neighbour_row(table, found)
    if len(found) < len(ids):
        why = f": {plain(reason)}" if reason else " any more"
        st.caption(f"Their radiographs cannot be shown, because they are not readable{why}.")


@st.cache_data(show_spinner="Reading the nearest radiographs …", max_entries=32)
def _reference_pixels(
    source: str, cohort: str | None, ids: Sequence[str], settings: str
) -> dict[str, pictures.Grey]:
    if not source:
        raise DataError("the analysis does not name its source")
    return reference_pixels(
        Path(source), cohort, ids, PreprocessSettings.model_validate_json(settings)
    )


def activations(folder: AnalysisFolder, subject: Subject) -> None:
    """Show activation maps, computed on request."""
    loaded = live.loaded_run(folder)
    found = live.on_request(
        subject.result("activations"),
        "Compute activation maps",
        "Computing activation maps",
        lambda progress: activations_of(loaded.run.network, subject.pixels, subject.sex),
        lock=loaded.lock,
    )
    if found is not None:
        pictures.activations(subject.pixels, found)
