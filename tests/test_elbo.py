import math

import pyro
import pytest
import torch
from pyro.distributions import Normal

from pyro_lvm.elbo import row_elbo
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.models import PPCA
from pyro_lvm.pair import Pair


def test_row_elbo_of_the_exact_posterior_is_the_evidence() -> None:
    # Wrong: whatever is judged by the ELBO would be judged by something else. Here every draw gives the evidence.
    x = torch.randn(40, 4) @ torch.randn(4, 4)
    pair = Pair(PPCA(4, 2), LinearGaussian(4, 2))
    pair.start(x, torch.Generator().manual_seed(0))
    posterior = pair.model.exact_posterior(x)
    slope = torch.linalg.lstsq((x - x.mean(0)).double(), (posterior.loc - posterior.loc.mean(0)).double()).solution
    with torch.no_grad():
        pair.guide.relative_slope.copy_(slope.T * pair.guide.unit * 2)
        pair.guide.offset.copy_(posterior.loc.mean(0))
    pair.guide.scale_tril = posterior.scale_tril[0].float()
    assert torch.allclose(row_elbo(pair, x), pair.model.log_evidence(x), atol=1e-4)


def test_rows_are_independent_of_the_plate_that_a_stranger_wrote() -> None:
    # Wrong: a plate of the whole data set's size would multiply each row's ELBO by N/B.
    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", 100, subsample=x):
            z = pyro.sample("z", Normal(0.0, 1.0))
            pyro.sample("x", Normal(z[:, None], 1.0).expand([len(x), 3]).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        with pyro.plate("data", 100, subsample=x):
            pyro.sample("z", Normal(x.sum(-1) / 4, 0.5))

    x = torch.randn(7, 3)
    covariance = torch.eye(3) + 1
    exact = torch.distributions.MultivariateNormal(torch.zeros(3), covariance).log_prob(x)
    assert torch.allclose(row_elbo(Pair(model, guide), x), exact.double(), atol=1e-5)


def test_shared_latents_are_spread_over_the_rows() -> None:
    def model(x: torch.Tensor) -> None:
        mean = pyro.sample("mean", Normal(0.0, 1.0))
        with pyro.plate("data", len(x)), pyro.plate("features", 2, dim=-2):
            pyro.sample("x", Normal(mean, 1.0), obs=x.T)

    def guide(x: torch.Tensor) -> None:
        pyro.sample("mean", Normal(0.0, 1.0))

    x = torch.randn(5, 2)
    elbo = row_elbo(Pair(model, guide), x, num_particles=4000)
    expected = -0.5 * (2 * math.log(2 * math.pi) + x.square().sum(-1) + 2)
    # Standard error of a row: sd of -(x - mean)^2 / 2 summed over features, below 3, over the root of 4000.
    assert torch.allclose(elbo, expected.double(), atol=5 * 3 / math.sqrt(4000))


def test_same_seed_same_noise_and_the_callers_state_untouched() -> None:
    x = torch.randn(10, 3)
    pair = Pair(PPCA(3, 1), LinearGaussian(3, 1))
    state = torch.get_rng_state()
    first = row_elbo(pair, x, seed=4)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, row_elbo(pair, x, seed=4))
    assert not torch.equal(first, row_elbo(pair, x, seed=5))


@pytest.mark.parametrize("rows", [1, 3])
def test_few_rows(rows: int) -> None:
    assert row_elbo(Pair(PPCA(3, 1), LinearGaussian(3, 1)), torch.randn(rows, 3)).shape == (rows,)
