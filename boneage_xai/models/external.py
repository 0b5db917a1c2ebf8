"""Networks trained elsewhere, loaded from a model card and tried before they are used."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from boneage_xai.data.preprocess import PreprocessSettings
from boneage_xai.errors import CheckpointError
from boneage_xai.files import file_sha256
from boneage_xai.models.adapter import ExternalModel
from boneage_xai.models.backbones import read_state_dict
from boneage_xai.models.checkpoint import library_versions
from boneage_xai.models.model_card import ModelCard, load_card
from boneage_xai.models.trial import first_line, takes, try_out

Batch = tuple[int, int | None]


@dataclass(frozen=True, eq=False)
class ExternalNetwork:
    """A network from elsewhere, ready to predict; a ``Model`` without a record of its training.

    Args:
        path: the model card's file.
        card: its content.
        network: the network behind the call that the toolkit makes.
        weights_sha256: SHA-256 of the network's file, or of the tensors of a factory's network.
    """

    path: Path
    card: ModelCard
    network: ExternalModel
    weights_sha256: str

    @property
    def model_id(self) -> str:
        """First twelve digits of a SHA-256 of weights and card, which together are the model."""
        # The same weights called in another way are another model.
        described = self.card.model_dump_json(exclude={"name", "description"})
        return hashlib.sha256(f"{self.weights_sha256}{described}".encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """The card's name."""
        return self.card.name

    @property
    def cohort_name(self) -> None:
        """None: what the network was trained on is not known."""
        return None

    @property
    def preprocessing(self) -> PreprocessSettings:
        """How radiographs must be prepared for this network."""
        return self.card.preprocessing

    @property
    def baselines(self) -> None:
        """None: there are no training cases to fit baselines on."""
        return None

    def splits(self) -> None:
        """Return None: what the network was trained on is not known."""
        return None

    def record(self) -> dict[str, Any]:
        """Return the ``run`` part of ``analysis.json``."""
        content = self.card.model_dump(mode="json", exclude_defaults=True)
        return {
            "path": str(self.path),
            "card": content,
            "model_id": self.model_id,
            "weights_sha256": self.weights_sha256,
            "recipe": self.name,
            "architecture": content["source"],
            "preprocessing": self.preprocessing.model_dump(mode="json"),
            "training": None,
            "versions": library_versions(),
        }


def load_external(path: Path, device: str | torch.device = "cpu") -> ExternalNetwork:
    """Load the network of a model card and try it.

    **Executes code** of whoever made a factory, a TorchScript file or an exported program: load
    only what you trust. A ``weights`` file alone executes nothing.

    The network is tried on two pictures for both sexes: it must answer with one finite number of
    months for each, the same when asked again and whatever else is in the batch.

    Args:
        path: the card, see ``ModelCard``.
        device: where the network is put.

    Returns:
        The network in evaluation mode with frozen parameters.

    Raises:
        ConfigError: a card that is missing, contradictory or out of range.
        CheckpointError: a network that cannot be loaded, or does not answer as the card says.
    """
    card = load_card(path)
    where = f"model card {path}"
    cuda = [torch.cuda.current_device()] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        network, batch, sha256 = _LOADERS[card.source.kind](card, path.parent, device, where)
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        model = ExternalModel(network.float(), card, batch).to(device)
        if batch == (1, None) and not takes(model, 2, where):
            model.batch = (1, 1)
        try_out(model, where)
    return ExternalNetwork(path, card, model, sha256)


def _from_factory(
    card: ModelCard, folder: Path, device: str | torch.device, where: str
) -> tuple[nn.Module, Batch, str]:
    source = card.source
    with _importable(folder):
        factory = _imported(source.factory or "", folder, where)
        # A factory is code of someone else's and may fail in any way.
        try:
            network = factory(**source.arguments)
        except Exception as error:
            raise CheckpointError(
                f"{where}: factory {source.factory}: expected it to return a network, "
                f"found {first_line(error)}"
            ) from error
    if not isinstance(network, nn.Module):
        raise CheckpointError(
            f"{where}: factory {source.factory}: expected it to return an nn.Module, "
            f"found {type(network).__name__}"
        )
    if source.weights is not None:
        _load_weights(network, card, folder / Path(source.weights).expanduser(), where)
    for module in network.modules():
        # Not by eval(): a network may override train() to keep parts of it in another mode, and
        # exported programs have none.
        module.training = False
    return network, (1, None), _tensors_sha256(network)


def _from_torchscript(
    card: ModelCard, folder: Path, device: str | torch.device, where: str
) -> tuple[nn.Module, Batch, str]:
    file = _existing(folder, card.source.torchscript or "", where)
    # The file is code of someone else's, and of another version of torch perhaps.
    try:
        with warnings.catch_warnings():
            # That TorchScript has a successor is nothing the user of a file can change.
            warnings.simplefilter("ignore", FutureWarning)
            network: nn.Module = torch.jit.load(str(file), map_location=device)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise CheckpointError(
            f"{where}: {file}: expected TorchScript, found {first_line(error)}"
        ) from error
    return network.eval(), (1, None), file_sha256(file)


