"""Store the numbers of the chain anew, or hold them against those stored.

python -m tests.golden              how far this machine's numbers are from the stored ones
python -m tests.golden --write      store this machine's; say in the commit why they moved
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from .chain import numbers
from .comparison import STORED, largest, stored, too_far

LIBRARIES = ("torch", "torchvision", "lightning", "captum", "numpy", "scikit-image")


def main() -> int:
    """Return 1 where numbers are too far from the stored ones."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("--write", action="store_true", help="store what this machine finds")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = numbers(Path(folder), threads=options.threads)
    if options.write:
        made_with = {name: version(name) for name in LIBRARIES}
        made_with["processor"] = torch.backends.cpu.get_cpu_capability()
        content = {"made_with": made_with, "numbers": found}
        STORED.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"{STORED}: written")
        return 0
    expected = stored()["numbers"]
    lines = too_far(found, expected)
    print("\n".join(lines) or "all within their tolerances")
    for section, share in largest(found, expected).items():
        print(f"{section}: the largest difference is {100 * share:.2g} % of what is allowed")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
