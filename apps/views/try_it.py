"""One radiograph of the reader's own: read, explained, and forgotten with the page."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from apps.options import UPLOAD_LIMIT_MB
from apps.views import explaining, live, pictures, reading, region_charts, results, summaries
from apps.views.cards import cards
from apps.views.links import linked_number, plain
from apps.views.results import UPLOADS
from boneage_xai.analysis.recorded_run import recorded_settings
from boneage_xai.analysis.single_reading import (
    HandSeen,
    Interval,
    SingleReading,
    explain_single,
    located_regions,
    months_by_region,
    part_of,
    read_single,
    see_hand,
)
from boneage_xai.analysis.stored_calibration import CALIBRATION_FILE
from boneage_xai.attribution.interface import AttributedMap
from boneage_xai.data.radiograph import decode_radiograph
from boneage_xai.errors import BoneAgeError, DataError
from boneage_xai.figures.attribution import shared_limit_months, smoothed_months
from boneage_xai.predict import Progress
from boneage_xai.regions.boxes import not_found
from boneage_xai.regions.locator import HandRegions
from boneage_xai.store import AnalysisFolder
from boneage_xai.types import Radiograph, RegionMap, Sex
from reports.wording import SEX_WORDS, baseline_words, hand_warning, months, run_name

METHOD = "integrated_gradients"


def show(folder: AnalysisFolder) -> None:
    """Take one radiograph, predict its bone age, and explain the prediction on request."""
    st.header("Try it")
    _keep_uploads_in_memory()
    st.markdown(
        f"One radiograph of a hand, read by “{plain(run_name(folder))}”, the network of this "
        "analysis. It stays in the memory of this machine: nothing of it is written to a file or "
        "a log, and what a DICOM header says of the patient is not shown. Remove it, or leave "
        "the page, and it is forgotten."
    )
    if (reason := live.why_not(folder)) is not None:
        st.warning(f"There is no network to try: {plain(reason)}.")
        return
    taken, told = st.columns([3, 2], gap="large")
    with taken:
        # Not by suffix: DICOM objects often have none, and the content tells what it is.
        upload = st.file_uploader(
            f"Radiograph: PNG, JPEG, WebP, TIFF or DICOM, up to {UPLOAD_LIMIT_MB} MB",
            key="try-it-upload",
        )
    with told:
        sex = st.radio(
            "Sex of the child",
            list(SEX_WORDS),
            index=None,
            format_func=lambda code: SEX_WORDS[code],
            horizontal=True,
            key="try-it-sex",
            help="The network needs it, and does not guess it.",
        )
    if upload is None:
        results.forget(UPLOADS)
        st.info("Drop a radiograph above. It should show one hand, as in the training data.")
        return
    try:
        _tried(folder, upload.getvalue(), None if sex is None else Sex(sex))
    except BoneAgeError as error:
        st.error(f"{plain(str(error))}.")


def _keep_uploads_in_memory() -> None:
    """Keep the server from moving large uploads into temporary files, as it otherwise does."""
    try:
        from starlette.formparsers import MultiPartParser
    except ImportError:
        # An earlier streamlit, whose server keeps uploads in memory.
        return
    MultiPartParser.spool_max_size = 2 * UPLOAD_LIMIT_MB * 2**20


def _tried(folder: AnalysisFolder, content: bytes, sex: Sex | None) -> None:
    model_id = folder.manifest["run"].get("model_id")
    key = results.key_of(UPLOADS, hashlib.sha256(content).hexdigest(), str(folder.path), model_id)
    radiograph = _radiograph(content, key)
    if sex is None:
        pictures.plain_radiograph(radiograph.pixels)
        st.info("Say whether it is a girl or a boy: the network needs the sex.")
        return
    loaded = live.loaded_run(folder)
    calibrated = reading.changed_at(loaded.run.path / CALIBRATION_FILE)
    read_key = results.key_of(f"{UPLOADS}-read", key, sex, calibrated)
    read: SingleReading | None = results.kept(read_key)
    if read is None:
        with st.spinner("Reading the radiograph …"), loaded.lock:
            read = read_single(loaded.run, radiograph, sex)
        results.keep(read_key, read)
    found_key = results.key_of(f"{UPLOADS}-found", key)
    found: tuple[HandRegions, RegionMap] | None = results.kept(found_key)
    if found is None:
        with st.spinner("Looking for the regions of the hand …"):
            found = located_regions(radiograph, read.prepared)
        results.keep(found_key, found)
    hand, regions = found
    seen_key = results.key_of(f"{UPLOADS}-seen", key, sex)
    seen: HandSeen | None = results.kept(seen_key)
    if seen is None:
        with loaded.lock:
            seen = see_hand(loaded.run, radiograph, sex, hand)
        results.keep(seen_key, seen)
    _warnings(loaded, radiograph, read, seen)
    subject = explaining.Subject(key, read.prepared.pixels, sex, lambda: regions, kind=UPLOADS)
    picture, facts = st.columns([11, 10], gap="large")
    with facts:
        _answers(read)
    with picture:
        shown = st.empty()
        with shown.container():
            pictures.radiograph(read.prepared.pixels)
            st.caption("What the network sees.")
        explained = _explained(folder, loaded, read, key)
        if explained is not None:
            with shown.container():
                _overlay(folder, read, explained)
    if explained is not None:
        with facts:
            _months_by_region(folder, explained, regions)
    with facts:
        _not_found(hand)
    st.subheader("Nearest training radiographs")
    explaining.nearest(folder, subject)
    explaining.erasing(folder, subject)
    st.subheader("Activation maps by layer")
    explaining.activations(folder, subject)


def _radiograph(content: bytes, key: str) -> Radiograph:
    if len(content) > UPLOAD_LIMIT_MB * 2**20:
        raise DataError(
            f"the radiograph: expected at most {UPLOAD_LIMIT_MB} MB, "
            f"found {len(content) / 2**20:.0f} MB"
        )
    kept_key = results.key_of(f"{UPLOADS}-radiograph", key)
    radiograph: Radiograph | None = results.kept(kept_key)
    if radiograph is None:
        # One at a time, since they may be large.
        results.forget(UPLOADS)
        radiograph = decode_radiograph(content)
        results.keep(kept_key, radiograph)
    return radiograph


def _warnings(
    loaded: live.LoadedRun, radiograph: Radiograph, read: SingleReading, seen: HandSeen
) -> None:
    if radiograph.sex is not None and radiograph.sex is not read.sex:
        st.warning(
            f"The DICOM header states a {SEX_WORDS[radiograph.sex.value]}; it is read as a "
            f"{SEX_WORDS[read.sex.value]}."
        )
    part = part_of(loaded.run, read.prepared.pixels)
    if part is not None:
        words = "was trained on" if part == "train" else "was chosen by its errors on"
        st.warning(
            f"The network {words} radiographs that include this very one, so that its answer is "
            "likely to be better than on others."
        )
    if warning := hand_warning(seen):
        st.warning(warning)


def _answers(read: SingleReading) -> None:
    answer, own = read.answer, SEX_WORDS[read.sex.value]
    other = SEX_WORDS["F" if read.sex.is_male else "M"]
    # A calibrated run has both, unless too few of the sex were calibrated on.
    calibrated = read.corrected is not None
    if answer.interval is None:
        why = "too few validation cases for one" if calibrated else "the run is not calibrated"
        interval = ("Interval", "–", why)
    else:
        interval = (
            f"{100 * answer.interval.coverage:g}% interval",
            _span(answer.interval),
            "from validation cases",
        )
    cards(
        [
            (
                f"Bone age as a {own}",
                months(answer.months),
                f"{months(answer.months / 12)} years",
            ),
            interval,
            (
                f"Read as a {other}",
                months(read.other_sex_months),
                months(read.sex_effect_months, signed=True),
            ),
        ]
    )
    st.caption("Months; below in years, and as a difference.")
    if not calibrated:
        st.caption("`boneage-xai calibrate` gives the run intervals.")
    if read.corrected is not None:
        corrected = read.corrected.interval
        span = "" if corrected is None else f" (interval {_span(corrected)})"
        st.caption(
            f"After the linear correction of the run's calibration: "
            f"{months(read.corrected.months)} months{span}."
        )


def _span(interval: Interval) -> str:
    return f"{months(interval.low_months)} to {months(interval.high_months)}"


def _explained(
    folder: AnalysisFolder, loaded: live.LoadedRun, read: SingleReading, key: str
) -> AttributedMap | None:
    settings, _ = recorded_settings(folder)

    def explain(progress: Progress) -> AttributedMap:
        progress(0, settings.max_nodes)
        return explain_single(
            loaded.run.network, read.prepared.pixels, read.sex, settings, progress
        )

    return live.on_request(
        results.key_of(f"{UPLOADS}-explained", key, read.sex),
        "Explain: where do the months come from?",
        "Integrated Gradients, gradients",
        explain,
        lock=loaded.lock,
        primary=True,
    )


def _overlay(folder: AnalysisFolder, read: SingleReading, explained: AttributedMap) -> None:
    opacity = linked_number(
        st.slider,
        "Opacity of the map",
        "opacity",
        low=0,
        high=100,
        default=90,
        step=5,
        format="%d%%",
    )
    maps = folder.maps()
    if maps is not None and METHOD in maps:
        limit = summaries.limit_months(folder, METHOD)
        scale = "the scale that all cases of this analysis share"
    else:
        limit = shared_limit_months(smoothed_months(explained.map_months[np.newaxis]))
        scale = "a scale of its own, since this analysis holds no such maps"
    pictures.overlay(read.prepared.pixels, explained.map_months, limit, opacity / 100, scale)


def _months_by_region(folder: AnalysisFolder, explained: AttributedMap, regions: RegionMap) -> None:
    divided = explained.prediction_months - (explained.baseline_prediction_months or 0.0)
    _, replaced = recorded_settings(folder)
    st.caption(
        f"The map divides the {months(divided, signed=True)} months between the answer for "
        f"{baseline_words(str(explained.baseline))} "
        f"({months(explained.baseline_prediction_months)}) and for this radiograph "
        f"({months(explained.prediction_months)}). Completeness gap: "
        f"{months(explained.completeness_gap_months, signed=True, digits=2)} months."
        + ("" if explained.converged else " This map is less exact than was asked for.")
        + (
            f" The maps of this analysis are measured against {baseline_words(replaced)}, which "
            "needs training radiographs."
            if replaced
            else ""
        )
    )
    table: pd.DataFrame = months_by_region(explained.map_months, regions)
    st.markdown("**What each region of the hand adds**")
    region_charts.show_regions(region_charts.region_table(table))


def _not_found(found: HandRegions) -> None:
    if not found.boxes:
        return
    parts = not_found(found.boxes)
    if not parts:
        st.caption("All joints of the hand, wrist, radius and ulna were found.")
        return
    names: dict[str, list[Any]] = {}
    for region, finger in parts:
        names.setdefault(region, []).append(finger)
    words = [
        region if fingers == [None] else f"{region} of finger {', '.join(map(str, fingers))}"
        for region, fingers in names.items()
    ]
    st.caption(f"Not found, and not guessed: {plain('; '.join(words))}.")