def _from_exported(
    card: ModelCard, folder: Path, device: str | torch.device, where: str
) -> tuple[nn.Module, Batch, str]:
    file = _existing(folder, card.source.exported or "", where)
    # The file is code of someone else's, and of another version of torch perhaps.
    try:
        with _tensors_alone():
            program = torch.export.load(str(file))
        if torch.device(device).type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        batch = _batch_of(program)
        network = program.module()
    except Exception as error:
        raise CheckpointError(
            f"{where}: {file}: expected an exported program, found {first_line(error)}"
        ) from error
    for module in network.modules():
        # Programs have no eval(); what they compute was fixed when they were exported.
        module.training = False
    return network, batch, file_sha256(file)


@contextmanager
def _tensors_alone() -> Iterator[None]:
    """Let torch unpickle tensors alone while the block runs: torch.export asks for more."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


_LOADERS: dict[str, Callable[..., tuple[nn.Module, Batch, str]]] = {
    "factory": _from_factory,
    "torchscript": _from_torchscript,
    "exported": _from_exported,
}


def _batch_of(program: torch.export.ExportedProgram) -> Batch:
    """Return the fewest and the most images that an exported program takes."""
    names = program.graph_signature.user_inputs
    sizes = [
        node.meta["val"].shape[0]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in names and node.meta["val"].ndim
    ]
    fewest, most = 1, None
    for size in sizes:
        if isinstance(size, int):
            return size, size
        if (bounds := program.range_constraints.get(size.node.expr)) is not None:
            fewest = max(fewest, int(bounds.lower))
            # Unbounded is an infinity that no int holds.
            most = int(bounds.upper) if bounds.upper < sys.maxsize - 1 else most
    return fewest, most


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Find modules beside the card, too, after all others, while the block runs."""
    entry = str(folder.resolve())
    importlib.invalidate_caches()
    sys.path.append(entry)
    try:
        yield
    finally:
        # A factory may have removed it.
        if entry in sys.path:
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(entry)]


def _imported(name: str, folder: Path, where: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    # Importing executes code of someone else's, which may fail in any way.
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise CheckpointError(
            f"{where}: factory {name}: cannot be imported ({first_line(error)}); expected an "
            f"installed package or a module beside the card"
        ) from error
    top = module_name.partition(".")[0]
    beside = (folder / f"{top}.py", folder / top / "__init__.py")
    found = getattr(sys.modules[top], "__file__", None)
    if any(file.is_file() for file in beside) and (
        found is None or Path(found).resolve() not in [file.resolve() for file in beside]
    ):
        raise CheckpointError(
            f"{where}: factory {name}: expected the module beside the card, found another of "
            f"that name ({found or 'built in'}); rename the one beside the card"
        )
    factory = getattr(module, function_name, None)
    if not callable(factory):
        raise CheckpointError(
            f"{where}: factory {name}: expected a function {function_name} in {module_name}, "
            f"found {'none' if factory is None else type(factory).__name__}"
        )
    result: Callable[..., Any] = factory
    return result


def _load_weights(network: nn.Module, card: ModelCard, file: Path, where: str) -> None:
    source = card.source
    state: Any = read_state_dict(file)
    if source.weights_key:
        state = state.get(source.weights_key)
    prefix = source.weights_prefix
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and key.startswith(prefix) and isinstance(value, Tensor)
        for key, value in state.items()
    ):
        key = f" under {source.weights_key!r}" if source.weights_key else ""
        names = f" whose names begin with {prefix!r}" if prefix else ""
        raise CheckpointError(
            f"{where}: {file}: expected a state dict{key} of tensors{names}, found something else"
        )
    try:
        network.load_state_dict({key.removeprefix(prefix): t for key, t in state.items()})
    except Exception as error:
        # The network is someone else's, and may have its own way to load.
        clauses = [line.strip() for line in str(error).splitlines()]
        raise CheckpointError(
            f"{where}: {file}: does not fit the factory's network ({' '.join(clauses)[:300]})"
        ) from error


def _existing(folder: Path, name: str, where: str) -> Path:
    file = folder / Path(name).expanduser()
    if not file.is_file():
        raise CheckpointError(f"{where}: expected the network's file {file}, found none")
    return file


def _tensors_sha256(network: nn.Module) -> str:
    """Return a SHA-256 of the names, types, shapes and values of all tensors."""
    digest = hashlib.sha256(type(network).__qualname__.encode())
    for name, value in network.state_dict().items():
        if isinstance(value, Tensor):
            tensor = value.detach().cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
