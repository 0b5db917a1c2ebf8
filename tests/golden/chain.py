"""One small chain from phantoms to maps, and the numbers that it gives."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam, Occlusion
from torch import Tensor, nn

from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.methods import METHODS, method_named
from boneage_xai.data.cache import open_cache
from boneage_xai.data.cohort import read_source, select_cohort
from boneage_xai.data.radiograph import read_radiograph
from boneage_xai.data.splits import Split, split_cohort
from boneage_xai.files import read_table
from boneage_xai.models.checkpoint import TrainedRun
from boneage_xai.phantom.cohorts import TABLE_FILE, write_cohort
from boneage_xai.phantom.settings import PhantomSettings
from boneage_xai.predict import predict_pixels
from boneage_xai.types import Cohort
from trainers.engine import train
from trainers.recipe import load_recipe

N_PHANTOMS, SEED, SIZE_PX = 24, 7, 64
N_EXPLAINED = 2
SETTINGS = (
    f"preprocessing.size_px={SIZE_PX}",
    "architecture.backbone=squeezenet1_1",
    "training.batch_size=8",
    "training.epochs=2",
    "training.stages=[]",
    "training.precision=float32",
)
# Guided IG draws nothing and needs no reference, but follows the largest of nearly equal gradients.
METHODS_SHOWN = sorted(set(METHODS) - {"expected_gradients", "guided_ig"})


def numbers(
    folder: Path, *, threads: int = 1, methods: Sequence[str] = METHODS_SHOWN
) -> dict[str, Any]:
    """Run the chain in a new folder.

    Args:
        folder: for what it writes.
        threads: of torch, which decide how sums are rounded.
        methods: of attribution.

    Returns:
        What JSON holds: texts that must be the same anywhere, and numbers of each step.
    """
    with _threads(threads):
        source = write_cohort(
            folder / "phantoms",
            N_PHANTOMS,
            seed=SEED,
            settings=PhantomSettings(size_px=SIZE_PX),
            workers=1,
        )
        cohort = select_cohort(read_source(source))
        recipe = load_recipe("demo", SETTINGS)
        split = split_cohort(cohort, recipe.training.validation_fraction, recipe.training.seed)
        run = train(recipe, cohort, folder / "run", cache_folder=folder / "cache")
        held_out = cohort.select(split.validation)
        cache = open_cache(cohort, run.preprocessing, folder / "cache")
        prepared = cache.pixels[cache.rows(split.validation)]
        months = predict_pixels(run.network, prepared, held_out.is_male())
        chosen = slice(0, N_EXPLAINED)
        images = torch.tensor(prepared[chosen] / 255.0, dtype=torch.float32)[:, None]
        sexes = torch.tensor(held_out.is_male()[chosen], dtype=torch.float32)
        return {
            "texts": {
                "labels": _sha256((source / TABLE_FILE).read_bytes()),
                "split": _parts(split),
            },
            "phantoms": _pictures(cohort),
            "prepared": {"blocks": _blocks(prepared[0].astype(np.float64), np.mean)},
            "training": _training(run),
            "predictions": dict(zip(split.validation, months.tolist(), strict=True)),
            "maps": _maps(run.network, images, sexes, methods),
            "captum": _captum(run.network, images, sexes),
        }


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _parts(split: Split) -> str:
    return _sha256(repr(asdict(split)).encode())


def _pictures(cohort: Cohort) -> dict[str, Any]:
    pixels = {case.case_id: read_radiograph(case.image).pixels for case in cohort}
    first = next(iter(pixels.values()))
    return {
        "means": {name: float(np.mean(255 * one)) for name, one in pixels.items()},
        "blocks": _blocks(255 * first.astype(np.float64), np.mean),
    }


def _training(run: TrainedRun) -> dict[str, Any]:
    history = read_table(run.path / "history.csv")
    columns = ("train_loss", "val_loss", "train_mae_months", "val_mae_months", "lr")
    norms = {
        name: float(torch.linalg.vector_norm(value.double()))
        for name, value in run.network.named_parameters()
    }
    return {
        **{name: history[name].tolist() for name in columns},
        "norms": {name: norms[name] for name in sorted(norms)[::6]},
    }


def _maps(
    network: nn.Module, images: Tensor, sexes: Tensor, methods: Sequence[str]
) -> dict[str, Any]:
    settings = AttributionSettings(max_nodes=65, precision="float32")
    found: dict[str, Any] = {}
    for name in methods:
        maps = []
        for row in range(len(images)):
            image, sex = images[row : row + 1], sexes[row : row + 1]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(row)
                made = method_named(name)(network, image, sex, settings, None)
            maps.append(made.map_months)
        found[name] = [_summary(one) for one in maps]
    return found


def _captum(network: nn.Module, images: Tensor, sexes: Tensor) -> dict[str, Any]:
    """Captum's own methods on the same network: what the library's are tested against."""

    class Months(nn.Module):
        """The network with its sexes filled in, as Captum wants one output a case."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Tensor, is_male: Tensor) -> Tensor:
            months: Tensor = self.network(image, is_male)
            return months

    model = Months()
    layer = [one for one in network.modules() if isinstance(one, nn.Conv2d)][-1]
    inputs = images.clone().requires_grad_()
    options = {"additional_forward_args": (sexes,)}
    maps = {
        "integrated_gradients": IntegratedGradients(model).attribute(inputs, n_steps=32, **options),
        "input_x_gradient": InputXGradient(model).attribute(inputs, **options),
        "grad_cam": LayerGradCam(model, layer).attribute(inputs, **options),
        "occlusion": Occlusion(model).attribute(
            images, sliding_window_shapes=(1, 16, 16), strides=(1, 16, 16), **options
        ),
    }
    return {
        name: [_summary(one[0]) for one in values.detach().numpy()] for name, values in maps.items()
    }


def _summary(values: npt.NDArray[Any]) -> dict[str, Any]:
    """Return the sum of magnitudes, and signed sums of 4 x 4 blocks as shares of it."""
    exact = values.astype(np.float64)
    magnitude = float(np.abs(exact).sum())
    shares = (np.array(_blocks(exact, np.sum)) / (magnitude or 1.0)).tolist()
    return {"magnitude": magnitude, "shares": shares}


def _blocks(values: npt.NDArray[np.float64], reduced: Any) -> list[float]:
    rows = np.array_split(values, 4, axis=0)
    return [float(reduced(part)) for row in rows for part in np.array_split(row, 4, axis=1)]
