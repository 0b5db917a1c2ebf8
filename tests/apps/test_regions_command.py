"""The commands on regions, end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boneage_xai.files import read_table

Run = Callable[..., int]


def test_regions_are_found_and_used_by_attribute(
    cli: Run, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "regions"
    assert cli("regions", phantoms, "--out", out, "--limit", 6, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["n"] == 6
    assert [summary[unusual] for unusual in ("no_hand", "turned", "looks_right")] == [[], [], []]
    assert summary["found_by_region"]["MCP"] >= 28
    assert Image.open(out / "overlay.png").width > 600
    # The map that was found differs from the drawn one, so it shows which of them was used.
    labels = np.asarray(Image.open(out / "labels" / "1.png"))
    drawn = np.asarray(Image.open(phantoms / "labels" / "1.png"))
    assert labels.shape == drawn.shape
    assert not np.array_equal(labels, drawn)
    run = tmp_path / "run"
    tiny = [
        "preprocessing.size_px=48", "architecture.backbone=squeezenet1_1",
        "training.batch_size=8", "training.epochs=1", "training.stages=[]",
        "training.precision=float32",
    ]  # fmt: skip
    options = [part for pair in tiny for part in ("--set", pair)]
    assert cli("train", "demo", "--data", phantoms, "--out", run, *options) == 0
    analysis = tmp_path / "analysis"
    common = ["--data", phantoms, "--split", "all", "--method", "gradient", "--out", analysis]
    assert cli("attribute", run, *common, "--regions", out) == 0
    table = read_table(analysis / "regions.parquet")
    assert table["case_id"].nunique() == 6
    share = table[(table["case_id"] == "1") & (table["region"] == "MCP")]["area_fraction"].item()
    assert 0 < share < 0.2
    sums = table.groupby("case_id")["area_fraction"].sum()
    np.testing.assert_allclose(sums, 1)
    assert cli("attribute", run, *common, "--regions", tmp_path, "--replace") == 2
    assert "found no labels.json" in capsys.readouterr().err


def test_a_single_radiograph_and_one_without_a_hand(
    cli: Run, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (80, 120)).save(tmp_path / "blank.png")
    assert cli("regions", tmp_path / "blank.png", "--out", tmp_path / "out") == 0
    assert "no hand found on 1 of 1: blank" in capsys.readouterr().err
    assert len(read_table(tmp_path / "out" / "regions.csv")) == 0
    hand = Image.open(next((phantoms / "boneage-training-dataset").glob("*.png")))
    lies = tmp_path / "lies"
    lies.mkdir()
    hand.transpose(Image.Transpose.ROTATE_90).save(lies / "turned.png")
    hand.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(lies / "mirrored.png")
    hand.save(lies / "usual.png")
    assert cli("regions", lies, "--out", tmp_path / "unusual") == 0
    said = capsys.readouterr().err
    assert "turned on 1 of 3: turned" in said
    assert "mirror image of a left one on 1 of 3: mirrored" in said
    assert cli("regions", tmp_path / "blank.png", "--out", tmp_path / "out") == 2
    assert "exists already" in capsys.readouterr().err


def test_images_that_cannot_be_read_are_left_out_if_asked(
    cli: Run, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for file in sorted(phantoms.rglob("1*.png"))[:2]:
        (images / file.name).write_bytes(file.read_bytes())
    (images / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert cli("regions", images, "--out", tmp_path / "out") == 2
    assert "damaged.png" in capsys.readouterr().err
    assert cli("regions", images, "--out", tmp_path / "out", "--skip-problems") == 0
    assert "left out 1 image that cannot be read" in capsys.readouterr().err
    assert cli("regions", images, "--out", tmp_path / "other", "--column", "id=a") == 2
    assert "expected a label table for --column" in capsys.readouterr().err


def test_train_locator_makes_weights_that_regions_takes(
    cli: Run, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "locator"
    small = ["--set", "training.stages=[{steps=2,size_px=64}]", "--set", "training.batch_size=4"]
    assert cli("train-locator", "--data", phantoms, "--out", out, *small) == 0
    assert "held-out phantoms" in capsys.readouterr().out
    weights = out / "locator.safetensors"
    image = phantoms / "boneage-training-dataset" / "1.png"
    assert cli("regions", image, "--out", tmp_path / "found", "--weights", weights) == 0
    broken = tmp_path / "broken.safetensors"
    broken.write_text("no weights")
    assert cli("regions", image, "--out", tmp_path / "none", "--weights", broken) == 2
    assert "expected the locator's weights" in capsys.readouterr().err


def test_a_folder_of_images_needs_no_table(cli: Run, phantoms: Path, tmp_path: Path) -> None:
    folder = phantoms / "boneage-training-dataset"
    assert cli("regions", folder, "--out", tmp_path / "out", "--limit", 2) == 0
    labels = {path.stem for path in (tmp_path / "out" / "labels").glob("*.png")}
    assert labels == {path.stem for path in sorted(folder.iterdir())[:2]}
