"""Computing on request: with a progress bar, a way to stop, and results kept for the session.

Streamlit ends a script where it next draws something once the reader has asked for anything else.
Long work therefore reports each of its steps to a progress bar, which is where it ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st

from apps.options import device
from apps.views import results
from apps.views.links import plain
from boneage_xai.analysis.neighbours import TrainingFeatures
from boneage_xai.analysis.recorded_run import load_recorded_run, recorded_run_folder
from boneage_xai.errors import BoneAgeError
from boneage_xai.models.checkpoint import MANIFEST_FILE, WEIGHTS_FILE, TrainedRun
from boneage_xai.predict import Progress
from boneage_xai.store import AnalysisFolder

Result = TypeVar("Result")

_RUNNING = "live-running"


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """A run that all sessions share, which one of them computes with at a time."""

    run: TrainedRun
    lock: threading.Lock


def why_not(folder: AnalysisFolder) -> str | None:
    """Return why nothing can be computed with the run of an analysis, None where it can."""
    try:
        loaded_run(folder)
    except BoneAgeError as error:
        return str(error)
    return None


def loaded_run(folder: AnalysisFolder) -> LoadedRun:
    """Return the run of an analysis, loaded once for all sessions.

    Raises:
        BoneAgeError: it is not there, or not the one that was analysed.
    """
    path = recorded_run_folder(folder)
    # Weights written anew are read anew, and then checked against the analysis.
    files = (path / MANIFEST_FILE, path / WEIGHTS_FILE)
    changed = tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)
    return _loaded(str(folder.path), str(path), str(folder.manifest["run"]["model_id"]), changed)


@st.cache_resource(show_spinner="Loading the network …", max_entries=4)
def _loaded(analysis: str, path: str, model_id: str, changed: tuple[int, ...]) -> LoadedRun:
    run = load_recorded_run(AnalysisFolder.open(Path(analysis)), device())
    return LoadedRun(run, threading.Lock())


@st.cache_resource(show_spinner=False)
def training_store() -> dict[str, TrainingFeatures]:
    """Return what was read of training radiographs, by model."""
    return {}


def on_request(
    key: str,
    label: str,
    doing: str,
    compute: Callable[[Progress], Result],
    *,
    lock: threading.Lock | None = None,
    primary: bool = False,
) -> Result | None:
    """Return a result that was computed before, or offer a button that computes it.

    Args:
        key: of the result, from ``key_of``.
        label: of the button.
        doing: what is said while it computes.
        compute: called with a progress that ends the work when the reader asks for something else.
        lock: held while it computes.
        primary: whether the button stands out.

    Returns:
        The result; None before it was asked for, after it was stopped and after an error, which
        is shown.
    """
    found: Result | None = results.kept(key)
    if found is not None:
        return found
    place = st.empty()
    if st.session_state.get(_RUNNING) == key:
        del st.session_state[_RUNNING]
        st.caption(":material/stop_circle: Stopped before it was done; nothing was kept.")
    kind = "primary" if primary else "secondary"
    if not place.button(label, key=f"ask-{key}", type=kind):  # type: ignore[arg-type]
        return None
    place.empty()
    try:
        with _working(key, doing, lock) as progress:
            found = compute(progress)
    except BoneAgeError as error:
        st.error(plain(str(error)))
        return None
    results.keep(key, found)
    return found


@contextmanager
def _working(key: str, doing: str, lock: threading.Lock | None) -> Iterator[Progress]:
    """Show a progress bar and a stop button, and hold the lock, while the block runs."""
    st.session_state[_RUNNING] = key
    place = st.empty()
    with place.container(border=True):
        bar = st.progress(0.0, doing)
        # A click runs the script anew, and that ends the work.
        st.button("Stop", key=f"stop-{key}", icon=":material/stop_circle:")

    def progress(done: int, total: int) -> None:
        bar.progress(min(done / max(total, 1), 1.0), f"{doing} ({done:,} of {total:,})")

    while lock is not None and not lock.acquire(timeout=0.2):
        bar.progress(0.0, f"{doing}: waiting for another computation")
    try:
        yield progress
    except BoneAgeError:
        _finished(place)
        raise
    else:
        _finished(place)
    finally:
        # What ends a script passes through here, too, and leaves the note of what was running.
        if lock is not None:
            lock.release()


def _finished(place: Any) -> None:
    del st.session_state[_RUNNING]
    place.empty()
