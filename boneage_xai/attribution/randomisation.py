"""Parameter randomisation: whether a map depends on what the network has learnt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from boneage_xai.attribution.forward import check_single, months, untouched
from boneage_xai.attribution.interface import AttributionMethod, AttributionSettings
from boneage_xai.attribution.methods import gradient
from boneage_xai.attribution.prepared import frozen_copy
from boneage_xai.errors import AttributionError, ConfigError
from boneage_xai.models.adapter import ExternalModel
from boneage_xai.models.trial import first_line
from boneage_xai.types import FloatImage

TOO_SIMILAR = 0.5
"""A rank correlation from here on, with every weight random, says that weights hardly matter."""

_FEWEST_PIXELS = 30
_SSIM_WINDOW_PX = 7
_LARGEST_PERCENTILE = 99.0


@dataclass(frozen=True, eq=False)
class Randomisation:
    """How similar maps stay while a network loses its weights from the output down.

    Args:
        table: rows of map (``method`` or ``gradient``), seed, depth (modules randomised so
            far), module (the last of them), spearman_signed, spearman_absolute, ssim_signed,
            ssim_absolute, prediction_months. Similarities to the map of the network as it was;
            NaN where one of the maps is constant inside the hand.
        threshold: rank correlation that is too similar.
    """

    table: pd.DataFrame
    threshold: float

    def at_full_depth(self, which: str = "method") -> float:
        """Return the larger of |signed| and absolute rank correlation, averaged over seeds.

        NaN where no seed gives one, as a network that random weights made constant.
        """
        rows = self.table[self.table["map"] == which]
        last = rows[rows["depth"] == rows["depth"].max()]
        # The opposite map is as much a copy as the same one, and random weights may give either.
        signed, absolute = last["spearman_signed"].abs().mean(), last["spearman_absolute"].mean()
        known = [float(value) for value in (signed, absolute) if not math.isnan(value)]
        return max(known, default=math.nan)

    @property
    def too_similar(self) -> bool | None:
        """Whether the map hardly depends on the weights; None where that cannot be said."""
        similarity = self.at_full_depth()
        return None if math.isnan(similarity) else similarity >= self.threshold


def randomise_parameters(
    method: AttributionMethod,
    network: nn.Module,
    image: Tensor,
    is_male: Tensor,
    hand: npt.NDArray[np.bool_],
    *,
    settings: AttributionSettings | None = None,
    mean_image: FloatImage | None = None,
    n_depths: int = 8,
    n_seeds: int = 3,
    seed: int = 0,
    threshold: float = TOO_SIMILAR,
) -> Randomisation:
    """Randomise a private copy from its output to its input and compare maps on the way.

    Modules with parameters are taken in the reverse order of their run. Each is set by its own
    ``reset_parameters``, BatchNorm with its running statistics; where it has none, each parameter
    becomes normal with its own mean and standard deviation.

    Args:
        method: makes the maps.
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        image: (1, 1, H, W) in [0, 1].
        is_male: (1,) 0 or 1.
        hand: (H, W) True where maps are compared; outside, both are near 0 for any network
            and would pass for similar.
        settings: of the method.
        mean_image: (H, W) in [0, 1], for the baseline ``mean``.
        n_depths: depths at which maps are compared, evenly over the modules, the last included.
        n_seeds: random networks.
        seed: of the first.
        threshold: rank correlation, with all weights random, that is too similar.

    Returns:
        Similarities by depth for the method and for the plain gradient.

    Raises:
        AttributionError: as the method; a mask of another shape or of few pixels, an image
            below 7 px, or a network without parameters.
        ConfigError: numbers of depths or seeds below 1, or a threshold outside (0, 1].

    Source: Adebayo et al., Sanity Checks for Saliency Maps, 2018, cascading randomisation. It
    names no threshold; ours is a convention: at 0.5 a quarter of the variance of the ranks
    survives the loss of all weights. The verdict rests on rank correlation alone, since SSIM is
    high for any two smooth or sparse maps (Binder et al., Shortcomings of Top-Down
    Randomization-Based Sanity Checks, 2023).
    """
    check_single(image, is_male)
    _check(image, hand, (n_depths, n_seeds), threshold)
    settings = settings or AttributionSettings()
    methods: dict[str, AttributionMethod] = {"method": method, "gradient": gradient}
    names = top_down(network, image, is_male)
    stops = set(np.unique(np.round(np.linspace(len(names), 1, n_depths)).astype(int)).tolist())

    def maps(of: nn.Module) -> dict[str, tuple[npt.NDArray[np.float64], float]]:
        found = {}
        for name, make in methods.items():
            made = make(of, image, is_male, settings, mean_image)
            found[name] = made.map_months.astype(np.float64), made.prediction_months
        return found

    original = maps(network)
    rows: list[dict[str, Any]] = []
    for draw in range(seed, seed + n_seeds):
        randomised = frozen_copy(network)
        for depth, name in enumerate(names, start=1):
            _reset(randomised.get_submodule(name), [draw, depth])
            if depth not in stops:
                continue
            for which, (values, prediction_months) in maps(randomised).items():
                rows.append(
                    {
                        "map": which,
                        "seed": draw,
                        "depth": depth,
                        "module": name,
                        **similarities(original[which][0], values, hand),
                        "prediction_months": prediction_months,
                    }
                )
    return Randomisation(pd.DataFrame(rows), threshold)


def randomised_network(network: nn.Module, seed: int, images: Tensor, is_male: Tensor) -> nn.Module:
    """Return a private copy whose every weight is random, as before any training.

    Each module is set by its own ``reset_parameters``; where it has none, or leaves a parameter as
    it was, that becomes normal with its own mean and standard deviation. Running statistics of
    BatchNorm are then measured on the images in one pass, since those of the trained network belong
    to its weights. Buffers, such as an age scale, and the constants of a model card stay.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        seed: of the weights.
        images: (n, 1, H, W) in [0, 1]; two at least where there is BatchNorm.
        is_male: (n,) 0 or 1.

    Returns:
        The copy, in evaluation mode and with frozen parameters.

    Raises:
        AttributionError: a network that cannot be copied, has no parameters or hides its layers,
            or too few images.
    """
    randomised = frozen_copy(network)
    own = [module for _, module in _learnt(randomised)]
    for position, module in enumerate(own):
        _reset(module, [seed, position])
    norms = [module for module in randomised.modules() if isinstance(module, _BatchNorm)]
    if norms and len(images) < 2:
        raise AttributionError(
            "randomisation: expected at least 2 images to measure BatchNorm on, "
            f"found {len(images)}"
        )
    momenta = [norm.momentum for norm in norms]
    with untouched(randomised), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            # The mean over all batches, which a network from elsewhere may take one by one.
            norm.training, norm.momentum = True, None
        try:
            if norms:
                months(randomised, images.detach().clone(), is_male.detach().clone())
        except ValueError as error:
            # BatchNorm of single values has nothing to measure.
            raise AttributionError(
                "randomisation: expected a network that takes several images at once, to measure "
                f"its BatchNorm on, found {first_line(error)}"
            ) from error
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return randomised


def top_down(network: nn.Module, image: Tensor, is_male: Tensor) -> list[str]:
    """Return the names of modules with parameters of their own, the last to finish first.

    A module that is never called, as one whose weights its parent uses, comes with the nearest
    one above it that is.

    Raises:
        AttributionError: a network without parameters or that hides its layers, or an output of
            another shape.
    """
    watched = frozen_copy(network)
    own = [name for name, _ in _learnt(watched)]
    finished: dict[str, int] = {}
    handles = []
    for name, module in watched.named_modules():

        def note(*_: Any, name: str = name) -> None:
            finished[name] = len(finished)

        handles.append(module.register_forward_hook(note))
    try:
        with untouched(watched), torch.no_grad():
            months(watched, image.detach().clone(), is_male.detach().clone())
    finally:
        for handle in handles:
            handle.remove()

    def place(name: str) -> int:
        while name not in finished and name:
            name = name.rpartition(".")[0]
        return finished.get(name, len(finished))

    own.reverse()
    return sorted(own, key=place, reverse=True)


def similarities(
    one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], hand: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """Compare two maps (H, W) inside a mask, signed and by magnitude.

    For SSIM each map is divided by the 99th percentile of its magnitude in the hand, cut at ±1
    and set to 0 outside.

    Returns:
        spearman_signed, spearman_absolute, ssim_signed and ssim_absolute; NaN where a map is
        constant inside the mask.
    """
    scaled = _scaled(one, hand), _scaled(other, hand)
    return {
        "spearman_signed": _spearman(one[hand], other[hand]),
        "spearman_absolute": _spearman(np.abs(one[hand]), np.abs(other[hand])),
        "ssim_signed": _ssim(scaled[0], scaled[1], hand, 2.0),
        "ssim_absolute": _ssim(np.abs(scaled[0]), np.abs(scaled[1]), hand, 1.0),
    }


def _check(
    image: Tensor, hand: npt.NDArray[np.bool_], numbers: tuple[int, int], threshold: float
) -> None:
    if hand.shape != tuple(image.shape[2:]) or hand.dtype != np.bool_:
        raise AttributionError(
            f"hand: expected a mask of shape {tuple(image.shape[2:])}, "
            f"found {hand.shape} of {hand.dtype}"
        )
    if hand.sum() < _FEWEST_PIXELS or min(hand.shape) < _SSIM_WINDOW_PX:
        raise AttributionError(
            f"hand: expected at least {_FEWEST_PIXELS} pixels in an image of at least "
            f"{_SSIM_WINDOW_PX} px, found {int(hand.sum())} in {hand.shape}"
        )
    if min(numbers) < 1 or not 0 < threshold <= 1:
        raise ConfigError(
            "randomisation: expected at least 1 depth and seed and a threshold in (0, 1], "
            f"found {numbers[0]}, {numbers[1]} and {threshold}"
        )


def _learnt(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules, by name, that hold parameters which were learnt.

    Raises:
        AttributionError: none, or weights and statistics that cannot be reached one by one.
    """
    found = []
    for name, module in network.named_modules():
        if isinstance(module, ExternalModel):
            if module.hidden_layers is not None:
                raise AttributionError(
                    "randomisation: expected a network whose weights can be made random, found "
                    f"{module.hidden_layers}"
                )
            # Its own parameters are constants of the card.
            continue
        if isinstance(module, torch.jit.ScriptModule):
            raise AttributionError(
                "randomisation: expected a network whose weights can be made random, found "
                "TorchScript"
            )
        if next(module.parameters(recurse=False), None) is not None:
            found.append((name, module))
    if not found:
        raise AttributionError("randomisation: expected a network with parameters, found none")
    return found


