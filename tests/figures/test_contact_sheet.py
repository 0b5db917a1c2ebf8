from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boneage_xai.errors import ReportError
from boneage_xai.figures.cohort import contact_sheet, contact_sheet_of
from boneage_xai.types import Case, Cohort, Sex


def cohort_of(folder: Path, ages: dict[str, float], sex: Sex) -> Cohort:
    cases = []
    for grey, (case_id, age) in enumerate(ages.items()):
        # A grey of its own tells which image was drawn.
        pixels = np.full((30, 20), 10 + grey, dtype=np.uint8)
        pixels[:15] = 200
        path = folder / f"{case_id}.png"
        Image.fromarray(pixels).save(path)
        cases.append(Case(case_id, path, sex, age))
    return Cohort("some", tuple(cases))


def test_nearest_case_of_each_sex_is_drawn(tmp_path: Path) -> None:
    cohort = cohort_of(tmp_path, {"a": 30.0, "b": 35.0, "c": 44.0, "d": 121.0}, Sex.MALE)
    axes = contact_sheet_of(cohort, (36.0, 72.0, 108.0)).axes
    girls, boys = axes[:3], axes[3:]
    assert [len(cell.get_images()) for cell in girls] == [0, 0, 0]
    # Nothing comes within a year of 72 months; 121 is too far from 108.
    assert [len(cell.get_images()) for cell in boys] == [1, 0, 0]
    assert boys[0].get_title(loc="center") == "boy, 35 months"
    (image,) = boys[0].get_images()
    assert image.get_array().min() == pytest.approx(11 / 255)


def test_a_flat_image_and_an_empty_sheet() -> None:
    flat = np.zeros((8, 8), dtype=np.float32)
    assert len(contact_sheet({("F", 12.0): (flat, 12.0)}, (12.0,)).axes) == 2
    with pytest.raises(ReportError, match="none"):
        contact_sheet({})
