"""Two tiny arms on phantoms, with the sex and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.types import Cohort

OWN = """
name = "{name}"
[preprocessing]
size_px = 48
fit = "{fit}"
[architecture]
backbone = "squeezenet1_1"
sex_features = {sex}
hidden = [8]
[training]
epochs = 3
batch_size = 8
validation_fraction = 0.1
precision = "float32"
"""


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("recipes")
    paths = []
    for name, sex, fit in (("own", 4, "pad"), ("own-image-only", 0, "squash")):
        paths.append(folder / f"{name}.toml")
        paths[-1].write_text(OWN.format(name=name, sex=sex, fit=fit))
    return [str(path) for path in paths]


@pytest.fixture(scope="module")
def cohort(phantoms: Path) -> Cohort:
    return select_cohort(read_source(phantoms))
