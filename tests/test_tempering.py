"""The tempered ELBO: Pyro's own at weight one, its parts at others, warm-up in every mode of a step, free bits."""

import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Bernoulli, Normal
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_lvm import data_plate, fit
from pyro_lvm.compiled import SVI
from pyro_lvm.errors import PairError, TrainingError
from pyro_lvm.guides import GaussianEncoder, LinearGaussian
from pyro_lvm.models import PPCA, VAE
from pyro_lvm.pair import Pair
from pyro_lvm.plate import feeding
from pyro_lvm.svi import FusedOptim
from pyro_lvm.tempering import TemperedELBO

N = 400


def rows() -> Tensor:
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(0))


def started(covariance: str = "diagonal") -> Pair:
    pair = Pair(VAE(6, 3, hidden=[5]), GaussianEncoder(6, 3, hidden=[5], covariance=covariance))  # type: ignore[arg-type]
    pair.start(rows(), torch.Generator().manual_seed(0))
    return pair


def loss(elbo: object, pair: Pair, seed: int = 1) -> Tensor:
    pyro.set_rng_seed(seed)
    with feeding(N):
        value: Tensor = elbo.differentiable_loss(pair.run_model, pair.run_guide, rows())  # type: ignore[attr-defined]
    return value


def parts(pair: Pair) -> tuple[Tensor, Tensor]:
    """Reconstruction and KL of each row and coordinate at the draw of seed 1, from the distributions themselves."""
    pyro.set_rng_seed(1)
    with feeding(N):
        z = poutine.trace(pair.run_guide).get_trace(rows()).nodes["z"]["value"]
    reconstruction = pair.model.decode(z).log_prob(rows()).sum(1)
    return reconstruction, kl_divergence(pair.guide.encode(rows()).base_dist, Normal(torch.zeros(3), 1.0))


def test_at_weight_one_it_is_pyros_elbo_with_an_analytic_kl() -> None:
    pair = started()
    for particles in (1, 3):
        ours = TemperedELBO(num_particles=particles)
        theirs = TraceMeanField_ELBO(num_particles=particles)
        torch.testing.assert_close(loss(ours, pair), loss(theirs, pair))
        assert ours.loss(pair.run_model, pair.run_guide, rows()) == pytest.approx(
            theirs.loss(pair.run_model, pair.run_guide, rows()), abs=20
        )


def test_beta_weights_the_kl_and_nothing_else() -> None:
    pair = started()
    reconstruction, kl = parts(pair)
    for beta in (0.0, 0.5, 4.0):
        expected = -(N / 40) * (reconstruction.sum() - beta * kl.sum())
        torch.testing.assert_close(loss(TemperedELBO(beta), pair), expected)


def test_free_bits_are_a_mean_rows_and_coordinate_by_coordinate() -> None:
    # Wrong: they would be those of a batch, and mean something else for every batch size.
    pair = started()
    reconstruction, kl = parts(pair)
    means = kl.mean(0)
    between = float(means.detach().sort().values[1]) * 1.01
    expected = -(N / 40) * (reconstruction.sum() - 40 * means.clamp(min=between).sum())
    torch.testing.assert_close(loss(TemperedELBO(free_bits=between), pair), expected)
    # Vectorized particles draw other noise: only what is free of it can be compared.
    one, many = (
        loss(TemperedELBO(free_bits=100.0, num_particles=p, vectorize_particles=p > 1, max_plate_nesting=1), pair)
        for p in (1, 500)
    )
    assert float(many.detach()) == pytest.approx(float(one.detach()), abs=0.05 * abs(float(one.detach()) - 3 * 100 * N))
    # What is free pushes nothing.
    free = TemperedELBO(free_bits=1e3)
    gradient = torch.autograd.grad(loss(free, pair), list(pair.guide.parameters()), retain_graph=True)
    plain = torch.autograd.grad(loss(TemperedELBO(beta=0.0), pair), list(pair.guide.parameters()))
    for a, b in zip(gradient, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_a_full_covariance_is_estimated_from_its_draws() -> None:
    pair = started("full")
    pyro.set_rng_seed(1)
    with feeding(N):
        guide = poutine.trace(pair.run_guide).get_trace(rows())
        model = poutine.trace(poutine.replay(pair.run_model, guide)).get_trace(rows())
    expected = 2 * (guide.log_prob_sum() - model.nodes["z"]["fn"].log_prob(guide.nodes["z"]["value"]).sum() * N / 40)
    model.compute_log_prob()
    torch.testing.assert_close(loss(TemperedELBO(2.0), pair), expected - model.nodes["x"]["log_prob_sum"])


def test_warm_up_reaches_a_traced_step() -> None:
    # Wrong: a weight that was baked into the trace would stay where it was.
    trained = {}
    for compile in (False, "auto"):
        pair, elbo = started(), TemperedELBO(2.0, warmup_steps=30)
        svi = SVI(pair.run_model, pair.run_guide, FusedOptim(torch.optim.Adam, {"lr": 1e-3}), elbo, compile=compile)
        pyro.set_rng_seed(0)
        for step in range(8):
            elbo.set_step(step, torch.device("cpu"))
            svi.step(rows())
        assert svi.explain().mode == ("eager" if compile is False else "traced")
        trained[compile] = torch.cat([p.detach().flatten() for p in pair.guide.parameters()])
    torch.testing.assert_close(trained["auto"], trained[False], rtol=1e-4, atol=1e-5)


def test_fit_counts_the_steps_of_the_warm_up() -> None:
    weights = []
    elbo = TemperedELBO(2.0, warmup_steps=60)
    fit(
        VAE(6, 2),
        GaussianEncoder(6, 2),
        rows(),
        steps=100,
        elbo=elbo,
        progress=False,
        callbacks=[lambda state: weights.append(float(elbo.kl_weight))],
    )
    assert weights == pytest.approx([2 * min(1.0, step / 60) for step in range(1, 101)])


def test_a_warm_up_that_outlasts_training_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="warm-up of 30 steps outlasts training, 5 steps"):
        fit(VAE(6, 2), GaussianEncoder(6, 2), rows(), steps=5, elbo=TemperedELBO(warmup_steps=30), progress=False)


def test_early_stopping_waits_for_the_warm_up() -> None:
    result = fit(
        VAE(6, 2),
        GaussianEncoder(6, 2),
        rows(),
        steps=60,
        lr=1e-9,
        validation=0.2,
        patience=1,
        elbo=TemperedELBO(warmup_steps=40),
        progress=False,
    )
    assert result.stopped == "early stopping"
    assert 40 <= result.steps < 60


def test_what_cannot_be_tempered_is_refused_in_one_line() -> None:
    with pytest.raises(TrainingError, match="beta=-1"):
        TemperedELBO(-1)
    with pytest.raises(TrainingError, match=f"free_bits={math.inf}"):
        TemperedELBO(free_bits=math.inf)
    with pytest.raises(TrainingError, match="a tempered ELBO needs a budget"):
        fit(PPCA(6, 2), LinearGaussian(6, 2), rows(), elbo=TemperedELBO(2.0), progress=False)

    def model(x: Tensor) -> None:
        with data_plate(x):
            t = pyro.sample("t", Bernoulli(0.5))
            pyro.sample("x", Normal(t[:, None], 1.0).expand([len(x), 6]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("t", Bernoulli(logits=x[:, 0] * pyro.param("w", torch.ones(()))))

    with pytest.raises(PairError, match="'t' is drawn from Bernoulli, which has no reparameterized draws"):
        TemperedELBO(2.0).loss(model, guide, rows())
