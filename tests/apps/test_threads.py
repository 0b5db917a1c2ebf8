"""Idle threads: how long the commands let them spin, and that a user's own choice stands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = "import sys, os, apps; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "5000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
    ],
)
def test_threads_spin_briefly_unless_told_otherwise(given: dict[str, str], expected: str) -> None:
    rest = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=rest | given,
        check=True,
        capture_output=True,
        text=True,
    )
    # It is read when torch is loaded, so that it must not have been before.
    assert done.stdout.split() == [expected, "False"]
