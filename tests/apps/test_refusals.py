"""Mistakes on the command line: one sentence, exit code 2, and nothing written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from command_line import TINY, Run, assert_one_sentence, trained
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from boneage_xai.files import read_json, write_json

__all__ = ["trained"]


def test_a_source_with_problems_is_refused_or_skipped_on_request(
    cli: Run, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "bad"
    shutil.copytree(phantoms, source)
    table = source / "boneage-training-dataset.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, "9001,120,maybe", "9002,120,True"]) + "\n")
    out = tmp_path / "run"
    train = ["train", "demo", "--data", source, "--out", out, *TINY]
    assert cli(*train) == 2
    assert_one_sentence(capsys.readouterr().err, "9001")
    assert not out.exists()
    assert cli("cohort", source, "--no-images") == 2
    listed = capsys.readouterr().out
    assert "9001" in listed
    assert "9002" in listed
    assert cli(*train, "--skip-problems") == 0
    assert read_json(out / "run.json")["data"]["skipped_problem_rows"] == 2


def one_case(folder: Path, suffix: str, sex: str = "True") -> Path:
    images = folder / "boneage-training-dataset"
    images.mkdir(parents=True)
    table = folder / "boneage-training-dataset.csv"
    table.write_text(f"id,boneage,male\n1,120,{sex}\n2,100,False\n3,80,True\n")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    for other in (2, 3):
        Image.fromarray(noise).save(images / f"{other}.png")
    return images / f"1{suffix}"


def truncated_png(folder: Path) -> None:
    path = one_case(folder, ".png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])


def text_named_png(folder: Path) -> None:
    one_case(folder, ".png").write_text("this is not an image")


def dicom_without_pixels(folder: Path) -> None:
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.PatientSex = "M"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(one_case(folder, ".dcm"), enforce_file_format=True)


def missing_image(folder: Path) -> None:
    one_case(folder, ".png")


def unknown_sex(folder: Path) -> None:
    path = one_case(folder, ".png", sex="X")
    Image.fromarray(np.zeros((64, 64), dtype=np.uint8)).save(path)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (truncated_png, "1.png"),
        (text_named_png, "1.png"),
        (dicom_without_pixels, "1.dcm"),
        (missing_image, "case 1"),
        (unknown_sex, "case 1"),
    ],
)
def test_bad_data_is_one_sentence_and_nothing_is_written(
    cli: Run,
    make: Callable[[Path], None],
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(tmp_path / "data")
    out = tmp_path / "run"
    assert cli("train", "demo", "--data", tmp_path / "data", "--out", out, *TINY) == 2
    assert_one_sentence(capsys.readouterr().err, named)
    assert not out.exists()
    assert cli("cohort", tmp_path / "data") == 2
    assert named in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "cpu-smal", "--data", "PHANTOMS", "--out", "OUT"], "cpu-smal"),
        (
            ["train", "demo", "--data", "PHANTOMS", "--out", "OUT", "--set", "training.epoch=1"],
            "unknown key training.epoch (the nearest is training.epochs)",
        ),
        (
            [
                "train",
                "cpu-small",
                "--data",
                "nowhere",
                "--out",
                "OUT",
                "--set",
                "training.epochs=2",
            ],
            "--set training.stages=[]",
        ),
        (["train", "demo", "--data", "nowhere", "--out", "OUT"], "nowhere"),
        (["train", "demo", "--data", "PHANTOMS", "--out", "OUT", "--column", "age"], "ROLE=HEADER"),
        (["evaluate", "nowhere", "--data", "PHANTOMS", "--out", "OUT"], "nowhere"),
        (["predict", "RUN", "nowhere.png", "--sex", "F"], "nowhere.png"),
        (["predict", "RUN", "--sex", "F"], "expected a run and a radiograph, RUN IMAGE"),
        (["dashboard", "nowhere"], "nowhere: expected an analysis folder or a folder of several"),
        (["dashboard", "PHANTOMS"], "found no analysis.json in it"),
        (["report", "PHANTOMS"], "analysis"),
        (["report", "RUN", "--out", "RUN"], "analysis"),
        (["demo", "--out", "FILE"], "expected a new folder"),
        (
            ["train", "demo", "--data", "PHANTOMS", "--out", "FILE"],
            "expected a new or empty folder",
        ),
        (["phantom", "PHANTOMS", "--n", "1"], "exists already"),
        (["phantom", "OUT", "--n", "1", "--without", "dust"], "dust"),
        (
            [
                "phantom",
                "OUT",
                "--n",
                "1",
                "--without",
                "marker",
                "--fault",
                "marker_brightness_encodes_age",
            ],
            "marker on",
        ),
        (["intervene", "RUN", "--data", "RUN", "--out", "OUT"], "no phantom.json"),
        (["demo", "--out", "RUN"], "expected a new folder"),
        (
            ["attribute", "RUN", "--data", "PHANTOMS", "--out", "OUT", "--method", "magic"],
            "magic",
        ),
    ],
)
def test_mistakes_are_one_sentence(
    cli: Run,
    arguments: list[str],
    named: str,
    trained: Path,
    phantoms: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    places = {
        "PHANTOMS": phantoms,
        "OUT": tmp_path / "out",
        "RUN": trained,
        "FILE": tmp_path / "file",
    }
    assert cli(*[places.get(argument, argument) for argument in arguments]) == 2
    assert_one_sentence(capsys.readouterr().err, named)
    assert not (tmp_path / "out").exists()


def test_a_run_of_another_version_is_refused(
    cli: Run, trained: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("engine"))
    write_json(tmp_path / "run" / "run.json", {**read_json(trained / "run.json"), "version": 99})
    out = tmp_path / "out"
    assert cli("evaluate", tmp_path / "run", "--data", phantoms, "--out", out) == 2
    assert_one_sentence(capsys.readouterr().err, "version 99")
    assert not out.exists()


def test_a_logger_is_named_on_the_command_line(
    cli: Run, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard", reason="boneage-xai[tensorboard] is not installed")
    out = tmp_path / "run"
    train = ["train", "demo", "--data", phantoms, "--out", out, *TINY]
    assert cli(*train, "--logger", "paper") == 2
    assert_one_sentence(capsys.readouterr().err, "expected one of tensorboard, mlflow, found paper")
    assert not out.exists()
    assert cli(*train, "--logger", "tensorboard") == 0
    assert list((out / "logs" / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        ImportError("_moments_cy.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
        RuntimeError("could not create a primitive"),
    ],
)
def test_memory_that_runs_out_is_said_in_words(
    cli: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("apps.cli.read_source", fail)
    assert cli("cohort", "anywhere") == 2
    assert_one_sentence(capsys.readouterr().err, "memory ran out")


def test_another_error_of_ours_is_not_taken_for_memory(
    cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("apps.cli.read_source", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        cli("cohort", "anywhere")
