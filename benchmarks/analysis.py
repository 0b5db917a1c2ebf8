"""Time and memory of the analysis of predictions, without inference.

python benchmarks/analysis.py predictions.parquet     an analysis folder's, repeated to --cases
python benchmarks/analysis.py --synthetic 1000000     as many drawn predictions
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd

from boneage_xai.analysis.evaluation import evaluate
from boneage_xai.analysis.intervals import interval_results
from boneage_xai.files import read_table


def synthetic(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    reference = np.clip(rng.normal(127.0, 41.0, n), 1.0, 228.0).round()
    return pd.DataFrame(
        {
            "case_id": np.arange(n).astype(str),
            "sex": np.where(rng.random(n) < 0.54, "M", "F"),
            "reference_months": reference,
            "predicted_months": 12.0 + 0.9 * reference + rng.normal(0.0, 9.0, n),
        }
    )


def repeated(file: Path, n: int) -> tuple[pd.DataFrame, int]:
    """Return at least n cases: those of a file, each as often as is needed."""
    frame = read_table(file)
    times = -(-n // len(frame))
    copies = pd.concat([frame] * times, ignore_index=True)
    return copies.assign(case_id=copies.index.astype(str)), len(frame)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--synthetic", type=int)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=10_000)
    options = parser.parse_args()
    if options.synthetic:
        frame, distinct = synthetic(options.synthetic), options.synthetic
    else:
        frame, distinct = repeated(options.file, options.cases)
    reference = frame["reference_months"].to_numpy()
    rng = np.random.default_rng(1)
    # As many baselines as a run has.
    baselines = {
        "mean": np.full(len(frame), reference.mean()),
        "sex_mean": np.where(frame["sex"] == "M", reference.mean() + 8, reference.mean() - 9),
        "intensity_ridge": 0.1 * reference + 0.9 * reference.mean() + rng.normal(0, 5, len(frame)),
    }
    begun, worked = time.perf_counter(), time.process_time()
    metrics = evaluate(frame, baselines, n_resamples=options.resamples)
    interval_results(frame)
    seconds, busy = time.perf_counter() - begun, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{len(frame):,} predictions ({distinct:,} distinct), {options.resamples:,} resamples: "
        f"{seconds:.1f} s ({busy:.1f} s of processor time), peak {peak:.2f} GiB, "
        f"MAE {metrics['overall']['mae_months']['value']:.2f} months"
    )


if __name__ == "__main__":
    main()
