"""How far rows are from a model's own: rows of the model, and rows that are known to be others."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_lvm import Pair, data_plate
from pyro_lvm.calibration import realism
from pyro_lvm.calibration.realism import tell
from pyro_lvm.errors import DataError
from pyro_lvm.evidence import simulate
from pyro_lvm.guides import MixtureOfExperts
from pyro_lvm.models import MixturePPCA


def test_rows_of_the_model_are_its_own_also_with_holes(ppca: Any) -> None:
    """Wrong: what was drawn for the comparison differs from the model, or holes give rows away."""
    pair, x = ppca(300, holes=True)
    found = realism(pair, x, simulations=300, progress=False)
    assert not found.told
    assert found.carries_over is True
    x[::2, :3] = math.nan
    x[1::5, 5] = math.nan
    found = realism(pair, x, simulations=300, progress=False)
    assert found.carries_over is True
    assert abs(found.rows.auc - 0.5) < 5 * found.rows.auc_error
    assert found.distances.shape == found.row_p_values.shape == (300,)


def test_other_rows_are_told(ppca: Any) -> None:
    """Wrong: anything passes. Rows that vary twice as much are unlike the model's."""
    pair, x = ppca(300, holes=True)
    found = realism(pair, 2 * x, simulations=300, progress=False)
    assert found.told
    assert found.carries_over is False
    assert found.outlying > 0.1
    assert found.to_json()["carries_over"] is False
    assert "unlike the model's own" in found.sentence


def test_distances_are_mahalanobis(ppca: Any) -> None:
    """Wrong: another metric. Oracle: the exact law of PPCA's posterior means, N(0, I - posterior covariance)."""
    pair, x = ppca(300, holes=True)
    with torch.no_grad():
        exact = pair.model.exact_posterior(x)
    means, covariance = exact.mean.double().numpy(), np.eye(2) - exact.covariance_matrix[0].double().numpy()
    expected = np.sqrt(np.einsum("ni,ij,nj->n", means, np.linalg.inv(covariance), means))
    found = realism(pair, x, simulations=2000, progress=False)
    np.testing.assert_allclose(found.distances, expected, rtol=0.1, atol=0.1)
    # Chi-squared with two degrees of freedom.
    np.testing.assert_allclose(found.row_p_values, np.exp(-(expected**2) / 2), atol=0.05)


def test_a_discrete_latent_is_summarized_by_its_probabilities() -> None:
    """Wrong: labels are averaged as if they were numbers, or a pair without a mean breaks down."""
    torch.manual_seed(3)
    model, guide = MixturePPCA(4, 1, 3), MixtureOfExperts(4, 1, 3)
    guide.match(model)
    pair = Pair(model, guide)
    x = simulate(pair, torch.zeros(200, 4), seed=9)[0]
    assert realism(pair, x, simulations=200, progress=False).carries_over is True
    assert realism(pair, x[:1].repeat(200, 1), simulations=200, progress=False).told


def test_counts_of_whole_numbers_are_taken() -> None:
    """Wrong: rows that are no floating-point numbers break down."""

    def model(x: Tensor) -> None:
        with data_plate(x):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Poisson(rate[..., None]).expand([len(x), 3]).to_event(1), obs=x.float())

    def guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("rate", dist.Gamma(2.0 + x.float().sum(-1), 4.0))

    x = torch.poisson(torch.distributions.Gamma(2.0, 1.0).sample((200, 1)).expand(200, 3)).long()
    assert realism(Pair(model, guide), x, simulations=200, progress=False).carries_over is True


def test_the_classifiers_p_value_is_valid() -> None:
    """Wrong: folds that share their training are taken for independent, and false alarms abound."""
    random = np.random.default_rng(0)
    p_values = np.array(
        [tell(random.normal(size=(40, 2)), random.normal(size=(40, 2)), seed=i).p_value for i in range(24)]
    )
    assert (p_values <= 0.05).sum() <= 4
    shifted = tell(random.normal(size=(200, 1)) + 1.0, random.normal(size=(300, 1)))
    # Of two normals a standard deviation apart.
    best = 0.5 * (1 + math.erf(0.5))
    assert best - 0.1 < shifted.auc < best + 4 * shifted.auc_error
    assert shifted.p_value < 1e-3


def test_too_few_rows_are_refused(ppca: Any) -> None:
    """Wrong: a verdict from one row."""
    pair, x = ppca(30, holes=True)
    with pytest.raises(DataError, match="1 rows: expected 20 at least"):
        realism(pair, x[:1], progress=False)
    with pytest.raises(DataError, match="simulations=3: expected a whole number from 20 up"):
        realism(pair, x, simulations=3, progress=False)
