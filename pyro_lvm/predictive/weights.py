"""Importance weights of each row's draws, how far they are to be trusted, and draws resampled by them."""

from __future__ import annotations

import importlib
import math
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_lvm.elbo import draw_rows
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.evidence.observing import find_sites
from pyro_lvm.evidence.weights import WeightSums, chunk_limit, row_blocks
from pyro_lvm.pair import Pair, refuse_holes
from pyro_lvm.plate import feeding
from pyro_lvm.predictive.replicating import replicate, shared_part
from pyro_lvm.seeding import derived_seed, seeded

# Pareto-k above which draws of the guide don't stand for the posterior (Vehtari et al. 2024).
UNRELIABLE = 0.7
# Of so many rows each carries nothing of what all share.
_ENDLESS = sys.maxsize
# Weights that a Pareto tail is fitted to, at least; and nats between them below which there is no tail.
_LEAST_TAIL, _FLAT = 5, 1e-3


@dataclass(frozen=True)
class RowWeights:
    r"""Importance weights of draws from the guide, row by row.

    .. math:: w_n^s = \frac{p(x_n, z_n^s)}{q(z_n^s \mid x_n)}, \qquad z_n^s \sim q(z_n \mid x_n)

    Attributes:
        log_weights: log w, nats, shape (draws, rows), float64, on the CPU.
    """

    log_weights: Tensor

    @property
    def log_evidence(self) -> Tensor:
        """log p(x) of each row by importance sampling, the latents integrated out, nats, shape (rows,)."""
        return self.log_weights.logsumexp(0) - math.log(len(self.log_weights))

    @property
    def pareto_k(self) -> Tensor:
        """Pareto shape k of each row's largest weights, shape (rows,).

        Below 0.5 the guide covers the posterior, up to 0.7 its draws can be reweighted, above 0.7 they can't: it
        misses a part (Yao et al. 2018, "Yes, but did it work?", ICML). NaN from too few draws to tell; minus infinity
        where all weights are alike, as at the exact posterior.
        """
        return self._smoothed[1]

    @property
    def smoothed(self) -> Tensor:
        """Pareto-smoothed log-weights, the weights of a row summing to one, shape (draws, rows)."""
        return self._smoothed[0]

    @property
    def effective_share(self) -> Tensor:
        """Effective sample size of each row's weights over the draws, from 1 / draws to 1, shape (rows,)."""
        values = self.log_weights.double()
        return (2 * values.logsumexp(0) - (2 * values).logsumexp(0)).exp() / len(values)

    @property
    def num_unreliable(self) -> int:
        """Rows whose k is above 0.7."""
        return int((self.pareto_k > UNRELIABLE).sum())

    @cached_property
    def _smoothed(self) -> tuple[Tensor, Tensor]:
        return smooth(self.log_weights)

    def choose(self, num_draws: int | None = None, *, seed: int = 0) -> Tensor:
        """Draw again, by the smoothed weights: places of draws from the guide that make draws from the posterior.

        Args:
            num_draws: Draws a row; None for as many as there are.
            seed: Of the choice.

        Returns:
            Places along the first dimension of :attr:`log_weights`, shape (num_draws, rows).
        """
        count = len(self.log_weights) if num_draws is None else num_draws
        if count < 1:
            raise DataError(f"num_draws={count}: expected a whole number from 1 up")
        generator = torch.Generator().manual_seed(seed)
        return torch.multinomial(self.smoothed.exp().T, count, replacement=True, generator=generator).T


def row_weights(pair: Pair, x: Tensor, num_draws: int = 400, *, seed: int = 0, progress: bool = False) -> RowWeights:
    """Weigh draws of each row's latents.

    Args:
        pair: Any pair whose latents are a row's own; a discrete latent that the guide leaves to enumeration is summed
            out.
        x: Rows as the pair sees them, shape (rows, ...), NaN where missing.
        num_draws: Draws a row.
        seed: Of the draws.
        progress: Show how far it is.

    Returns:
        The weights.

    Raises:
        DataError: There are no rows, or ``num_draws`` isn't positive.
        PairError: Rows share latents, so that no weight is a row's own; or the guide can't take missing entries.
    """
    parts = []
    for draws in replicate(pair, x, num_draws, replication="posterior", seed=seed, progress=progress):
        if draws.log_weights is None:
            raise PairError(
                f"rows share the latents {', '.join(draws.shared)}: an importance weight of draws is of all rows "
                "together, and no row has its own; look at log_likelihood"
            )
        parts.append(draws.log_weights)
    return RowWeights(torch.cat(parts))


