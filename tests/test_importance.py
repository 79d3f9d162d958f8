import math

import pyro
import pytest
import torch
from pyro.distributions import Bernoulli, Normal
from pyro.infer import RenyiELBO, Trace_ELBO

from pyro_lvm import data_plate, fit, observe
from pyro_lvm.errors import PairError
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.importance import ImportanceWeightedELBO
from pyro_lvm.models import PPCA
from pyro_lvm.plate import feeding

ROWS = 50


def pair() -> tuple[PPCA, LinearGaussian, torch.Tensor]:
    """A model and a guide that doesn't fit it, and rows."""
    torch.manual_seed(0)
    x = torch.randn(ROWS, 2) @ torch.randn(2, 4) + 0.3 * torch.randn(ROWS, 4)
    model, guide = PPCA(4, 2), LinearGaussian(4, 2, "diagonal")
    model.start(x, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.relative_loadings.mul_(8.0)
    guide.start(x)
    return model, guide, x


def bounds(elbo: object, model: PPCA, guide: LinearGaussian, x: torch.Tensor, times: float) -> torch.Tensor:
    """Draws of the bound, nats a row, on batches of a data set that is so many times larger."""
    with feeding(int(times * ROWS)), torch.no_grad():
        return torch.tensor([-elbo.loss(model, guide, x) / (times * ROWS) for _ in range(60)])  # type: ignore[attr-defined]


@pytest.mark.parametrize("vectorize", [False, True])
def test_never_above_the_exact_evidence_on_minibatches(vectorize: bool) -> None:
    # Wrong: a minibatch would promise more than the model can give, as Pyro's RenyiELBO does at N/B = 10.
    model, guide, x = pair()
    truth = float(model.log_evidence(x).mean().detach())
    ours, looser, pyros = (
        bounds(elbo, model, guide, x, 10)
        for elbo in (
            ImportanceWeightedELBO(20, vectorize_particles=vectorize),
            Trace_ELBO(),
            RenyiELBO(alpha=0, num_particles=20),
        )
    )
    assert float(ours.mean()) <= truth + 3 * float(ours.std()) / math.sqrt(len(ours))
    assert float(ours.mean()) > float(looser.mean())
    assert float(pyros.mean()) > truth + 5 * float(pyros.std()) / math.sqrt(len(pyros))
    # One draw is the plain ELBO.
    pyro.set_rng_seed(1)
    one = ImportanceWeightedELBO(1).loss(model, guide, x)
    pyro.set_rng_seed(1)
    assert one == pytest.approx(Trace_ELBO().loss(model, guide, x), rel=1e-5)


def test_more_draws_come_up_to_the_evidence() -> None:
    model, guide, x = pair()
    truth = float(model.log_evidence(x).mean().detach())
    gaps = [truth - float(bounds(ImportanceWeightedELBO(k), model, guide, x, 1).mean()) for k in (1, 4, 16)]
    assert gaps[0] > gaps[1] > gaps[2] > -0.05


@pytest.mark.parametrize("reparameterized", [True, False])
def test_gradients_are_those_of_the_expected_bound(reparameterized: bool) -> None:
    # Wrong: the guide would climb something else. The oracle differentiates the expectation numerically.
    x = torch.zeros(1)

    def model(x: torch.Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", Bernoulli(0.3)) if not reparameterized else pyro.sample("z", Normal(0.0, 1.0))
            observe("x", Normal(z, 1.0), x)

    def guide(x: torch.Tensor) -> None:
        phi = pyro.param("phi", lambda: torch.tensor(0.4))
        with data_plate(x):
            pyro.sample("z", Normal(phi, 1.0) if reparameterized else Bernoulli(logits=phi))

    def exact(phi: float) -> float:
        """E[log((w1 + w2) / 2)] by quadrature, or by enumeration."""
        if reparameterized:
            grid = torch.linspace(-8, 8, 801, dtype=torch.float64)
            q = torch.distributions.Normal(phi, 1.0).log_prob(grid).double()
            p = torch.distributions.Normal(0.0, 1.0).log_prob(grid) + torch.distributions.Normal(grid, 1.0).log_prob(
                torch.zeros(())
            )
            mass = q.exp() * (grid[1] - grid[0])
        else:
            prior = torch.tensor([0.7, 0.3], dtype=torch.float64)
            probability = 1 / (1 + math.exp(-phi))
            mass = torch.tensor([1 - probability, probability], dtype=torch.float64)
            q = mass.log()
            p = prior.log() + torch.distributions.Normal(torch.tensor([0.0, 1.0]), 1.0).log_prob(torch.zeros(2))
        w = p - q
        pairs = torch.logaddexp(w[:, None], w[None, :]) - math.log(2)
        return float((mass[:, None] * mass[None, :] * pairs).sum())

    slope = (exact(0.4 + 1e-4) - exact(0.4 - 1e-4)) / 2e-4
    many = torch.zeros(20_000)
    ImportanceWeightedELBO(2).loss_and_grads(model, guide, many)
    gradient = -float(pyro.get_param_store()._params["phi"].grad) / len(many)
    assert gradient == pytest.approx(slope, abs=0.02)
    assert len(x) == 1


def test_latents_that_rows_share_are_refused() -> None:
    def model(x: torch.Tensor) -> None:
        w = pyro.sample("w", Normal(0.0, 1.0))
        with data_plate(x):
            pyro.sample("x", Normal(w, 1.0), obs=x)

    def guide(x: torch.Tensor) -> None:
        pyro.sample("w", Normal(pyro.param("q", torch.zeros(())), 1.0))

    with pytest.raises(PairError, match="the site 'w' lies outside the plate over rows"):
        ImportanceWeightedELBO(3).loss(model, guide, torch.zeros(4))


def test_fit_takes_it() -> None:
    model, guide, x = pair()
    result = fit(model, guide, x, steps=50, elbo=ImportanceWeightedELBO, particles=3, start=False, progress=False)
    assert result.steps == 50
