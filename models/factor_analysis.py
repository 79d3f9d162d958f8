"""Factor analysis."""

from __future__ import annotations

import math

import numpy as np
import pyro
import torch
from pyro.distributions import Normal
from pyro.nn import PyroParam
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.distributions import MultivariateNormal, constraints

from pyro_lvm import em, linear_gaussian
from pyro_lvm.em.climb import best_start
from pyro_lvm.em.moments import equivalent_rows, moments_of
from pyro_lvm.em.parameters import NoiseModel
from pyro_lvm.em.rows import MemoryRows, block_rows
from pyro_lvm.em.starts import principal_start, random_start
from pyro_lvm.em.units import own_units
from pyro_lvm.errors import PairError
from pyro_lvm.modules import PairModule, check_latent_dim, feature_units
from pyro_lvm.plate import data_plate, observe

# Starts that are tried beside the principal axes, and the steps of EM after which it shows which is best: on digits it
# does in each of 25 draws of such starts after 50, in 24 after 20, in 17 after five.
_RANDOM_STARTS, _EM_STEPS = 9, 50
# Numbers in the rows, up to which that takes no longer than a few seconds.
_ENTRIES = 2**20
# A noise variance starts above its floor by this factor at least: at it, it has no gradient left.
_ABOVE_FLOOR = 10.0