def resample(draws: Tensor, places: Tensor) -> Tensor:
    """Take the draws that :meth:`RowWeights.choose` chose.

    Args:
        draws: Shape (draws, rows, ...).
        places: Shape (num_draws, rows).

    Returns:
        Shape (num_draws, rows, ...).
    """
    if places.shape[1:] != draws.shape[1:2] or (places.numel() and int(places.max()) >= len(draws)):
        raise DataError(
            f"places of shape {tuple(places.shape)} in draws of shape {tuple(draws.shape)}: expected a place among the "
            "draws for each row"
        )
    return draws[places, torch.arange(draws.shape[1])]


def log_likelihood(pair: Pair, x: Tensor, num_draws: int = 100, *, num_particles: int = 100, seed: int = 0) -> Tensor:
    r"""log p(x_n | shared latents) of each row, its own latents integrated out by importance sampling.

    .. math:: \log p(x_n \mid \theta^s) \approx
        \log \frac1K \sum_k \frac{p(x_n, z_n^k \mid \theta^s)}{q(z_n^k \mid x_n, \theta^s)}

    It is marginal a row: conditional on a row's own latent, log p(x | z, theta) would be the likelihood of a model with
    as many parameters as rows, whose comparison by leave-one-out or WAIC fails. Where rows share no latents theta is a
    point, and there is one draw.

    Args:
        pair: Any pair.
        x: Rows as the pair sees them, shape (rows, ...), NaN where missing.
        num_draws: Draws of what rows share.
        num_particles: K, draws of a row's own latents for each.
        seed: Of the draws.

    Returns:
        Nats, shape (draws, rows), float64, on the CPU; one draw where rows share nothing.

    Raises:
        DataError: There are no rows, or a count isn't positive.
        PairError: The guide can't take missing entries.
    """
    for name, given in (("num_draws", num_draws), ("num_particles", num_particles)):
        if given < 1:
            raise DataError(f"{name}={given}: expected a whole number from 1 up")
    if not find_sites(pair, x).shared:
        return row_weights(pair, x, num_particles, seed=seed).log_evidence[None]
    refuse_holes(pair, x)
    return torch.stack([_given_one_draw(pair, x, num_particles, derived_seed(seed, draw)) for draw in range(num_draws)])


def _given_one_draw(pair: Pair, x: Tensor, num_particles: int, seed: int) -> Tensor:
    """log p(x_n | shared latents) of each row at one draw of them, shape (rows,)."""
    shared: Any = None
    parts = []
    with pair.evaluating(), seeded(seed), poutine.block(), feeding(None):
        for block, _ in row_blocks(pair, x):
            if shared is None:
                shared = shared_part(poutine.trace(pair.run_guide).get_trace(block), len(block))
            sums = WeightSums(len(block), block.device)
            # An autoguide's plates have a size of their own.
            limit = len(block) if isinstance(pair.guide, AutoGuide) else chunk_limit(block)
            while sums.count < num_particles:
                copies = min(max(1, limit // len(block)), num_particles - sums.count)
                with poutine.replay(trace=shared):
                    draw = draw_rows(pair, block.repeat(copies, *(1,) * (block.dim() - 1)), _ENDLESS)
                sums.add((draw.log_joint - draw.log_guide).reshape(copies, len(block)))
            parts.append(sums.log_mean.cpu())
    return torch.cat(parts)


def smooth(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Pareto-smooth log-weights of shape (draws, rows), by ArviZ: normalized log-weights and k of each row.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry 2024, "Pareto smoothed importance sampling", JMLR 25.
    """
    values = log_weights.double()
    smoothed, k = values.log_softmax(0), values.new_full(values.shape[1:], math.nan)
    tail = math.ceil(min(0.2 * len(values), 3 * math.sqrt(len(values))))
    if tail < _LEAST_TAIL:
        return smoothed, k
    largest = values.topk(tail, 0).values
    # Weights with a largest value that many draws reach have no tail, and ArviZ fits one to what is no more than noise.
    flat = largest[0] - largest[-1] < _FLAT
    # Hardly any draw has a weight at all.
    lost = ~largest[-1].isfinite()
    k[flat], k[lost] = -math.inf, math.inf
    fitted = ~(flat | lost)
    if bool(fitted.any()):
        smoothed[:, fitted], k[fitted] = _by_arviz(values[:, fitted])
    return smoothed, k


def _by_arviz(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    values = np.ascontiguousarray(log_weights.T.numpy())
    arviz = importlib.import_module("arviz")
    if hasattr(arviz, "psislw"):
        smoothed, k = arviz.psislw(values)
    else:
        # The 1.x line takes log-likelihoods, whose inverses are the weights of leaving one out.
        smoothed, k = importlib.import_module("arviz_stats.base").array_stats.psislw(-values)
    return torch.from_numpy(np.asarray(smoothed).T.copy()), torch.from_numpy(np.asarray(k, dtype=np.float64).copy())
