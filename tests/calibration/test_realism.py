"""How far rows are from a model's own: rows of the model, and rows that are known to be others."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_lvm import Pair, data_plate
from pyro_lvm.calibration import realism
from pyro_lvm.calibration.realism import Realism, TwoSample, tell
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


def test_rows_that_are_too_few_to_tell_are_not_called_alike() -> None:
    """Wrong: no test is significant, and so rows pass of which nothing is known.

    Oracle: intervals of two errors, of which the one leaves 0.8 out and the other doesn't.
    """
    for auc, error, outlying, carries_over in ((0.7, 0.06, 0, None), (0.7, 0.04, 0, True), (0.5, 0.04, 4, None)):
        of_summaries = TwoSample(auc, error, 0.5, 0.1, 0.3)
        row_p_values = np.where(np.arange(20) < outlying, 0.005, 0.5)
        found = Realism(np.ones(20), row_p_values, 0.5, TwoSample(0.5, 0.1, 0.5, 0.1, 1.0), of_summaries, 200)
        assert not found.told
        assert found.carries_over is carries_over
        assert ("too few rows to tell" in found.sentence) is (carries_over is None)
    found = Realism(np.ones(20), np.full(20, 0.5), 1e-6, found.rows, TwoSample(0.7, 0.06, 0.6, 0.1, 1e-6), 200)
    assert found.carries_over is None
    assert "differ from the model's own" in found.sentence


def test_a_column_that_is_hardly_ever_there_is_no_problem() -> None:
    """Wrong: a fold whose training knows nothing of a column breaks down. Oracle: the others tell as well."""
    random = np.random.default_rng(1)
    real, simulated = random.normal([2.0, 0.0], size=(100, 2)), random.normal(size=(100, 2))
    without = tell(real[:, :1], simulated[:, :1])
    for some in (real, simulated):
        some[:, 1] = math.nan
    assert tell(real, simulated) == without
    simulated[0, 1] = 0.3
    assert abs(tell(real, simulated).auc - without.auc) < 0.02


def test_means_that_are_parameters_are_summarized() -> None:
    """Wrong: a summary carries gradients and is no array. Oracle: a guide of no x tells nothing, and AUC is 1/2."""

    class Guide(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.loc, self.rate = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> None:
            with data_plate(x):
                pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
                pyro.sample("s", dist.Gamma(self.rate, 1.0))
                pyro.sample("n", dist.Poisson(self.rate))

    def model(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            scale = pyro.sample("s", dist.Gamma(1.0, 1.0)) + pyro.sample("n", dist.Poisson(1.0)) + 0.1
            pyro.sample("x", dist.Normal(z, scale[..., None]).to_event(1), obs=x)

    found = realism(Pair(model, Guide()), torch.randn(60, 2), simulations=100, progress=False)
    assert found.summaries.auc == pytest.approx(0.5)


def test_too_few_rows_are_refused(ppca: Any) -> None:
    """Wrong: a verdict from one row."""
    pair, x = ppca(30, holes=True)
    with pytest.raises(DataError, match="1 rows: expected 20 at least"):
        realism(pair, x[:1], progress=False)
    with pytest.raises(DataError, match="simulations=99: expected a whole number from 100 up"):
        realism(pair, x, simulations=99, progress=False)