class FactorAnalysis(PairModule):
    r"""Factor analysis: a linear map of a few latent factors plus noise of each feature's own variance.

    .. math:: z_n \sim N(0, I_d), \qquad x_n \mid z_n \sim N(W z_n + \mu, \mathrm{diag}(\psi))

    The parameters are held relative to each feature's mean and standard deviation, so that units don't matter. Where a
    factor takes over a feature (a Heywood case) the likelihood has no maximum; each noise variance has a floor.

    Args:
        data_dim: Number of features D.
        latent_dim: Number of factors d, at least 1 and below D.
        noise_floor: Least noise variance, relative to the feature's variance.

    Raises:
        PairError: ``latent_dim`` is not between 1 and D - 1, or ``noise_floor`` not between 0 and 1.

    Source: Rubin & Thayer 1982, "EM algorithms for ML factor analysis", Psychometrika 47.
    """

    origin: Tensor
    unit: Tensor
    relative_noise_scale: Tensor

    def __init__(self, data_dim: int, latent_dim: int = 2, noise_floor: float = 1e-3) -> None:
        super().__init__()
        check_latent_dim(latent_dim, data_dim, "factor analysis")
        if not 0 < noise_floor < 1:
            raise PairError(
                f"noise_floor={noise_floor}: expected a number between 0 and 1, relative to a feature's variance"
            )
        self.noise_floor = noise_floor
        self.register_buffer("origin", torch.zeros(data_dim))
        self.register_buffer("unit", torch.ones(data_dim))
        self.relative_loadings = torch.nn.Parameter(0.1 * torch.randn(data_dim, latent_dim))
        self.relative_mean = torch.nn.Parameter(torch.zeros(data_dim))
        self.relative_noise_scale = PyroParam(  # type: ignore[assignment]
            torch.ones(data_dim), constraint=constraints.greater_than(math.sqrt(noise_floor))
        )

    @property
    def latent_dim(self) -> int:
        """Number of factors d."""
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
        """Square root of psi, shape (D,), in the data's units."""
        return self.unit * self.relative_noise_scale

    @property
    def noise_variance(self) -> Tensor:
        """psi, shape (D,), in the data's squared units."""
        return self.noise_scale**2

    def forward(self, x: Tensor) -> None:
        """The generative story of a batch of rows, shape (rows, D), NaN where missing."""
        with data_plate(x):
            z = pyro.sample("z", Normal(x.new_zeros(self.latent_dim), 1.0).to_event(1))
            observe("x", self.decode(z), x)

    def decode(self, z: Tensor) -> Normal:
        """p(x | z), one density an entry, shape (..., D), for factors of shape (..., d)."""
        return Normal(z @ self.loadings.T + self.mean, self.noise_scale)

    def start(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Start from data: near the principal axes of its standardised features, or from where EM gets further.

        The likelihood has several maxima: on digits one start in three leads to one that is 0.04 nats lower. Where EM
        is cheap, with complete rows or a small table, it chooses among ten starts; else the principal axes are taken.

        Args:
            x: Rows, shape (rows, D), NaN where missing.
            generator: Source of the random part.

        Raises:
            DataError: A feature has no observed entry, or none varies.
        """
        origin, _ = feature_units(x)
        # The units that EM has, so that a floor means the same: of a feature that hardly varies too, it is its own.
        moments = moments_of(x.double(), scatter=len(x) > x.shape[1] and x.shape[1] ** 2 <= _ENTRIES)
        unit = own_units(moments)
        noise = NoiseModel(isotropic=False, floor=torch.full_like(unit, self.noise_floor))
        random_state = np.random.RandomState(int(torch.randint(2**31, (), generator=generator)))
        if moments.scatter is None:
            standardised = (x.double() - origin) / unit
        else:
            # Of the same likelihood, however many rows there are.
            standardised = equivalent_rows(moments, origin, unit)
        rows = MemoryRows(standardised, block_rows(unit.device, len(unit), 1, self.latent_dim))
        best = principal_start(rows, self.latent_dim, noise, random_state)
        if standardised.numel() <= _ENTRIES:
            others = [random_start(rows, self.latent_dim, noise, random_state) for _ in range(_RANDOM_STARTS)]
            best = best_start(rows, [best, *others], noise, steps=_EM_STEPS)
        with torch.no_grad():
            self.origin.copy_(origin)
            self.unit.copy_(unit)
            self.relative_loadings.copy_(best.loadings[0])
            self.relative_mean.copy_(best.means[0])
        self._set_noise(best.noise_variance[0].clamp(min=min(1.0, _ABOVE_FLOOR * self.noise_floor)).sqrt())
        self.started.fill_(True)

    def _set_noise(self, relative_scale: Tensor) -> None:
        # On its floor a scale has no logarithm above it.
        least = math.sqrt(self.noise_floor) * (1 + 1e-6)
        self.relative_noise_scale = relative_scale.clamp(min=least).to(self.relative_noise_scale)

    @classmethod
    def from_estimator(cls, estimator: em.FactorAnalysis, dtype: torch.dtype = torch.float32) -> FactorAnalysis:
        """A started model at a fitted estimator's parameters, from which training can go on.

        Args:
            estimator: A fitted :class:`pyro_lvm.em.FactorAnalysis`; its ``noise_floor`` is taken over.
            dtype: Of the model's parameters: ``torch.float32`` to train, ``torch.float64`` to lose nothing.

        Returns:
            The model; ``origin`` and ``unit`` are each feature's mean and standard deviation under it, the latter at
            most what the floor allows.

        Raises:
            NotFittedError: The estimator has not been fitted (scikit-learn's).
        """
        check_is_fitted(estimator)
        loadings, mean, noise = (
            torch.from_numpy(value) for value in (estimator.loadings_, estimator.mean_, estimator.noise_variance_)
        )
        data_dim, latent_dim = loadings.shape
        model = cls(data_dim, latent_dim, estimator.noise_floor).to(dtype=dtype)
        # Not so large that a noise variance at the estimator's floor would be below the model's.
        unit = torch.minimum(loadings.square().sum(1) + noise, noise / estimator.noise_floor).sqrt()
        with torch.no_grad():
            model.origin.copy_(mean)
            model.unit.copy_(unit)
            model.relative_loadings.copy_(loadings / unit[:, None])
        model._set_noise(noise.sqrt() / unit)
        model.started.fill_(True)
        return model

    def to_estimator(self) -> em.FactorAnalysis:
        r"""A fitted :class:`pyro_lvm.em.FactorAnalysis` at this model's parameters.

        Its evidence is the model's. Its factors are the model's rotated so that their posteriors are independent, in
        order of the variance that they explain and the largest loading of each positive.
        """
        estimator = em.FactorAnalysis.from_parameters(self.mean, self.loadings, self.noise_variance)
        estimator.noise_floor = self.noise_floor
        return estimator

    def log_evidence(self, x: Tensor) -> Tensor:
        """Exact log p(x) in nats, shape (rows,); rows with missing entries by their observed part."""
        return linear_gaussian.log_evidence(x, self.loadings, self.mean, self.noise_variance)

    def exact_posterior(self, x: Tensor) -> MultivariateNormal:
        """Exact p(z | x), batch shape (rows,), event shape (d,)."""
        return linear_gaussian.posterior(x, self.loadings, self.mean, self.noise_variance)

    def maximum_likelihood(self, x: Tensor) -> FactorAnalysis:
        """A model of the same size at the maximum of the likelihood that EM finds, in float64.

        Args:
            x: Rows, shape (rows, D), NaN where missing.

        Raises:
            DataError: The rows are too few or don't vary.
        """
        estimator = em.FactorAnalysis(self.latent_dim, noise_floor=self.noise_floor, random_state=0)
        return self.from_estimator(estimator.fit(x.cpu().numpy()), torch.float64).to(x.device)
