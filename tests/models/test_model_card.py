"""Model cards: what contradicts itself or is no card is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from boneage_xai.errors import ConfigError
from boneage_xai.models.external import load_external
from external_networks import card

ARGUMENT = {"passed_as": "argument"}


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ({"source": {}}, "exactly one of factory"),
        ({"source": {"factory": "a:b", "exported": "c"}}, "factory and exported"),
        ({"source": {"torchscript": "c", "weights": "w"}}, "weights: only with factory"),
        ({"source": {"factory": "a:b", "weights_key": "w"}}, "weights_key: only with weights"),
        ({"source": {"factory": "os.system"}}, "source.factory"),
        ({"source": {"factory": "a:b", "colour": 1}}, "unknown key source.colour"),
        ({"preprocessing": {"size_px": 32, "fit": "pad"}}, "stretch_percentiles"),
        ({"preprocessing": {"fit": "pad", "stretch_percentiles": []}}, "size_px"),
        ({"input": {"channels": 2}}, "input.channels"),
        ({"input": {"channels": 3, "mean": [0.5]}}, "expected 3 numbers each"),
        ({"input": {"channels": 1, "mean": [0.5], "std": [0]}}, "above 0"),
        ({"input": {"range": [1, 1]}}, "two different values"),
        ({"sex": {"passed_as": "none", "male": 2}}, "male: only with"),
        ({"sex": {"passed_as": "channel", "shape": "N1"}}, "shape: only with"),
        ({"sex": ARGUMENT | {"female": 1}}, "different values, found 1 twice"),
        ({"sex": ARGUMENT | {"type": "integer", "male": 0.5}}, "whole numbers"),
        ({"sex": ARGUMENT | {"keyword": "s", "position": "after"}}, "found both"),
        ({"output": {"unit": "days"}}, "output.unit"),
        ({"output": {"unit": "z-score"}}, "needs mean_months and sd_months"),
        ({"output": {"unit": "years", "sd_months": 3}}, "sd_months: only with"),
        ({"output": {"unit": "z-score", "mean_months": 1, "sd_months": 0}}, "sd_months"),
        ({"output": {"unit": "years", "classes": [1, 2]}}, "both or neither"),
        ({"output": {"unit": "years", "classes": [1], "scores": "logits"}}, "two ages or more"),
    ],
)
def test_cards_with_contradictions_are_refused(
    tmp_path: Path, parts: dict[str, Any], found: str
) -> None:
    path = card(tmp_path, **({"source": {"torchscript": "x.pt"}} | parts))
    with pytest.raises(ConfigError, match=found) as caught:
        load_external(path)
    assert str(path) in str(caught.value)


def test_a_card_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found none"):
        load_external(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_external(tmp_path / "bad.toml")
    path = card(tmp_path, {"torchscript": "x.pt"})
    path.write_text(path.read_text().replace('unit = "months"', 'unit = "months"\nelement = nan'))
    with pytest.raises(ConfigError, match=r"output\.element"):
        load_external(path)
