"""Draws of latents and observations: against closed forms, for every design of pair, conditioned on nothing else."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_lvm import Pair, PairError, data_plate, observe
from pyro_lvm.errors import DataError
from pyro_lvm.plate import feeding
from pyro_lvm.predictive import observed_rows, posterior_predictive, prior_predictive, replicate

# Nothing that a plate over rows holds is observed in these.
_REFUSED = ("sequential_plate", "auxiliary_deterministic_and_factor")


def test_every_design_of_pair_is_replicated(sound_pair: Any) -> None:
    """Wrong: what is called a replicate is the data, is another each time, or the caller's random numbers change."""
    pair, x = Pair(*sound_pair.make()), sound_pair.rows
    if sound_pair.name in _REFUSED:
        with pytest.raises(PairError, match="observes no site"):
            list(replicate(pair, x, 2, replication="mixed"))
        return
    # As after training: parameters that are made when they are first used would take random numbers from the draws.
    pair.materialize(x)
    site = "obs" if sound_pair.name == "pyro_vae_example" else "x"
    assert torch.equal(observed_rows(pair, x).nan_to_num(-1), x.nan_to_num(-1))
    for replication in ("posterior", "mixed", "prior"):
        before = torch.get_rng_state()
        parts = list(replicate(pair, x, 5, replication=replication, seed=3))
        assert torch.equal(before, torch.get_rng_state())
        drawn = torch.cat([part.observed[site] for part in parts])
        again = torch.cat([p.observed[site] for p in replicate(pair, x, 5, replication=replication, seed=3)])
        other = torch.cat([p.observed[site] for p in replicate(pair, x, 5, replication=replication, seed=4)])
        assert drawn.shape == (5, *x.shape)
        assert bool(drawn.double().isfinite().all())
        assert torch.equal(drawn, again)
        assert not torch.equal(drawn, other)
        assert all(not torch.equal(one.double(), x.double()) for one in drawn)
        assert all(part.log_weights is None for part in parts) == (replication != "posterior" or bool(parts[0].shared))


