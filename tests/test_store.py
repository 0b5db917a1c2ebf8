"""Analysis folders take the results of one network on the same data, and no others."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from boneage_xai.errors import DataError, ReportError
from boneage_xai.files import write_json, write_table
from boneage_xai.store import AnalysisFolder, check_same_analysis

RUN = {"model_id": "abc", "path": "run"}
DATA = {"fingerprint": "f00", "n": 3}


def test_each_step_adds_to_the_analysis(tmp_path: Path) -> None:
    out = tmp_path / "analysis"
    AnalysisFolder.add_step(out, run=RUN, data=DATA, step="evaluate", detail={"n": 3})
    folder = AnalysisFolder.add_step(out, run=RUN, data=DATA, step="attribute", detail={"n": 1})
    assert folder.manifest["steps"] == {"evaluate": {"n": 3}, "attribute": {"n": 1}}
    assert folder.attributions() is None
    assert folder.maps() is None


@pytest.mark.parametrize(
    ("run", "data", "part"),
    [({**RUN, "model_id": "other"}, DATA, "run"), (RUN, {**DATA, "fingerprint": "other"}, "data")],
)
def test_results_of_another_model_or_data_are_not_mixed(
    tmp_path: Path, run: dict[str, object], data: dict[str, object], part: str
) -> None:
    AnalysisFolder.add_step(tmp_path / "a", run=RUN, data=DATA, step="evaluate", detail={})
    with pytest.raises(ReportError, match=f"another {part}"):
        check_same_analysis(tmp_path / "a", run=run, data=data)


def test_results_on_other_labels_are_not_mixed(tmp_path: Path) -> None:
    out = tmp_path / "a"
    for labels, step in (("l1", "evaluate"), (None, "attribute"), ("l1", "stress")):
        AnalysisFolder.add_step(out, run=RUN, data={**DATA, "labels": labels}, step=step, detail={})
        assert AnalysisFolder.open(out).manifest["data"]["labels"] == "l1"
    check_same_analysis(out, run=RUN, data=DATA)
    with pytest.raises(ReportError, match="with other bone ages or sexes"):
        check_same_analysis(out, run=RUN, data={**DATA, "labels": "l2"})


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"no analysis\.json"):
        AnalysisFolder.open(tmp_path)
    write_json(tmp_path / "analysis.json", {"format": "boneage_xai.analysis", "version": 99})
    with pytest.raises(ReportError, match="version 99"):
        AnalysisFolder.open(tmp_path)


def test_a_damaged_footer_of_a_parquet_table_is_told_in_one_sentence(tmp_path: Path) -> None:
    """Arrow and pandas raise many kinds of errors on flipped bits."""
    AnalysisFolder.add_step(tmp_path, run=RUN, data=DATA, step="evaluate", detail={})
    file = tmp_path / "predictions.parquet"
    columns = ["reference_months", "predicted_months", "error_months"]
    frame = pd.DataFrame({"case_id": ["a"], "sex": ["F"], **{key: [1.5] for key in columns}})
    write_table(file, frame)
    whole = file.read_bytes()
    folder = AnalysisFolder.open(tmp_path)
    begin = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    assert begin < len(whole) // 2
    refused = 0
    for place in range(begin, len(whole), 17):
        for bit in (1, 32):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            try:
                found = folder.predictions()
                assert set(frame.columns) <= set(found.columns)
            except DataError as error:
                sentence = str(error)
                refused += 1
                assert "predictions.parquet: expected" in sentence
                assert "\n" not in sentence
    assert refused > 20
