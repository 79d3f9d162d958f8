"""How many latent dimensions: what data allow, and what the evidence of the spectrum says."""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch
from torch import Tensor

from pyro_lvm.errors import DataError

# Enough for a plot.
_DEFAULT = 2


def latent_dim(n_components: Any, num_rows: int, num_features: int) -> int:
    """Check a number of latent dimensions against the shape of the data.

    Args:
        n_components: the number, or None for 2, or 1 where the data have no room for 2.
        num_rows: N.
        num_features: D.

    Returns:
        d.

    Raises:
        DataError: not from 1 to min(N - 1, D) - 1, from where on the noise would have no direction left to itself.
    """
    limit = min(num_rows - 1, num_features) - 1
    shape = f"n_samples={num_rows} and n_features={num_features}"
    if limit < 1:
        raise DataError(f"X has {shape}: expected 3 rows and 2 features at least, or the noise has no direction left")
    if n_components is None:
        return min(_DEFAULT, limit)
    if not isinstance(n_components, numbers.Integral) or not 1 <= int(n_components) <= limit:
        raise DataError(
            f"n_components={n_components!r} with {shape}: expected a whole number from 1 to {limit}, so that the noise "
            "has a direction left to itself"
        )
    return int(n_components)


def laplace_evidence(eigenvalues: Tensor, num_rows: int, data_dim: int) -> Tensor:
    """Minka's approximation of log p(X | d), for each number of latent dimensions d.

    With lambda the eigenvalues of the 1/N covariance, v the mean of those from d + 1 on, lambda^ the eigenvalues with v
    in place of these, and m = D d - d (d + 1) / 2::

        log p(X | d) ~ -d log 2 + sum_{i <= d} [ log Gamma((D - i + 1) / 2) - (D - i + 1) / 2 log pi ]
                       - N / 2 [ sum_{i <= d} log lambda_i + (D - d) log v ] + (m + d) / 2 log 2 pi
                       - 1/2 sum_{i <= d} sum_{i < j <= D} log[ (1/lambda^_j - 1/lambda^_i) (lambda_i - lambda_j) N ]
                       - d / 2 log N

    Args:
        eigenvalues: lambda, in descending order, (at most data_dim,); those that aren't given are 0.
        num_rows: N.
        data_dim: D.

    Returns:
        In nats for all rows together, up to a constant, (data_dim,); entry d - 1 is d's, and -inf where the likelihood
        has no finite maximum. The last, d = D, always is.

    Source: Minka 2000, "Automatic choice of dimensionality for PCA", NIPS 13.
    """
    values = eigenvalues.new_zeros(data_dim)
    values[: len(eigenvalues)] = eigenvalues
    rank = int((values > 0).sum())
    evidence = torch.full_like(values, -torch.inf)
    for d in range(1, min(rank, data_dim)):
        v = values[d:].sum() / (data_dim - d)
        smoothed = values.clone()
        smoothed[d:] = v
        halves = (data_dim - torch.arange(d).to(values)) / 2
        sphere = -d * math.log(2) + float((torch.lgamma(halves) - halves * math.log(math.pi)).sum())
        fit = -num_rows / 2 * (values[:d].log().sum() + (data_dim - d) * v.log())
        m = data_dim * d - d * (d + 1) / 2
        gaps = (1 / smoothed[None, :] - 1 / smoothed[:d, None]) * (values[:d, None] - values[None, :]) * num_rows
        later = torch.ones_like(gaps, dtype=torch.bool).triu(1)
        # Equal eigenvalues leave a direction undetermined, and the integral over it finite only by its bound.
        curvature = gaps[later].clamp(min=torch.finfo(values.dtype).tiny).log().sum()
        evidence[d - 1] = sphere + fit + (m + d) / 2 * math.log(2 * math.pi) - (curvature + d * math.log(num_rows)) / 2
    return evidence
