"""Hamiltonian moves of many rows' chains at once along a path of densities, with steps of each row's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_lvm.evidence.density import LatentDensity, Point

# What the step is adapted to: where a move goes furthest for its cost (Beskos et al. 2013, "Optimal tuning of the
# hybrid Monte Carlo algorithm", Bernoulli 19).
_ACCEPTANCE = 0.65
# How much of a miss of it one move makes up for, and how fast a scale forgets the temperatures before.
_RATE, _MEMORY = 0.4, 0.9
# Moves at the beginning of the path until steps fit there.
_WARM_UP = 20
# A step that is always the same can meet a trajectory's period.
_JITTER = 0.2
# Of a coordinate that all chains agree on.
_SMALLEST_SCALE = 1e-6


@dataclass(frozen=True)
class Steps:
    """Steps of each row and coordinate along a path, fixed before the chains that are counted begin.

    A step that followed the chains' own past would leave their weights without the expectation that makes them a bound.

    Attributes:
        logarithms: At knots at even distances along the path, shape (knots, rows, dim).
    """

    logarithms: Tensor

    def at(self, place: float, chains: int) -> Tensor:
        """Steps at a place from 0 to 1 along the path, shape (chains * rows, dim)."""
        last = len(self.logarithms) - 1
        knot = min(int(place * last), max(last - 1, 0))
        between = torch.lerp(self.logarithms[knot], self.logarithms[min(knot + 1, last)], place * last - knot)
        return between.exp().repeat(chains, 1)


def move(density: LatentDensity, point: Point, beta: float, steps: Tensor, num_leapfrogs: int) -> tuple[Point, Tensor]:
    r"""One Hamiltonian move of every chain, which leaves :math:`s(u)^{1-\beta} p(x, u)^\beta` as it is.

    Args:
        density: Of the rows.
        point: Where the chains are.
        beta: From 0 to 1.
        steps: Of each chain and coordinate, shape (chains, dim).
        num_leapfrogs: Leapfrog steps of the move, each of which costs a gradient.

    Returns:
        Where they are then, and each chain's probability of having moved, shape (chains,).

    Source: Neal 2011, "MCMC using Hamiltonian dynamics".
    """
    factor = 1 + _JITTER * (2 * torch.rand_like(point.u[:, :1]) - 1)
    steps = steps * factor
    momentum = torch.randn_like(point.u)
    energy = point.log_density(beta) - _kinetic(momentum)
    new = point
    momentum = momentum + 0.5 * steps * new.gradient(beta)
    for leap in range(num_leapfrogs):
        new = density.evaluate(new.u + steps * momentum)
        weight = 0.5 if leap == num_leapfrogs - 1 else 1.0
        momentum = momentum + weight * steps * new.gradient(beta)
    # A trajectory that left for infinity is NaN, and refused.
    probability = (new.log_density(beta) - _kinetic(momentum) - energy).clamp(max=0).exp().nan_to_num(0.0)
    accepted = torch.rand_like(probability) < probability
    return point.replaced(accepted, new), probability


def tune(density: LatentDensity, betas: Sequence[float], num_leapfrogs: int) -> Steps:
    """Find steps along a path by chains that are not counted.

    Each coordinate's step is in proportion to its standard deviation over the chains, each row's adapted to the
    acceptance that is best for Hamiltonian moves.

    Args:
        density: Of the rows, with 2 chains of each at least.
        betas: The knots, from 0 to 1.
        num_leapfrogs: As the moves will have.
    """
    chains = density.chains
    point = density.evaluate(density.draw())
    variance = _variance(density, point)
    log_step = torch.zeros_like(variance[:, :1]) - 0.25 * torch.tensor(float(density.dim)).log() - 0.7
    logarithms = []
    for number in range(-_WARM_UP, len(betas)):
        own = log_step + 0.5 * variance.log()
        point, probability = move(density, point, betas[max(number, 0)], own.exp().repeat(chains, 1), num_leapfrogs)
        share = density.by_chain(probability).mean(0)[:, None]
        log_step = log_step + _RATE * (share - _ACCEPTANCE).to(log_step)
        variance = torch.lerp(_variance(density, point), variance, _MEMORY)
        if number >= 0:
            logarithms.append(log_step + 0.5 * variance.log())
    return Steps(torch.stack(logarithms))


def _variance(density: LatentDensity, point: Point) -> Tensor:
    return density.by_chain(point.u).var(0).clamp(min=_SMALLEST_SCALE**2)


def _kinetic(momentum: Tensor) -> Tensor:
    return 0.5 * momentum.double().square().sum(1)
