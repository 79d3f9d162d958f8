"""A guide for models whose loadings are themselves latent, shared by all rows."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.distributions import Gamma, MultivariateNormal, Normal
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints

from pyro_lvm.errors import PairError
from pyro_lvm.gaussian_product import gaussian_product
from pyro_lvm.modules import PairModule, feature_units, principal_start
from pyro_lvm.plate import data_plate, observed_entries


class SharedLoadings(PairModule):
    r"""Independent normals for the loadings, gammas for their columns' precisions, and z given the loadings drawn.

    .. math:: q(W) = \prod_{jk} N(m_{jk}, s_{jk}^2), \quad q(\alpha_k) = \mathrm{Gamma}(a_k, b_k), \quad
        q(z_n \mid x_n, W) = N(P^{-1} h, P^{-1})

    with :math:`P = I + e^l \sum_j w_j w_j^\top` and :math:`h = e^c \sum_j (x_{nj} - \mu_j) w_j`, sums over a row's
    observed features, which hold the exact posterior of z given W.

    Args:
        data_dim: Number of features D.
        latent_dim: Number of columns d.

    Raises:
        PairError: ``latent_dim`` is below 1.

    Source: Bishop 1999, "Variational principal components", ICANN, where z doesn't depend on the draw of W.
    """

    origin: Tensor
    unit: Tensor
    scale: Tensor
    precision_shape: Tensor
    precision_rate: Tensor
    accepts_missing = True

    def __init__(self, data_dim: int, latent_dim: int = 2) -> None:
        super().__init__()
        if not isinstance(latent_dim, int) or isinstance(latent_dim, bool) or latent_dim < 1:
            raise PairError(f"latent_dim={latent_dim}: expected a whole number from 1 up")
        self.register_buffer("origin", torch.zeros(data_dim))
        self.register_buffer("unit", torch.ones(()))
        self.loc = torch.nn.Parameter(0.1 * torch.randn(data_dim, latent_dim))
        self.scale = PyroParam(  # type: ignore[assignment]
            torch.full((data_dim, latent_dim), 0.1), constraint=constraints.positive
        )
        self.precision_shape = PyroParam(  # type: ignore[assignment]
            torch.ones(latent_dim), constraint=constraints.positive
        )
        self.precision_rate = PyroParam(  # type: ignore[assignment]
            torch.ones(latent_dim), constraint=constraints.positive
        )
        self.centre = torch.nn.Parameter(torch.zeros(data_dim))
        self.log_precision = torch.nn.Parameter(torch.zeros(()))
        self.log_gain = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> None:
        """The posterior of loadings, their precisions, and the latents of a batch of rows, NaN where missing."""
        pyro.sample("alpha", Gamma(self.precision_shape, self.precision_rate).to_event(1))
        w = pyro.sample("W", Normal(self.loc, self.scale).to_event(2))
        with data_plate(x):
            pyro.sample("z", self._given(x, w))

    def encode(self, x: Tensor) -> MultivariateNormal:
        """q(z | x, W) at the loadings' posterior mean, batch shape (rows,), event shape (d,)."""
        return self._given(x, self.loc)

    def _given(self, x: Tensor, w: Tensor) -> MultivariateNormal:
        observed = observed_entries(x)
        residual = (x - self.origin) / self.unit - self.centre
        if observed is not None:
            residual = torch.where(observed, residual, 0.0)
        log_precisions = self.log_precision.expand(len(self.centre))
        return gaussian_product(w, log_precisions, self.log_gain.exp() * residual, observed).distribution()

    @property
    def kept(self) -> Tensor:
        """Which columns the data bear out, (d,): more of their mean square is their mean's than is uncertainty."""
        return self.loc.square().sum(0) > self.scale.square().sum(0)

    def shared_means(self) -> dict[str, Tensor]:
        """Posterior means of what all rows share: W (D, d), alpha (d,)."""
        return {"W": self.loc, "alpha": self.precision_shape / self.precision_rate}

    def start(self, x: Tensor, model: Any = None, generator: torch.Generator | None = None) -> None:
        """Start the loadings at the principal axes, along which a column can be switched off alone.

        Args:
            x: Rows, shape (rows, D), NaN where missing, which counts as the feature's mean here.
            model: Not needed.
            generator: Not needed: nothing is random.

        Raises:
            DataError: A feature has no observed entry.
        """
        origin, units = feature_units(x)
        unit = units.square().mean().sqrt()
        loadings, rest = principal_start((x.double() - origin) / unit, self.loc.shape[1])
        # What N rows leave uncertain about a loading.
        variance = rest / len(x)
        square = loadings.square().sum(0) + len(loadings) * variance
        with torch.no_grad():
            self.origin.copy_(origin)
            self.unit.copy_(unit)
            self.loc.copy_(loadings)
            self.centre.zero_()
            self.log_precision.copy_(-rest.log())
            self.log_gain.copy_(-rest.log())
        self.scale = torch.full_like(self.scale, float(variance.sqrt()))
        self.precision_shape = torch.full_like(self.precision_shape, 0.5 * len(loadings))
        self.precision_rate = (0.5 * square).to(self.precision_rate)
        self.started.fill_(True)
