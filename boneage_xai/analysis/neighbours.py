"""The training radiographs that a network finds most like a case, and how unusual the case is.

Likeness is the Euclidean distance between pooled features, the last layer that knows nothing of
the sex; neighbours are of the same sex. The search is exact, by blocked matrix products: for the
tens of thousands of radiographs of a training set an approximate index (FAISS) is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn

from boneage_xai.analysis.run_analysis import RunOnCohort, prepare_run
from boneage_xai.data.cache import PixelCache
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.data.preprocess import PreprocessSettings, preprocess
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.errors import ConfigError, DataError
from boneage_xai.files import write_table
from boneage_xai.models.checkpoint import TrainedRun
from boneage_xai.models.regressor import BoneAgeRegressor
from boneage_xai.predict import Progress, as_images, evaluation_mode
from boneage_xai.store import NEIGHBOUR_TABLE, AnalysisFolder, check_same_analysis
from boneage_xai.types import Case, Cohort, Sex

N_NEIGHBOURS = 6
_BLOCK_ROWS = 1024


def pooled_features(
    network: nn.Module,
    pixels: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.intp],
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> npt.NDArray[np.float32]:
    """Return what the backbone of a network makes of prepared pixels.

    Args:
        network: a network of the toolkit; left as it was found.
        pixels: (m, S, S) uint8.
        rows: (n,) rows of ``pixels``.
        batch_size: images a step.
        progress: called with (done, total).

    Returns:
        (n, d) float32 pooled features, before the sex is joined to them.

    Raises:
        ConfigError: a network from elsewhere, whose features cannot be told from its other layers.
    """
    if not isinstance(network, BoneAgeRegressor):
        raise ConfigError(
            "neighbours: expected a network that the toolkit trained, whose pooled features are "
            f"known, found {type(network).__name__}"
        )
    device = network.age_mean_months.device
    parts = []
    with evaluation_mode(network), torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            images = as_images(pixels[rows[start : start + batch_size]], device)
            parts.append(network.backbone(images).flatten(1).float().cpu().numpy())
            if progress is not None:
                progress(min(start + batch_size, len(rows)), len(rows))
    if not parts:
        raise DataError("neighbours: expected at least one case, found none")
    return np.concatenate(parts)


def nearest(
    queries: npt.ArrayLike,
    references: npt.ArrayLike,
    k: int,
    *,
    itself: npt.NDArray[np.intp] | None = None,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Find the k nearest references of each query, exactly.

    Args:
        queries: (n, d) features.
        references: (m, d) features.
        k: how many; at most m, or m − 1 with ``itself``.
        itself: (n,) the reference that is the query itself and does not count, −1 for none.

    Returns:
        (n, k) rows of ``references``, the nearest first, and (n, k) Euclidean distances.

    Raises:
        ConfigError: k under 1, or more than there are.
        DataError: shapes that do not fit, or features that are not finite.
    """
    asked, known = np.asarray(queries, np.float64), np.asarray(references, np.float64)
    if asked.ndim != 2 or known.ndim != 2 or asked.shape[1] != known.shape[1]:
        raise DataError(
            f"neighbours: expected (n, d) and (m, d) features, found {asked.shape} and "
            f"{known.shape}"
        )
    if not (np.isfinite(asked).all() and np.isfinite(known).all()):
        raise DataError("neighbours: expected finite features, found others")
    available = len(known) - (itself is not None)
    if not 1 <= k <= available:
        raise ConfigError(f"neighbours: expected 1 to {available} of them, found {k}")
    # Centred, so that the squares that are subtracted are not much larger than their difference.
    centre = known.mean(axis=0)
    asked, known = asked - centre, known - centre
    squares = np.square(known).sum(axis=1)
    found = np.empty((len(asked), k), dtype=np.intp)
    distances = np.empty((len(asked), k))
    for start in range(0, len(asked), _BLOCK_ROWS):
        block = asked[start : start + _BLOCK_ROWS]
        # The query's own square is the same for all references and does not change their order.
        order = squares - 2 * block @ known.T
        if itself is not None:
            own = itself[start : start + _BLOCK_ROWS]
            there = np.flatnonzero(own >= 0)
            order[there, own[there]] = np.inf
        closest = np.argpartition(order, k - 1, axis=1)[:, :k]
        exact = np.linalg.norm(known[closest] - block[:, None], axis=2)
        turn = np.lexsort((closest, exact))
        found[start : start + len(block)] = np.take_along_axis(closest, turn, axis=1)
        distances[start : start + len(block)] = np.take_along_axis(exact, turn, axis=1)
    return found, distances


