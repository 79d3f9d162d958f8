import math

import pyro
import pytest
import torch
from pyro.distributions import Categorical, Normal
from pyro.infer import TraceEnum_ELBO
from pyro.nn import PyroModule

from pyro_lvm import check_pair, fit
from pyro_lvm.elbo import row_elbo
from pyro_lvm.errors import PairError
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.models import PPCA
from pyro_lvm.pair import Pair
from pyro_lvm.plate import data_plate
from pyro_lvm.seeding import seeded


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


def mixture(x: torch.Tensor) -> None:
    with data_plate(x):
        t = pyro.sample("t", Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
        z = pyro.sample("z", Normal(0.0, 1.0))
        pyro.sample("x", Normal(torch.tensor([-2.0, 1.0])[t] + z, torch.tensor([0.5, 1.0])[t]), obs=x)


def given_x(x: torch.Tensor) -> None:
    with data_plate(x):
        pyro.sample("z", Normal(0.3 * x, 0.8))


def test_what_is_left_to_enumeration_is_summed_out() -> None:
    # Wrong: a pair trained by enumeration could not be judged. Where z is drawn, log sum_t p(x, z, t) is known.
    x = torch.linspace(-3, 3, 7)
    by_row = row_elbo(Pair(mixture, given_x), x, seed=3)
    with seeded(3):
        z = 0.3 * x + 0.8 * torch.randn(7)
    each = [math.log(share) + Normal(m + z, s).log_prob(x) for share, m, s in ((0.3, -2.0, 0.5), (0.7, 1.0, 1.0))]
    expected = torch.logsumexp(torch.stack(each), 0) + Normal(0.0, 1.0).log_prob(z) - Normal(0.3 * x, 0.8).log_prob(z)
    assert torch.allclose(by_row, expected.double(), atol=1e-5)
    assert by_row.mean() == pytest.approx(-TraceEnum_ELBO(max_plate_nesting=1).loss(mixture, given_x, x) / 7, abs=3)


def test_a_pair_says_which_elbo_it_needs() -> None:
    # Wrong: a person would have to repeat it at every call, and on the command line could not.
    def guide(x: torch.Tensor) -> None:
        given_x(x)

    x = torch.linspace(-3, 3, 40)
    assert Pair(mixture, guide).elbo is None
    with pytest.raises(PairError, match="enumeration-without-traceenum"):
        fit(mixture, guide, x, steps=2, progress=False)
    guide.elbo = TraceEnum_ELBO  # type: ignore[attr-defined]
    assert Pair(mixture, guide).elbo is TraceEnum_ELBO
    assert check_pair(mixture, guide, x).ok
    assert fit(Affine(), guide, x, steps=2, progress=False).stopped == "budget"


class Affine(PyroModule):
    def __init__(self) -> None:
        super().__init__(name="affine")
        self.loc = torch.nn.Parameter(torch.tensor([-1.0, 1.0]))

    def forward(self, x: torch.Tensor) -> None:
        with data_plate(x):
            t = pyro.sample("t", Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
            z = pyro.sample("z", Normal(0.0, 1.0))
            pyro.sample("x", Normal(self.loc[t] + z, 1.0), obs=x)


def test_a_latent_to_be_summed_out_that_all_rows_share_is_refused() -> None:
    def model(x: torch.Tensor) -> None:
        t = pyro.sample("t", Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
        with data_plate(x):
            pyro.sample("x", Normal(torch.tensor([-2.0, 1.0])[t], 1.0), obs=x)

    def guide(x: torch.Tensor) -> None:
        pass

    with pytest.raises(PairError, match="'t' is to be summed out and 't' is outside the plate over rows"):
        row_elbo(Pair(model, guide), torch.randn(5))


def test_rows_that_stand_for_more_carry_less_of_what_all_share() -> None:
    # Wrong: on a few held-out rows the shared latents' cost would count as if these rows were all there are.
    def model(x: torch.Tensor) -> None:
        pyro.sample("mean", Normal(0.0, 1.0))
        with data_plate(x):
            pyro.sample("x", Normal(0.0, 1.0), obs=x)

    def guide(x: torch.Tensor) -> None:
        pyro.sample("mean", Normal(3.0, 1.0))

    x = torch.zeros(4)
    alone, of_many = (
        float(row_elbo(Pair(model, guide), x, num_particles=2000, num_rows=n).mean()) for n in (None, 400)
    )
    local = -0.5 * math.log(2 * math.pi)
    # KL(N(3, 1) || N(0, 1)) = 4.5; the standard error of its estimate is 3 over the root of 2000.
    assert alone == pytest.approx(local - 4.5 / 4, abs=5 * 3 / 4 / math.sqrt(2000))
    assert of_many == pytest.approx(local - 4.5 / 400, abs=5 * 3 / 400 / math.sqrt(2000) + 1e-6)
