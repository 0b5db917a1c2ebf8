"""How many phantoms one core draws in a second.

Three arms, each in a process of its own, interleaved: ``plain`` draws the pixels alone, ``labels``
adds the maps of regions and of single bones, ``sensitivity`` also the maps of the sensitivity to
age, whole and per region. All nuisances are on; the same cases are drawn in every arm.

    python benchmarks/phantom.py --images 60 --size 256 --repeats 5
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from boneage_xai.phantom.cohorts import draw_cases
from boneage_xai.phantom.rendering import draw
from boneage_xai.phantom.sensitivity import sensitivity_of
from boneage_xai.phantom.settings import PhantomSettings

ARMS = ("plain", "labels", "sensitivity")
WARM_UP_IMAGES = 5
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def run_arm(arm: str, images: int, size_px: int) -> float:
    cases = draw_cases(images + WARM_UP_IMAGES, seed=1)
    settings = PhantomSettings(size_px=size_px)
    started = 0.0
    for number, case in enumerate(cases):
        if number == WARM_UP_IMAGES:
            started = time.perf_counter()
        drawing = draw(case.hand, settings, case.seed)
        if arm != "plain":
            drawing.regions()
            drawing.parts()
        if arm == "sensitivity":
            sensitivity_of(drawing)
    return images / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.repeats < 2:
        parser.error("--repeats: expected at least 2")
    if options.arm:
        print(json.dumps(run_arm(options.arm, options.images, options.size)))
        return
    speeds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for _ in range(options.repeats):
        for arm, measured in speeds.items():
            command = [sys.executable, __file__, "--arm", arm]
            command += ["--images", str(options.images), "--size", str(options.size)]
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, env=os.environ | ONE_THREAD
            )
            measured.append(float(done.stdout.strip().splitlines()[-1]))
    for arm, measured in speeds.items():
        low, middle, high = statistics.quantiles(measured, n=4)
        print(f"{arm:>11}: {middle:5.1f} images/s (IQR {low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
