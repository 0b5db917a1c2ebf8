"""The commands that write for other tools, end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from boneage_xai.files import read_json
from export_fixture import write_dicom_cohort

Run = Callable[..., int]


@pytest.fixture(scope="module")
def dicom_source(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table and DICOM files, as a user would have them."""
    folder = tmp_path_factory.mktemp("source") / "hands"
    cohort = write_dicom_cohort(phantoms, folder)
    rows = [f"{case.image.stem},{case.bone_age_months},{case.sex.value}" for case in cohort]
    (folder / "labels.csv").write_text("\n".join(["id,boneage,sex", *rows, ""]))
    return folder


@pytest.fixture
def analysis(cli: Run, sex_run: Path, dicom_source: Path, tmp_path: Path) -> Path:
    out = tmp_path / "analysis"
    options = ["--split", "all", "--method", "gradient", "--out", out]
    assert cli("attribute", sex_run, "--data", dicom_source, *options) == 0
    return out


def test_dicom(
    cli: Run,
    analysis: Path,
    dicom_source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("highdicom", reason="boneage-xai[dicom] is not installed")
    command = ["export", analysis, "--data", dicom_source, "--format", "dicom"]
    capsys.readouterr()
    assert cli(*command, "--out", tmp_path / "all") == 0
    printed = capsys.readouterr()
    assert "6 files of 3 cases" in printed.out
    assert "identify as these do" in printed.err
    assert {path.name for path in (tmp_path / "all").glob("*.dcm")} == {
        f"{number}_{name}.dcm" for number in range(3) for name in ("gradient", "regions")
    }
    assert cli(*command, "--out", tmp_path / "one", "--case", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out) == read_json(tmp_path / "one" / "export.json")
    assert cli(*command, "--out", tmp_path / "all") == 2
    assert "exists already" in capsys.readouterr().err
    assert cli(*command, "--out", tmp_path / "none", "--case", "9") == 2
    assert "expected the attributions of case 9" in capsys.readouterr().err


def test_dicom_of_other_images_is_refused_in_one_sentence(
    cli: Run, sex_run: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("highdicom", reason="boneage-xai[dicom] is not installed")
    out = tmp_path / "analysis"
    options = ["--method", "gradient", "--limit", "2", "--out", out]
    assert cli("attribute", sex_run, "--data", phantoms, *options) == 0
    capsys.readouterr()
    command = ["export", out, "--data", phantoms, "--format", "dicom"]
    assert cli(*command, "--out", tmp_path / "out") == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(error) == 1
    assert "expected a DICOM file that a derived object can refer to" in error[0]


@pytest.mark.parametrize(("file_format", "files"), [("nifti", 3), ("png", 1)])
def test_other_formats(
    cli: Run,
    analysis: Path,
    dicom_source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file_format: str,
    files: int,
) -> None:
    if file_format == "nifti":
        pytest.importorskip("nibabel", reason="boneage-xai[nifti] is not installed")
    command = ["export", analysis, "--data", dicom_source, "--format", file_format]
    assert cli(*command, "--out", tmp_path / "all") == 0
    assert f"{3 * files} files of 3 cases" in capsys.readouterr().out
    assert len(list((tmp_path / "all").iterdir())) == 3 * files + 1


def test_onnx(cli: Run, sex_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="boneage-xai[onnx] is not installed")
    pytest.importorskip("onnxscript", reason="boneage-xai[onnx] is not installed")
    out = tmp_path / "network.onnx"
    assert cli("export-onnx", sex_run, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "largest difference from the network over 24 predictions" in printed
    assert len(printed.splitlines()) == 1
    assert out.is_file()
    assert cli("export-onnx", sex_run, "--out", out) == 2
    assert "--replace overwrites it" in capsys.readouterr().err
    assert cli("export-onnx", tmp_path, "--out", out, "--replace") == 2
    assert "expected a finished run" in capsys.readouterr().err


def test_model_card(
    cli: Run, sex_run: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    analysis, out = tmp_path / "analysis", tmp_path / "README.md"
    assert cli("evaluate", sex_run, "--data", phantoms, "--out", analysis) == 0
    assert cli("model-card", sex_run, "--analysis", analysis, "--out", out) == 0
    assert "fill in the license" in capsys.readouterr().out
    card = out.read_text()
    mae = read_json(analysis / "metrics.json")["overall"]["mae_months"]["value"]
    assert f"| this network | 8 | {mae:.1f} (" in card
    assert "Not measured: what `boneage-xai stress` would tell." in card
    out.write_text(card + "filled in by hand")
    words = ("model-card", sex_run, "--analysis", analysis, "--out", out)
    assert cli(*words) == 2
    assert "--replace overwrites it" in capsys.readouterr().err
    assert out.read_text().endswith("filled in by hand")
    assert cli(*words, "--replace") == 0
    assert out.read_text() == card
    assert cli("model-card", tmp_path, "--out", tmp_path / "none.md") == 2
    assert not (tmp_path / "none.md").exists()
