"""Integrated Gradients and expected gradients in months, with the completeness gap of each map."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from boneage_xai.attribution.baselines import SameSexReferences, baseline_images
from boneage_xai.attribution.forward import check_single
from boneage_xai.attribution.gradients import fitting_batch
from boneage_xai.attribution.interface import AttributedMap, AttributionSettings
from boneage_xai.attribution.path_cases import PathIntegral
from boneage_xai.attribution.path_integration import half_budget_bytes, integrate_batch
from boneage_xai.attribution.precision import GATE_CASES, GateFigures, Precision, choose_precision
from boneage_xai.attribution.prepared import (
    HALF_TYPES,
    PreparedNetwork,
    float32_poolings,
    in_half,
    prepare,
    prepare_as,
)
from boneage_xai.attribution.quadrature import FEWEST_NODES, RULE
from boneage_xai.errors import AttributionError, ConfigError
from boneage_xai.types import FloatImage

# Gradients in two bytes carry a gap of their own that more nodes hardly lower.
_MOST_NODES_HALF = 129


@dataclass(frozen=True, eq=False)
class Integrator:
    """A network made ready to explain many cases with one baseline.

    Args:
        prepared: its frozen and folded copy.
        precision: in which gradients are computed, and why.
        batch_size: images a step, as the memory budget allows.
        settings: baseline, tolerance and the rest.
        mean_image: (H, W) for the baseline ``mean``.
        references: for the baseline ``expected``.
    """

    prepared: PreparedNetwork
    precision: Precision
    batch_size: int
    settings: AttributionSettings
    mean_image: FloatImage | None = None
    references: SameSexReferences | None = None

    def record(self) -> dict[str, Any]:
        """Return how maps are computed, for ``analysis.json``."""
        return {
            "rule": f"{RULE}: the panels that hold most of the measured roughness are halved",
            "network": self.prepared.note,
            "parity_months": self.prepared.parity_months,
            "batch_size": self.batch_size,
            **self.precision.record(),
        }

    def decisions(self) -> dict[str, Any]:
        """Return what was measured and decided, for :func:`restore_integrator`."""
        return {
            "folded": self.prepared.folded,
            "parity_months": self.prepared.parity_months,
            "note": self.prepared.note,
            "batch_size": self.batch_size,
            **self.precision.record(),
        }


def restore_integrator(
    network: nn.Module,
    decisions: Mapping[str, Any],
    settings: AttributionSettings,
    *,
    mean_image: FloatImage | None = None,
    references: SameSexReferences | None = None,
) -> Integrator:
    """Prepare a network exactly as it was decided before, measuring nothing again.

    Args:
        network: as for :func:`make_integrator`.
        decisions: of that integrator, also after a way through JSON.
        settings: the same.
        mean_image: the same.
        references: the same.

    Raises:
        AttributionError: a network that cannot be prepared so.
    """
    prepared = prepare_as(
        network, decisions["folded"], decisions["parity_months"], decisions["note"]
    )
    half, poolings = None, int(decisions.get("n_float32_poolings", 1))
    if (name := decisions["precision"]) in HALF_TYPES:
        if poolings not in float32_poolings(prepared, HALF_TYPES[name]):
            raise AttributionError(
                f"{type(network).__name__}: expected a backbone for {name} as before, found none"
            )
        half = in_half(prepared, poolings, HALF_TYPES[name])
    gate = decisions["gate"]
    precision = Precision(
        decisions["precision"],
        decisions["reason"],
        half,
        poolings,
        None if gate is None else GateFigures(**gate),
    )
    return Integrator(
        prepared, precision, decisions["batch_size"], settings, mean_image, references
    )


def make_integrator(
    network: nn.Module,
    images: Tensor,
    is_male: Tensor,
    settings: AttributionSettings,
    *,
    n_cases: int,
    mean_image: FloatImage | None = None,
    references: SameSexReferences | None = None,
) -> Integrator:
    """Prepare a network for Integrated Gradients; the network itself is not touched.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        images: (k, 1, H, W), up to four of the cases to come: folding and precision are checked
            on them and memory is measured.
        is_male: (k,) 0 or 1.
        settings: baseline, tolerance, precision and memory budget.
        n_cases: cases to come in all.
        mean_image: (H, W) in [0, 1], for the baseline ``mean``.
        references: for the baseline ``expected``.

    Raises:
        AttributionError: a network for which maps are not defined.
        ConfigError: a baseline without what it needs, or too few nodes for its references.
    """
    images, is_male = images[:GATE_CASES], is_male[:GATE_CASES]
    with torch.inference_mode(False):
        images, is_male = images.detach().clone(), is_male.detach().clone()
        baselines = _baselines(images, is_male, settings, mean_image, references)
        prepared = prepare(network, images, is_male)
        budget = half_budget_bytes(settings, images.device)
        batch_size = fitting_batch(prepared.network, images[:1], is_male[:1], budget)
        precision = choose_precision(
            prepared,
            images,
            baselines,
            is_male,
            settings,
            n_cases=n_cases,
            batch_size=batch_size,
        )
    return Integrator(prepared, precision, batch_size, settings, mean_image, references)


def attribute_batch(
    integrator: Integrator,
    images: Tensor,
    is_male: Tensor,
    on_gradients: Callable[[int], None] | None = None,
) -> list[tuple[PathIntegral, str]]:
    """Explain several cases together.

    Args:
        integrator: the prepared network.
        images: (n, 1, H, W) in [0, 1].
        is_male: (n,) 0 or 1.
        on_gradients: called after each step with the gradients computed so far; a case that is
            computed again begins anew. What it raises ends the work.

    Returns:
        For each case its integral and the precision it was computed in: cases whose gap
        two bytes do not close are computed again in float32, and count the nodes and seconds
        of both.

    Raises:
        AttributionError: shapes that do not fit.
        ConfigError: a baseline without what it needs.
    """
    settings, precision = integrator.settings, integrator.precision
    network, batch_size = integrator.prepared.network, integrator.batch_size
    own = "float32" if precision.network is not None else precision.name
    with torch.inference_mode(False):
        images, is_male = images.detach().clone(), is_male.detach().clone()
        baselines = _baselines(
            images, is_male, settings, integrator.mean_image, integrator.references
        )
        done: dict[int, tuple[PathIntegral, str]] = {}
        integrals: list[PathIntegral] = []
        if precision.network is not None:
            fewest = FEWEST_NODES * max(map(len, baselines))
            most = max(_MOST_NODES_HALF, 2 * fewest, 2 * settings.min_nodes)
            integrals = integrate_batch(
                network,
                images,
                baselines,
                is_male,
                settings.model_copy(update={"max_nodes": min(settings.max_nodes, most)}),
                batch_size=batch_size,
                gradient_network=precision.network,
                on_gradients=on_gradients,
            )
            done = {
                index: (integral, precision.name)
                for index, integral in enumerate(integrals)
                if integral.converged
            }
        rest = [index for index in range(len(images)) if index not in done]
        if rest:
            again = integrate_batch(
                network,
                images[rest],
                [baselines[index] for index in rest],
                is_male[rest],
                settings,
                batch_size=batch_size,
                on_gradients=on_gradients,
            )
            for index, integral in zip(rest, again, strict=True):
                done[index] = (_after(integrals[index], integral) if integrals else integral, own)
    return [done[index] for index in range(len(images))]


def attributed_map(integral: PathIntegral, precision: str, baseline: str) -> AttributedMap:
    """Turn an integral into a map in float32, with the gap of that very map.

    Raises:
        AttributionError: NaN or infinity in the map.
    """
    map_months = integral.map_months.astype(np.float32)
    change_months = integral.prediction_months - integral.baseline_prediction_months
    return AttributedMap(
        map_months,
        integral.prediction_months,
        baseline=baseline,
        baseline_prediction_months=integral.baseline_prediction_months,
        completeness_gap_months=float(map_months.sum(dtype=np.float64)) - change_months,
        map_error_fraction=integral.map_error_fraction,
        nodes=integral.nodes,
        converged=integral.converged,
        precision=precision,
    )


def integrated_gradients(
    network: nn.Module,
    image: Tensor,
    is_male: Tensor,
    settings: AttributionSettings,
    mean_image: FloatImage | None = None,
    references: SameSexReferences | None = None,
    on_gradients: Callable[[int], None] | None = None,
) -> AttributedMap:
    """Attribute one prediction to pixels along the straight path from a baseline.

    Sex is held fixed along the path: it is no input to be attributed, so girls (coded 0)
    and boys are treated alike and the map explains the change made by the image alone.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        image: (1, 1, H, W) in [0, 1].
        is_male: (1,) 0 or 1.
        settings: baseline, tolerance, max_nodes, precision, memory_budget_mb.
        mean_image: (H, W) in [0, 1], for the baseline ``mean``.
        references: for the baseline ``expected``.
        on_gradients: called after each step with the gradients computed so far; what it raises
            ends the work.

    Returns:
        Signed map in months with predictions at image and baseline; the gap is that of
        the float32 map as returned, summed in float64, against float32 predictions.

    Raises:
        AttributionError: wrong shapes, or a network for which maps are not defined.
        ConfigError: a baseline without what it needs.

    Source: Sundararajan, Taly & Yan, Axiomatic Attribution for Deep Networks, 2017; with the
    baseline ``expected`` Erion et al., Improving Performance of Deep Learning Models with
    Axiomatic Attribution Priors and Expected Gradients, 2021. Departures: nodes are added until
    the gap is within a tolerance; expected gradients integrate over alpha instead of drawing it,
    and take references of the case's own sex.
    """
    check_single(image, is_male)
    integrator = make_integrator(
        network,
        image,
        is_male,
        settings,
        n_cases=1,
        mean_image=mean_image,
        references=references,
    )
    ((integral, precision),) = attribute_batch(integrator, image, is_male, on_gradients)
    return attributed_map(integral, precision, settings.baseline)


def expected_gradients(
    network: nn.Module,
    image: Tensor,
    is_male: Tensor,
    settings: AttributionSettings,
    mean_image: FloatImage | None = None,
    references: SameSexReferences | None = None,
) -> AttributedMap:
    """Attribute one prediction against the average over reference children of the same sex.

    Args:
        network: ``network(image (N, 1, H, W) in [0, 1], is_male (N,)) -> (N,)`` months.
        image: (1, 1, H, W) in [0, 1].
        is_male: (1,) 0 or 1.
        settings: as for :func:`integrated_gradients`; the baseline is ``expected`` in any case.
        mean_image: not used by this method.
        references: the reference images.

    Returns:
        Signed map in months that adds up to the prediction minus the references' average.

    Raises:
        AttributionError: wrong shapes, or a network for which maps are not defined.
        ConfigError: no references, or too few nodes for so many.

    Source: Erion et al., 2021, with the departures named in :func:`integrated_gradients`.
    """
    settings = settings.model_copy(update={"baseline": "expected"})
    return integrated_gradients(network, image, is_male, settings, references=references)


def _after(first: PathIntegral, second: PathIntegral) -> PathIntegral:
    """Return the second integral with what both have cost."""
    return replace(second, nodes=first.nodes + second.nodes, seconds=first.seconds + second.seconds)


def _baselines(
    images: Tensor,
    is_male: Tensor,
    settings: AttributionSettings,
    mean_image: FloatImage | None,
    references: SameSexReferences | None,
) -> Sequence[Tensor]:
    """Return the baselines of each image; those that are the same for several are one tensor."""
    if settings.baseline == "blurred":
        return [baseline_images(settings, image[None]) for image in images]
    if settings.baseline != "expected":
        return [baseline_images(settings, images[:1], mean_image)] * len(images)
    if references is None:
        raise ConfigError("baseline 'expected': expected reference images, found none")
    by_sex: dict[bool, Tensor] = {}
    for index, male in enumerate((is_male > 0.5).tolist()):
        if male not in by_sex:
            mine = references.of(is_male=male)
            if settings.max_nodes < FEWEST_NODES * len(mine):
                raise ConfigError(
                    f"max_nodes: expected at least {FEWEST_NODES * len(mine)} for {len(mine)} "
                    f"references, found {settings.max_nodes}"
                )
            by_sex[male] = baseline_images(settings, images[index : index + 1], references=mine)
    return [by_sex[male] for male in (is_male > 0.5).tolist()]