def neighbour_table(
    cases: Cohort,
    features: npt.NDArray[np.float32],
    training: Cohort,
    training_features: npt.NDArray[np.float32],
    k: int = N_NEIGHBOURS,
) -> pd.DataFrame:
    """List the nearest training cases of the same sex, and how unusual each case is.

    Args:
        cases: n cases.
        features: (n, d) their features.
        training: m cases that the network was trained on.
        training_features: (m, d) theirs.
        k: neighbours per case; fewer where fewer are of the sex.

    Returns:
        Per case and neighbour: case_id, sex, rank (1 is nearest), neighbour_id, neighbour_months
        (reference age, NaN where unknown), distance, and distance_percentile: the share in percent
        of training cases of the sex whose own nearest neighbour is nearer than this case's.

    Raises:
        ConfigError: k under 1.
        DataError: fewer than two training cases of a sex that occurs.
    """
    if k < 1:
        raise ConfigError(f"neighbours: expected at least 1, found {k}")
    is_male, training_male = cases.is_male(), training.is_male()
    ids = [case.case_id for case in cases]
    tables = []
    for male in (False, True):
        asked, known = np.flatnonzero(is_male == male), np.flatnonzero(training_male == male)
        if not asked.size:
            continue
        if known.size < 2:
            raise DataError(
                "neighbours: expected two or more training cases of "
                f"{'boys' if male else 'girls'}, found {known.size}"
            )
        place = {training.cases[row].case_id: at for at, row in enumerate(known)}
        itself = np.array([place.get(ids[row], -1) for row in asked], dtype=np.intp)
        pool = training_features[known]
        count = min(k, known.size - 1)
        found, distances = nearest(features[asked], pool, count, itself=itself)
        _, usual = nearest(pool, pool, 1, itself=np.arange(known.size))
        below = np.searchsorted(np.sort(usual[:, 0]), distances[:, 0], side="left")
        chosen = [training.cases[known[at]] for at in found.ravel()]
        tables.append(
            pd.DataFrame(
                {
                    "case_id": np.repeat([ids[row] for row in asked], count),
                    "sex": "M" if male else "F",
                    "rank": np.tile(np.arange(1, count + 1), asked.size),
                    "neighbour_id": [case.case_id for case in chosen],
                    "neighbour_months": [
                        np.nan if case.bone_age_months is None else case.bone_age_months
                        for case in chosen
                    ],
                    "distance": distances.ravel(),
                    "distance_percentile": np.repeat(100 * below / known.size, count),
                }
            )
        )
    if not tables:
        raise DataError("neighbours: expected at least one case, found none")
    return pd.concat(tables, ignore_index=True)


def neighbours_run(
    prepared: RunOnCohort,
    training: Cohort,
    out: Path,
    *,
    k: int = N_NEIGHBOURS,
    progress: Progress | None = None,
) -> AnalysisFolder:
    """Find the nearest training cases of every case, and write them.

    Args:
        prepared: run and cases.
        training: the cases of the source that the run was trained on (``prepared.train_ids``).
        out: analysis folder, new or of the same run and data.
        k: neighbours per case.
        progress: called with (done, total) radiographs.

    Returns:
        The analysis folder with ``neighbours.parquet``.

    Raises:
        ConfigError: a network from elsewhere, a source without the training cases, or k under 1.
        DataError: fewer than two training cases of a sex that occurs.
        ReportError: ``out`` holds another analysis.
    """
    run, data = prepared.record()
    check_same_analysis(out, run=run, data=data)
    if not len(training):
        raise ConfigError(
            f"{prepared.source}: expected the run's own training data as the source, found another"
        )
    cache, cohort = prepared.cache, prepared.cohort
    every = [case.case_id for case in (*cohort, *training)]
    features = pooled_features(
        prepared.run.network, cache.pixels, cache.rows(every), progress=progress
    )
    n = len(cohort)
    table = neighbour_table(cohort, features[:n], training, features[n:], k)
    detail = {"n": n, "n_training": len(training), "k": k}
    folder = AnalysisFolder.add_step(out, run=run, data=data, step="neighbours", detail=detail)
    write_table(out / NEIGHBOUR_TABLE, table)
    return folder


