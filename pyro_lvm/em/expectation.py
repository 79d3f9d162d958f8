r"""The E-step: expected sufficient statistics under the joint posterior q(z, t), and the exact log-evidence.

For a row x with observed entries o and component k, with M_k = I + W_ko^T Psi_ko^-1 W_ko::

    q(z | t = k) = N( m_k, M_k^-1 )      m_k = M_k^-1 W_ko^T Psi_ko^-1 (x_o - mu_ko)
    q(t = k) = pi_k N(x_o | mu_ko, W_ko W_ko^T + Psi_ko) / sum_l pi_l N(x_o | mu_lo, W_lo W_lo^T + Psi_lo)

The M-step needs, with z~ = (z, 1), only sums over rows of q(k) E[z~ z~^T], of x_j q(k) E[z~] and of x_j^2 q(k), each
over the rows where feature j is observed. They are what :class:`Statistics` holds. Nothing is kept for a row: memory is
that of the rows and of one block's temporaries.

Sources: Tipping & Bishop 1999b, "Mixtures of probabilistic principal component analyzers", Neural Computation 11,
appendix C; Ghahramani & Hinton 1996, "The EM algorithm for mixtures of factor analyzers", CRG-TR-96-1; Rubin & Thayer
1982, "EM algorithms for ML factor analysis", Psychometrika 47.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_lvm.em.parameters import Parameters
from pyro_lvm.em.rows import Block, Rows


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Sums over rows; F is data_dim, or 1 where no entry is missing and all features share what they have in common.

    Attributes:
        num_rows: number of rows with something observed, ().
        log_evidence: of these rows together, in nats, ().
        latent: sum of q(k) E[z~ z~^T], (num_components, latent_dim + 1, latent_dim + 1).
        latent_observed: the same over the rows where the feature is observed, (num_components, F, latent_dim + 1,
            latent_dim + 1).
        cross: sum of x_j q(k) E[z~], (num_components, data_dim, latent_dim + 1).
        squares: sum of x_j^2 q(k), (num_components, data_dim).
    """

    num_rows: Tensor
    log_evidence: Tensor
    latent: Tensor
    latent_observed: Tensor
    cross: Tensor
    squares: Tensor

    @property
    def counts(self) -> Tensor:
        """Sum of q(k) over all rows, (num_components,)."""
        return self.latent[:, -1, -1]

    @property
    def counts_observed(self) -> Tensor:
        """Sum of q(k) over the rows where the feature is observed, (num_components, F)."""
        return self.latent_observed[..., -1, -1]

    def scaled(self, factor: float) -> Statistics:
        """The statistics of ``factor`` times as many rows."""
        return Statistics(*(factor * value for value in self.fields()))

    def fields(self) -> tuple[Tensor, ...]:
        """The sums, in order."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))


def add(first: Statistics, second: Statistics) -> Statistics:
    """Add statistics of different rows under the same parameters; a sum over processes is a sum of their fields.

    Args:
        first: of some rows.
        second: of other rows; where only one of the two has missing entries, the shared statistics are spread out.

    Returns:
        Those of all the rows.
    """
    return Statistics(*(a + b for a, b in zip(first.fields(), second.fields(), strict=True)))


def sum_statistics(parts: Iterable[Statistics]) -> Statistics:
    """Add up statistics of different rows under the same parameters, by :func:`add`.

    Args:
        parts: at least one.
    """
    return functools.reduce(add, parts)


def expect(rows: Rows, parameters: Parameters) -> Statistics:
    """The E-step: one sweep over the rows.

    Args:
        rows: the rows.
        parameters: of the model.

    Returns:
        The statistics of all rows.

    Raises:
        torch.linalg.LinAlgError: the parameters are so large that a posterior precision isn't positive in float64.
    """
    prepared = _prepare(parameters)
    return sum_statistics(_expect_block(block, prepared) for block in rows.blocks())


class _Prepared(NamedTuple):
    """What the E-step needs of the parameters, laid out so that a block is a few large matrix products."""

    log_weights: Tensor  # (num_components,)
    extended: Tensor  # (num_components, latent_dim + 1, data_dim), rows of (W, mu)^T
    precision: Tensor  # (num_components, data_dim), 1 / psi
    whitened: Tensor  # (num_components * latent_dim, data_dim), (psi^-1 W)^T
    # Of what is summed over observed entries, (data_dim, num_components * (triangle + latent_dim + 1)): the products
    # psi^-1 w w^T, mu psi^-1 W and log 2 pi psi of each component.
    per_entry: Tensor


def _prepare(parameters: Parameters) -> _Prepared:
    _, data_dim, latent_dim = parameters.loadings.shape
    rows, columns = _triangle(latent_dim, parameters.loadings.device)
    whitened = parameters.loadings / parameters.noise_variance.unsqueeze(-1)
    products = whitened[..., rows] * parameters.loadings[..., columns]
    offsets = parameters.means.unsqueeze(-1) * whitened
    log_density = (2 * math.pi * parameters.noise_variance).log().unsqueeze(-1)
    return _Prepared(
        parameters.weights.log(),
        torch.cat([parameters.loadings, parameters.means.unsqueeze(-1)], -1).mT.contiguous(),
        1 / parameters.noise_variance,
        whitened.mT.reshape(-1, data_dim),
        torch.cat([products, offsets, log_density], -1).transpose(0, 1).reshape(data_dim, -1),
    )


def _expect_block(block: Block, prepared: _Prepared) -> Statistics:
    x = block.x
    num_components, extended_dim, _ = prepared.extended.shape
    latent_dim = extended_dim - 1
    # A pattern is a row of 0s and 1s, so that sums over observed entries are matrix products.
    masks = x.new_ones(1, x.shape[1]) if block.masks is None else block.masks.to(x)
    pattern = x.new_zeros(len(x), dtype=torch.long) if block.pattern is None else block.pattern
    sums = (masks @ prepared.per_entry).unflatten(1, (num_components, -1))
    factors = _cholesky_of_precision(sums[..., : -latent_dim - 1], latent_dim)
    covariance = torch.cholesky_inverse(factors)
    normalizer = sums[..., -1] + 2 * factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    # Products with the rows' dimension last are the faster ones where the other is small.
    score = (prepared.whitened @ x.mT).mT.unflatten(1, (num_components, latent_dim))
    score = score - _rows_of(sums[..., -latent_dim - 1 : -1], pattern)
    # Solved for, as multiplying by the inverse loses the digits of directions in which the posterior is narrow.
    if len(masks) == 1:
        loc = torch.cholesky_solve(score.permute(1, 2, 0), factors[0]).permute(2, 0, 1)
    else:
        loc = torch.cholesky_solve(score.unsqueeze(-1), _rows_of(factors, pattern)).squeeze(-1)
    extended = torch.cat([loc, torch.ones_like(loc[..., :1])], -1)
    distances = loc.square().sum(-1)
    observed = None if block.masks is None else _rows_of(masks, pattern)
    for k in range(num_components):
        # The sum of the two squares is at its minimum in m, so that rounding in m enters only squared.
        misfit = torch.addmm(x, extended[:, k], prepared.extended[k], alpha=-1)
        if observed is not None:
            misfit *= observed
        distances[:, k] += misfit.square_() @ prepared.precision[k]
    joint = prepared.log_weights - 0.5 * (_rows_of(normalizer, pattern) + distances)
    evidence = joint.logsumexp(1)
    responsibilities = (joint - evidence.unsqueeze(1)).exp()

    weighted = responsibilities.unsqueeze(-1) * extended
    cross = (weighted.flatten(1).mT @ x).unflatten(0, (num_components, extended_dim)).mT
    squares = responsibilities.mT @ x.square()
    by_pattern = _sum_by(pattern, responsibilities, len(masks))
    spread = by_pattern[..., None, None] * covariance
    if block.masks is None:
        latent = weighted.transpose(0, 1).mT @ extended.transpose(0, 1)
        latent[:, :-1, :-1] += spread[0]
        latent_observed = latent.unsqueeze(1)
    else:
        outer = _sum_by(pattern, weighted.unsqueeze(-1) * extended.unsqueeze(-2), len(masks))
        outer[..., :-1, :-1] += spread
        latent = outer.sum(0)
        rows, columns = _triangle(extended_dim, x.device)
        packed = outer.flatten(-2).index_select(-1, rows * extended_dim + columns)
        latent_observed = (masks.mT @ packed.flatten(1)).unflatten(1, (num_components, -1)).transpose(0, 1)
        latent_observed = _symmetric(latent_observed, extended_dim)
    return Statistics(x.new_tensor(len(x)), evidence.sum(), latent, latent_observed, cross, squares)


def _cholesky_of_precision(products: Tensor, latent_dim: int) -> Tensor:
    """Lower triangular C with C C^T = I + W_o^T Psi_o^-1 W_o, from the lower triangle of the second term."""
    precision = _symmetric(products, latent_dim)
    precision.diagonal(dim1=-2, dim2=-1).add_(1)
    factor: Tensor = torch.linalg.cholesky(precision)
    return factor


@functools.lru_cache(maxsize=8)
def _triangle(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns of a lower triangle, row by row."""
    rows, columns = torch.tril_indices(size, size, device=device)
    return rows, columns


