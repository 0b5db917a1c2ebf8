"""Cohorts of phantoms: who is drawn, what a reader would call them, and a folder of them.

The folder has the RSNA layout, with region maps and the truth beside it. Each case depends
on the cohort's seed and its own number only, so that the same seed gives the same bytes with
any number of workers, and a smaller cohort is the beginning of a larger one.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from boneage_xai import __version__
from boneage_xai.anatomy import REGION_NAMES
from boneage_xai.data.decoding import usable_cores
from boneage_xai.errors import ConfigError
from boneage_xai.phantom.growth import Hand, sample_hand
from boneage_xai.phantom.rendering import PhantomImage, render
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.store import staged_folder
from boneage_xai.types import Sex

AgeDistribution = Literal["rsna", "uniform"]
Progress = Callable[[int, int], None]

TABLE_FILE = "boneage-training-dataset.csv"
IMAGE_FOLDER = "boneage-training-dataset"
LABEL_FOLDER = "labels"
NAMES_FILE = "labels.json"
TRUTH_FILE = "truth.csv"
MANIFEST_FILE = "phantom.json"

READER_SD_MONTHS = 6.0
"""Spread of one reader's labels about the truth from 5 years on; less in proportion below."""

_READER_FULL_SD_FROM_MONTHS = 60.0
_AGE_RANGE_MONTHS = (1, 228)
_MALE_SHARE = 0.54
# Of the RSNA training set, before truncation: mean and sd by sex.
_RSNA_AGES_MONTHS = {Sex.MALE: (136.0, 42.5), Sex.FEMALE: (118.0, 38.0)}
# Below this a pool of workers costs more than it saves.
_POOL_FROM = 48
_CASES_PER_TASK = 16


@dataclass(frozen=True)
class PhantomCase:
    """One case of a phantom cohort.

    Args:
        case_id: its number in the cohort, from 1, as text.
        hand: the individual; ``hand.age_months`` is the truth.
        label_months: what one reader calls it, whole months as in the RSNA tables.
        reader_sd_months: spread of the reader's labels about the truth at this age.
        seed: seed of the nuisances.
    """

    case_id: str
    hand: Hand
    label_months: int
    reader_sd_months: float
    seed: int


def reader_sd(age_months: float, sd_months: float = READER_SD_MONTHS) -> float:
    """Return the spread of one reader's labels at an age, in months.

    Args:
        age_months: true bone age.
        sd_months: spread from 5 years on.
    """
    return sd_months * min(1.0, age_months / _READER_FULL_SD_FROM_MONTHS)


def draw_case(
    number: int,
    seed: int = 0,
    ages: AgeDistribution = "rsna",
    reader_sd_months: float = READER_SD_MONTHS,
) -> PhantomCase:
    """Draw one case of a cohort.

    Args:
        number: its number in the cohort, from 1.
        seed: seed of the cohort.
        ages: ``rsna`` for that data set's distribution by sex (overall mean 127, sd 41
            months), ``uniform`` for an even one; both from 1 to 228 months.
        reader_sd_months: label noise of one reader from 5 years on, 0 for none.
    """
    rng = np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(number,)))
    sex = Sex.MALE if rng.uniform() < _MALE_SHARE else Sex.FEMALE
    low, high = _AGE_RANGE_MONTHS
    if ages == "uniform":
        age_months = float(rng.uniform(low, high))
    else:
        mean, sd = _RSNA_AGES_MONTHS[sex]
        age_months = float(rng.normal(mean, sd))
        while not low <= age_months <= high:
            age_months = float(rng.normal(mean, sd))
    sd_months = reader_sd(age_months, reader_sd_months)
    label = age_months + sd_months * float(rng.standard_normal())
    return PhantomCase(
        case_id=str(number),
        hand=sample_hand(sex, age_months, rng),
        label_months=int(np.clip(round(label), low, high)),
        reader_sd_months=sd_months,
        seed=int(rng.integers(2**63)),
    )


def draw_cases(
    n: int,
    seed: int = 0,
    ages: AgeDistribution = "rsna",
    reader_sd_months: float = READER_SD_MONTHS,
) -> tuple[PhantomCase, ...]:
    """Draw the cases of a cohort.

    Args:
        n: how many.
        seed: seed of the cohort.
        ages: as for ``draw_case``.
        reader_sd_months: as for ``draw_case``.

    Raises:
        ConfigError: fewer than one case, a negative seed or spread, or unknown ages.
    """
    if n < 1:
        raise ConfigError(f"phantom cohort: expected at least 1 case, found {n}")
    if seed < 0 or not reader_sd_months >= 0:
        raise ConfigError(
            "phantom cohort: expected a seed and a reader's sd of 0 or more, "
            f"found {seed} and {reader_sd_months}"
        )
    if ages not in ("rsna", "uniform"):
        raise ConfigError(f"phantom cohort: expected ages 'rsna' or 'uniform', found {ages!r}")
    return tuple(draw_case(number, seed, ages, reader_sd_months) for number in range(1, n + 1))


