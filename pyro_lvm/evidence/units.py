"""Which latent dimensions a pair uses: KL of each, active units, and those that collapsed to the prior."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, kl_divergence

from pyro_lvm.marginals import innermost, marginals

# Burda et al. 2016: between used and unused dimensions lie orders of magnitude.
ACTIVE_VARIANCE = 0.01
# For moments that a distribution doesn't know.
_DRAWS = 1000
# In a sentence; more make it no clearer.
_NAMED = 12


@dataclass(frozen=True)
class LatentUnits:
    r"""What each dimension of a latent is used for.

    A dimension is active where the posterior mean moves with the row,
    :math:`\mathrm{Var}_n(E_q[z_{ni}]) > 0.01\, \mathrm{Var}(z_i)` under the prior; one that isn't has collapsed: the
    guide says the same of it whatever the row.

    Attributes:
        site: The latent's name.
        kl: Mean KL of each dimension's marginal from its prior, nats a row, shape (dim,); None where the prior doesn't
            factorize or no closed form is known. Under a guide with correlations they don't add up to the KL.
        mean_variance: Variance over the rows of the posterior mean, in prior variances, shape (dim,); NaN for one row.

    Source: Burda, Grosse & Salakhutdinov 2016, "Importance weighted autoencoders", ICLR, section 5.
    """

    site: str
    kl: Tensor | None
    mean_variance: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """The dimensions' names: z1, z2, ..., or the site's where there is but one."""
        count = len(self.mean_variance)
        return (self.site,) if count == 1 else tuple(f"{self.site}{i + 1}" for i in range(count))

    @property
    def active(self) -> Tensor:
        """Whether each dimension is active, shape (dim,)."""
        return self.mean_variance > ACTIVE_VARIANCE

    @property
    def num_active(self) -> int:
        """Number of active dimensions."""
        return int(self.active.sum())

    @property
    def collapsed(self) -> tuple[str, ...]:
        """Names of the dimensions that are not active; none where a single row can't tell."""
        return tuple(
            name
            for name, value in zip(self.names, self.mean_variance.tolist(), strict=True)
            if value <= ACTIVE_VARIANCE
        )

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        variances = [value if math.isfinite(value) else None for value in self.mean_variance.tolist()]
        return {
            "latent": self.site,
            "names": list(self.names),
            "kl": None if self.kl is None else self.kl.tolist(),
            "mean_variance": variances,
            "num_active": self.num_active,
            "collapsed": list(self.collapsed),
        }


class UnitRecord:
    """Collects a latent's posterior means and divergences, block by block of rows and draw by draw."""

    def __init__(self) -> None:
        self._means: list[Tensor] = []
        self._kl: Tensor | None = torch.zeros((), dtype=torch.float64)
        self._prior_variance: Tensor = torch.zeros((), dtype=torch.float64)

    def add(self, q: Distribution, p: Distribution, value: Tensor, *, new_rows: bool, share: float) -> None:
        """Take in one draw of a block of rows.

        Args:
            q: The guide's distribution, batch shape (rows,), event shape () or (dim,).
            p: The prior's.
            value: The draw.
            new_rows: Whether this is these rows' first draw.
            share: One over the number of draws.
        """
        num_rows = len(value)
        mean = _known(q, "mean", value).reshape(num_rows, -1).double().cpu() * share
        if new_rows:
            self._means.append(mean)
        else:
            self._means[-1] += mean
        variance = _known(p, "variance", None).double().cpu()
        self._prior_variance = self._prior_variance + share * variance.reshape(-1, mean.shape[1]).mean(0) * num_rows
        divergence = marginal_kl(q, p)
        if divergence is None or self._kl is None:
            self._kl = None
        else:
            self._kl = self._kl + share * divergence.reshape(num_rows, -1).double().sum(0).cpu()

    def units(self, name: str) -> LatentUnits:
        """What the record comes to."""
        means = torch.cat(self._means)
        spread = means.var(0) if len(means) > 1 else torch.full_like(means[0], math.nan)
        prior = self._prior_variance / len(means)
        return LatentUnits(name, None if self._kl is None else self._kl / len(means), spread / prior)


def marginal_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL of each coordinate's marginal, batch and event shape; None where p's coordinates are not independent."""
    own, prior = marginals(q), marginals(p)
    if own is None or prior is None or isinstance(innermost(p), MultivariateNormal):
        return None
    try:
        return kl_divergence(own, prior)
    except NotImplementedError:
        return None


def collapse(units: Sequence[LatentUnits]) -> str | None:
    """One line that names the dimensions that collapsed; None where none did."""
    names = [name for unit in units for name in unit.collapsed]
    if not names:
        return None
    total = sum(len(unit.names) for unit in units)
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return (
        f"posterior collapse: {len(names)} of {total} latent dimensions say the same of every row ({shown}); use "
        "fewer, or train with KL warm-up or free bits"
    )


def warn_of_collapse(units: Sequence[LatentUnits]) -> None:
    """Warn of the dimensions that collapsed, if any did."""
    message = collapse(units)
    if message is not None:
        warnings.warn(message, UserWarning, stacklevel=3)


def _known(distribution: Distribution, moment: str, otherwise: Tensor | None) -> Tensor:
    """A moment of the distribution; where it doesn't know it, the value given, or that of many draws."""
    try:
        value: Tensor = getattr(distribution, moment)
        if bool(value.isfinite().all()):
            return value
    except NotImplementedError:
        pass
    return distribution.sample((_DRAWS,)).var(0) if otherwise is None else otherwise
