"""A chunk that is damaged or missing is found when it is read, and not served."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from boneage_xai.attribution.writers import MapsWriter
from boneage_xai.errors import DataError
from boneage_xai.stored_maps import StoredMaps

MAPS = np.random.default_rng(0).normal(size=(3, 8, 6)).astype(np.float32)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "attributions.zarr"
    MapsWriter.create(
        path, ["a", "b", "c"], (8, 6), ["gradient"], {"layer": (2, 2)}, regions=False, claim="x"
    )
    writer = MapsWriter(path)
    for row, values in enumerate(MAPS):
        writer.write("gradient", row, values)
        writer.write("inputs", row, np.zeros((8, 6), np.uint8))
        writer.write("activations/layer", row, np.full((2, 2), row, np.float32))
    return path


def test_what_was_written_is_read(written: Path) -> None:
    maps = StoredMaps(written)
    assert "gradient" in maps
    assert "regions" not in maps
    assert list(maps.attrs["case_ids"]) == ["a", "b", "c"]
    assert maps["gradient"].shape == (3, 8, 6)
    for row in (0, 1, 2, -1):
        np.testing.assert_array_equal(maps["gradient"][row], MAPS[row])
        assert not maps["inputs"][row].any()
    np.testing.assert_array_equal(maps["gradient"][1:], MAPS[1:])
    assert maps["activations/layer"][2].tolist() == [[2, 2], [2, 2]]
    with pytest.raises(IndexError):
        maps["gradient"][3]


def test_every_flipped_byte_is_found(written: Path) -> None:
    file = written / "gradient" / "c" / "1" / "0" / "0"
    whole = file.read_bytes()
    maps = StoredMaps(written)
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(DataError, match=r"gradient: expected the whole chunk of row 1"):
            maps["gradient"][1]
    np.testing.assert_array_equal(maps["gradient"][0], MAPS[0])


def test_a_flipped_byte_of_a_description_is_found(written: Path) -> None:
    """The shape, the codecs, the names of regions: all that tells what the chunks mean."""
    MapsWriter(written).finish({}, [])
    sound = dict(StoredMaps(written).attrs)
    for name in ("", "gradient"):
        file = written / name / "zarr.json"
        whole = file.read_bytes()
        checksum = whole.index(b'"metadata_sha256"')
        for place in range(0, len(whole), 5):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            if json_means_the_same(file, whole) or 0 < place - checksum < 16:
                continue  # blanks, or a checksum of another name, which leaves the rest as it was
            with pytest.raises(DataError, match=r"attributions\.zarr.*--replace|Zarr group"):
                _ = StoredMaps(written)["gradient"]
        file.write_bytes(whole)
    assert dict(StoredMaps(written).attrs) == sound


def json_means_the_same(file: Path, whole: bytes) -> bool:
    try:
        return bool(json.loads(file.read_bytes()) == json.loads(whole))
    except ValueError:
        return False


def test_maps_written_before_there_were_checksums_are_read(written: Path) -> None:
    assert "metadata_sha256" not in StoredMaps(written).attrs
    np.testing.assert_array_equal(StoredMaps(written)["gradient"][:], MAPS)


def test_an_array_that_is_missing_is_named(written: Path) -> None:
    with pytest.raises(DataError, match=r"absent/zarr\.json: expected the description"):
        StoredMaps(written)["absent"]


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 40])
def test_a_chunk_cut_off_is_found(written: Path, length: int) -> None:
    file = written / "gradient" / "c" / "2" / "0" / "0"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(DataError, match="expected the whole chunk of row 2, found damage"):
        StoredMaps(written)["gradient"][2]


@pytest.mark.parametrize("name", ["gradient", "inputs"])
def test_a_chunk_that_is_missing_is_not_read_as_zeros(written: Path, name: str) -> None:
    (written / name / "c" / "0" / "0" / "0").unlink()
    with pytest.raises(DataError, match="its file is missing"):
        StoredMaps(written)[name][0]
    with pytest.raises(DataError, match="its file is missing"):
        StoredMaps(written)[name][:]
    assert StoredMaps(written)[name][1:].shape == (2, 8, 6)


def test_a_lost_region_map_is_no_map_of_background(tmp_path: Path) -> None:
    path = tmp_path / "attributions.zarr"
    MapsWriter.create(path, ["a", "b"], (8, 6), [], {}, regions=True, claim="x")
    writer = MapsWriter(path)
    writer.write("regions", 1, np.full((8, 6), 3, np.uint8))
    writer.finish({"3": "radius"}, ["b"])
    regions = StoredMaps(path)["regions"]
    assert regions[:].sum() == 3 * 8 * 6
    (path / "regions" / "c" / "1" / "0" / "0").unlink()
    assert not regions[0].any()  # a case without a region map
    with pytest.raises(DataError, match="its file is missing"):
        regions[1]


def test_what_is_no_group_is_refused(tmp_path: Path) -> None:
    (tmp_path / "attributions.zarr").mkdir()
    with pytest.raises(DataError, match="expected a Zarr group"):
        StoredMaps(tmp_path / "attributions.zarr")