def render_case(case: PhantomCase, settings: PhantomSettings | None = None) -> PhantomImage:
    """Draw the radiograph of a case, with its own nuisances."""
    return render(case.hand, settings, case.seed)


def write_cohort(
    out: Path,
    n: int,
    seed: int = 0,
    settings: PhantomSettings | None = None,
    ages: AgeDistribution = "rsna",
    reader_sd_months: float = READER_SD_MONTHS,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a phantom cohort in the RSNA layout, whole or not at all.

    Written are ``boneage-training-dataset.csv`` (id, boneage, male), the images, label maps
    under ``labels/`` with ``labels.json``, ``truth.csv`` (true age, label, reader's sd and
    seed of every case) and ``phantom.json`` (all that was asked for).

    Args:
        out: folder to make; it must not exist.
        n: how many cases.
        seed: seed of the cohort.
        settings: size and nuisances.
        ages: as for ``draw_case``.
        reader_sd_months: as for ``draw_case``.
        workers: processes; None for all cores, or one where there is little to do.
        progress: called with (cases done, cases in all).

    Returns:
        ``out``.

    Raises:
        ConfigError: as ``draw_cases``, or fewer than one worker.
        DataError: ``out`` exists.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"phantom cohort: expected at least 1 worker, found {workers}")
    settings = settings or PhantomSettings()
    cases = draw_cases(n, seed, ages, reader_sd_months)
    draw = partial(_write_numbered, seed=seed, settings=settings, ages=ages)
    with staged_folder(Path(out)) as folder:
        (folder / IMAGE_FOLDER).mkdir()
        (folder / LABEL_FOLDER).mkdir()
        chunks = [
            tuple(range(i, min(i + _CASES_PER_TASK, n + 1)))
            for i in range(1, n + 1, _CASES_PER_TASK)
        ]
        done = 0
        for written in _each(partial(draw, folder=folder), chunks, _workers(workers, n)):
            done += written
            if progress is not None:
                progress(done, n)
        _write_tables(folder, cases)
        _write_manifest(folder, n, seed, settings, ages, reader_sd_months)
    return Path(out)


def _write_numbered(
    numbers: Sequence[int],
    folder: Path,
    seed: int,
    settings: PhantomSettings,
    ages: AgeDistribution,
) -> int:
    """Draw and write the images of some cases; a case is redrawn from its number."""
    for number in numbers:
        case = draw_case(number, seed, ages)
        image = render_case(case, settings)
        name = f"{case.case_id}.png"
        grey = np.round(image.pixels * 255).astype(np.uint8)
        Image.fromarray(grey).save(folder / IMAGE_FOLDER / name, compress_level=3)
        labels = image.regions.labels.astype(np.uint8)
        Image.fromarray(labels).save(folder / LABEL_FOLDER / name, compress_level=3)
    return len(numbers)


def _each(
    task: Callable[[tuple[int, ...]], int], chunks: Sequence[tuple[int, ...]], workers: int
) -> Iterator[int]:
    """Run the task on each chunk, in this process or in several."""
    if workers == 1:
        yield from map(task, chunks)
        return
    # Spawned, not forked: a fork of a process that runs threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=context) as pool:
        yield from pool.map(task, chunks)


def _workers(workers: int | None, n: int) -> int:
    if workers is not None:
        return workers
    if n < _POOL_FROM:
        return 1
    return usable_cores()


def _write_tables(folder: Path, cases: Sequence[PhantomCase]) -> None:
    rows = ["id,boneage,male"]
    truth = ["case_id,sex,age_months,label_months,reader_sd_months,seed"]
    for case in cases:
        hand = case.hand
        rows.append(f"{case.case_id},{case.label_months},{hand.sex.is_male}")
        truth.append(
            f"{case.case_id},{hand.sex.value},{hand.age_months:.3f},{case.label_months},"
            f"{case.reader_sd_months:.3f},{case.seed}"
        )
    (folder / TABLE_FILE).write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / TRUTH_FILE).write_text("\n".join(truth) + "\n", encoding="utf-8")


def _write_manifest(
    folder: Path,
    n: int,
    seed: int,
    settings: PhantomSettings,
    ages: AgeDistribution,
    reader_sd_months: float,
) -> None:
    names = {str(value): name for value, name in REGION_NAMES.items()}
    manifest = {
        "format": "boneage_xai.phantom",
        "version": 1,
        "toolkit_version": __version__,
        "n": n,
        "seed": seed,
        "ages": ages,
        "reader_sd_months": reader_sd_months,
        "reader_full_sd_from_months": _READER_FULL_SD_FROM_MONTHS,
        "settings": settings.model_dump(),
    }
    for path, content in (
        (folder / LABEL_FOLDER / NAMES_FILE, names),
        (folder / MANIFEST_FILE, manifest),
    ):
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
