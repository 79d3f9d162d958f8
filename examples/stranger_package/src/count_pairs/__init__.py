"""Poisson factors: counts whose logarithmic rates are a linear map of a few latent coordinates."""

from __future__ import annotations

import math
from typing import Any

import pyro
import torch
from pyro.distributions import Normal, Poisson
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyro_lvm.catalogue import PairSpec
from pyro_lvm.errors import PairError
from pyro_lvm.modules import PairModule, feature_units
from pyro_lvm.plate import data_plate, observe

# Of a logarithmic rate: beyond it a count has more digits than float32 keeps.
_LARGEST = 15.0


class PoissonFactors(PairModule):
    r"""Counts with a linear map to the logarithms of their rates.

    .. math:: z_n \sim N(0, I_d), \qquad x_{nj} \mid z_n \sim \mathrm{Poisson}(\exp(b_j + w_j^\top z_n))

    Args:
        data_dim: Number of features D.
        latent_dim: Number of latent coordinates d.

    Raises:
        PairError: ``latent_dim`` is below 1.
    """

    def __init__(self, data_dim: int, latent_dim: int = 2) -> None:
        super().__init__()
        if latent_dim < 1:
            raise PairError(f"latent_dim={latent_dim}: expected a whole number from 1 up")
        self.latent_dim = latent_dim
        # Adam's first rate, where none is given; the noise of more features adds up.
        self.learning_rate = min(0.1, 0.8 / math.sqrt(data_dim))
        self.log_rates = nn.Parameter(torch.zeros(data_dim))
        self.weights = nn.Parameter(0.1 * torch.randn(data_dim, latent_dim))

    def forward(self, x: Tensor) -> None:
        """The generative story of a batch of rows, shape (rows, D), NaN where missing."""
        with data_plate(x):
            z = pyro.sample("z", Normal(x.new_zeros(self.latent_dim), 1.0).to_event(1))
            observe("x", self.decode(z), x)

    def decode(self, z: Tensor) -> Poisson:
        """p(x | z), one density an entry, shape (..., D), for latents of shape (..., d)."""
        return Poisson((self.log_rates + z @ self.weights.T).clamp(max=_LARGEST).exp())

    def start(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Start at each feature's mean count, rows of shape (rows, D)."""
        observed = (~x.isnan()).sum(0)
        with torch.no_grad():
            # Half a count more, for features that were never counted.
            self.log_rates.copy_(((x.nansum(0) + 0.5) / (observed + 0.5)).log())
        self.started.fill_(True)


class LogLinearGaussian(PairModule):
    r"""A Gaussian for each row, its mean and its logarithmic scale linear in the logarithms of the counts.

    .. math:: q(z_n \mid x_n) = N(A u_n + a, \mathrm{diag}(\exp(B u_n + b))^2)

    Here u is log(1 + x) relative to each feature's mean and standard deviation, 0 where it is missing. The more a row
    counts, the more it tells.

    Args:
        data_dim: Number of features D.
        latent_dim: Number of latent coordinates d.
    """

    origin: Tensor
    unit: Tensor
    accepts_missing = True

    def __init__(self, data_dim: int, latent_dim: int = 2) -> None:
        super().__init__()
        self.register_buffer("origin", torch.zeros(data_dim))
        self.register_buffer("unit", torch.ones(data_dim))
        self.slope = nn.Parameter(torch.zeros(data_dim, 2 * latent_dim))
        self.offset = nn.Parameter(torch.zeros(2 * latent_dim))

    def forward(self, x: Tensor) -> None:
        """The posterior of the latents of a batch of rows, shape (rows, D)."""
        with data_plate(x):
            pyro.sample("z", self.encode(x))

    def encode(self, x: Tensor) -> TorchDistribution:
        """q(z | x), batch shape (rows,), event shape (d,), for rows of shape (rows, D)."""
        # Filled before anything is computed from a NaN, whose gradient would be one.
        counts = torch.where(x.isnan(), self.origin.expm1(), x)
        row = (counts.log1p() - self.origin) / self.unit
        outputs = row @ self.slope / math.sqrt(len(self.origin)) + self.offset
        loc, log_scale = outputs.chunk(2, -1)
        diagonal: TorchDistribution = Normal(loc, log_scale.exp()).to_event(1)
        return diagonal

    def start(self, x: Tensor, model: Any, generator: torch.Generator | None = None) -> None:
        """Start at the prior, rows of shape (rows, D)."""
        # Rows that aren't counts are for the model to refuse.
        origin, unit = feature_units(x.clamp(min=0).log1p())
        self.origin.copy_(origin)
        self.unit.copy_(unit)
        self.started.fill_(True)


poisson_factors = PairSpec(
    summary="Poisson factors: counts, a linear map to the logarithms of their rates",
    model=PoissonFactors,
    guides={"log-linear": LogLinearGaussian},
)
