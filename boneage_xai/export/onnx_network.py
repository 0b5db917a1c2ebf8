"""A network as an ONNX file, held against the network itself before it is kept."""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from boneage_xai import __version__
from boneage_xai.data.preprocess import PreprocessSettings, preprocess
from boneage_xai.errors import ConfigError
from boneage_xai.files import staged_file
from boneage_xai.models.adapter import ExternalModel
from boneage_xai.models.averaged import AveragedNetwork
from boneage_xai.models.interface import Model
from boneage_xai.phantom.cohorts import draw_cases, render_case
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.predict import as_images, evaluation_mode
from boneage_xai.types import Radiograph

TOLERANCE_MONTHS = 0.01
"""Largest difference between ONNX Runtime and the network that is let pass."""

IMAGE, IS_MALE, MONTHS = "image", "is_male", "months"
PREFIX = "boneage_xai."
"""Of the keys of the metadata."""

_N_IMAGES = 6
_PHANTOM_PX = 256
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class OnnxExport:
    """What was written and how it was checked.

    Args:
        path: the file.
        n_compared: predictions that were compared.
        largest_difference_months: between ONNX Runtime and the network on these.
        opset: version of ONNX's operators.
    """

    path: Path
    n_compared: int
    largest_difference_months: float
    opset: int


def export_onnx(
    model: Model, out: Path, *, tolerance_months: float = TOLERANCE_MONTHS
) -> OnnxExport:
    """Write a network as ONNX if ONNX Runtime predicts with it what the network predicts.

    Inputs are ``image`` (N, 1, S, S) float32 in [0, 1], bone bright, and ``is_male`` (N,) float32,
    1 for boys and 0 for girls; the output is ``months`` (N,) float32. N is free. Preparing the
    radiographs is not part of the file; its metadata say how they must be.

    Args:
        model: the network, on any device; it is exported as it computes on the processor.
        out: file to write, whole or not at all; one that is there is replaced.
        tolerance_months: difference of a prediction that is let pass.

    Returns:
        The file, with the largest difference on ``comparison_images``, each as a girl's and a
        boy's, one by one and together.

    Raises:
        ConfigError: packages that are not installed, a network that cannot be exported, or one
            whose export predicts something else.

    Source:
        The exporter of PyTorch that rests on torch.export (``dynamo=True``).
    """
    _require_packages()
    size_px = model.preprocessing.size_px
    network = model.network
    if isinstance(network, AveragedNetwork) and network.views.rotation_degrees:
        raise ConfigError(
            f"{model.path}: expected no turned views, which ONNX Runtime cannot load, found turns "
            f"by {network.views.rotation_degrees:g} degrees; mirrored views work"
        )
    if isinstance(network, ExternalModel) and network.card.source.kind == "torchscript":
        raise ConfigError(
            f"{model.path}: expected a factory or an exported program, found TorchScript, which "
            "PyTorch does not export to ONNX"
        )
    device = next(network.parameters()).device
    network.cpu()
    try:
        with staged_file(out) as staged, evaluation_mode(network), torch.no_grad():
            opset = _write(network, size_px, staged)
            n, largest = _compare(network, staged, comparison_images(model.preprocessing))
            if not largest <= tolerance_months:
                raise ConfigError(
                    f"{model.path}: expected ONNX Runtime within {tolerance_months:g} months of "
                    f"the network, found a difference of {largest:.3g}; nothing was written"
                )
            _annotate(staged, _metadata(model, n, largest))
    finally:
        network.to(device)
    return OnnxExport(out, n, largest, opset)


def comparison_images(settings: PreprocessSettings) -> npt.NDArray[np.uint8]:
    """Return the images that predictions are compared on: phantoms from 1 to 19 years.

    Args:
        settings: how the network needs them.

    Returns:
        (n, S, S) uint8.
    """
    drawing = PhantomSettings(size_px=_PHANTOM_PX)
    return np.stack(
        [
            preprocess(
                Radiograph(render_case(case, drawing).pixels, Path("phantom")), settings
            ).pixels
            for case in draw_cases(_N_IMAGES, seed=0, ages="uniform")
        ]
    )


