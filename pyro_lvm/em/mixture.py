"""Mixture of probabilistic PCAs as a scikit-learn estimator."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from pyro_lvm.em.climb import climb_from_best
from pyro_lvm.em.collapse import Reviver, warn_of_collapse
from pyro_lvm.em.dimension import latent_dim
from pyro_lvm.em.mixture_inference import MixtureInference
from pyro_lvm.em.moments import Moments, sum_moments
from pyro_lvm.em.parameters import NoiseModel, Parameters
from pyro_lvm.em.rotation import canonical, ordered
from pyro_lvm.em.rows import block_rows
from pyro_lvm.em.starts import CLUSTERS_SHOW, clustered_start
from pyro_lvm.em.stepwise import Stepwise
from pyro_lvm.em.table import Table
from pyro_lvm.em.units import common_unit, warn_of_scales
from pyro_lvm.errors import DataError

# Rows that k-means sees.
_SAMPLE = 10_000


class MixturePPCA(MixtureInference):
    r"""Mixture of probabilistic PCAs: several local linear maps, which together follow a curved cloud.

    .. math:: t \sim \mathrm{Cat}(\pi), \quad z \sim N(0, I_d), \quad x \mid z, t \sim N(W_t z + \mu_t, \sigma_t^2 I_D)

    Missing entries (NaN) are integrated out, in fitting as in everything else. The fit doesn't depend on the unit of
    the data, nor on rotations of them, but it does on features' units relative to each other.

    :meth:`transform` gives the posterior mean of the latent variables in full: for each component k its responsibility
    q(t = k), then q(t = k) E[z | x, t = k]. What :meth:`inverse_transform` makes of it is E[W_t z + mu_t | x], exactly.

    Args:
        n_mixtures: number of components K.
        n_components: number of latent dimensions d of each; None for 2, or 1 where the data have no room for 2.
        noise_floor: least noise variance, relative to the mean variance of the features. Without a floor the likelihood
            of a mixture has no maximum.
        tol: EM has converged when five steps gain less than this together, in nats a row.
        max_iter: steps of EM at most.
        n_init: starts of EM, by k-means++ and local PCA; the likeliest after a few steps is continued. After five
            steps all but a quarter of them, or three, are given up.
        warm_start: begin EM with the parameters of the fit before.
        random_state: seed or generator, of the starts and of draws.
        device: "auto" for CUDA where there is one, else the CPU; or a device of PyTorch.
        verbose: whether to show a bar where EM takes long.

    Attributes:
        weights_: pi, (n_mixtures,), the largest first. Components that lost their rows are left out, with a warning.
        means_: mu, (n_mixtures, n_features).
        loadings_: W, (n_mixtures, n_features, n_components).
        components_: (n_mixtures, n_components, n_features), orthonormal principal axes of each, the most explained
            variance first, the largest entry of each positive.
        explained_variance_: (n_mixtures, n_components), variance of x along each axis within its component.
        noise_variance_: sigma^2, (n_mixtures,).
        n_mixtures_: number of components.
        n_components_: d.
        n_features_in_: number of features; ``feature_names_in_`` are their names, if they have any.
        log_likelihood_path_: mean log-evidence of the rows in nats, at the start of EM and after each step, never
            falling; from the last time on that a component which had lost its rows was revived.
        n_iter_: steps taken, from that time on.
        converged_: whether the evidence had stopped rising.

    Sources: Tipping & Bishop 1999b, "Mixtures of probabilistic principal component analyzers", Neural Computation 11;
    Ghahramani & Hinton 1996, "The EM algorithm for mixtures of factor analyzers", CRG-TR-96-1.

    >>> import numpy as np
    >>> x = np.random.RandomState(0).normal(size=(300, 3)) * [1.0, 0.1, 0.1]
    >>> x[:100] = x[:100, [1, 0, 2]] + 5
    >>> MixturePPCA(2, 1, random_state=0).fit(x).weights_.round(3)
    array([0.667, 0.333])
    """

    _counts: ClassVar[tuple[str, ...]] = ("n_mixtures", "max_iter", "n_init")

    def __init__(
        self,
        n_mixtures: int = 2,
        n_components: int | None = None,
        *,
        noise_floor: float = 1e-4,
        tol: float = 1e-6,
        max_iter: int = 500,
        n_init: int = 3,
        warm_start: bool = False,
        random_state: Any = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.n_mixtures = n_mixtures
        self.n_components = n_components
        self.noise_floor = noise_floor
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.warm_start = warm_start
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    @classmethod
    def from_parameters(
        cls, weights: Tensor, means: Tensor, loadings: Tensor, noise_variance: Tensor, *, noise_floor: float = 1e-4
    ) -> Self:
        """A fitted estimator at given parameters, its components ordered, rotated and signed as those of any fit.

        Args:
            weights: pi, (n_mixtures,).
            means: mu, (n_mixtures, n_features).
            loadings: W, (n_mixtures, n_features, n_components).
            noise_variance: sigma^2, (n_mixtures,).
            noise_floor: the option.

        Returns:
            The estimator. There was no fit: ``log_likelihood_path_`` is empty, ``n_iter_`` is 0 and ``converged_``
            False.
        """
        pi, mu, w, noise = (value.detach().cpu().double() for value in (weights, means, loadings, noise_variance))
        estimator = cls(len(pi), w.shape[2], noise_floor=noise_floor)
        estimator.n_features_in_ = mu.shape[1]
        estimator._accept(Parameters(pi, mu, w, noise.unsqueeze(1).expand_as(mu)))
        estimator.log_likelihood_path_ = np.empty(0)
        estimator.n_iter_, estimator.converged_ = 0, False
        return estimator

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to rows.

        Args:
            X: (n_samples, n_features), NaN where missing; or an iterable of such batches. What starts anew whenever it
                is iterated is swept over as often as needed; an iterator is copied to a temporary file first.
            y: ignored.

        Returns:
            The estimator.

        Raises:
            DataError: the model doesn't exist for these data, or an option is wrong.
        """
        self._stream: Stepwise | None = None
        self._run_em(self._read(X))
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Take in one more batch of rows; the first call after :meth:`fit` begins anew, with a fit to that batch.

        Each further batch is one step of stepwise EM, in which later batches weigh more than earlier ones.

        Args:
            X: (n_samples, n_features), NaN where missing.
            y: ignored.

        Returns:
            The estimator.

        Raises:
            DataError: the model doesn't exist for the first batch, or an option is wrong.
        """
        state = getattr(self, "_stream", None)
        table = self._read(X, reset=state is None)
        if state is None:
            self._stream = self._run_em(table)
            return self
        size = block_rows(state.unit.device, table.num_features, len(self.weights_), self._latent_dim_fitted)
        rows = table.standardised(state.origin, state.unit, size)
        moments = sum_moments([state.moments, self._gather(table, scatter=False)])
        self._check_moments(moments)
        state = state.after(rows, moments, *self._units(moments))
        self._stream = state
        self._accept(state.parameters.from_units(state.origin, state.unit))
        self.n_iter_ += 1
        return self

    def _run_em(self, table: Table) -> Stepwise:
        moments = self._gather(table, scatter=False)
        self._check_moments(moments)
        warn_of_scales(moments.low, moments.high, self._names)
        num_rows = moments.num_rows - moments.num_empty
        dim = latent_dim(self.n_components, num_rows, table.num_features)
        if self.n_mixtures > num_rows:
            raise DataError(f"n_mixtures={self.n_mixtures} with {num_rows} rows: expected at most one for each row")
        origin, (unit, noise) = moments.means, self._units(moments)
        rows = table.standardised(origin, unit, block_rows(unit.device, table.num_features, self.n_mixtures, dim))
        with self._progress(moments, unit) as report:
            result = climb_from_best(
                rows,
                self._starts(table, dim, origin, unit, noise, moments),
                noise,
                max_steps=self.max_iter,
                tol=self.tol,
                report=report,
                make_repair=lambda: Reviver(self.n_mixtures).repair,
                first_steps=CLUSTERS_SHOW,
            )
        self._accept(result.parameters.from_units(origin, unit))
        self._record(result, moments, unit)
        warn_of_collapse(result.parameters, result.statistics.counts, noise, self.n_mixtures)
        averages = result.statistics.scaled(1 / float(result.statistics.num_rows))
        return Stepwise(origin, unit, noise, result.parameters, averages, moments)

    def _units(self, moments: Moments) -> tuple[Tensor, NoiseModel]:
        unit = common_unit(moments)
        return unit, NoiseModel(isotropic=True, floor=torch.full_like(unit, self.noise_floor))

    def _starts(
        self, table: Table, dim: int, origin: Tensor, unit: Tensor, noise: NoiseModel, moments: Moments
    ) -> Iterator[Parameters]:
        shape = (self.n_mixtures, len(unit), dim)
        if self.warm_start and getattr(self, "loadings_", np.empty(0)).shape == shape:
            warm = self._model().in_units(origin, unit)
            yield dataclasses.replace(warm, noise_variance=noise.clamped(warm.noise_variance))
            return
        rng = self._random_state()
        sample = (table.sample(_SAMPLE / moments.num_rows, rng).to(unit.device) - origin) / unit
        sample = sample[~sample.isnan().all(1)]
        for _ in range(self.n_init):
            yield clustered_start(sample, self.n_mixtures, dim, noise, rng)

    def _accept(self, model: Parameters) -> None:
        """Set the fitted attributes from parameters in the data's units."""
        order = model.weights.argsort(descending=True, stable=True)
        one = torch.ones_like(model.means[0])
        loadings = torch.stack([ordered(canonical(model.loadings[k], one), one) for k in order.tolist()])
        variances = loadings.square().sum(1)
        axes = loadings / variances.sqrt().clamp(min=torch.finfo(torch.float64).tiny).unsqueeze(1)
        self.n_mixtures_, _, self.n_components_ = loadings.shape
        self.weights_ = model.weights[order].cpu().numpy()
        self.means_ = model.means[order].cpu().numpy()
        self.loadings_ = loadings.cpu().numpy()
        self.components_ = axes.mT.cpu().numpy().copy()
        self.noise_variance_ = model.noise_variance[order, 0].cpu().numpy()
        self.explained_variance_ = variances.cpu().numpy() + self.noise_variance_[:, None]
