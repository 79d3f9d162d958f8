"""Bands that the ECDF of uniform ranks stays in as a whole, and how unlikely it is to leave them."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

Array = npt.NDArray[np.float64]

# Sets of uniform ranks that say how far an ECDF strays by chance.
_NULL_SETS = 10_000
# Standard deviations of a count beyond which all are as unlikely.
_FAR = 8.0


def rank_counts(ranks: npt.NDArray[np.int64], draws: int) -> npt.NDArray[np.int64]:
    """How many ranks there are of each value from 0 to ``draws``, shape (draws + 1,)."""
    return np.bincount(ranks, minlength=draws + 1)


def ecdf_p_value(counts: npt.NDArray[np.int64]) -> float:
    r"""p-value of the place where the ECDF of ranks strays most from the uniform's.

    .. math:: \gamma = 2 \min_i \min\bigl\{ P(B_i \le N F(i)),\; P(B_i \ge N F(i)) \bigr\}, \qquad
        B_i \sim \mathrm{Bin}\bigl(N, \tfrac{i}{L + 1}\bigr), \quad i = 1, \dots, L

    Its distribution under uniform ranks comes from simulation; beyond that, from Bonferroni's bound over the L places.

    Args:
        counts: Of each rank, shape (draws + 1,).

    Source: Säilynoja, Bürkner & Vehtari 2022, "Graphical test for discrete uniformity and its applications in
    goodness-of-fit evaluation and multiple sample comparison", Statistics and Computing 32.
    """
    num_ranks, draws = int(counts.sum()), len(counts) - 1
    gamma = float(_gamma(counts[None], num_ranks)[0])
    null = _null(num_ranks, draws)
    reached = int(np.searchsorted(null, gamma, side="right"))
    if reached:
        return (reached + 1) / (len(null) + 1)
    return min(1 / (len(null) + 1), draws * gamma)


def ecdf_band(num_ranks: int, draws: int, level: float) -> tuple[Array, Array]:
    """Both ends of a band around the ECDF of uniform ranks that holds all of it with a given probability.

    Args:
        num_ranks: Ranks N.
        draws: Each is of one among so many draws, from 0 to L = ``draws``.
        level: The probability, between 0 and 1.

    Returns:
        Least and largest share of ranks below i, for i = 1 to L, shape (L,) each.
    """
    null, outside = _null(num_ranks, draws), 1 - level
    # Beyond what the simulation can tell, Bonferroni's bound.
    place = int(outside * (len(null) + 1)) - 1
    gamma = float(null[place]) if place >= 0 else outside / draws
    shares = np.arange(1, draws + 1) / (draws + 1)
    return binom.ppf(gamma / 2, num_ranks, shares) / num_ranks, binom.isf(gamma / 2, num_ranks, shares) / num_ranks


@lru_cache(maxsize=16)
def _null(num_ranks: int, draws: int) -> Array:
    """Values of gamma of uniform ranks, in order."""
    random = np.random.default_rng(0)
    shares = np.full(draws + 1, 1 / (draws + 1))
    parts = max(1, 2_000_000 // (draws + 1))
    found = [
        _gamma(random.multinomial(num_ranks, shares, size=min(parts, _NULL_SETS - first)), num_ranks)
        for first in range(0, _NULL_SETS, parts)
    ]
    return np.sort(np.concatenate(found))


def _gamma(counts: npt.NDArray[np.int64], num_ranks: int) -> Array:
    """gamma of each set of counts, shape (sets, draws + 1)."""
    below = counts.cumsum(1)[:, :-1]
    centre, reach, table = _tails(num_ranks, counts.shape[1] - 1)
    offsets = np.clip(below - centre, -reach, reach) + reach
    gammas: Array = table[np.arange(len(centre)), offsets].min(1)
    return gammas


@lru_cache(maxsize=16)
def _tails(num_ranks: int, draws: int) -> tuple[npt.NDArray[np.int64], int, Array]:
    """Two-sided tail probability of each number of ranks below i around the expected one, shape (draws, numbers)."""
    shares = np.arange(1, draws + 1) / (draws + 1)
    centre = np.rint(num_ranks * shares).astype(np.int64)
    reach = min(num_ranks, math.ceil(_FAR * 0.5 * math.sqrt(num_ranks)) + 1)
    numbers = centre[:, None] + np.arange(-reach, reach + 1)
    below, above = binom.cdf(numbers, num_ranks, shares[:, None]), binom.sf(numbers - 1, num_ranks, shares[:, None])
    return centre, reach, np.minimum(1.0, 2 * np.minimum(below, above))