def _require_packages() -> None:
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"export to ONNX: expected the package {name}, found none; "
                "install boneage-xai[onnx]"
            ) from error


def _write(network: nn.Module, size_px: int, path: Path) -> int:
    batch = torch.export.Dim("batch")
    example = (torch.zeros(2, 1, size_px, size_px), torch.zeros(2))
    with _quiet():
        try:
            program = torch.onnx.export(
                network,
                example,
                dynamo=True,
                dynamic_shapes=({0: batch}, {0: batch}),
                input_names=[IMAGE, IS_MALE],
                output_names=[MONTHS],
                verbose=False,
            )
        # What the exporter meets in a network it cannot follow has no common kind.
        except Exception as error:
            raise ConfigError(
                "export to ONNX: expected a network that PyTorch can export, found "
                f"{_one_line(error)}"
            ) from error
        if program is None:
            raise ConfigError("export to ONNX: expected a program from PyTorch, found none")
        program.save(path, external_data=False)
    return int(program.model.opset_imports[""])


def _compare(network: nn.Module, path: Path, pixels: npt.NDArray[np.uint8]) -> tuple[int, float]:
    """Return how many predictions were compared and the largest difference in months."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    # Its errors have no common kind but this.
    except Exception as error:
        raise ConfigError(
            "export to ONNX: expected a file that ONNX Runtime can load, found one it refuses: "
            f"{_one_line(error)}"
        ) from error
    images = as_images(np.concatenate([pixels, pixels]), torch.device("cpu")).contiguous()
    is_male = torch.cat([torch.zeros(len(pixels)), torch.ones(len(pixels))])

    def run(image: Tensor, sex: Tensor) -> npt.NDArray[np.float64]:
        try:
            found = session.run([MONTHS], {IMAGE: image.numpy(), IS_MALE: sex.numpy()})[0]
        except Exception as error:
            raise ConfigError(
                "export to ONNX: expected a network that takes any number of images, found one "
                f"whose export refuses {len(image)}: {_one_line(error)}"
            ) from error
        return np.asarray(found, dtype=np.float64)

    expected = network(images, is_male).double().numpy()
    together = run(images, is_male)
    alone = np.concatenate(
        [run(images[one : one + 1], is_male[one : one + 1]) for one in range(len(images))]
    )
    # The larger of the two; NaN where either has one, which no comparison lets pass.
    differences = np.abs(np.stack([together, alone]) - expected)
    return differences.size, float(differences.max())


def _metadata(model: Model, n_compared: int, largest: float) -> dict[str, str]:
    size_px = model.preprocessing.size_px
    facts = {
        "model_id": model.model_id,
        "model_name": model.name,
        "toolkit_version": __version__,
        "preprocessing": json.dumps(model.preprocessing.model_dump(mode="json")),
        IMAGE: f"(N, 1, {size_px}, {size_px}) float32, grey in [0, 1], bone bright, prepared as "
        "preprocessing says",
        IS_MALE: "(N,) float32, 1 = male, 0 = female",
        MONTHS: "(N,) float32, predicted bone age in months",
        "compared": json.dumps(
            {
                "with": f"torch {torch.__version__}",
                "predictions": n_compared,
                "largest_difference_months": largest,
            }
        ),
        "use": "For research use only. This is not a medical device.",
    }
    return {PREFIX + key: value for key, value in facts.items()}


def _annotate(path: Path, metadata: dict[str, str]) -> None:
    import onnx

    made = onnx.load(path)
    onnx.helper.set_model_props(made, metadata)
    onnx.checker.check_model(made)
    onnx.save(made, path)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter says about itself out of the user's way."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
