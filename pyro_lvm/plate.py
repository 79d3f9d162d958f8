"""The data plate and observations with holes: how rows enter a model.

A model and its guide open the *same* plate over the rows they are given, and never write a scale factor. Whoever feeds
the data says how many rows there are in all; everywhere else a batch is the whole data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_lvm.errors import DataError


@dataclass(frozen=True)
class Feed:
    """What is known of the data that a batch comes from.

    Args:
        num_rows: Rows N of the whole data set; None makes every batch its own data set.
        complete: True promises that no entry is missing, which spares every step a look for NaN.
    """

    num_rows: int | None = None
    complete: bool = False


_NOTHING_KNOWN = Feed()
_FEED: ContextVar[Feed] = ContextVar("pyro_lvm_feed", default=_NOTHING_KNOWN)


@contextmanager
def feeding(num_rows: int | None, *, complete: bool = False) -> Iterator[None]:
    """Within the context, batches come from a data set of ``num_rows`` rows.

    Args:
        num_rows: Rows N of the whole data set, so that :func:`data_plate` scales by N/B; None for N = B.
        complete: True promises that no entry is NaN.
    """
    token = _FEED.set(Feed(num_rows, complete))
    try:
        yield
    finally:
        _FEED.reset(token)


def current_feed() -> Feed:
    """What is known of the data that batches come from, here and now."""
    return _FEED.get()


def data_plate(x: Tensor, name: str = "data") -> pyro.plate:
    """The plate over the rows of ``x``; log-probabilities inside it are scaled by N/B.

    N is the whole data set's number of rows where someone feeds minibatches (:func:`feeding`, which
    :func:`pyro_lvm.fit` does), else the number B of rows of ``x``. Open it in both halves of a pair, with the same
    ``x``.

    Args:
        x: A batch, shape (rows, ...).
        name: The plate's name, the same in model and guide.

    Returns:
        A ``pyro.plate`` over the batch's rows, dimension -1.

    Example:
        >>> import torch
        >>> with feeding(100), data_plate(torch.zeros(10, 3)) as rows:
        ...     pass
        >>> len(rows)
        10
    """
    num_rows = _FEED.get().num_rows
    # The rows themselves stand in for their indices: an amortized pair needs no others, and a plate that is handed a
    # subsample draws none, so that model and guide cannot disagree about it.
    return pyro.plate(name, size=len(x) if num_rows is None else num_rows, subsample=x, dim=-1)


def observed_entries(x: Tensor) -> Tensor | None:
    """Which entries are there: True where observed, the shape of ``x``; None where none is missing, as was promised.

    Args:
        x: A batch, shape (rows, ...), NaN where missing.
    """
    return None if _FEED.get().complete else ~torch.isnan(x)


def observe(name: str, distribution: TorchDistribution, x: Tensor) -> Tensor:
    r"""Observe rows that may have holes: NaN means missing and adds nothing to the density.

    .. math:: \log p(x_n) = \sum_{j:\, x_{nj}\ \text{observed}} \log p(x_{nj})

    Missing entries are filled with a value of the distribution's support *before* they are masked: a density masked
    after it was evaluated at NaN still has NaN gradients.

    Args:
        name: The site's name.
        distribution: One density an entry, its shape ending in that of ``x`` (``Normal(loc, scale)``, without
            ``to_event``); or, where no entry is missing, any distribution over rows.
        x: The batch, shape (rows, ...), NaN where missing.

    Returns:
        What the site holds: the filled rows, or a draw where a handler removed the observation.

    Raises:
        DataError: There are missing entries and the distribution is not one density an entry.
    """
    row_dims = x.dim() - 1 - distribution.event_dim
    if _FEED.get().complete:
        return _sample(name, distribution, row_dims, x)
    missing = torch.isnan(x)
    if distribution.event_dim > 0:
        if bool(missing.any()):
            raise DataError(
                f"site '{name}' has missing entries, but its distribution has event_dim={distribution.event_dim}: "
                "expected one density an entry; drop .to_event() or use an independent distribution for each feature"
            )
        return _sample(name, distribution, row_dims, x)
    filled = torch.where(missing, _fill_value(distribution), x)
    return _sample(name, distribution.mask(~missing), row_dims, filled)


def _sample(name: str, distribution: TorchDistribution, row_dims: int, x: Tensor) -> Tensor:
    if row_dims > 0:
        distribution = distribution.to_event(row_dims)
    value: Tensor = pyro.sample(name, distribution, obs=x)
    return value


def _fill_value(distribution: TorchDistribution) -> float:
    """A number inside the support of every entry; which one does not matter, the mask removes its density."""
    for candidate in (0.0, 1.0, 0.5):
        support = distribution.support
        if support is None:
            break
        inside = support.check(torch.as_tensor(candidate, device=_device(distribution)))
        if bool(torch.as_tensor(inside).all()):
            return candidate
    raise DataError(
        f"cannot fill missing entries under {type(distribution).__name__} with support {distribution.support}: "
        "fill them before observing, and mask the site"
    )


def _device(distribution: TorchDistribution) -> torch.device | None:
    parameters = (getattr(distribution, name, None) for name in distribution.arg_constraints)
    return next((p.device for p in parameters if isinstance(p, Tensor)), None)
