"""Posteriors over a component and continuous latents, and their Kullback-Leibler divergence, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.distributions import Categorical, Distribution

from pyro_lvm.errors import DataError
from pyro_lvm.linear_gaussian import gaussian_kl


@dataclass(frozen=True)
class MixturePosterior:
    """A distribution over the component t of each row and, given the component, its latents z.

    Attributes:
        component: q(t), batch shape (rows,).
        latents: q(z | t = k) for each component k, batch shape (rows,) and event shape (latent_dim,) each.
    """

    component: Categorical
    latents: Sequence[Distribution]

    @property
    def responsibilities(self) -> Tensor:
        """q(t = k), shape (rows, num_components)."""
        return self.component.probs


def posterior_kl(q: Any, p: Any) -> Tensor:
    r"""KL(q || p) of each row, in nats.

    .. math:: \mathrm{KL}(q(t) \| p(t)) + \sum_k q(t = k)\, \mathrm{KL}(q(z \mid t = k) \| p(z \mid t = k))

    Args:
        q: A :class:`MixturePosterior`, or a normal distribution as :func:`pyro_lvm.linear_gaussian.gaussian_kl` takes
            it.
        p: One of the same kind, with as many components.

    Returns:
        Shape (rows,), float64.

    Raises:
        DataError: The two are not of one kind, or differ in rows, components or latents.
    """
    if not isinstance(q, MixturePosterior) and not isinstance(p, MixturePosterior):
        return gaussian_kl(q, p)
    if not isinstance(q, MixturePosterior) or not isinstance(p, MixturePosterior) or len(q.latents) != len(p.latents):
        kinds = [
            f"{len(given.latents)} components" if isinstance(given, MixturePosterior) else type(given).__name__
            for given in (q, p)
        ]
        raise DataError(f"q has {kinds[0]}, p {kinds[1]}: expected posteriors over the same components and latents")
    shares, expected = (given.component.logits.double().log_softmax(-1) for given in (q, p))
    # By logarithms: a component that p as good as rules out has a probability that underflows.
    divergence = (shares.exp() * (shares - expected)).sum(-1)
    for share, own, other in zip(shares.exp().unbind(-1), q.latents, p.latents, strict=True):
        divergence = divergence + share * gaussian_kl(own, other)
    return divergence
