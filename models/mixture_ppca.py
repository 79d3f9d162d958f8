"""Mixture of probabilistic PCAs."""

from __future__ import annotations

import math

import numpy as np
import pyro
import torch
from pyro.distributions import Categorical, Normal
from pyro.nn import PyroParam
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.distributions import constraints

from pyro_lvm import em, linear_gaussian
from pyro_lvm.em.climb import best_start
from pyro_lvm.em.collapse import Reviver
from pyro_lvm.em.evaluation import joint_log_evidence
from pyro_lvm.em.parameters import NoiseModel, Parameters
from pyro_lvm.em.rows import MemoryRows, block_rows
from pyro_lvm.em.starts import CLUSTERS_SHOW, clustered_start, start_rows
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.mixture_posterior import MixturePosterior
from pyro_lvm.modules import PairModule, check_latent_dim, feature_units, units_of
from pyro_lvm.plate import data_plate, observe

# k-means starts that are tried, and rows that they see at least, of wide ones too, for each component.
_NUM_STARTS, _OF_EACH = 20, 200
# Of components that lose their rows at the start: more than it has steps, so that none is ever given up.
_REVIVALS = 1000


class MixturePPCA(PairModule):
    r"""Mixture of probabilistic PCAs: several local linear maps, which together follow a curved cloud.

    .. math:: t_n \sim \mathrm{Cat}(\pi), \quad z_n \sim N(0, I_d), \quad
        x_n \mid t_n, z_n \sim N(W_{t_n} z_n + \mu_{t_n}, \sigma_{t_n}^2 I_D)

    The parameters are held relative to each feature's mean and standard deviation. The likelihood grows without bound
    where a component shrinks onto a few rows; each noise variance has a floor.

    Args:
        data_dim: Number of features D.
        latent_dim: Number of latent coordinates d of each component, at least 1 and below D.
        num_components: Number of components K.
        noise_floor: Least noise variance of a component, relative to the mean variance of the features.

    Raises:
        PairError: ``latent_dim`` is not between 1 and D - 1, ``num_components`` below 1, or ``noise_floor`` not between
            0 and 1.

    Source: Tipping & Bishop 1999b, "Mixtures of probabilistic principal component analyzers", Neural Computation 11.
    """

    origin: Tensor
    unit: Tensor
    relative_noise_scales: Tensor

    def __init__(self, data_dim: int, latent_dim: int = 2, num_components: int = 5, noise_floor: float = 1e-4) -> None:
        super().__init__()
        check_latent_dim(latent_dim, data_dim, "a mixture of probabilistic PCAs")
        if not isinstance(num_components, int) or isinstance(num_components, bool) or num_components < 1:
            raise PairError(f"num_components={num_components}: expected a whole number from 1 up")
        if not 0 < noise_floor < 1:
            raise PairError(
                f"noise_floor={noise_floor}: expected a number between 0 and 1, relative to the features' mean variance"
            )
        self.noise_floor = noise_floor
        self.register_buffer("origin", torch.zeros(data_dim))
        self.register_buffer("unit", torch.ones(data_dim))
        self.logits = torch.nn.Parameter(torch.zeros(num_components))
        self.relative_loadings = torch.nn.Parameter(0.1 * torch.randn(num_components, data_dim, latent_dim))
        self.relative_means = torch.nn.Parameter(torch.randn(num_components, data_dim))
        self.relative_noise_scales = PyroParam(  # type: ignore[assignment]
            torch.ones(num_components), constraint=constraints.greater_than(math.sqrt(noise_floor))
        )

    @property
    def num_components(self) -> int:
        """Number of components K."""
        return len(self.logits)

    @property
    def latent_dim(self) -> int:
        """Number of latent coordinates d of each component."""
        return int(self.relative_loadings.shape[2])

    @property
    def learning_rate(self) -> float:
        """Adam's first rate: of relative parameters, so the same on every scale."""
        return 0.03

    @property
    def tolerance(self) -> float:
        """Nats a row that a further round of training must gain.

        What is left to gain is on the few rows between components, and little in the mean over all.
        """
        return 2.5e-4

    @property
    def weights(self) -> Tensor:
        """pi, shape (K,)."""
        return self.logits.softmax(0)

    @property
    def means(self) -> Tensor:
        """mu of each component, shape (K, D), in the data's units."""
        return self.origin + self.unit * self.relative_means

    @property
    def loadings(self) -> Tensor:
        """W of each component, shape (K, D, d), in the data's units."""
        return self.unit[:, None] * self.relative_loadings

    @property
    def noise_scales(self) -> Tensor:
        """sigma of each component, shape (K,), in the data's units."""
        return self.unit.square().mean().sqrt() * self.relative_noise_scales

    @property
    def noise_variance(self) -> Tensor:
        """sigma squared of each component, shape (K,), in the data's squared units."""
        return self.noise_scales**2

    def forward(self, x: Tensor) -> None:
        """The generative story of a batch of rows, shape (rows, D), NaN where missing."""
        with data_plate(x):
            t = pyro.sample("t", Categorical(logits=self.logits))
            z = pyro.sample("z", Normal(x.new_zeros(self.latent_dim), 1.0).to_event(1))
            observe("x", self.decode(z, t), x)

    def decode(self, z: Tensor, t: Tensor) -> Normal:
        """p(x | z, t), one density an entry, shape (..., D), for latents (..., d) and components (...) of rows."""
        loc = torch.einsum("...jd,...d->...j", self.loadings[t], z) + self.means[t]
        return Normal(loc, self.noise_scales[t].unsqueeze(-1))

    def start(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Start from data: k-means and a local PCA of each cluster, of several the one from which EM gets furthest.

        From anywhere else, components lose their rows to others. Twenty starts, and at most twenty steps of EM.

        Args:
            x: Rows, shape (rows, D), NaN where missing.
            generator: Source of the random part.

        Raises:
            DataError: There are fewer rows than components, or a feature has no observed entry.
        """
        origin, unit = feature_units(x)
        there = x[~x.isnan().all(1)]
        if len(there) < self.num_components:
            raise DataError(
                f"num_components={self.num_components} with {len(there)} rows in which something is observed: expected "
                "at most one a row"
            )
        scale = unit.square().mean().sqrt()
        sample = (start_rows(there, _OF_EACH * self.num_components, generator).double() - origin) / scale
        noise = NoiseModel(isotropic=True, floor=torch.full_like(origin, self.noise_floor))
        random_state = np.random.RandomState(int(torch.randint(2**31, (), generator=generator)))
        best = best_start(
            MemoryRows(sample, block_rows(sample.device, x.shape[1], self.num_components, self.latent_dim)),
            [
                clustered_start(sample, self.num_components, self.latent_dim, noise, random_state)
                for _ in range(_NUM_STARTS)
            ],
            noise,
            first_steps=CLUSTERS_SHOW,
            make_repair=lambda: Reviver(_REVIVALS).repair,
        )
        self._adopt(best.from_units(origin, scale.expand_as(origin)), origin, unit)

    def _adopt(self, parameters: Parameters, origin: Tensor, unit: Tensor) -> None:
        """Take over parameters in the data's units, held relative to ``origin`` and ``unit``."""
        relative = parameters.in_units(origin, unit)
        with torch.no_grad():
            self.origin.copy_(origin)
            self.unit.copy_(unit)
            self.logits.copy_(parameters.weights.log())
            self.relative_loadings.copy_(relative.loadings)
            self.relative_means.copy_(relative.means)
        noise = (parameters.noise_variance[:, 0] / unit.square().mean()).sqrt()
        # On its floor a scale has no logarithm above it.
        least = math.sqrt(self.noise_floor) * (1 + 1e-6)
        self.relative_noise_scales = noise.clamp(min=least).to(self.relative_noise_scales)
        self.started.fill_(True)

    @classmethod
    def from_estimator(cls, estimator: em.MixturePPCA, dtype: torch.dtype = torch.float32) -> MixturePPCA:
        """A started model at a fitted estimator's parameters, from which training can go on.

        Args:
            estimator: A fitted :class:`pyro_lvm.em.MixturePPCA`; its ``noise_floor`` is taken over.
            dtype: Of the model's parameters: ``torch.float32`` to train, ``torch.float64`` to lose nothing.

        Returns:
            The model; ``origin`` and ``unit`` are each feature's mean and standard deviation under it.

        Raises:
            NotFittedError: The estimator has not been fitted (scikit-learn's).
        """
        check_is_fitted(estimator)
        weights, means, loadings, noise, variances = (
            torch.as_tensor(np.array(value, dtype=np.float64))
            for value in (
                estimator.weights_,
                estimator.means_,
                estimator.loadings_,
                estimator.noise_variance_,
                estimator.get_covariance().diagonal(),
            )
        )
        num_components, data_dim, latent_dim = loadings.shape
        model = cls(data_dim, latent_dim, num_components, estimator.noise_floor).to(dtype=dtype)
        parameters = Parameters(weights, means, loadings, noise[:, None].expand_as(means))
        model._adopt(parameters, weights @ means, units_of(variances))
        return model

    def to_estimator(self) -> em.MixturePPCA:
        """A fitted :class:`pyro_lvm.em.MixturePPCA` at this model's parameters.

        Its evidence is the model's. Its components are the model's in order of weight, their loadings rotated to
        principal axes.
        """
        return em.MixturePPCA.from_parameters(
            self.weights, self.means, self.loadings, self.noise_variance, noise_floor=self.noise_floor
        )

    def log_evidence(self, x: Tensor) -> Tensor:
        """Exact log p(x) in nats, shape (rows,); rows with missing entries by their observed part."""
        return joint_log_evidence(x, self._exact()).logsumexp(1)

    def exact_posterior(self, x: Tensor) -> MixturePosterior:
        """Exact p(t, z | x) of rows of shape (rows, D)."""
        parameters = self._exact()
        component = torch.distributions.Categorical(logits=joint_log_evidence(x, parameters))
        each = zip(parameters.loadings, parameters.means, parameters.noise_variance, strict=True)
        return MixturePosterior(component, [linear_gaussian.posterior(x, *one) for one in each])

    def maximum_likelihood(self, x: Tensor) -> MixturePPCA:
        """The model at the local maximum of the likelihood that EM reaches from this one, in float64.

        The likelihood of a mixture has many maxima; the one that is nearest says whether training got to the end of
        where it was going.

        Args:
            x: Rows, shape (rows, D), NaN where missing.

        Raises:
            DataError: A component loses its rows on the way: with as many there is no maximum near.
        """
        estimator = self.to_estimator().set_params(warm_start=True, tol=1e-7, max_iter=2000)
        best = self.from_estimator(estimator.fit(x.cpu().numpy()), torch.float64).to(x.device)
        if best.num_components < self.num_components:
            raise DataError(
                f"num_components={self.num_components}: EM keeps {best.num_components} of them; choose fewer components"
            )
        return best

    def _exact(self) -> Parameters:
        weights, means, loadings, noise = (
            value.double() for value in (self.weights, self.means, self.loadings, self.noise_variance)
        )
        return Parameters(weights, means, loadings, noise[:, None].expand_as(means))