def _reset(module: nn.Module, entropy: list[int]) -> None:
    """Give a module of a private copy random parameters, torch's random state left alone."""
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    generator = torch.Generator().manual_seed(seed)
    reset = getattr(module, "reset_parameters", None)
    cuda = sorted({p.get_device() for p in module.parameters() if p.device.type == "cuda"})
    with torch.no_grad(), torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        before = [parameter.clone() for parameter in module.parameters(recurse=False)]
        if callable(reset):
            reset()
        for parameter, old in zip(module.parameters(recurse=False), before, strict=True):
            # What it passes over was learnt, too, unless it is one number: weight norm by hooks
            # computes the weights that are reset from others.
            if callable(reset) and (not parameter.equal(old) or old.min() == old.max()):
                continue
            values = parameter.double()
            spread = float(values.std(correction=0))
            # A single number has no spread: its size stands in.
            spread = spread or float(values.abs().max()) or 1.0
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise.to(parameter.device) * spread + values.mean())


def _spearman(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def _scaled(values: npt.NDArray[np.float64], hand: npt.NDArray[np.bool_]) -> Any:
    size = np.percentile(np.abs(values[hand]), _LARGEST_PERCENTILE)
    return np.clip(np.where(hand, values, 0) / (size if size > 0 else 1.0), -1, 1)


def _ssim(
    one: npt.NDArray[np.float64],
    other: npt.NDArray[np.float64],
    hand: npt.NDArray[np.bool_],
    data_range: float,
) -> float:
    # Imported here: scikit-image takes a second to load.
    from skimage.metrics import structural_similarity

    if np.ptp(one[hand]) == 0 or np.ptp(other[hand]) == 0:
        return math.nan
    compare: Any = structural_similarity
    _, local = compare(one, other, win_size=_SSIM_WINDOW_PX, data_range=data_range, full=True)
    return float(local[hand].mean())
