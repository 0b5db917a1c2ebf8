"""The real radiographs as cohorts: what lies on disk reads clean, or is listed."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.data.inspection import inspect_images
from boneage_xai.errors import DataError


@pytest.mark.realdata
def test_real_training_set_reads_clean(real_data: Path) -> None:
    started = time.perf_counter()
    reading = read_source(real_data / "rsna-299")
    seconds = time.perf_counter() - started
    assert reading.problems == ()
    assert [(c.name, len(c)) for c in reading.cohorts] == [("training", 11600)]
    facts = reading.cohorts[0].describe()
    assert facts["labelled"] == 11600
    assert facts["bone_age_months"]["min"] == 1
    assert facts["bone_age_months"]["max"] == 228
    assert seconds < 10, "reading labels must not decode images"


@pytest.mark.realdata
def test_real_images_all_decode(real_data: Path) -> None:
    cohort = select_cohort(read_source(real_data / "rsna-299"))
    seen = inspect_images(cohort, workers=2)
    assert seen.problems == ()
    assert (seen.n, seen.width_px, seen.height_px) == (11600, (299, 299), (299, 299))


@pytest.mark.realdata
def test_real_images_without_a_table_are_refused_with_what_to_do(real_data: Path) -> None:
    with pytest.raises(DataError, match=r"label table.*found 110 images and no table"):
        read_source(real_data / "rsna-half-res")


@pytest.mark.realdata
def test_real_images_at_half_size_read_beside_a_table(real_data: Path, tmp_path: Path) -> None:
    """The two folders overlap: what one of them lacks is listed, the rest reads clean."""
    (tmp_path / "images").symlink_to(real_data / "rsna-half-res", target_is_directory=True)
    table = real_data / "rsna-299" / "boneage-training-dataset.csv"
    (tmp_path / "labels.csv").symlink_to(table)
    reading = read_source(tmp_path)
    matched = {case.case_id for case in reading.cohorts[0]}
    kinds = Counter(problem.kind for problem in reading.problems)
    assert kinds["missing_image"] == 11600 - len(matched)
    assert kinds["image_without_row"] == 110 - len(matched)
    seen = inspect_images(reading.cohorts[0], workers=1)
    assert seen.problems == ()
    assert seen.width_px is not None
    assert seen.width_px[0] != seen.width_px[1]
