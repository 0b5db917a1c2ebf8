"""Analysis folders under any sequence of commands, kills, damage and moves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from boneage_xai.analysis.run_analysis import RunOnCohort, evaluate_run, prepare_run
from boneage_xai.analysis.run_attribution import attribute_run
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.files import read_json
from boneage_xai.models.checkpoint import load_run
from boneage_xai.store import AnalysisFolder
from boneage_xai.types import Cohort
from folder_machine import (
    ABSENT,
    FEW,
    Folder,
    FolderMachine,
    Refused,
    Served,
    check,
    csv_of,
    tried,
)

N_ATTRIBUTED, BLOCK = 10, 8
GROUP = "attributions.zarr/zarr.json"
ANALYSIS_FILES: dict[str, tuple[str, ...]] = {
    "predictions": ("analysis.json", "predictions.parquet"),
    "metrics": ("analysis.json", "metrics.json"),
    "history": ("analysis.json", "history.csv"),
    "attributions": ("analysis.json", "attributions.parquet"),
    "regions": ("analysis.json", "regions.parquet"),
    **{
        f"map {name}": ("analysis.json", GROUP, f"attributions.zarr/{name}/")
        for name in ("gradient", "inputs", "regions")
    },
}
EVALUATED = ("predictions", "metrics", "history")


def served_by_analysis(path: Path) -> Served:
    if not path.exists() or not any(path.glob("[!.]*")):
        return dict.fromkeys(ANALYSIS_FILES, ABSENT)
    opened = tried(lambda: AnalysisFolder.open(path))
    if isinstance(opened, Refused):
        return dict.fromkeys(ANALYSIS_FILES, opened)

    def stored(name: str) -> bytes | None:
        maps = opened.maps()
        return None if maps is None else maps[name][:].tobytes()

    evaluated = (path / "predictions.parquet").exists() or "evaluate" in opened.manifest["steps"]
    return {
        "predictions": tried(lambda: csv_of(opened.predictions())) if evaluated else ABSENT,
        "metrics": tried(lambda: repr(opened.metrics())) if evaluated else ABSENT,
        "history": tried(lambda: csv_of(opened.history())),
        "attributions": tried(lambda: csv_of(opened.attributions())),
        "regions": tried(lambda: csv_of(opened.regions())),
        **{
            f"map {name}": tried(lambda n=name: stored(n))
            for name in ("gradient", "inputs", "regions")
        },
    }


class AnalysisMachine(FolderMachine):
    """``evaluate`` and ``attribute`` into analysis folders."""

    folders = FolderMachine.folders

    def __init__(self, root: Path, prepared: RunOnCohort, truth: Mapping[int, Served]) -> None:
        super().__init__(root)
        self.prepared, self.truth = prepared, truth

    def attribute(self, path: Path, mode: str, stop_at: int | None = None) -> None:
        def progress(done: int, total: int) -> None:
            if stop_at is not None and done >= stop_at:
                raise KeyboardInterrupt

        attribute_run(
            self.prepared,
            path,
            methods=["gradient"],
            layers=[],
            settings=AttributionSettings(memory_budget_mb=1),
            limit=N_ATTRIBUTED,
            replace=mode == "replace",
            resume=mode == "resume",
            progress=progress,
        )

    @rule(folder=folders, seed=st.sampled_from(sorted((0, 1))))
    def evaluate(self, folder: Folder, seed: int) -> None:
        done = tried(lambda: evaluate_run(self.prepared, folder.path, seed=seed))
        if isinstance(done, Refused):
            assert folder.touches(("analysis.json",))
            return
        folder.mend("predictions", "metrics", "intervals", "history")
        folder.holds |= {name: self.truth[seed][name] for name in EVALUATED}

    @rule(folder=folders)
    def evaluate_again(self, folder: Folder) -> None:
        """The same command once more leaves the same bytes."""
        if "metrics" not in folder.holds or folder.damaged:
            return
        names = ("predictions.parquet", "metrics.json", "history.csv", "analysis.json")
        seed = read_json(folder.path / "analysis.json")["steps"]["evaluate"]["seed"]
        before = [(folder.path / name).read_bytes() for name in names]
        evaluate_run(self.prepared, folder.path, seed=seed)
        assert [(folder.path / name).read_bytes() for name in names] == before

    @rule(
        folder=folders,
        mode=st.sampled_from(["begin", "resume", "replace"]),
        stop_at=st.sampled_from([None, None, 0, BLOCK]),
    )
    def explain(self, folder: Folder, mode: str, stop_at: int | None) -> None:
        there = "map gradient" in folder.holds
        try:
            done = tried(lambda: self.attribute(folder.path, mode, stop_at))
        except KeyboardInterrupt:
            folder.unfinished = (folder.path / ".attribute" / "claim.json").exists()
            assert folder.unfinished or stop_at == 0
            return
        if isinstance(done, Refused):
            hurt = folder.touches(("analysis.json", "attributions", ".attribute"))
            assert hurt or (mode == "begin" and (there or folder.unfinished)), done
            return
        if there and not folder.unfinished and mode == "resume":
            return  # complete already, and left alone
        folder.unfinished = False
        folder.mend("attributions", "regions", ".attribute")
        folder.holds |= {n: v for n, v in self.truth[0].items() if n not in EVALUATED}

    @invariant()
    def serves_what_was_committed(self) -> None:
        for folder in self.known:
            check(folder, self.served(folder, served_by_analysis), ANALYSIS_FILES)


@pytest.fixture
def cohort(phantoms: Path) -> Cohort:
    return select_cohort(read_source(phantoms))


def test_analysis_folders_under_any_sequence_of_commands(
    sex_run: Path, cohort: Cohort, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    prepared = prepare_run(load_run(sex_run), cohort, split="all", cache_folder=cache)
    truth = {}
    for seed in (0, 1):
        machine = AnalysisMachine(tmp_path / "machine", prepared, {})
        machine.attribute(tmp_path / f"{seed}", "begin")
        evaluate_run(prepared, tmp_path / f"{seed}", seed=seed)
        truth[seed] = served_by_analysis(tmp_path / f"{seed}")
    assert not [name for one in truth.values() for name, value in one.items() if value == ABSENT]
    assert truth[0]["metrics"] != truth[1]["metrics"]
    assert truth[0]["map gradient"] == truth[1]["map gradient"]
    run_state_machine_as_test(
        lambda: AnalysisMachine(tmp_path / "machine", prepared, truth), settings=FEW
    )
