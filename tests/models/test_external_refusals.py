"""Networks from elsewhere that are refused, each in one sentence, before they are used."""

from __future__ import annotations

import copy
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from external_fixture import Elsewhere, close, elsewhere

from boneage_xai.errors import CheckpointError
from boneage_xai.models.external import load_external
from external_networks import (
    MODULE,
    SIZE_PX,
    card,
    plain_answer,
)

__all__ = ["elsewhere"]


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("nan", "expected finite months for a blank image"),
        ("two", r"expected an output of shape \(1,\) or \(1, 1\).*tensor of shape \(1, 2\)"),
        ("text", "found str"),
        ("random", "the same answer when asked again"),
        ("mixes", "do not depend on the other images"),
        ("counts", "buffers change"),
    ],
)
def test_networks_that_cannot_be_relied_upon_are_refused(
    elsewhere: Elsewhere, what: str, found: str
) -> None:
    source = {"factory": f"{MODULE}:Odd", "arguments": {"what": what}, "weights": "odd.pth"}
    path = card(elsewhere.folder, source)
    with pytest.raises(CheckpointError, match=found) as caught:
        load_external(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_saved_in_training_mode_is_refused(elsewhere: Elsewhere) -> None:
    inputs = torch.rand(2, 3, SIZE_PX, SIZE_PX), torch.ones(2, 1)
    training = copy.deepcopy(elsewhere.network).train()
    torch.export.save(torch.export.export(training, inputs), elsewhere.folder / "training.pt2")
    with pytest.raises(CheckpointError, match="training mode"):
        load_external(card(elsewhere.folder, {"exported": "training.pt2"}))
    traced = torch.jit.trace(copy.deepcopy(training), inputs, check_trace=False)
    traced.save(str(elsewhere.folder / "training.pt"))
    with pytest.raises(CheckpointError, match="training mode"):
        load_external(card(elsewhere.folder, {"torchscript": "training.pt"}))
    # A script keeps both modes, and is put into evaluation.
    torch.jit.script(training).save(str(elsewhere.folder / "training.pt"))
    image, sex = torch.rand(2, 1, SIZE_PX, SIZE_PX), torch.tensor([0.0, 1.0])
    model = load_external(card(elsewhere.folder, {"torchscript": "training.pt"}))
    close(model.network.train()(image, sex), plain_answer(elsewhere.network, image, sex))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ({"factory": "no_such_package_at_all:build"}, "cannot be imported"),
        ({"factory": f"{MODULE}:absent"}, "expected a function absent"),
        ({"factory": f"{MODULE}:not_a_function"}, "found int"),
        ({"factory": f"{MODULE}:fail"}, "ValueError: no licence found"),
        ({"factory": f"{MODULE}:number"}, "an nn.Module, found int"),
        ({"factory": f"{MODULE}:build", "arguments": {"wings": 2}}, "wings"),
        ({"factory": f"{MODULE}:build", "arguments": {"channels": 2}}, "takes images .N, 3, 32"),
        ({"factory": f"{MODULE}:build", "weights": "absent.pth"}, "expected a file, found none"),
        ({"factory": f"{MODULE}:build", "weights": "weights.pth"}, "expected a state dict"),
        ({"factory": f"{MODULE}:build", "weights": "classes.pth"}, "does not fit"),
        ({"torchscript": "absent.pt"}, "absent.pt, found none"),
        ({"torchscript": "weights.pth"}, "expected TorchScript"),
        ({"exported": "weights.pth"}, "expected an exported program"),
        ({"exported": "scripted.pt"}, "expected an exported program"),
    ],
)
def test_sources_that_cannot_be_loaded_are_refused(
    elsewhere: Elsewhere, source: dict[str, Any], found: str
) -> None:
    path, searched = card(elsewhere.folder, source), list(sys.path)
    with pytest.raises(CheckpointError, match=found) as caught:
        load_external(path)
    assert str(elsewhere.folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sys.path == searched


class _Opens:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.file),)


def test_weights_that_execute_code_are_refused_unexecuted(
    elsewhere: Elsewhere, tmp_path: Path
) -> None:
    mark = tmp_path / "executed"
    for write in (torch.save, _pickled):
        write({"conv1.weight": _Opens(mark)}, elsewhere.folder / "evil.pth")
        source = {"factory": f"{MODULE}:build", "weights": "evil.pth"}
        with pytest.raises(CheckpointError, match="executing code"):
            load_external(card(elsewhere.folder, source))
        assert not mark.exists()
    # The file would have done it.
    pickle.loads((elsewhere.folder / "evil.pth").read_bytes())
    assert mark.is_dir()


def _pickled(content: Any, file: Path) -> None:
    file.write_bytes(pickle.dumps(content, protocol=2))


def test_a_module_beside_the_card_is_never_mistaken_for_another(tmp_path: Path) -> None:
    # pickle is the standard library's, whatever lies beside the card.
    (tmp_path / "pickle.py").write_text("def build():\n    return None\n")
    with pytest.raises(CheckpointError, match="module beside the card, found another"):
        load_external(card(tmp_path, {"factory": "pickle:build"}))
