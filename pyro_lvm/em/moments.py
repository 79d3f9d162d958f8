"""Moments of rows, gathered in one pass: all that PPCA and factor analysis need of complete rows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import scipy.linalg
import torch
from torch import Tensor

from pyro_lvm.spectrum import gram_matrix

# Numbers that are looked at together (16 MB in float64).
_CHUNK = 2**21


@dataclasses.dataclass(frozen=True)
class Moments:
    """Moments of each feature's observed entries, and of all features together where no entry is missing; float64.

    Attributes:
        num_rows: number of rows, of which ``num_empty`` have nothing observed.
        num_empty: see above.
        counts: observed entries, (data_dim,).
        means: of the observed entries, (data_dim,); 0 where there are none.
        squares: sum of squares about the mean, (data_dim,).
        low: the least entry, (data_dim,).
        high: the largest entry, (data_dim,).
        scatter: sum of outer products about the mean, (data_dim, data_dim); None where it wasn't asked for or an entry
            is missing.
    """

    num_rows: int
    num_empty: int
    counts: Tensor
    means: Tensor
    squares: Tensor
    low: Tensor
    high: Tensor
    scatter: Tensor | None

    @property
    def complete(self) -> bool:
        """Whether no entry is missing."""
        return bool((self.counts == self.num_rows).all())

    @property
    def variances(self) -> Tensor:
        """Of the observed entries, (data_dim,), over their number; 0 for a feature that is constant up to rounding."""
        variances = self.squares / self.counts.clamp(min=1)
        rounding = 8 * torch.finfo(torch.float64).eps * torch.maximum(self.low.abs(), self.high.abs())
        return torch.where(self.high - self.low > rounding, variances, 0.0)


def moments_of(x: Tensor, *, scatter: bool) -> Moments:
    """Gather the moments of rows.

    Args:
        x: (num_rows, data_dim), NaN where missing; float64.
        scatter: whether the outer products are wanted, should all rows be complete.
    """
    return sum_moments(_of_chunk(part, scatter) for part in x.split(max(1, _CHUNK // x.shape[1])))


def sum_moments(parts: Iterable[Moments]) -> Moments:
    """Add up moments of different rows.

    Args:
        parts: at least one.

    Source: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", The American Statistician 37.
    """
    return functools.reduce(_add, parts)


def equivalent_rows(moments: Moments, origin: Tensor, unit: Tensor) -> Tensor:
    """Make data_dim + 1 rows with the same mean and the same 1/N covariance as complete rows that were summed up.

    A Gaussian model has the same mean log-evidence on them, whatever its parameters, so that EM can run on them
    instead. With the covariance V Lambda V^T and the Helmert matrix H (orthonormal rows, orthogonal to a row of ones)::

        x' = mean + sqrt(data_dim + 1) H^T Lambda^(1/2) V^T

    Args:
        moments: with their scatter.
        origin: what is 0 in the units of the result, (data_dim,).
        unit: what is 1 in them, (data_dim,); features on different scales would lose digits in common ones.

    Returns:
        (data_dim + 1, data_dim).
    """
    assert moments.scatter is not None
    values, vectors = torch.linalg.eigh(moments.scatter / (moments.num_rows * torch.outer(unit, unit)))
    size = len(values) + 1
    helmert = torch.from_numpy(scipy.linalg.helmert(size)).to(values)
    root = (vectors * values.clamp(min=0).sqrt()).mT
    rows: Tensor = (moments.means - origin) / unit + size**0.5 * (helmert.mT @ root)
    return rows


def _of_chunk(x: Tensor, scatter: bool) -> Moments:
    observed = ~x.isnan()
    counts = observed.sum(0).to(x)
    complete = bool(observed.all())
    divisor = counts.clamp(min=1)
    rough = x.nan_to_num(0.0).sum(0) / divisor
    # About a mean that is itself rounded, the deviations' own mean is what the rounding lost.
    centred = (x - rough).nan_to_num(0.0)
    rest = centred.sum(0) / divisor
    # Not x - mean, whose rounding at an offset of 1e8 would stay.
    squares = centred.square().sum(0) - counts * rest.square()
    outer = gram_matrix(centred) - len(x) * torch.outer(rest, rest) if scatter and complete else None
    return Moments(
        num_rows=len(x),
        num_empty=0 if complete else int((~observed.any(1)).sum()),
        counts=counts,
        means=rough + rest,
        squares=squares.clamp(min=0),
        low=torch.where(observed, x, torch.inf).amin(0),
        high=torch.where(observed, x, -torch.inf).amax(0),
        scatter=outer,
    )


def _add(a: Moments, b: Moments) -> Moments:
    counts = a.counts + b.counts
    divisor = counts.clamp(min=1)
    apart = b.means - a.means
    overlap = a.counts * b.counts / divisor
    if a.scatter is None or b.scatter is None:
        scatter = None
    else:
        scatter = a.scatter + b.scatter + (a.num_rows * b.num_rows / (a.num_rows + b.num_rows)) * apart.outer(apart)
    return Moments(
        num_rows=a.num_rows + b.num_rows,
        num_empty=a.num_empty + b.num_empty,
        counts=counts,
        means=a.means + apart * b.counts / divisor,
        squares=a.squares + b.squares + overlap * apart.square(),
        low=torch.minimum(a.low, b.low),
        high=torch.maximum(a.high, b.high),
        scatter=scatter,
    )
