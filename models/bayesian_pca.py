"""Bayesian PCA: probabilistic PCA that finds out how many columns of its loadings the data bear out."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pyro
import torch
from pyro.distributions import Gamma, Normal
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints

from pyro_lvm import linear_gaussian
from pyro_lvm.errors import PairError
from pyro_lvm.modules import PairModule, check_latent_dim, feature_units, principal_start
from pyro_lvm.plate import data_plate, observe


class BayesianPCA(PairModule):
    r"""Probabilistic PCA with a prior on each column of the loadings whose precision is itself unknown.

    .. math:: \alpha_k \sim \mathrm{Gamma}(a, b), \quad w_{jk} \sim N(0, \alpha_k^{-1}), \quad z_n \sim N(0, I_d),
        \quad x_n \mid z_n, W \sim N(s W z_n + \mu, \sigma^2 I_D)

    Where a column explains nothing, its precision grows and the column goes to zero (automatic relevance
    determination). Loadings W are relative to s, the features' root mean variance, as the prior must not depend on
    units. W and alpha are latents that all rows share; mu and sigma are parameters, which all the data determine.

    Args:
        data_dim: Number of features D.
        latent_dim: Number of columns d that are offered, at least 1 and below D.
        shape: a of the prior on a column's precision.
        rate: b of it.

    Raises:
        PairError: ``latent_dim`` is not between 1 and D - 1, or ``shape`` or ``rate`` not positive.

    Source: Bishop 1999, "Variational principal components", ICANN, which makes mu and sigma latents too.
    """

    origin: Tensor
    unit: Tensor
    noise: Tensor
    relative_noise_scale: Tensor

    def __init__(self, data_dim: int, latent_dim: int = 2, shape: float = 1e-3, rate: float = 1e-3) -> None:
        super().__init__()
        check_latent_dim(latent_dim, data_dim, "Bayesian PCA", "offer fewer columns or give data with more features")
        for name, value in (("shape", shape), ("rate", rate)):
            if not value > 0:
                raise PairError(f"{name}={value}: expected a positive number, for the prior on a column's precision")
        self.latent_dim = latent_dim
        self.shape, self.rate = shape, rate
        self.register_buffer("origin", torch.zeros(data_dim))
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("noise", torch.ones(()))
        self.relative_mean = torch.nn.Parameter(torch.zeros(data_dim))
        self.relative_noise_scale = PyroParam(  # type: ignore[assignment]
            torch.ones(()), constraint=constraints.positive
        )

    @property
    def learning_rate(self) -> float:
        """Adam's first rate: of relative parameters, so the same on every scale."""
        return min(0.03, 0.8 / math.sqrt(self.origin.numel()))

    @property
    def mean(self) -> Tensor:
        """mu, shape (D,), in the data's units."""
        return self.origin + self.noise * self.unit * self.relative_mean

    @property
    def noise_scale(self) -> Tensor:
        """sigma, a scalar in the data's units."""
        return self.unit * self.noise * self.relative_noise_scale

    @property
    def noise_variance(self) -> Tensor:
        """sigma squared, a scalar in the data's squared units."""
        return self.noise_scale**2

    def forward(self, x: Tensor) -> None:
        """The generative story of a batch of rows, shape (rows, D), NaN where missing."""
        one = self.relative_mean.new_ones(())
        alpha = pyro.sample("alpha", Gamma(self.shape * one, self.rate * one).expand([self.latent_dim]).to_event(1))
        columns = Normal(0.0 * one, alpha.rsqrt().unsqueeze(-2))
        w = pyro.sample("W", columns.expand([*alpha.shape[:-1], len(self.origin), self.latent_dim]).to_event(2))
        with data_plate(x):
            z = pyro.sample("z", Normal(x.new_zeros(self.latent_dim), 1.0).to_event(1))
            observe("x", self._given(z, w), x)

    def _given(self, z: Tensor, w: Tensor) -> Normal:
        """p(x | z, W), one density an entry, shape (rows, D), for z (rows, d) and relative loadings W (D, d)."""
        return Normal(z @ (self.unit * w).mT + self.mean, self.noise_scale)

    def start(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Start from data: mean and scale of the rows, and the noise that ``latent_dim`` principal axes leave.

        With more noise than that, columns that are borne out would be switched off before it has fallen.

        Args:
            x: Rows, shape (rows, D), NaN where missing.
            generator: Not needed: nothing is random.

        Raises:
            DataError: A feature has no observed entry.
        """
        origin, units = feature_units(x)
        unit = units.square().mean().sqrt()
        _, rest = principal_start((x.double() - origin) / unit, self.latent_dim)
        with torch.no_grad():
            self.origin.copy_(origin)
            self.unit.copy_(unit)
            self.noise.copy_(rest.sqrt())
            self.relative_mean.zero_()
        self.relative_noise_scale = torch.ones_like(self.relative_noise_scale)
        self.started.fill_(True)

    def plug_in_evidence(self, x: Tensor, shared: Mapping[str, Tensor]) -> Tensor:
        """Exact log p(x | W) in nats, shape (rows,), at given loadings: not log p(x), which averages over them.

        Args:
            x: Rows, shape (rows, D), NaN where missing.
            shared: A value for W, shape (D, d).
        """
        return linear_gaussian.log_evidence(x, self.unit * shared["W"], self.mean, self.noise_variance)
