"""A product of experts: one Gaussian message a feature, the exact posterior's own form whatever is missing."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor

from pyro_lvm.errors import PairError
from pyro_lvm.gaussian_product import gaussian_product
from pyro_lvm.modules import PairModule, feature_units
from pyro_lvm.plate import data_plate, observed_entries


class ProductOfExperts(PairModule):
    r"""A Gaussian to which each observed feature contributes one learned message.

    .. math:: q(z_n \mid x_n) = N(P^{-1} h, P^{-1}), \qquad
        P = I + \sum_{j\ \text{observed}} e^{l_j} u_j u_j^\top, \qquad
        h = \sum_{j\ \text{observed}} e^{c_j} (x_{nj} - b_j)\, u_j

    It contains the exact posterior of probabilistic PCA and of factor analysis for every pattern of missing entries
    (u the loadings, b the mean, :math:`e^{-l_j} = e^{-c_j}` the noise variance), and gives a row with nothing observed
    the prior. A free vector in place of :math:`e^{c_j} u_j` trains far more slowly.

    Args:
        data_dim: Number of features D.
        latent_dim: Number of latent coordinates d.

    Raises:
        PairError: ``latent_dim`` is below 1.

    Source: Hinton 2002, "Training products of experts by minimizing contrastive divergence", Neural Computation 14, for
    the name and the product; Wu and Goodman 2018 for its use as an amortized posterior of what is observed.
    """

    origin: Tensor
    unit: Tensor
    accepts_missing = True

    def __init__(self, data_dim: int, latent_dim: int = 2) -> None:
        super().__init__()
        if not isinstance(latent_dim, int) or isinstance(latent_dim, bool) or latent_dim < 1:
            raise PairError(f"latent_dim={latent_dim}: expected a whole number from 1 up")
        self.register_buffer("origin", torch.zeros(data_dim))
        self.register_buffer("unit", torch.ones(data_dim))
        self.directions = torch.nn.Parameter(0.1 * torch.randn(data_dim, latent_dim))
        self.log_precisions = torch.nn.Parameter(torch.zeros(data_dim))
        self.log_gains = torch.nn.Parameter(torch.zeros(data_dim))
        self.centres = torch.nn.Parameter(torch.zeros(data_dim))

    def forward(self, x: Tensor) -> None:
        """The posterior of the latent coordinates of a batch of rows, shape (rows, D), NaN where missing."""
        with data_plate(x):
            pyro.sample("z", self.encode(x))

    def encode(self, x: Tensor) -> MultivariateNormal:
        """q(z | x), batch shape (rows,), event shape (d,), for rows of shape (rows, D), NaN where missing."""
        observed = observed_entries(x)
        residual = (x - self.origin) / self.unit - self.centres
        if observed is not None:
            residual = torch.where(observed, residual, 0.0)
        potentials = self.log_gains.exp() * residual
        return gaussian_product(self.directions, self.log_precisions, potentials, observed).distribution()

    def match(self, model: Any) -> None:
        """Become the exact posterior of a linear-Gaussian model as it is now.

        Args:
            model: With ``loadings`` (D, d), ``mean`` (D,) and ``noise_variance``, a scalar or (D,).

        Raises:
            PairError: It lacks one of these, or they have other shapes.
        """
        needed = ("loadings", "mean", "noise_variance")
        if not all(isinstance(getattr(model, name, None), Tensor) for name in needed):
            raise PairError(f"{type(model).__name__} has no {', '.join(needed)}: expected a linear-Gaussian model")
        loadings, mean, noise = (getattr(model, name).detach().double() for name in needed)
        if loadings.shape != self.directions.shape:
            raise PairError(
                f"the model's loadings have shape {tuple(loadings.shape)}, the guide's {tuple(self.directions.shape)}: "
                "build both with the same data_dim and latent_dim"
            )
        # A model of the zoo knows the data's units; of another, those that it gives the features.
        implied = (loadings.square().sum(1) + noise).sqrt()
        origin, unit = getattr(model, "origin", mean).double(), getattr(model, "unit", implied).double()
        with torch.no_grad():
            self.origin.copy_(origin)
            self.unit.copy_(unit)
            self.directions.copy_(loadings / unit.unsqueeze(1))
            self.log_precisions.copy_((unit.square() / noise).log())
            self.log_gains.copy_(self.log_precisions)
            self.centres.copy_((mean - origin) / unit)
        self.started.fill_(True)

    def start(self, x: Tensor, model: Any = None, generator: torch.Generator | None = None) -> None:
        """Start as the exact posterior of the model's start where the model is linear-Gaussian, else near the prior.

        Args:
            x: Rows, shape (rows, D), NaN where missing.
            model: The model, already started.
            generator: Source of the random directions, where the model gives none.

        Raises:
            DataError: A feature has no observed entry.
        """
        if isinstance(getattr(model, "loadings", None), Tensor):
            self.match(model)
            return
        origin, unit = feature_units(x)
        with torch.no_grad():
            self.origin.copy_(origin)
            self.unit.copy_(unit)
            self.directions.copy_(0.1 * torch.randn(self.directions.shape, generator=generator))
        self.started.fill_(True)