def neighbours_of(folder: AnalysisFolder, case_id: str) -> pd.DataFrame | None:
    """Return the neighbours of one case, the nearest first; None where they are not known."""
    table = folder.neighbours()
    if table is None:
        return None
    found = table[table["case_id"].astype(str) == case_id].sort_values("rank")
    return None if found.empty else found.reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class TrainingFeatures:
    """The training cases of a run with what its network makes of them.

    Args:
        cohort: m cases.
        cache: their prepared pixels.
        features: (m, d) pooled features.
    """

    cohort: Cohort
    cache: PixelCache
    features: npt.NDArray[np.float32]

    def pixels(self, case_id: str) -> npt.NDArray[np.uint8]:
        """Return the prepared pixels (S, S) of a training case."""
        return np.array(self.cache.pixels[self.cache.rows([case_id])[0]])


def training_features(
    run: TrainedRun,
    *,
    source: Path | None = None,
    cache_folder: Path | None = None,
    on_decode: Progress | None = None,
    progress: Progress | None = None,
) -> TrainingFeatures:
    """Read the training radiographs of a run, and compute their features.

    Args:
        run: the run.
        source: the data set that it was trained on; None takes what its record names.
        cache_folder: where prepared pixels are kept.
        on_decode: called with (done, total) while radiographs are decoded, if they are.
        progress: called with (done, total) while features are computed.

    Raises:
        DataError: the source is not known or not there, or radiographs that cannot be read.
        ConfigError: a source without the set that the run was trained on.
    """
    if source is None:
        if not run.manifest.data.source:
            raise DataError(f"{run.path}: expected a record of the training data, found none")
        source = Path(run.manifest.data.source)
    cohort = _set_of(source, run.cohort_name)
    prepared = prepare_run(
        run,
        cohort,
        source=str(source),
        split="train",
        cache_folder=cache_folder,
        progress=on_decode,
    )
    cache = prepared.cache
    rows = cache.rows([case.case_id for case in prepared.cohort])
    features = pooled_features(run.network, cache.pixels, rows, progress=progress)
    return TrainingFeatures(prepared.cohort, cache, features)


def nearest_training(
    run: TrainedRun,
    pixels: npt.NDArray[np.uint8],
    sex: Sex,
    training: TrainingFeatures,
    *,
    case_id: str | None = None,
    k: int = N_NEIGHBOURS,
) -> pd.DataFrame:
    """List the nearest training cases of one radiograph, as ``neighbour_table`` does.

    Args:
        run: the run.
        pixels: (S, S) uint8, prepared for it.
        sex: of the child.
        training: from ``training_features`` of the same run.
        case_id: of a case of the run's own data, which is not its own neighbour; None for a
            radiograph from elsewhere.
        k: neighbours.

    Raises:
        DataError: fewer than two training cases of the sex.
    """
    features = pooled_features(run.network, pixels[np.newaxis], np.zeros(1, dtype=np.intp))
    # No training case can have an id with a line break.
    one = Case("\n" if case_id is None else case_id, Path(), sex)
    asked = Cohort("one radiograph", (one,))
    return neighbour_table(asked, features, training.cohort, training.features, k)


def reference_pixels(
    source: Path, cohort_name: str | None, case_ids: Sequence[str], settings: PreprocessSettings
) -> dict[str, npt.NDArray[np.uint8]]:
    """Read a few radiographs of a source, prepared for a network.

    Args:
        source: the data set.
        cohort_name: which set of it; None where there is one.
        case_ids: cases; those that the source does not have are left out.
        settings: preprocessing.

    Returns:
        (S, S) uint8 by case id.

    Raises:
        DataError: the source is not there, or a radiograph that cannot be read.
        ConfigError: several sets and none of this name.
    """
    cohort = _set_of(source, cohort_name)
    known = {case.case_id: case for case in cohort}
    return {
        case_id: preprocess(read_radiograph(known[case_id].image), settings).pixels
        for case_id in case_ids
        if case_id in known
    }


def _set_of(source: Path, name: str | None) -> Cohort:
    reading = read_source(source)
    names = [cohort.name for cohort in reading.cohorts]
    return select_cohort(reading, name if name in names else None)
