"""Oracles: joint Gaussians written out in full, with none of the package's code."""

import math

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

NAN = math.nan


def gaussian_log_density(x, mean, covariance):
    """Log-density of one row by its observed entries, in nats."""
    seen = ~np.isnan(x)
    if not seen.any():
        return 0.0
    residual, block = (x - mean)[seen], covariance[np.ix_(seen, seen)]
    sign, log_det = np.linalg.slogdet(block)
    assert sign > 0
    return -0.5 * (seen.sum() * math.log(2 * math.pi) + log_det + residual @ np.linalg.solve(block, residual))


def condition(x, mean, covariance):
    """Mean and covariance of all of a joint Gaussian's coordinates given those of x that aren't NaN."""
    seen = ~np.isnan(x)
    gain = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[seen]).T if seen.any() else covariance[:, seen]
    return mean + gain @ (x - mean)[seen], covariance - gain @ covariance[seen]


def joint_with_latents(mean, loadings, noise_variance):
    """Mean and covariance of (x, z)."""
    data_dim, latent_dim = loadings.shape
    noise = np.diag(np.broadcast_to(noise_variance, data_dim))
    covariance = np.block([[loadings @ loadings.T + noise, loadings], [loadings.T, np.eye(latent_dim)]])
    return np.concatenate([mean, np.zeros(latent_dim)]), covariance


@pytest.fixture(scope="session")
def oracle():
    class Oracle:
        log_density = staticmethod(gaussian_log_density)
        condition = staticmethod(condition)
        joint_with_latents = staticmethod(joint_with_latents)

    return Oracle


@pytest.fixture(scope="session")
def digits():
    return load_digits().data / 16


@pytest.fixture(scope="session")
def standardised_digits(digits):
    varied = digits[:, digits.std(0) > 0]
    return (varied - varied.mean(0)) / varied.std(0)


@pytest.fixture(scope="session")
def breast_cancer():
    """Standardised, and with half of the entries missing, as in the MIWAE notebook."""
    np.random.seed(1234)  # noqa: NPY002
    x = load_breast_cancer().data
    x = (x - x.mean(0)) / x.std(0)
    holes = x.flatten()
    hidden = np.random.choice(x.size, x.size // 2, replace=False)  # noqa: NPY002
    holes[hidden] = NAN
    return x, holes.reshape(x.shape)


@pytest.fixture(scope="session")
def planted():
    """Rows of a random linear-Gaussian model, with entries missing at random."""

    def draw(num_rows, data_dim, latent_dim, *, missing=0.0, noise=0.5, seed=0):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(num_rows, latent_dim)) @ rng.normal(size=(latent_dim, data_dim)) + rng.normal(
            size=data_dim
        )
        x += rng.normal(size=x.shape) * np.sqrt(noise * rng.uniform(0.5, 2.0, data_dim))
        x[rng.random(x.shape) < missing] = NAN
        return x

    return draw
