"""The parameters of a mixture of linear-Gaussian components, the one model that all the estimators are cases of.

::

    t ~ Categorical(pi)        z | t = k ~ N(0, I)        x | z, t = k ~ N(W_k z + mu_k, Psi_k)        Psi_k diagonal

One component with isotropic Psi is probabilistic PCA, one with diagonal Psi factor analysis, several with isotropic Psi
a mixture of probabilistic PCAs.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Parameters:
    """The parameters of K components, in float64.

    Attributes:
        weights: pi, (num_components,).
        means: mu, (num_components, data_dim).
        loadings: W, (num_components, data_dim, latent_dim).
        noise_variance: the diagonals of Psi, (num_components, data_dim).
    """

    weights: Tensor
    means: Tensor
    loadings: Tensor
    noise_variance: Tensor

    def from_units(self, origin: Tensor, unit: Tensor) -> Parameters:
        """Turn the parameters of (x - origin) / unit into those of x.

        Args:
            origin: (data_dim,).
            unit: (data_dim,), positive.
        """
        return Parameters(
            self.weights,
            self.means * unit + origin,
            self.loadings * unit[:, None],
            self.noise_variance * unit.square(),
        )

    def in_units(self, origin: Tensor, unit: Tensor) -> Parameters:
        """Turn the parameters of x into those of (x - origin) / unit.

        Args:
            origin: (data_dim,).
            unit: (data_dim,), positive.
        """
        return Parameters(
            self.weights,
            (self.means - origin) / unit,
            self.loadings / unit[:, None],
            self.noise_variance / unit.square(),
        )


@dataclasses.dataclass(frozen=True)
class NoiseModel:
    """What noise variances are allowed.

    Attributes:
        isotropic: one noise variance a component, shared by its features.
        floor: the least noise variance, (data_dim,); the same for all features where it is isotropic.
    """

    isotropic: bool
    floor: Tensor

    def clamped(self, noise_variance: Tensor) -> Tensor:
        """The nearest noise variances that are allowed, (num_components, data_dim)."""
        return torch.maximum(noise_variance, self.floor)

    def binds(self, noise_variance: Tensor) -> Tensor:
        """Where noise variances, (num_components, data_dim), are at the floor, up to what EM's end is uncertain by."""
        return noise_variance <= 1.01 * self.floor


def to_vector(parameters: Parameters, noise: NoiseModel) -> Tensor:
    """Lay parameters out as one vector without constraints, for extrapolation.

    Args:
        parameters: the parameters.
        noise: isotropic noise counts once.

    Returns:
        (number of parameters,): loadings, means, logarithms of noise variances and of weights.
    """
    variances = parameters.noise_variance[:, :1] if noise.isotropic else parameters.noise_variance
    parts = parameters.loadings, parameters.means, variances.log(), parameters.weights.log()
    return torch.cat([part.flatten() for part in parts])


def from_vector(vector: Tensor, like: Parameters, noise: NoiseModel) -> Parameters:
    """Read parameters from a vector, putting them back where they are allowed.

    Args:
        vector: from :func:`to_vector`, or a combination of such.
        like: parameters of the same shapes.
        noise: the noise variances that are allowed.

    Returns:
        The parameters; weights add up to 1 and noise variances are above the floor.
    """
    num_components, data_dim, _ = like.loadings.shape
    num_variances = num_components if noise.isotropic else num_components * data_dim
    sizes = [like.loadings.numel(), like.means.numel(), num_variances, num_components]
    loadings, means, log_variances, log_weights = vector.split(sizes)
    variances = log_variances.exp().reshape(num_components, -1).expand(-1, data_dim)
    return Parameters(
        log_weights.softmax(0),
        means.reshape_as(like.means),
        loadings.reshape_as(like.loadings),
        noise.clamped(variances),
    )