def test_new_rows_and_the_same_rows_again(make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: the names of the two replications are exchanged, or a latent is drawn from somewhere else."""
    rows = make_rows(300, 1)
    pair = exact_pair(rows)
    model = pair.model
    w, mean, noise = model.loadings.detach(), model.mean.detach(), float(model.noise_variance.detach())
    x = torch.from_numpy(rows[:4])
    marginal = w @ w.T + noise * torch.eye(6)
    mixed = posterior_predictive(pair, x, 20_000, replication="mixed").reshape(-1, 6)
    error = (marginal.diagonal() / len(mixed)).sqrt()
    assert ((mixed.mean(0) - mean).abs() < 5 * error).all()
    # A covariance's standard error is at most that of the product of the two deviations, times the square root of two.
    scale = marginal.diagonal().sqrt()
    assert ((torch.cov(mixed.T) - marginal).abs() < 5 * (2 / len(mixed)) ** 0.5 * scale[:, None] * scale).all()
    same = posterior_predictive(pair, x, 20_000)
    posterior = model.exact_posterior(x)
    given = w @ posterior.covariance_matrix[0] @ w.T + noise * torch.eye(6)
    for row in range(4):
        assert (
            (same[:, row].mean(0) - (w @ posterior.mean[row] + mean)).abs() < 5 * (given.diagonal() / 2e4).sqrt()
        ).all()
        spread = given.diagonal().sqrt()
        assert ((torch.cov(same[:, row].T) - given).abs() < 5 * 1e-2 * spread[:, None] * spread).all()
    prior = prior_predictive(pair, x, 50, num_rows=7)
    assert prior.shape == (50, 7, 6)


def shared_mean_pair(prior_scale: float = 10.0) -> tuple[Any, Any]:
    """All rows are the same shared number, which the guide knows to be about 3."""

    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, prior_scale))
        with data_plate(x):
            observe("x", dist.Normal(mean.expand(len(x), 2), 1e-4), x)

    def guide(x: Tensor) -> None:
        pyro.sample("mean", dist.Normal(3.0, 0.1))

    return model, guide


def test_rows_in_blocks_share_one_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong: where rows don't fit at once, every block has a shared latent of its own."""
    monkeypatch.setattr("pyro_lvm.evidence.weights._CPU_COPIES", 7)
    pair = Pair(*shared_mean_pair())
    for replication, centre, spread in (("mixed", 3.0, 0.1), ("posterior", 3.0, 0.1), ("prior", 0.0, 10.0)):
        draws = torch.cat(
            [d.observed["x"] for d in replicate(pair, torch.full((20, 2), 3.0), 80, replication=replication)]
        )
        assert draws.shape == (80, 20, 2)
        assert float((draws - draws[:, :1]).abs().max()) < 2e-3
        one = draws[:, 0, 0]
        assert abs(float(one.mean()) - centre) < 5 * spread / 80**0.5
        assert abs(float(one.std()) / spread - 1) < 0.4


def test_a_latent_that_is_summed_out_is_drawn_given_the_row() -> None:
    """Wrong: a discrete latent that the guide leaves to enumeration keeps its prior in posterior replicates."""
    locs = torch.tensor([-1.0, 0.5, 2.0])
    weights = torch.tensor([0.5, 0.3, 0.2])

    def model(x: Tensor) -> None:
        with data_plate(x):
            t = pyro.sample("t", dist.Categorical(weights), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(locs[t].unsqueeze(-1), 1.0).to_event(1), obs=x)

    x = torch.tensor([[-1.5], [0.7], [1.9]])
    draws = torch.cat(
        [d.latents["t"] for d in replicate(Pair(model, lambda x: None), x, 20_000, replication="posterior")]
    )
    exact = weights * torch.exp(-0.5 * (x - locs) ** 2)
    exact = exact / exact.sum(1, keepdim=True)
    shares = torch.nn.functional.one_hot(draws, 3).double().mean(0)
    assert ((shares - exact).abs() < 5 * (exact * (1 - exact) / 20_000).sqrt()).all()


def test_a_model_that_reads_the_rows_is_refused() -> None:
    """Wrong: what is drawn for a row was told the row, and fits it whatever the model is."""

    def model(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(x.mean(1), 1.0))
            observe("x", dist.Normal(z.unsqueeze(-1).expand(-1, 3), 1.0), x)

    def guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", dist.Normal(x.mean(1), 1.0))

    with pytest.raises(PairError, match="depend on the rows"):
        posterior_predictive(Pair(model, guide), torch.randn(10, 3))


def test_covariates_may_be_read() -> None:
    """Wrong: a model of a part of each row given the rest, as a regression, is refused."""

    def model(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(x[:, 0] + z, 0.1), obs=x[:, 1])

    def guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", dist.Normal(x[:, 1] - x[:, 0], 0.1))

    x = torch.randn(6, 2)
    drawn = posterior_predictive(Pair(model, guide), x, 2000)
    assert ((drawn.mean(0) - x[:, 1]).abs() < 5 * 0.15 / 2000**0.5).all()


def test_a_deterministic_keeps_its_value_and_a_plate_of_few_rows_is_no_row() -> None:
    """Wrong: what latents come to is drawn in another shape, or 16 features are taken for rows.

    Rows are normal with mean 1, variance 5 and the covariance 4 of their one latent.
    """

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            mean = pyro.deterministic("mean", 2 * z + 1)
            with pyro.plate("features", 16, dim=-1):
                pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    x = torch.randn(40, 16)
    parts = list(replicate(Pair(model, lambda x: None), x, 200, replication="mixed"))
    assert set(parts[0].latents) == {"z"}
    assert parts[0].shared == {}
    drawn = torch.cat([part.observed["x"] for part in parts]).reshape(-1, 16)
    assert len(drawn) == 8000
    # The standard error of the mean is about 0.023, of the variances and covariances at most 0.08.
    assert float(drawn.mean()) == pytest.approx(1, abs=0.12)
    assert torch.allclose(drawn.T.cov(), 4 + torch.eye(16), rtol=0, atol=0.4)


def test_a_forgotten_latent_is_refused() -> None:
    """Wrong: a latent that the guide forgets silently keeps its prior, and replicates are called posterior."""

    def model(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            observe("x", dist.Normal(z.unsqueeze(-1).expand(-1, 3), 1.0), x)

    with pytest.raises(PairError, match="guide doesn't draw the model's latent 'z'"):
        posterior_predictive(Pair(model, lambda x: None), torch.randn(10, 3))


def test_who_feeds_the_data_does_not_matter(make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: rows are subsampled or scaled at prediction because training had minibatches."""
    rows = make_rows(40, 2)
    pair, x = exact_pair(rows), torch.from_numpy(rows)
    alone = posterior_predictive(pair, x, 3)
    with feeding(10_000, complete=True):
        assert torch.equal(posterior_predictive(pair, x, 3), alone)
    weights = next(replicate(pair, x, 3, replication="posterior")).log_weights
    assert weights is not None
    exact = pair.model.log_evidence(x)
    # At the exact posterior every draw has the evidence as its weight.
    np.testing.assert_allclose(weights, exact.detach().expand(3, -1), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_draws": 0}, "num_draws=0"),
        ({"replication": "both"}, "replication='both'"),
        ({"site": "y"}, "site='y'"),
    ],
)
def test_bad_requests(arguments: dict[str, Any], said: str, make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: an empty answer instead of what to do."""
    rows = make_rows(20, 3)
    with pytest.raises((DataError, PairError), match=said):
        posterior_predictive(exact_pair(rows), torch.from_numpy(rows), **arguments)
    with pytest.raises(DataError, match="no rows"):
        posterior_predictive(exact_pair(rows), torch.from_numpy(rows[:0]))
