"""The coordinates of a distribution over vectors, one by one."""

from __future__ import annotations

from torch.distributions import Distribution, MultivariateNormal, Normal


def innermost(distribution: Distribution) -> Distribution:
    """What dimensions were declared independent of: of ``Normal(...).to_event(1)`` the ``Normal``."""
    while type(distribution).__name__ == "Independent":
        distribution = distribution.base_dist  # type: ignore[attr-defined]
    return distribution


def marginals(distribution: Distribution) -> Distribution | None:
    """The distribution of each coordinate, batch shape (*batch, *event); None where it isn't known.

    >>> import torch
    >>> marginals(MultivariateNormal(torch.zeros(2), torch.diag(torch.tensor([1.0, 4.0])))).stddev
    tensor([1., 2.])
    """
    inner = innermost(distribution)
    if isinstance(inner, MultivariateNormal):
        return Normal(inner.mean, inner.stddev)
    return inner if not inner.event_shape else None
