"""Probabilistic PCA."""

from __future__ import annotations

import math

import pyro
import torch
from pyro.distributions import Normal
from pyro.nn import PyroParam
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.distributions import MultivariateNormal, constraints

from pyro_lvm import em, linear_gaussian
from pyro_lvm.modules import PairModule, check_latent_dim, feature_units, units_of
from pyro_lvm.plate import data_plate, observe


class PPCA(PairModule):
    r"""Probabilistic PCA (Tipping and Bishop 1999): a linear map of a few latent coordinates plus isotropic noise.

    .. math:: z_n \sim N(0, I_d), \qquad x_n \mid z_n \sim N(W z_n + \mu, \sigma^2 I_D)

    The parameters are held relative to each feature's mean and standard deviation (``origin`` and ``unit``), which no
    loading can exceed at the maximum of the likelihood, so that one learning rate fits data on any scale;
    :attr:`loadings`, :attr:`mean` and :attr:`noise_variance` are in the data's units.

    Args:
        data_dim: Number of features D.
        latent_dim: Number of latent coordinates d, at least 1 and below D.

    Raises:
        PairError: ``latent_dim`` is not between 1 and D - 1.
    """

    origin: Tensor
    unit: Tensor
    relative_noise_scale: Tensor

    def __init__(self, data_dim: int, latent_dim: int = 2) -> None:
        super().__init__()
        check_latent_dim(latent_dim, data_dim, "probabilistic PCA")
        self.register_buffer("origin", torch.zeros(data_dim))
        self.register_buffer("unit", torch.ones(data_dim))
        self.relative_loadings = torch.nn.Parameter(0.1 * torch.randn(data_dim, latent_dim))
        self.relative_mean = torch.nn.Parameter(torch.zeros(data_dim))
        self.relative_noise_scale = PyroParam(  # type: ignore[assignment]
            torch.ones(()), constraint=constraints.positive
        )

    @property
    def latent_dim(self) -> int:
        """Number of latent coordinates d."""
        return int(self.relative_loadings.shape[1])

    @property
    def learning_rate(self) -> float:
        """Adam's first rate: of relative parameters, so the same on every scale; the noise of more features adds up."""
        return min(0.1, 0.8 / math.sqrt(self.origin.numel()))

    @property
    def loadings(self) -> Tensor:
        """W, shape (D, d), in the data's units."""
        return self.unit[:, None] * self.relative_loadings

    @property
    def mean(self) -> Tensor:
        """mu, shape (D,), in the data's units."""
        return self.origin + self.unit * self.relative_mean

    @property
    def noise_scale(self) -> Tensor:
        """sigma, a scalar in the data's units."""
        return self.unit.square().mean().sqrt() * self.relative_noise_scale

    @property
    def noise_variance(self) -> Tensor:
        """sigma squared, a scalar in the data's squared units."""
        return self.noise_scale**2

    def forward(self, x: Tensor) -> None:
        """The generative story of a batch of rows, shape (rows, D), NaN where missing."""
        with data_plate(x):
            z = pyro.sample("z", Normal(x.new_zeros(self.latent_dim), 1.0).to_event(1))
            observe("x", self.decode(z), x)

    def decode(self, z: Tensor) -> Normal:
        """p(x | z), one density an entry, shape (..., D), for latent coordinates of shape (..., d)."""
        return Normal(z @ self.loadings.T + self.mean, self.noise_scale)

    def start(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Start from data: mean and scale of the rows, and small random loadings.

        Args:
            x: Rows, shape (rows, D), NaN where missing.
            generator: Source of the random loadings.

        Raises:
            DataError: A feature has no observed entry.
        """
        origin, unit = feature_units(x)
        with torch.no_grad():
            self.origin.copy_(origin)
            self.unit.copy_(unit)
            draws = torch.randn(self.relative_loadings.shape, generator=generator)
            # Large random loadings start with the data explained by the wrong directions, and stay there for long.
            self.relative_loadings.copy_(0.1 * draws)
            self.relative_mean.zero_()
        self.relative_noise_scale = torch.ones_like(self.relative_noise_scale)
        self.started.fill_(True)

    @classmethod
    def from_estimator(cls, estimator: em.PPCA, dtype: torch.dtype = torch.float32) -> PPCA:
        """A started model at a fitted estimator's parameters, from which training can go on.

        Args:
            estimator: A fitted :class:`pyro_lvm.em.PPCA`.
            dtype: Of the model's parameters: ``torch.float32`` to train, ``torch.float64`` to lose nothing.

        Returns:
            The model; ``origin`` and ``unit`` are each feature's mean and standard deviation under it.

        Raises:
            NotFittedError: The estimator has not been fitted (scikit-learn's).
        """
        check_is_fitted(estimator)
        loadings = torch.from_numpy(estimator.loadings_)
        noise_variance = float(estimator.noise_variance_)
        model = cls(*loadings.shape).to(dtype=dtype)
        with torch.no_grad():
            model.origin.copy_(torch.from_numpy(estimator.mean_))
            model.unit.copy_(units_of(loadings.square().sum(1) + noise_variance))
            unit = model.unit.double()
            model.relative_loadings.copy_(loadings / unit[:, None])
            noise_scale = math.sqrt(noise_variance) / unit.square().mean().sqrt()
        model.relative_noise_scale = noise_scale.to(dtype)
        model.started.fill_(True)
        return model

    def to_estimator(self) -> em.PPCA:
        r"""A fitted :class:`pyro_lvm.em.PPCA` at this model's parameters.

        Its evidence is the model's. Its loadings are the model's turned to principal axes, :math:`W R` with a rotation
        R, in order of the variance that they explain and the largest entry of each positive; so the coordinates that
        it gives a row are :math:`R^\top z`.
        """
        return em.PPCA.from_parameters(self.mean, self.loadings, self.noise_variance)

    def log_evidence(self, x: Tensor) -> Tensor:
        """Exact log p(x) in nats, shape (rows,); rows with missing entries by their observed part."""
        return linear_gaussian.log_evidence(x, self.loadings, self.mean, self.noise_variance)

    def exact_posterior(self, x: Tensor) -> MultivariateNormal:
        """Exact p(z | x), batch shape (rows,), event shape (d,)."""
        return linear_gaussian.posterior(x, self.loadings, self.mean, self.noise_variance)

    def maximum_likelihood(self, x: Tensor) -> PPCA:
        """A model of the same size at the maximum of the likelihood, in float64.

        In closed form, or by EM where entries are missing.

        Args:
            x: Rows, shape (rows, D), NaN where missing.

        Raises:
            DataError: The rows lie in ``latent_dim`` dimensions or fewer, so that there is no maximum.
        """
        if bool(torch.isnan(x).any()):
            estimator = em.PPCA(self.latent_dim, random_state=0).fit(x.cpu().numpy())
            return self.from_estimator(estimator, torch.float64).to(x.device)
        best = linear_gaussian.maximum_likelihood(x, self.latent_dim)
        # In float64, the precision of the exact answers that it is there to give.
        model = PPCA(x.shape[1], self.latent_dim).to(x.device, torch.float64)
        with torch.no_grad():
            model.relative_loadings.copy_(best.loadings)
            model.relative_mean.copy_(best.mean)
        model.relative_noise_scale = best.noise_variance.sqrt()
        model.started.fill_(True)
        return model
