"""Cohorts of phantoms: who is drawn, what a reader would call them, and a folder of them.

The folder has the RSNA layout, with region maps and the truth beside it. Each case depends
on the cohort's seed and its own number only, so that the same seed gives the same bytes with
any number of workers, and a smaller cohort is the beginning of a larger one.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from boneage_xai.anatomy import AGE_REGIONS, PART_NAMES, REGION_NAMES
from boneage_xai.data.decoding import usable_cores
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.files import staged_folder, write_json
from boneage_xai.phantom.faults import (
    SECOND_SITE_FROM,
    Fault,
    Planted,
    draw_site,
    id_at_site,
    plant,
)
from boneage_xai.phantom.growth import Hand, region_maturities, sample_hand
from boneage_xai.phantom.manifest import (
    AGE_RANGE_MONTHS,
    MANIFEST_FILE,
    READER_FULL_SD_FROM_MONTHS,
    AgeDistribution,
    PhantomManifest,
    irreducible_error,
    read_manifest,
)
from boneage_xai.phantom.rendering import PhantomImage, draw, render
from boneage_xai.phantom.sensitivity import DELTA_MONTHS, AgeSensitivity, sensitivity_of
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.types import FloatImage, LabelImage, Sex

Progress = Callable[[int, int], None]

TABLE_FILE = "boneage-training-dataset.csv"
IMAGE_FOLDER = "boneage-training-dataset"
LABEL_FOLDER = "labels"
PART_FOLDER = "parts"
SENSITIVITY_FOLDER = "sensitivity"
NAMES_FILE = "labels.json"
TRUTH_FILE = "truth.csv"

READER_SD_MONTHS = 6.0
MAX_READER_SD_MONTHS = 240.0
"""Spread of one reader's labels about the truth from 5 years on; less in proportion below."""

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
        case_id: its number in the cohort, from 1, as text; with sites ``faults.id_at_site``.
        hand: the individual; ``hand.age_months`` is the truth.
        label_months: what one reader calls it, whole months as in the RSNA tables.
        reader_sd_months: spread of the reader's labels about the truth at this age.
        seed: seed of the nuisances.
        site: where it comes from, None in a cohort without sites.
    """

    case_id: str
    hand: Hand
    label_months: int
    reader_sd_months: float
    seed: int
    site: str | None = None

    def planted(self, faults: tuple[Fault, ...]) -> Planted:
        """Return what the faults of its cohort do to its image."""
        return plant(faults, self.hand.sex, self.label_months, self.site)


def reader_sd(age_months: float, sd_months: float = READER_SD_MONTHS) -> float:
    """Return the spread of one reader's labels at an age, in months.

    Args:
        age_months: true bone age.
        sd_months: spread from 5 years on.
    """
    return sd_months * min(1.0, age_months / READER_FULL_SD_FROM_MONTHS)


def draw_case(
    number: int,
    seed: int = 0,
    ages: AgeDistribution = "rsna",
    reader_sd_months: float = READER_SD_MONTHS,
    faults: tuple[Fault, ...] = (),
) -> PhantomCase:
    """Draw one case of a cohort.

    Args:
        number: its number in the cohort, from 1.
        seed: seed of the cohort.
        ages: ``rsna`` for that data set's distribution by sex (overall mean 127, sd 41
            months), ``uniform`` for an even one; both from 1 to 228 months.
        reader_sd_months: label noise of one reader from 5 years on, 0 for none.
        faults: what the cohort's images betray; it changes no hand, label or seed.
    """
    rng = np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(number,)))
    sex = Sex.MALE if rng.uniform() < _MALE_SHARE else Sex.FEMALE
    low, high = AGE_RANGE_MONTHS
    if ages == "uniform":
        age_months = float(rng.uniform(low, high))
    else:
        mean, sd = _RSNA_AGES_MONTHS[sex]
        age_months = float(rng.normal(mean, sd))
        while not low <= age_months <= high:
            age_months = float(rng.normal(mean, sd))
    sd_months = reader_sd(age_months, reader_sd_months)
    label = age_months + sd_months * float(rng.standard_normal())
    sited = Fault.ID_ENCODES_BRIGHTNESS in faults
    site = draw_site(number, seed, age_months) if sited else None
    return PhantomCase(
        case_id=str(number) if site is None else id_at_site(number, site),
        hand=sample_hand(sex, age_months, rng),
        label_months=int(np.clip(round(label), low, high)),
        reader_sd_months=sd_months,
        seed=int(rng.integers(2**63)),
        site=site,
    )


def draw_cases(
    n: int,
    seed: int = 0,
    ages: AgeDistribution = "rsna",
    reader_sd_months: float = READER_SD_MONTHS,
    faults: tuple[Fault, ...] = (),
) -> tuple[PhantomCase, ...]:
    """Draw the cases of a cohort.

    Args:
        n: how many.
        seed: seed of the cohort.
        ages: as for ``draw_case``.
        reader_sd_months: as for ``draw_case``.
        faults: as for ``draw_case``.

    Raises:
        ConfigError: fewer than one case, a negative seed, an impossible spread, unknown ages, or
            more cases than the first of two sites has ids.
    """
    if n < 1:
        raise ConfigError(f"phantom cohort: expected at least 1 case, found {n}")
    if seed < 0 or not 0 <= reader_sd_months <= MAX_READER_SD_MONTHS:
        raise ConfigError(
            "phantom cohort: expected a seed of 0 or more and a reader's sd of 0 to "
            f"{MAX_READER_SD_MONTHS:g} months, found {seed} and {reader_sd_months}"
        )
    if ages not in ("rsna", "uniform"):
        raise ConfigError(f"phantom cohort: expected ages 'rsna' or 'uniform', found {ages!r}")
    if Fault.ID_ENCODES_BRIGHTNESS in faults and n >= SECOND_SITE_FROM:
        raise ConfigError(
            f"phantom cohort: expected fewer than {SECOND_SITE_FROM} cases with the fault "
            f"{Fault.ID_ENCODES_BRIGHTNESS}, whose second site begins there, found {n}"
        )
    return tuple(
        draw_case(number, seed, ages, reader_sd_months, faults) for number in range(1, n + 1)
    )


def render_case(
    case: PhantomCase,
    settings: PhantomSettings | None = None,
    faults: tuple[Fault, ...] = (),
) -> PhantomImage:
    """Draw the radiograph of a case, with its own nuisances and its cohort's faults."""
    return render(case.hand, settings, case.seed, planted=case.planted(faults))


