"""Ranks of the truth among a guide's draws: whether they are uniform, and what shifts and narrows them."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.special import ndtr, ndtri
from scipy.stats import binom, gamma, norm
from torch import Tensor

from pyro_lvm.calibration.bands import Array, ecdf_p_value, rank_counts

# Tests of each quantity: of location, of scale, and of all of the ECDF.
_TESTS = 3
# The truth's place in units of the guide's spread, where probabilities of ranks are held.
_FARTHEST, _NODES = 8.5, 1701
# Of log scale and location, beyond which ranks of so many draws tell nothing.
_WIDEST, _SHIFTED_MOST = math.log(50.0), 30.0


def rank(truth: Tensor, draws: Tensor, generator: torch.Generator, tolerance: Tensor | float = 0.0) -> Tensor:
    """How many draws are below the truth, ties broken at random.

    Where rounding matters, independent noise is added to the truth and the draws: what is one more draw stays one.
    Calling what is near a tie would not do: near is not transitive, and the extreme ranks would be too rare.

    Args:
        truth: Shape (rows, quantities).
        draws: Shape (draws, rows, quantities).
        generator: Of the ties.
        tolerance: Standard deviation of the noise, well above the differences that rounding makes of equal numbers.

    Returns:
        From 0 to the number of draws, shape (rows, quantities).
    """
    values = torch.cat([truth[None], draws])
    # Normal rather than uniform, at whose ends the least difference would make an extreme rank.
    noise = torch.randn(values.shape, generator=generator, dtype=torch.float64).to(values.device)
    truth, draws = (values + tolerance * noise).tensor_split([1])
    below = (draws < truth).sum(0)
    ties = (draws <= truth).sum(0) - below
    uniform = torch.rand(ties.shape, generator=generator, dtype=torch.float64).to(ties.device)
    # A draw of the uniform that rounds to 1 is none of the places.
    return below + torch.minimum((uniform * (ties + 1)).long(), ties)


def uniformity_p_value(ranks: npt.NDArray[np.int64], draws: int) -> float:
    r"""Whether ranks are uniform on 0 to L, by three tests at once (Bonferroni).

    Of location, by the mean of the ranks' normal scores :math:`s_r = \Phi^{-1}((r + 1/2) / (L + 1))`; of scale, by the
    mean of their squares; and of the ECDF, by how far it strays anywhere. The first two are the most powerful where
    the guide is Gaussian and shifted or of another width, the third sees any shape.

    Args:
        ranks: Shape (rows,).
        draws: L.
    """
    counts = rank_counts(ranks, draws)
    scores = ndtri((np.arange(draws + 1) + 0.5) / (draws + 1))
    squares = scores**2
    num_ranks = len(ranks)
    location = 2 * norm.sf(abs(counts @ scores) / math.sqrt(num_ranks * squares.mean()))
    # A sum of squares, for which a gamma distribution is near even far out.
    mean, variance = num_ranks * squares.mean(), num_ranks * squares.var()
    spread = gamma(mean**2 / variance, scale=variance / mean)
    total = counts @ squares
    scale = 2 * min(spread.cdf(total), spread.sf(total))
    return float(min(1.0, _TESTS * min(location, scale, ecdf_p_value(counts))))


def tied_p_value(excess: Array, variance: Array, ranges: Array) -> float:
    r"""Whether numbers that often tie are the truth's as often as the draws', where ranks lose what ties hide.

    Among the truth and its draws, each is the truth as likely as any other; so the truth's distance from their mean has
    the mean 0 and their variance, given them, and a sum over rows the bound of Bernstein's inequality.

    Args:
        excess: Mean of a row's draws and truth minus the truth, shape (rows,).
        variance: Of a row's draws and truth.
        ranges: Their largest minus their smallest.
    """
    total, spread, largest = abs(excess.sum()), variance.sum(), ranges.max()
    if spread == 0:
        return 1.0
    return float(min(1.0, 2 * math.exp(-0.5 * total**2 / (spread + largest * total / 3))))


def effect(ranks: npt.NDArray[np.int64], draws: int) -> tuple[float, float, float, float]:
    r"""How far a guide is shifted, and how wide it is, by the ranks alone.

    The truth is taken as :math:`N(-l s, s^2)` in units of the guide's spread about its centre, s = 1 / scale, the
    guide's draws as standard normal ones (of any monotone transformation of the quantity); location l and scale are
    the most likely for the ranks.

    Args:
        ranks: Shape (rows,).
        draws: L.

    Returns:
        Location of the guide above the truth, in standard deviations of the truth; its standard error; the guide's
        standard deviation relative to the right one; its standard error.
    """
    counts = rank_counts(ranks, draws).astype(float)

    def loss(at: Array) -> float:
        return -float(counts @ np.log(_rank_probabilities(draws, at[0], at[1])))

    begin = _begin(counts)
    best = minimize(
        loss, begin, method="Nelder-Mead", options={"initial_simplex": begin + 0.2 * np.array([[0, 0], [1, 0], [0, 1]])}
    ).x
    location = float(np.clip(best[0], -_SHIFTED_MOST, _SHIFTED_MOST))
    log_scale = float(np.clip(best[1], -_WIDEST, _WIDEST))
    variance = np.linalg.pinv(len(ranks) * _information(draws, location, log_scale))
    scale = math.exp(log_scale)
    return location, math.sqrt(variance[0, 0]), scale, scale * math.sqrt(variance[1, 1])


def _begin(counts: Array) -> Array:
    """Location and log scale by the moments of normal scores."""
    draws = len(counts) - 1
    scores = ndtri((np.arange(draws + 1) + 0.5) / (draws + 1))
    mean = counts @ scores / counts.sum()
    spread = math.sqrt(max(counts @ scores**2 / counts.sum() - mean**2, 1e-4))
    return np.array([-mean / spread, -math.log(spread)])


def _rank_probabilities(draws: int, location: float, log_scale: float) -> Array:
    """Of each rank, shape (draws + 1,), where the truth is normal in the guide's units."""
    log_scale = float(np.clip(log_scale, -_WIDEST, _WIDEST))
    spread = math.exp(-log_scale)
    edges = np.linspace(-_FARTHEST, _FARTHEST, _NODES)
    middle = 0.5 * (edges[1:] + edges[:-1])
    below = ndtr((middle / spread) + location)
    weights = np.diff(np.concatenate([[0.0], below, [1.0]]))
    probabilities: Array = weights @ _given_place(draws)
    return np.maximum(probabilities, 1e-12)


@lru_cache(maxsize=16)
def _given_place(draws: int) -> Array:
    """Probability of each rank given the truth's place, shape (nodes, draws + 1): a binomial one."""
    edges = np.linspace(-_FARTHEST, _FARTHEST, _NODES)
    return np.asarray(binom.pmf(np.arange(draws + 1), draws, ndtr(edges)[:, None]))


def _information(draws: int, location: float, log_scale: float) -> Array:
    """Fisher's information of one rank about location and log scale, shape (2, 2)."""
    step = 1e-3
    slopes = [
        (
            _rank_probabilities(draws, location + a, log_scale + b)
            - _rank_probabilities(draws, location - a, log_scale - b)
        )
        / (2 * step)
        for a, b in ((step, 0.0), (0.0, step))
    ]
    probabilities = _rank_probabilities(draws, location, log_scale)
    return np.array([[(one * other / probabilities).sum() for other in slopes] for one in slopes])