@functools.lru_cache(maxsize=8)
def _places(size: int, device: torch.device) -> Tensor:
    """Where in a packed lower triangle each entry of the full matrix is, (size * size,)."""
    rows, columns = _triangle(size, device)
    places = torch.empty(size, size, dtype=torch.long, device=device)
    places[rows, columns] = places[columns, rows] = torch.arange(len(rows), device=device)
    return places.flatten()


def _symmetric(packed: Tensor, size: int) -> Tensor:
    """(..., size, size) from its lower triangle, (..., size * (size + 1) / 2)."""
    full: Tensor = packed.index_select(-1, _places(size, packed.device)).unflatten(-1, (size, size))
    return full


def _rows_of(values: Tensor, pattern: Tensor) -> Tensor:
    """Each row's own of the values of patterns, (num_patterns, ...)."""
    # Patterns are sorted, so that where there are as many as rows, each is the row's at its place.
    return values if len(values) in (1, len(pattern)) else values[pattern]


def _sum_by(pattern: Tensor, values: Tensor, num_patterns: int) -> Tensor:
    """Sums of the values, (num_rows, ...), over the rows of each pattern, (num_patterns, ...)."""
    if num_patterns == len(pattern):
        return values
    return values.new_zeros(num_patterns, *values.shape[1:]).index_add_(0, pattern, values)