def write_cohort(
    out: Path,
    n: int,
    seed: int = 0,
    settings: PhantomSettings | None = None,
    ages: AgeDistribution = "rsna",
    reader_sd_months: float = READER_SD_MONTHS,
    workers: int | None = None,
    progress: Progress | None = None,
    *,
    faults: Sequence[Fault] = (),
    sensitivity: bool = False,
) -> Path:
    """Write a phantom cohort in the RSNA layout, whole or not at all.

    Written are ``boneage-training-dataset.csv`` (id, boneage, male), the images, maps of regions
    under ``labels/`` and of single bones under ``parts/``, each with ``labels.json``,
    ``truth.csv`` (true age, label, reader's sd, seed, site and maturities of every case),
    ``phantom.json`` (all that was asked for), and on request ``sensitivity/``.

    Args:
        out: folder to make; it must not exist.
        n: how many cases.
        seed: seed of the cohort.
        settings: size, side and nuisances.
        ages: as for ``draw_case``.
        reader_sd_months: as for ``draw_case``.
        workers: processes; None for all cores, or one where there is little to do.
        progress: called with (cases done, cases in all).
        faults: what the images betray.
        sensitivity: whether maps of the sensitivity to age are written, as NumPy archives of
            float16 grey levels per month.

    Returns:
        ``out``.

    Raises:
        ConfigError: as ``draw_cases``, fewer than one worker, or a fault of a marker that is
            switched off.
        DataError: ``out`` exists.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"phantom cohort: expected at least 1 worker, found {workers}")
    settings = settings or PhantomSettings()
    # In the order of their definition and once each, whatever the order asked for.
    chosen = tuple(fault for fault in Fault if fault in faults)
    if Fault.MARKER_BRIGHTNESS_ENCODES_AGE in chosen and not settings.marker:
        raise ConfigError(
            f"phantom cohort: expected the marker on for the fault "
            f"{Fault.MARKER_BRIGHTNESS_ENCODES_AGE}, found it off"
        )
    cases = draw_cases(n, seed, ages, reader_sd_months, chosen)
    manifest = PhantomManifest(
        n=n,
        seed=seed,
        ages=ages,
        reader_sd_months=reader_sd_months,
        settings=settings,
        faults=chosen,
        sensitivity_delta_months=DELTA_MONTHS if sensitivity else None,
        irreducible_error=irreducible_error(
            [case.hand.age_months for case in cases],
            [case.label_months for case in cases],
            [case.reader_sd_months for case in cases],
        ),
    )
    with staged_folder(Path(out)) as folder:
        for name in (IMAGE_FOLDER, LABEL_FOLDER, PART_FOLDER):
            (folder / name).mkdir()
        if sensitivity:
            (folder / SENSITIVITY_FOLDER).mkdir()
        chunks = [
            tuple(range(i, min(i + _CASES_PER_TASK, n + 1)))
            for i in range(1, n + 1, _CASES_PER_TASK)
        ]
        done = 0
        task = partial(_write_numbered, folder=folder, manifest=manifest)
        for written in _each(task, chunks, _workers(workers, n)):
            done += written
            if progress is not None:
                progress(done, n)
        (folder / TABLE_FILE).write_text(_label_table(cases), encoding="utf-8")
        (folder / TRUTH_FILE).write_text(_truth_table(cases), encoding="utf-8")
        write_json(folder / LABEL_FOLDER / NAMES_FILE, REGION_NAMES)
        write_json(folder / PART_FOLDER / NAMES_FILE, PART_NAMES)
        write_json(folder / MANIFEST_FILE, manifest.model_dump(mode="json"))
    return Path(out)


def read_phantom_cohort(folder: Path) -> tuple[PhantomManifest, tuple[PhantomCase, ...]]:
    """Draw the cases of a cohort again from its record.

    Args:
        folder: folder written by ``write_cohort``.

    Returns:
        The record, and the cases in the order of their numbers.

    Raises:
        DataError: not such a folder, one of another version, or one whose truth is not what its
            record gives.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    try:
        cases = draw_cases(
            manifest.n,
            manifest.seed,
            manifest.ages,
            manifest.reader_sd_months,
            manifest.faults,
        )
    except ConfigError as error:
        raise DataError(f"{folder / MANIFEST_FILE}: {error}") from error
    truth = folder / TRUTH_FILE
    try:
        written = truth.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{truth}: expected the truth of {manifest.n} phantoms: {error}") from error
    drawn = _truth_table(cases).splitlines()
    if len(written) != len(drawn):
        raise DataError(
            f"{truth}: expected {manifest.n} cases as {MANIFEST_FILE} says, "
            f"found {len(written) - 1}"
        )
    for expected, found in zip(drawn, written, strict=True):
        if expected != found:
            raise DataError(
                f"{truth}: expected what {MANIFEST_FILE} gives ({expected[:60]}…), "
                f"found {found[:60]}…: changed, or of another version of the toolkit"
            )
    return manifest, cases


