"""Mixture components that have lost their rows, and what is done about them."""

from __future__ import annotations

import dataclasses
import warnings

import torch
from torch import Tensor

from pyro_lvm.em.expectation import Statistics
from pyro_lvm.em.parameters import NoiseModel, Parameters

# Where a revived component is put, in standard deviations of the one that it halves.
_SHIFT = 0.5


class Reviver:
    """Puts components that have lost their rows beside the largest one, a number of times, and then drops them.

    A component with fewer rows than latent dimensions plus one can't have a noise variance of its own: its likelihood
    is unbounded, so that what EM would make of it is no estimate.

    Args:
        revivals: how many components are revived before the next is dropped.
    """

    def __init__(self, revivals: int) -> None:
        self._left = revivals

    def repair(self, parameters: Parameters, statistics: Statistics) -> Parameters | None:
        """Look after the component with the fewest rows.

        Args:
            parameters: the current ones.
            statistics: the E-step under them.

        Returns:
            Other parameters, or None where every component has rows enough.
        """
        counts = statistics.counts
        weakest, strongest = int(counts.argmin()), int(counts.argmax())
        if len(counts) == 1 or counts[weakest] > parameters.loadings.shape[-1] + 1:
            return None
        if not self._left:
            return _without(parameters, weakest)
        self._left -= 1
        return _halved(parameters, strongest, weakest)


def warn_of_collapse(parameters: Parameters, counts: Tensor, noise: NoiseModel, wanted: int) -> None:
    """Warn where a fit has fewer components than were asked for, or some that only the noise floor holds up.

    Args:
        parameters: that were fitted.
        counts: rows of each component, (num_components,).
        noise: the noise variances that are allowed.
        wanted: how many components were asked for.

    Warns:
        UserWarning: says how many, or of how many rows.
    """
    lost = wanted - len(counts)
    if lost:
        warnings.warn(
            f"{lost} of {wanted} components lost their rows, even after they had been revived, and are left out: "
            "choose a smaller n_mixtures, or more starts (n_init)",
            stacklevel=4,
        )
    at_floor = noise.binds(parameters.noise_variance).all(1)
    if bool(at_floor.any()):
        sizes = ", ".join(f"{count:.1f}" for count in counts[at_floor].tolist())
        warnings.warn(
            f"components with {sizes} rows have collapsed: their noise is at its floor, {float(noise.floor[0]):g} of "
            "the mean variance, and their evidence is what the floor makes it; choose a smaller n_mixtures or "
            "n_components, leave out duplicate rows, or raise noise_floor",
            stacklevel=4,
        )


def _without(parameters: Parameters, component: int) -> Parameters:
    kept = torch.arange(len(parameters.weights), device=parameters.weights.device) != component
    weights, *rest = (getattr(parameters, field.name)[kept] for field in dataclasses.fields(parameters))
    return Parameters(weights / weights.sum(), *rest)


def _halved(parameters: Parameters, strongest: int, weakest: int) -> Parameters:
    """The weakest component as half of the strongest, the two apart along its leading loading."""
    leading = int(parameters.loadings[strongest].square().sum(0).argmax())
    shift = _SHIFT * parameters.loadings[strongest, :, leading]
    copies = [getattr(parameters, field.name).clone() for field in dataclasses.fields(parameters)]
    weights, means, loadings, noise_variance = copies
    weights[[strongest, weakest]] = (weights[strongest] + weights[weakest]) / 2
    means[weakest] = means[strongest] - shift
    means[strongest] += shift
    loadings[weakest] = loadings[strongest]
    noise_variance[weakest] = noise_variance[strongest]
    return Parameters(weights, means, loadings, noise_variance)
