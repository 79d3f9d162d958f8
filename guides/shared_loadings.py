"""A guide for models whose loadings are themselves latent, shared by all rows."""

from __future__ import annotations

from typing import Any

import pyro
import scipy.stats
import torch
from pyro.distributions import Gamma, MultivariateNormal, Normal
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints

from pyro_lvm.errors import PairError
from pyro_lvm.gaussian_product import gaussian_product
from pyro_lvm.modules import PairModule, feature_units, principal_start
from pyro_lvm.plate import data_plate, observed_entries

# Of keeping any column that is zero.
_CHANCE = 0.05


class SharedLoadings(PairModule):
    r"""Independent normals for the loadings, gammas for their columns' precisions, and z given the loadings drawn.

    .. math:: q(W) = \prod_{jk} N(m_{jk}, s_{jk}^2), \quad
        q(\alpha_k) = \mathrm{Gamma}\Bigl(a + \frac{D}{2},\ b + \frac{1}{2} \sum_j (m_{jk}^2 + s_{jk}^2)\Bigr), \quad
        q(z_n \mid x_n, W) = N(P^{-1} h, P^{-1})

    with a and b the prior's, :math:`P = I + e^l \sum_j w_j w_j^\top` and :math:`h = e^l \sum_j (x_{nj} - \mu_j) w_j`,
    sums over a row's observed features. The gammas are the best there are beside q(W), and q(z | x, W) holds the exact
    posterior. Gammas with parameters of their own hold a column back that is being switched off: neither it nor its
    precision gains by moving alone.

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
    prior_shape: Tensor
    prior_rate: Tensor
    noise: Tensor
    accepts_missing = True

    def __init__(self, data_dim: int, latent_dim: int = 2) -> None:
        super().__init__()
        if not isinstance(latent_dim, int) or isinstance(latent_dim, bool) or latent_dim < 1:
            raise PairError(f"latent_dim={latent_dim}: expected a whole number from 1 up")
        self.register_buffer("origin", torch.zeros(data_dim))
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("noise", torch.ones(()))
        self.register_buffer("prior_shape", torch.zeros(()))
        self.register_buffer("prior_rate", torch.zeros(()))
        self.relative_loc = torch.nn.Parameter(0.1 * torch.randn(data_dim, latent_dim))
        self.scale = PyroParam(  # type: ignore[assignment]
            torch.full((data_dim, latent_dim), 0.1), constraint=constraints.positive
        )
        self.relative_centre = torch.nn.Parameter(torch.zeros(data_dim))
        self.log_precision = torch.nn.Parameter(torch.zeros(()))

    @property
    def loc(self) -> Tensor:
        """m, shape (D, d), as the model's loadings relative to the features' root mean variance."""
        return self.noise * self.relative_loc

    def forward(self, x: Tensor) -> None:
        """The posterior of loadings, their precisions, and the latents of a batch of rows, NaN where missing."""
        pyro.sample("alpha", self.precisions.to_event(1))
        w = pyro.sample("W", Normal(self.loc, self.scale).to_event(2))
        with data_plate(x):
            pyro.sample("z", self._given(x, w))

    def encode(self, x: Tensor) -> MultivariateNormal:
        """q(z | x, W) at the loadings' posterior mean, batch shape (rows,), event shape (d,)."""
        return self._given(x, self.loc)

    def _given(self, x: Tensor, w: Tensor) -> MultivariateNormal:
        observed = observed_entries(x)
        residual = (x - self.origin) / self.unit - self.noise * self.relative_centre
        if observed is not None:
            residual = torch.where(observed, residual, 0.0)
        log_precisions = self.log_precision.expand(len(self.relative_centre))
        return gaussian_product(w, log_precisions, self.log_precision.exp() * residual, observed).distribution()

    @property
    def precisions(self) -> Gamma:
        """q(alpha), batch shape (d,): of all gammas, the one of the highest ELBO beside q(W)."""
        squares = (self.loc.square() + self.scale.square()).sum(0)
        shape = self.prior_shape + 0.5 * len(self.loc)
        return Gamma(shape.expand_as(squares), self.prior_rate + 0.5 * squares)

    @property
    def kept(self) -> Tensor:
        """Which columns the data bear out, (d,): their means are further from zero than uncertainty would put them.

        Where a column is zero, its means in units of their uncertainty have squares that sum to about a chi-square of D
        degrees of freedom; one of all d columns would exceed what is asked here with probability 0.05.
        """
        data_dim, latent_dim = self.loc.shape
        chance = float(scipy.stats.chi2.isf(_CHANCE / latent_dim, data_dim))
        return (self.loc / self.scale).square().sum(0) > chance

    def shared_means(self) -> dict[str, Tensor]:
        """Posterior means of what all rows share: W (D, d), alpha (d,)."""
        return {"W": self.loc, "alpha": self.precisions.mean}

    def start(self, x: Tensor, model: Any, generator: torch.Generator | None = None) -> None:
        """Start the loadings at the principal axes, along which a column can be switched off alone.

        Args:
            x: Rows, shape (rows, D), NaN where missing, which counts as the feature's mean here.
            model: With the prior's ``shape`` and ``rate``.
            generator: Not needed: nothing is random.

        Raises:
            DataError: A feature has no observed entry.
            PairError: The model lacks one of these.
        """
        if not all(isinstance(getattr(model, name, None), float) for name in ("shape", "rate")):
            raise PairError(f"{type(model).__name__} has no shape, rate: expected a model with a gamma prior on alpha")
        origin, units = feature_units(x)
        unit = units.square().mean().sqrt()
        loadings, rest = principal_start((x.double() - origin) / unit, self.relative_loc.shape[1])
        # What N rows leave uncertain about a loading.
        variance = rest / len(x)
        with torch.no_grad():
            self.origin.copy_(origin)
            self.unit.copy_(unit)
            self.prior_shape.fill_(model.shape)
            self.prior_rate.fill_(model.rate)
            self.noise.copy_(rest.sqrt())
            self.relative_loc.copy_(loadings / rest.sqrt())
            self.relative_centre.zero_()
            self.log_precision.copy_(-rest.log())
        self.scale = torch.full_like(self.scale, float(variance.sqrt()))
        self.started.fill_(True)
