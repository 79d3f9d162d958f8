"""A pair with a continuous latent: a linear map of a few coordinates plus noise."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.distributions import MultivariateNormal, Normal
from torch import Tensor, nn

from pyro_lvm.modules import PairModule, feature_units
from pyro_lvm.plate import data_plate, observe


class Model(PairModule):
    r"""A linear map of a few latent coordinates, with noise of each feature's own.

    .. math:: z_n \sim N(0, I_d), \qquad x_n \mid z_n \sim N(\mu + W z_n, \mathrm{diag}\, \sigma^2)

    The parameters are held relative to each feature's mean and standard deviation, so that one learning rate fits data
    on any scale.

    Args:
        data_dim: Number of features D.
        latent_dim: Number of latent coordinates d.
    """

    origin: Tensor
    unit: Tensor

    def __init__(self, data_dim: int, latent_dim: int = 2) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        # Adam's first rate, where none is given; the noise of more features adds up.
        self.learning_rate = min(0.1, 0.8 / data_dim**0.5)
        self.register_buffer("origin", torch.zeros(data_dim))
        self.register_buffer("unit", torch.ones(data_dim))
        self.mean = nn.Parameter(torch.zeros(data_dim))
        self.weights = nn.Parameter(0.1 * torch.randn(data_dim, latent_dim))
        self.log_noise = nn.Parameter(torch.zeros(data_dim))

    def forward(self, x: Tensor) -> None:
        """The generative story of a batch of rows, shape (rows, D), NaN where missing."""
        with data_plate(x):
            z = pyro.sample("z", Normal(x.new_zeros(self.latent_dim), 1.0).to_event(1))
            observe("x", self.decode(z), x)

    def decode(self, z: Tensor) -> Normal:
        """p(x | z), one density an entry, shape (..., D), for latents of shape (..., d)."""
        loc = self.mean + z @ self.weights.T
        # Without a floor, a feature that the latents explain wholly has no likeliest noise.
        scale = 0.01 + self.log_noise.exp()
        return Normal(self.origin + self.unit * loc, self.unit * scale)

    def start(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Start from data, rows of shape (rows, D): where each feature is, and how much it varies."""
        origin, unit = feature_units(x)
        self.origin.copy_(origin)
        self.unit.copy_(unit)
        self.started.fill_(True)


class Guide(PairModule):
    r"""A Gaussian for each row, its mean linear in the row and its covariance that of all rows.

    .. math:: q(z_n \mid x_n) = N(A u_n + b, L L^\top)

    Here u is the row relative to each feature's mean and standard deviation, 0 where it is missing. This contains the
    exact posterior of a linear map with Gaussian noise, where no entry is missing.

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
        self.slope = nn.Parameter(torch.zeros(data_dim, latent_dim))
        self.offset = nn.Parameter(torch.zeros(latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))
        self.lower = nn.Parameter(torch.zeros(latent_dim, latent_dim))

    def forward(self, x: Tensor) -> None:
        """The posterior of the latents of a batch of rows, shape (rows, D)."""
        with data_plate(x):
            pyro.sample("z", self.encode(x))

    def encode(self, x: Tensor) -> MultivariateNormal:
        """q(z | x), batch shape (rows,), event shape (d,), for rows of shape (rows, D)."""
        # Filled before anything is computed from a NaN, whose gradient would be one.
        row = (torch.where(x.isnan(), self.origin, x) - self.origin) / self.unit
        # Over the root of D: one learning rate then fits few features and many.
        loc = row @ self.slope / len(self.origin) ** 0.5 + self.offset
        scale_tril = self.log_scale.exp().diag() + self.lower.tril(-1)
        return MultivariateNormal(loc, scale_tril=scale_tril)

    def start(self, x: Tensor, model: Any, generator: torch.Generator | None = None) -> None:
        """Start from data, rows of shape (rows, D), at the prior."""
        origin, unit = feature_units(x)
        self.origin.copy_(origin)
        self.unit.copy_(unit)
        self.started.fill_(True)


# As the command line names a pair of a file: FILE.py:model,guide
model, guide = Model, Guide
