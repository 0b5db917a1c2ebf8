"""The numbers of a small chain stay what they were, and the same chain gives the same bits."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from golden.chain import numbers
from golden.comparison import largest, leaves, stored, too_far


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder of the chain, and its numbers."""
    folder = tmp_path_factory.mktemp("golden")
    return folder, numbers(folder)


def test_the_numbers_are_those_stored(made: tuple[Path, dict[str, Any]]) -> None:
    """``python -m tests.golden --write`` stores others; a commit that does so says why."""
    lines = too_far(made[1], stored()["numbers"])
    assert not lines, f"stored with {stored()['made_with']}:\n" + "\n".join(lines)


def _results(folder: Path) -> dict[str, bytes]:
    """Return what does not say when or where it was made."""
    files = [*(folder / "phantoms").rglob("*.*"), *(folder / "run").glob("*.*")]
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in files
        if file.is_file() and file.name not in ("run.json", "history.csv", "learning_curve.png")
    }


def test_another_process_gives_the_same_bits(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Whatever order its sets have, and with random numbers drawn before."""
    code = (
        "import json, sys; from pathlib import Path\n"
        "import torch; torch.rand(3)\n"
        "from golden.chain import numbers\n"
        "found = numbers(Path(sys.argv[1]))\n"
        "(Path(sys.argv[1]) / 'numbers.json').write_text(json.dumps(found))\n"
    )
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": paths}
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=200)
    folder, found = made
    assert json.loads((tmp_path / "numbers.json").read_text()) == found
    one, other = _results(folder), _results(tmp_path)
    assert one.keys() == other.keys()
    assert {"run/model.safetensors", "run/splits.csv"} <= one.keys()
    assert [name for name in one if one[name] != other[name]] == []


def test_another_number_of_threads_stays_within_the_tolerances(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    methods = ["integrated_gradients", "gradient"]
    found = numbers(tmp_path, threads=2, methods=methods)
    assert torch.get_num_threads() == before
    expected = {**made[1], "maps": {name: made[1]["maps"][name] for name in methods}}
    assert too_far(found, expected) == []
    assert found["texts"] == made[1]["texts"]
    assert found["phantoms"] == made[1]["phantoms"]


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("texts/split", lambda value: value[::-1]),
        ("phantoms/blocks/5", lambda value: value + 0.03),
        ("prepared/blocks/5", lambda value: value + 0.2),
        ("training/val_loss/1", lambda value: value * 1.001),
        ("training/norms", lambda value: {}),
        ("predictions", lambda value: {name: months + 0.02 for name, months in value.items()}),
        ("maps/integrated_gradients/0/magnitude", lambda value: 1.03 * value),
        ("maps/integrated_gradients/1/shares/6", lambda value: value + 0.003),
        ("captum/grad_cam/0/magnitude", lambda value: float("nan")),
    ],
)
def test_a_drift_is_noticed(place: str, change: Any) -> None:
    expected = stored()["numbers"]
    drifted: Any = copy.deepcopy(expected)
    part, (*parents, last) = drifted, place.split("/")
    for name in parents:
        part = part[int(name) if isinstance(part, list) else name]
    key = int(last) if isinstance(part, list) else last
    part[key] = change(part[key])
    lines = too_far(drifted, expected)
    assert lines
    assert all(line.startswith(place) for line in lines)
    assert too_far(expected, expected) == []


def test_the_largest_difference_is_a_share_of_what_is_allowed() -> None:
    expected = {"texts": {"a": "b"}, "predictions": {"1": 100.0, "2": 50.0}}
    found = {"texts": {"a": "b"}, "predictions": {"1": 100.005, "2": 49.998}}
    assert largest(found, expected) == {"predictions": pytest.approx(0.5)}


def test_what_is_stored_says_enough() -> None:
    numbers_stored = stored()["numbers"]
    values = dict(leaves(numbers_stored))
    assert len(values) > 300
    for method in ("integrated_gradients", "gradient", "deep_lift", "occlusion", "grad_cam"):
        assert values[f"maps/{method}/0/magnitude"] > 0
    assert values["captum/integrated_gradients/0/magnitude"] > 0
