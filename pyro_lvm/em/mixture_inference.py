"""What a fitted mixture says of rows: which component, which latents, and new rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor

from pyro_lvm.em import evaluation
from pyro_lvm.em.base import Array, LinearGaussianEstimator, sample_gaussian
from pyro_lvm.em.parameters import Parameters
from pyro_lvm.errors import DataError


class MixturePosterior(NamedTuple):
    """The joint posterior of component and latents of each row.

    Attributes:
        responsibilities: q(t = k), (n_samples, n_mixtures).
        mean: E[z | x_observed, t = k], (n_samples, n_mixtures, n_components).
        covariance: Cov[z | x_observed, t = k], (n_samples, n_mixtures, n_components, n_components); shared by all rows,
            and not to be written to, where all have the same missing entries.
    """

    responsibilities: Array
    mean: Array
    covariance: Array


class MixtureInference(LinearGaussianEstimator):
    """The part of a mixture's estimator that needs its parameters only."""

    weights_: Array
    means_: Array
    loadings_: Array
    noise_variance_: Array

    def responsibilities(self, X: Any) -> Array:
        """Probability of each component given a row, q(t = k) = p(t = k | x_observed).

        Args:
            X: (n_samples, n_features), NaN where missing.

        Returns:
            (n_samples, n_mixtures).
        """
        return self._evaluate(X, evaluation.responsibilities)

    def predict(self, X: Any) -> NDArray[np.intp]:
        """The likeliest component of each row, (n_samples,).

        Args:
            X: (n_samples, n_features), NaN where missing.
        """
        component: NDArray[np.intp] = self.responsibilities(X).argmax(1)
        return component

    def posterior(self, X: Any) -> MixturePosterior:
        """Exact joint posterior of component and latents of each row.

        Args:
            X: (n_samples, n_features), NaN where missing.

        Returns:
            Responsibilities, and means and covariances given each component.
        """
        return MixturePosterior(self.responsibilities(X), *self._posterior(X))

    def transform(self, X: Any) -> Array:
        """Posterior mean of the latent variables: q(t = k) and q(t = k) E[z | x_observed, t = k] of each component.

        Args:
            X: (n_samples, n_features), NaN where missing.

        Returns:
            (n_samples, n_mixtures * (1 + n_components)), component by component.
        """
        return self._evaluate(X, _latent_means)

    def inverse_transform(self, X: Any) -> Array:
        """Sum over components of W_k (q_k z_k) + q_k mu_k: what :meth:`transform` kept of each row.

        Args:
            X: (n_samples, n_mixtures * (1 + n_components)), as :meth:`transform` gives it.

        Returns:
            (n_samples, n_features).
        """
        check_is_fitted(self)
        latent: Array = check_array(X, dtype=np.float64)
        if latent.shape[1] != self._n_features_out:
            raise DataError(
                f"X has {latent.shape[1]} columns: expected {self._n_features_out}, as transform gives them"
            )
        maps = np.concatenate([self.means_[:, None], self.loadings_.swapaxes(1, 2)], axis=1)
        rows: Array = latent @ maps.reshape(self._n_features_out, -1)
        return rows

    def get_covariance(self) -> Array:
        """Covariance of x under the model, (n_features, n_features).

        ::

            sum_k pi_k (W_k W_k^T + sigma_k^2 I + mu_k mu_k^T) - mu mu^T        mu = sum_k pi_k mu_k
        """
        check_is_fitted(self)
        centred = self.means_ - self.weights_ @ self.means_
        spread = np.concatenate([self.loadings_, centred[:, :, None]], axis=2)
        covariance: Array = np.einsum("k,kid,kjd->ij", self.weights_, spread, spread, optimize=True)
        covariance.flat[:: len(covariance) + 1] += self.weights_ @ self.noise_variance_
        return covariance

    def get_precision(self) -> Array:
        """Inverse of :meth:`get_covariance`, (n_features, n_features)."""
        precision: Array = np.linalg.inv(self.get_covariance()).astype(np.float64)
        return precision

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[Array, NDArray[np.intp]]:
        """Draw rows from the fitted model.

        Args:
            n_samples: how many.
            random_state: seed or generator; the estimator's own without it.

        Returns:
            The rows, (n_samples, n_features), and the component that each came from, (n_samples,).
        """
        check_is_fitted(self)
        self._check_count("n_samples", n_samples)
        rng = self._random_state(random_state)
        component = rng.choice(len(self.weights_), size=n_samples, p=self.weights_)
        return sample_gaussian(self._model(), component, rng), component

    def _model(self) -> Parameters:
        device = self._device()
        weights, means, loadings, noise = (
            torch.from_numpy(np.asarray(value, dtype=np.float64)).to(device)
            for value in (self.weights_, self.means_, self.loadings_, self.noise_variance_)
        )
        return Parameters(weights, means, loadings, noise[:, None].expand_as(means))

    @property
    def _latent_dim_fitted(self) -> int:
        return int(self.loadings_.shape[2])

    @property
    def _n_features_out(self) -> int:
        return len(self.weights_) * (1 + self._latent_dim_fitted)

    def _num_parameters(self) -> int:
        num_components, num_features, dim = self.loadings_.shape
        return int(num_components * (num_features * (dim + 1) - dim * (dim - 1) // 2 + 2) - 1)


def _latent_means(x: Tensor, model: Parameters) -> Tensor:
    shares = evaluation.responsibilities(x, model).unsqueeze(-1)
    return torch.cat([shares, shares * evaluation.posterior_means(x, model)], dim=-1).flatten(1)