def _write_numbered(numbers: Sequence[int], folder: Path, manifest: PhantomManifest) -> int:
    """Draw and write the images of some cases; a case is redrawn from its number."""
    for number in numbers:
        case = draw_case(
            number, manifest.seed, manifest.ages, manifest.reader_sd_months, manifest.faults
        )
        planted = case.planted(manifest.faults)
        drawing = draw(case.hand, manifest.settings, case.seed, planted=planted)
        name = f"{case.case_id}.png"
        _write_png(folder / IMAGE_FOLDER / name, np.round(drawing.pixels * 255))
        _write_png(folder / LABEL_FOLDER / name, drawing.regions().labels)
        _write_png(folder / PART_FOLDER / name, drawing.parts().labels)
        if manifest.sensitivity_delta_months is not None:
            found = sensitivity_of(drawing, manifest.sensitivity_delta_months)
            _write_sensitivity(folder / SENSITIVITY_FOLDER / f"{case.case_id}.npz", found)
    return len(numbers)


def _write_png(path: Path, values: FloatImage | LabelImage) -> None:
    Image.fromarray(values.astype(np.uint8)).save(path, compress_level=3)


def _write_sensitivity(path: Path, sensitivity: AgeSensitivity) -> None:
    # NumPy dates every member of an archive to 1980, so that its bytes are repeatable.
    maps = {"whole": sensitivity.whole, **sensitivity.by_region}
    arrays: dict[str, Any] = {name: values.astype(np.float16) for name, values in maps.items()}
    np.savez_compressed(path, delta_months=np.float64(sensitivity.delta_months), **arrays)


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


def _label_table(cases: Sequence[PhantomCase]) -> str:
    rows = ["id,boneage,male"]
    rows += [f"{case.case_id},{case.label_months},{case.hand.sex.is_male}" for case in cases]
    return "\n".join(rows) + "\n"


def _truth_table(cases: Sequence[PhantomCase]) -> str:
    sited = any(case.site is not None for case in cases)
    columns = ["case_id", "sex", "age_months", "label_months", "reader_sd_months", "seed"]
    columns += ["site"] if sited else []
    columns += [f"maturity_{region}" for region in AGE_REGIONS]
    rows = [",".join(columns)]
    for case in cases:
        hand = case.hand
        cells = [case.case_id, hand.sex.value, f"{hand.age_months:.3f}", str(case.label_months)]
        cells += [f"{case.reader_sd_months:.3f}", str(case.seed)]
        cells += [str(case.site)] if sited else []
        cells += [f"{value:.4f}" for value in region_maturities(hand).values()]
        rows.append(",".join(cells))
    return "\n".join(rows) + "\n"
