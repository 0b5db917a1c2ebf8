"""The pixel cache: decoded once, whole or absent, opened at once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boneage_xai.data import cache as module
from boneage_xai.data import decoding
from boneage_xai.data.cache import default_cache_folder, open_cache, source_fingerprint
from boneage_xai.data.preprocess import PreprocessSettings, preprocess
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.types import Case, Cohort, Sex

SETTINGS = PreprocessSettings(size_px=16)


def make_cohort(folder: Path, n: int = 5, seed: int = 0) -> Cohort:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    cases = []
    for number in range(n):
        path = folder / f"{number}.png"
        shape = (20 + number % 7, 30 - number % 5)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
        cases.append(Case(f"case-{number}", path, Sex.FEMALE, 100.0))
    return Cohort("made-up", tuple(cases))


def assert_holds(cache: module.PixelCache, cohort: Cohort) -> None:
    assert cache.case_ids == tuple(case.case_id for case in cohort)
    for row, case in enumerate(cohort):
        expected = preprocess(read_radiograph(case.image), cache.settings)
        np.testing.assert_array_equal(cache.pixels[row], expected.pixels)
        np.testing.assert_array_equal(cache.intensity[row], expected.intensity)
        assert cache.source_map(case.case_id) == expected.source_map


@pytest.mark.parametrize("workers", [1, 2])
def test_every_row_is_the_prepared_image(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = make_cohort(tmp_path / "images", n=70)
    done: list[tuple[int, int]] = []
    if workers > 1:
        # Proof that the pool does the work: this process must not.
        monkeypatch.setattr(decoding, "preprocess", lambda *args: pytest.fail("decoded here"))
    cache = open_cache(cohort, SETTINGS, tmp_path / "cache", workers, lambda *now: done.append(now))
    assert done[-1] == (70, 70)
    assert done == sorted(done)
    assert_holds(cache, cohort)


def test_a_second_call_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = make_cohort(tmp_path / "images")
    first = open_cache(cohort, SETTINGS, tmp_path / "cache", workers=1)
    monkeypatch.setattr(module, "decode_images", lambda *args: pytest.fail("decoded again"))
    second = open_cache(cohort, SETTINGS, tmp_path / "cache")
    assert second.path == first.path
    np.testing.assert_array_equal(second.pixels, first.pixels)
    assert second.fingerprint == first.fingerprint == source_fingerprint(cohort)
    assert len(second) == 5


def test_pixels_are_memory_mapped_and_read_only(tmp_path: Path) -> None:
    cache = open_cache(make_cohort(tmp_path / "images"), SETTINGS, tmp_path / "cache", workers=1)
    assert isinstance(cache.pixels, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        cache.pixels[0, 0, 0] = 1


def test_rows(tmp_path: Path) -> None:
    cache = open_cache(make_cohort(tmp_path / "images"), SETTINGS, tmp_path / "cache", workers=1)
    assert cache.rows(["case-3", "case-0", "case-3"]).tolist() == [3, 0, 3]
    assert cache.rows([]).tolist() == []
    with pytest.raises(DataError, match="case nobody, found none"):
        cache.rows(["case-0", "nobody"])


def test_settings_and_source_make_the_key(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path / "images")
    folder = tmp_path / "cache"
    paths = {open_cache(cohort, SETTINGS, folder, workers=1).path}
    paths.add(open_cache(cohort, PreprocessSettings(size_px=16, fit="squash"), folder, 1).path)
    paths.add(open_cache(cohort.select(["case-1", "case-0"]), SETTINGS, folder, 1).path)
    assert len(paths) == 3
    before = source_fingerprint(cohort)
    image = cohort.cases[2].image
    Image.open(image).rotate(180).save(image)
    os.utime(image, ns=(1, 1))
    assert source_fingerprint(cohort) != before
    changed = open_cache(cohort, SETTINGS, folder, workers=1)
    assert changed.path not in paths
    assert_holds(changed, cohort)


def test_data_sets_that_agree_in_all_but_their_bytes_have_caches_of_their_own(
    tmp_path: Path,
) -> None:
    cohorts = []
    for name, grey in (("a", 40), ("b", 200)):
        image = tmp_path / name / "1.tif"
        image.parent.mkdir()
        Image.new("L", (64, 64), grey).save(image)
        os.utime(image, ns=(1, 1))
        cohorts.append(Cohort("made-up", (Case("1", image, Sex.MALE),)))
    assert source_fingerprint(cohorts[0]) == source_fingerprint(cohorts[1])
    settings = PreprocessSettings(size_px=16, stretch_percentiles=(0, 100))
    one, other = (open_cache(cohort, settings, tmp_path / "cache", 1) for cohort in cohorts)
    assert one.path != other.path
    assert_holds(other, cohorts[1])


def test_a_moved_source_keeps_its_fingerprint(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path / "a")
    before = source_fingerprint(cohort)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = Cohort(
        "made-up",
        tuple(Case(case.case_id, tmp_path / "b" / case.image.name, case.sex) for case in cohort),
    )
    assert source_fingerprint(moved) == before


@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_images_are_counted_and_nothing_is_left(tmp_path: Path, workers: int) -> None:
    cohort = make_cohort(tmp_path / "images", n=70)
    cohort.cases[40].image.unlink()
    cohort.cases[66].image.write_text("not an image")
    with pytest.raises(DataError) as caught:
        open_cache(cohort, SETTINGS, tmp_path / "cache", workers)
    message = str(caught.value)
    assert "2 of 70 images cannot be read, the first is case case-40" in message
    assert "40.png" in message
    assert "\n" not in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_cache(make_cohort(tmp_path / "images"), SETTINGS, tmp_path / "cache", 1, interrupt)
    assert list((tmp_path / "cache").iterdir()) == []


def test_builders_that_race_all_get_the_same_cache(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path / "images")
    barrier = threading.Barrier(3)
    caches: list[module.PixelCache] = []

    def build() -> None:
        # All are past the look for an existing cache when the first of them finishes.
        progress = barrier.wait
        caches.append(
            open_cache(cohort, SETTINGS, tmp_path / "cache", 1, lambda *now: progress(30) and None)
        )

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({cache.path for cache in caches}) == 1
    assert len(caches) == 3
    assert_holds(caches[0], cohort)
    assert list((tmp_path / "cache").iterdir()) == [caches[0].path]


@pytest.mark.parametrize("name", ["cache.json", "pixels.npy", "geometry.npy", "intensity.npy"])
@pytest.mark.parametrize("damage", ["missing", "empty", "nonsense", "one bit"])
def test_a_damaged_cache_is_made_again(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cohort = make_cohort(tmp_path / "images")
    file = open_cache(cohort, SETTINGS, tmp_path / "cache", workers=1).path / name
    written = file.read_bytes()
    file.unlink()
    if damage == "one bit":
        # The last bytes are pixels or numbers; in cache.json they close a list of digests.
        place = len(written) // 2 if name == "cache.json" else len(written) - 2
        file.write_bytes(written[:place] + bytes([written[place] ^ 1]) + written[place + 1 :])
    elif damage != "missing":
        file.write_bytes(b"" if damage == "empty" else b"nonsense")
    assert_holds(open_cache(cohort, SETTINGS, tmp_path / "cache", workers=1), cohort)
    assert "it is made again" in caplog.text
    assert file.read_bytes() == written


def test_a_damaged_cache_that_cannot_be_removed_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = make_cohort(tmp_path / "images")
    cache = open_cache(cohort, SETTINGS, tmp_path / "cache", workers=1)
    (cache.path / "geometry.npy").unlink()
    monkeypatch.setattr("boneage_xai.data.cache._put_away", lambda path: None)
    with pytest.raises(DataError, match="found damage"):
        open_cache(cohort, SETTINGS, tmp_path / "cache", workers=1)


def test_what_cannot_be_cached_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found none"):
        open_cache(Cohort("empty", ()), SETTINGS, tmp_path)
    with pytest.raises(ConfigError, match="at least 1, found 0"):
        open_cache(make_cohort(tmp_path / "images"), SETTINGS, tmp_path, workers=0)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="room for the pixel cache"):
        open_cache(make_cohort(tmp_path / "images"), SETTINGS, tmp_path / "file", workers=1)


def test_a_script_without_a_main_guard_still_gets_its_cache(tmp_path: Path) -> None:
    make_cohort(tmp_path / "images", n=70)
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from boneage_xai.data.cache import open_cache\n"
        "from boneage_xai.data.preprocess import PreprocessSettings\n"
        "from boneage_xai.types import Case, Cohort, Sex\n"
        f"root = Path({str(tmp_path)!r})\n"
        "cases = tuple(Case(p.stem, p, Sex.MALE) for p in sorted((root / 'images').iterdir()))\n"
        "settings = PreprocessSettings(size_px=16)\n"
        "cache = open_cache(Cohort('c', cases), settings, root / 'cache', workers=2)\n"
        "print('rows', len(cache))\n"
    )
    root = Path(module.__file__).parents[2]
    run = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert run.stdout == "rows 70\n"
    assert run.returncode == 0


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"BONEAGE_XAI_CACHE": "/big/disk", "XDG_CACHE_HOME": "/xdg"}, Path("/big/disk")),
        ({"XDG_CACHE_HOME": "/xdg"}, Path("/xdg/boneage_xai")),
        ({"XDG_CACHE_HOME": "relative"}, Path("/home/someone/.cache/boneage_xai")),
        ({}, Path("/home/someone/.cache/boneage_xai")),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the folders of Linux")
def test_default_folder(
    variables: dict[str, str], expected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BONEAGE_XAI_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_cache_folder() == expected
