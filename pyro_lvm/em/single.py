"""One linear-Gaussian component: what PPCA and factor analysis have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor

from pyro_lvm.em import evaluation
from pyro_lvm.em.base import Array, LinearGaussianEstimator, sample_gaussian
from pyro_lvm.em.climb import climb_from_best
from pyro_lvm.em.expectation import expect
from pyro_lvm.em.moments import Moments, equivalent_rows, sum_moments
from pyro_lvm.em.parameters import NoiseModel, Parameters
from pyro_lvm.em.rows import MemoryRows, Rows, block_rows
from pyro_lvm.em.starts import principal_start, random_start
from pyro_lvm.em.stepwise import Stepwise
from pyro_lvm.em.table import Table
from pyro_lvm.errors import DataError

# Features up to which the moments of complete rows include their covariance matrix (128 MB in float64).
_WIDEST_COVARIANCE = 4096

# Of an origin, a unit and the number of rows in a block: rows as the E-step reads them.
MakeRows = Callable[[Tensor, Tensor, int], Rows]


class Posterior(NamedTuple):
    """The posterior of the latents of each row.

    Attributes:
        mean: E[z | x_observed], (n_samples, n_components).
        covariance: Cov[z | x_observed], (n_samples, n_components, n_components); one matrix that all rows share, and
            that can't be written to, where all have the same missing entries.
    """

    mean: Array
    covariance: Array


class SingleComponent(LinearGaussianEstimator):
    """An estimator with one component: z ~ N(0, I), x | z ~ N(W z + mu, Psi)."""

    mean_: Array
    loadings_: Array
    noise_variance_: Any

    @classmethod
    def from_parameters(cls, mean: Tensor, loadings: Tensor, noise_variance: Tensor) -> Self:
        """A fitted estimator at given parameters, its loadings rotated, ordered and signed as those of any fit.

        Args:
            mean: mu, (n_features,).
            loadings: W, (n_features, n_components).
            noise_variance: the diagonal of Psi, () or (n_features,).

        Returns:
            The estimator. There was no fit: ``log_likelihood_path_`` is empty, ``n_iter_`` is 0 and ``converged_``
            False.
        """
        mu, weights, noise = (value.detach().cpu().double() for value in (mean, loadings, noise_variance))
        psi = noise.expand_as(mu)
        estimator = cls(n_components=weights.shape[1])
        estimator.n_features_in_ = len(mu)
        unit = (weights.square().sum(1) + psi).sqrt()
        estimator._accept(Parameters(mu.new_ones(1), mu[None], weights[None], psi[None]), unit)
        estimator.log_likelihood_path_ = np.empty(0)
        estimator.n_iter_, estimator.converged_ = 0, False
        return estimator

    def transform(self, X: Any) -> Array:
        """Posterior mean E[z | x_observed] of each row.

        Args:
            X: (n_samples, n_features), NaN where missing.

        Returns:
            (n_samples, n_components).
        """
        return self._evaluate(X, lambda x, model: evaluation.posterior_means(x, model)[:, 0])

    def inverse_transform(self, X: Any) -> Array:
        """E[x | z] = W z + mu of each row of latents.

        Args:
            X: z, (n_samples, n_components).

        Returns:
            (n_samples, n_features).
        """
        check_is_fitted(self)
        z: Array = check_array(X, dtype=np.float64)
        if z.shape[1] != self._n_features_out:
            raise DataError(f"X has {z.shape[1]} columns: expected the {self._n_features_out} latents of each row")
        return z @ self.loadings_.T + self.mean_

    def posterior(self, X: Any) -> Posterior:
        """Exact posterior N(mean, covariance) of the latents of each row.

        Args:
            X: (n_samples, n_features), NaN where missing.

        Returns:
            Means and covariances; N(0, I) for a row with nothing observed.
        """
        means, covariances = self._posterior(X)
        return Posterior(means[:, 0], covariances[:, 0])

    def get_covariance(self) -> Array:
        """Covariance of x under the model, W W^T + Psi, (n_features, n_features)."""
        check_is_fitted(self)
        covariance: Array = self.loadings_ @ self.loadings_.T
        covariance.flat[:: len(covariance) + 1] += self.noise_variance_
        return covariance

    def get_precision(self) -> Array:
        """Inverse of :meth:`get_covariance`, by the Woodbury identity, (n_features, n_features)."""
        check_is_fitted(self)
        noise = np.broadcast_to(self.noise_variance_, self.mean_.shape)
        whitened = self.loadings_ / noise[:, None]
        inner = np.eye(self._n_features_out) + self.loadings_.T @ whitened
        precision: Array = -whitened @ np.linalg.solve(inner, whitened.T)
        precision.flat[:: len(precision) + 1] += 1 / noise
        return precision

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Array:
        """Draw rows from the fitted model.

        Args:
            n_samples: how many.
            random_state: seed or generator; the estimator's own without it.

        Returns:
            (n_samples, n_features).
        """
        check_is_fitted(self)
        self._check_count("n_samples", n_samples)
        component = np.zeros(n_samples, dtype=np.intp)
        return sample_gaussian(self._model(), component, self._random_state(random_state))

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
        self._stream: Moments | Stepwise | None = None
        self._fit_table(self._read(X))
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Take in one more batch of rows; the first call after :meth:`fit` begins anew.

        While all rows are complete, the fit is that to all rows so far. From the first missing entry on, each batch is
        one step of stepwise EM, in which later batches weigh more than earlier ones.

        Args:
            X: (n_samples, n_features), NaN where missing.
            y: ignored.

        Returns:
            The estimator.

        Raises:
            DataError: the model doesn't exist for the rows so far, or an option is wrong.
        """
        state = getattr(self, "_stream", None)
        table = self._read(X, reset=state is None)
        if isinstance(state, Stepwise):
            self._stream = self._next(state, table)
            return self
        moments = self._gather(table, scatter=table.num_features <= _WIDEST_COVARIANCE)
        if state is not None:
            moments = sum_moments([state, moments])
        self._check_moments(moments)
        if moments.scatter is not None:
            self._fit_moments(moments)
            self._stream = moments
        elif state is None:
            self._stream = self._run_em(moments, table.standardised)
        else:
            self._stream = self._next(self._stepwise(state), table)
        return self

    def _fit_table(self, table: Table) -> None:
        num_features = table.num_features
        # Moments of fewer rows than that save nothing.
        worthwhile = table.whole is None or len(table.whole) > 2 * (num_features + 1)
        moments = self._gather(table, scatter=worthwhile and num_features <= _WIDEST_COVARIANCE)
        self._check_moments(moments)
        if moments.scatter is not None:
            self._fit_moments(moments)
        else:
            self._run_em(moments, table.standardised)

    def _run_em(self, moments: Moments, make_rows: MakeRows) -> Stepwise:
        """Fit by EM, and return where that ends."""
        latent_dim = self._latent_dim(moments)
        origin, (unit, noise) = moments.means, self._units(moments)
        rows = make_rows(origin, unit, block_rows(unit.device, len(unit), 1, latent_dim))
        with self._progress(moments, unit) as report:
            result = climb_from_best(
                rows,
                self._starts(rows, latent_dim, origin, unit, noise),
                noise,
                max_steps=self.max_iter,
                tol=self.tol,
                report=report,
            )
        self._accept(result.parameters.from_units(origin, unit), unit)
        self._record(result, moments, unit)
        self._warn_of_floor(noise.binds(result.parameters.noise_variance)[0])
        averages = result.statistics.scaled(1 / float(result.statistics.num_rows))
        return Stepwise(origin, unit, noise, result.parameters, averages, moments)

    def _starts(
        self, rows: Rows, latent_dim: int, origin: Tensor, unit: Tensor, noise: NoiseModel
    ) -> Iterator[Parameters]:
        if self.warm_start and getattr(self, "loadings_", np.empty(0)).shape == (len(unit), latent_dim):
            warm = self._model().in_units(origin, unit)
            yield dataclasses.replace(warm, noise_variance=noise.clamped(warm.noise_variance))
            return
        random_state = self._random_state()
        yield principal_start(rows, latent_dim, noise, random_state)
        for _ in range(self.n_init - 1):
            yield random_start(rows, latent_dim, noise, random_state)

    def _stepwise(self, moments: Moments) -> Stepwise:
        """The statistics of the complete rows so far, under the parameters that were fitted to them."""
        origin, (unit, noise) = moments.means, self._units(moments)
        model = self._model().in_units(origin, unit)
        parameters = dataclasses.replace(model, noise_variance=noise.clamped(model.noise_variance))
        rows = self._equivalent(moments)(origin, unit, block_rows(unit.device, len(unit), 1, self._n_features_out))
        statistics = expect(rows, parameters)
        averages = statistics.scaled(1 / float(statistics.num_rows))
        return Stepwise(origin, unit, noise, parameters, averages, moments)

    def _equivalent(self, moments: Moments) -> MakeRows:
        return lambda origin, unit, size: MemoryRows(equivalent_rows(moments, origin, unit), size)

    def _next(self, state: Stepwise, table: Table) -> Stepwise:
        size = block_rows(state.unit.device, table.num_features, 1, self._n_features_out)
        moments = sum_moments([state.moments, self._gather(table, scatter=False)])
        self._check_moments(moments)
        state = state.after(table.standardised(state.origin, state.unit, size), moments, *self._units(moments))
        self._accept(state.parameters.from_units(state.origin, state.unit), state.unit)
        self.n_iter_ += 1
        return state

    def _model(self) -> Parameters:
        device = self._device()
        mean, loadings = (torch.from_numpy(value).to(device) for value in (self.mean_, self.loadings_))
        noise = torch.as_tensor(self.noise_variance_, dtype=torch.float64, device=device).expand_as(mean)
        return Parameters(mean.new_ones(1), mean[None], loadings[None], noise[None])

    @property
    def _n_features_out(self) -> int:
        return int(self.loadings_.shape[1])

    # What PPCA and factor analysis differ in.

    def _latent_dim(self, moments: Moments) -> int:
        """How many latent dimensions to fit."""
        raise NotImplementedError

    def _units(self, moments: Moments) -> tuple[Tensor, NoiseModel]:
        """What counts as 1 in each feature, and the noise that is allowed in these units."""
        raise NotImplementedError

    def _fit_moments(self, moments: Moments) -> None:
        """Fit to complete rows of which only the moments are left."""
        raise NotImplementedError

    def _accept(self, model: Parameters, unit: Tensor) -> None:
        """Set the fitted attributes from parameters in the data's units."""
        raise NotImplementedError

    def _warn_of_floor(self, binding: Tensor) -> None:
        """Warn where the noise variance is at its floor, (n_features,)."""
        raise NotImplementedError
