"""Importance weights of each row: the evidence, Pareto-k, draws made right by them."""

import math
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

from pyro_lvm import Pair, PairError, data_plate
from pyro_lvm.errors import DataError
from pyro_lvm.predictive import log_likelihood, replicate, resample, row_weights
from pyro_lvm.predictive.weights import RowWeights, smooth


def normal_pair(loc: float, scale: float) -> Pair:
    """z ~ N(0, 1), x | z ~ N(z, 1); the posterior is N(x / 2, 1 / 2), the guide N(x / 2 + loc, scale)."""

    def model(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", dist.Normal(x[:, 0] / 2 + loc, scale))

    return Pair(model, guide)


X = torch.tensor([[-1.0], [0.3], [2.0]], dtype=torch.float64)


def test_evidence_and_draws_of_a_guide_that_is_off() -> None:
    """Wrong: weights belong to other draws, or resampling leaves the guide's moments as they are."""
    pair = normal_pair(0.4, 1.0)
    weights = row_weights(pair, X, 20_000, seed=1)
    exact = stats.norm(0, math.sqrt(2)).logpdf(X[:, 0])
    np.testing.assert_allclose(weights.log_evidence, exact, atol=0.03)
    assert float(weights.pareto_k.max()) < 0.5
    # The same seed gives the same draws: those of the weights.
    drawn = torch.cat([d.latents["z"] for d in replicate(pair, X, 20_000, replication="posterior", seed=1)])
    assert float((drawn.mean(0) - X[:, 0] / 2).abs().min()) > 0.3
    right = resample(drawn, weights.choose(seed=2))
    np.testing.assert_allclose(right.mean(0), X[:, 0] / 2, atol=0.04)
    np.testing.assert_allclose(right.std(0), [math.sqrt(0.5)] * 3, atol=0.03)


def test_pareto_k_tells_a_narrow_guide() -> None:
    """Wrong: a guide that leaves out most of the posterior passes for good, or the exact one is warned of.

    Weights of N(0, s^2) draws for N(0, 1) have tail index 1 - s^2 (s below 1): with s^2 = 0.1 that is 0.9.
    """
    x = torch.linspace(-2, 2, 20, dtype=torch.float64)[:, None]
    narrow = row_weights(normal_pair(0.0, math.sqrt(0.05)), x, 4000)
    assert 0.7 < float(narrow.pareto_k.mean()) < 1.0
    assert narrow.num_unreliable > 10
    exact = row_weights(normal_pair(0.0, math.sqrt(0.5)), X, 400)
    assert exact.num_unreliable == 0
    assert bool((exact.pareto_k < 0).all())


def test_smoothing_is_the_same_by_both_lines_of_arviz() -> None:
    """Wrong: the 1.x line takes the inverse of what the 0.2x line takes."""
    array_stats = pytest.importorskip("arviz_stats.base").array_stats
    log_weights = 2 * torch.randn(400, 6, dtype=torch.float64)
    smoothed, k = smooth(log_weights)
    theirs, their_k = array_stats.psislw(-log_weights.T.numpy().copy())
    np.testing.assert_allclose(smoothed.T, theirs, atol=1e-10)
    np.testing.assert_allclose(k, their_k, atol=1e-10)


def test_weights_without_a_tail() -> None:
    """Wrong: equal weights, as of discrete latents, or a single draw that counts, pass for what they aren't."""
    alike = torch.zeros(100, 1)
    one = torch.full((100, 1), -math.inf)
    one[3] = 0.0
    two_values = torch.tensor([0.0, -1.0] * 50)[:, None]
    smoothed, k = smooth(torch.cat([alike, one, two_values], 1))
    assert k.tolist() == [-math.inf, math.inf, -math.inf]
    np.testing.assert_allclose(smoothed.exp().sum(0), [1, 1, 1])
    assert RowWeights(torch.zeros(3, 2)).pareto_k.isnan().all()


def test_log_likelihood_is_marginal_over_the_rows_own_latents() -> None:
    """Wrong: it is conditional on z, or carries the density of what all rows share."""
    point = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)

    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros(3, dtype=torch.float64), 3.0).to_event(1))
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(mean + z[..., None], 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("mean", dist.Normal(point, 1e-6).to_event(1))
        with data_plate(x):
            pyro.sample("z", dist.Normal((x - point).sum(1) / 4, 0.6))

    x = torch.randn(5, 3, dtype=torch.float64)
    found = log_likelihood(Pair(model, guide), x, 2, num_particles=4000)
    exact = stats.multivariate_normal(point, np.eye(3) + np.ones((3, 3))).logpdf(x)
    assert found.shape == (2, 5)
    np.testing.assert_allclose(found, np.stack([exact, exact]), atol=0.05)
    with pytest.raises(PairError, match="share the latents mean"):
        row_weights(Pair(model, guide), x)
    alone = log_likelihood(normal_pair(0.1, 0.8), X, num_particles=4000)
    assert alone.shape == (1, 3)


def test_places_that_do_not_fit(make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: draws of another row are taken."""
    with pytest.raises(DataError, match="places of shape"):
        resample(torch.zeros(4, 3), torch.zeros(4, 2, dtype=torch.long))
    with pytest.raises(DataError, match="num_draws=0"):
        row_weights(exact_pair(make_rows(10, 0)), torch.from_numpy(make_rows(10, 0)), 0)
