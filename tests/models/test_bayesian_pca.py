"""Bayesian PCA: which columns are kept, what its ELBO is, and what is said of held-out rows."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import Tensor
from torch.distributions import Gamma, Normal, kl_divergence

from pyro_lvm import fit, grade
from pyro_lvm.elbo import row_elbo
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.guides import SharedLoadings
from pyro_lvm.models import PPCA, BayesianPCA
from pyro_lvm.pair import Pair


def planted(missing: float = 0.0, num_rows: int = 400) -> Tensor:
    """Three directions in ten dimensions, in units of 50 about 1000."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(3, 10, generator=generator)
    x = torch.randn(num_rows, 3, generator=generator) @ w
    x = x + 0.6 * torch.randn(num_rows, 10, generator=generator)
    return (50 * x + 1000).masked_fill(torch.rand(num_rows, 10, generator=generator) < missing, math.nan)


@pytest.fixture(scope="module")
def trained() -> Pair:
    return fit(BayesianPCA(10, 8), SharedLoadings(10, 8), planted(), steps=400, progress=False).pair


def test_columns_that_explain_nothing_are_switched_off(trained: Pair) -> None:
    # Wrong: the prior would not be felt, as where a shared latent is counted once a batch.
    assert int(trained.guide.kept.sum()) == 3
    precisions = trained.guide.shared_means()["alpha"].detach().sort().values
    assert float(precisions[3] / precisions[2]) > 20
    # What is off does not move with x: the latents' posterior means stay at the prior's.
    spread = trained.guide.encode(planted()).mean.detach().var(0).sort(descending=True).values
    assert float(spread[2]) > 0.5
    assert float(spread[3]) < 0.02


def test_holes_leave_the_same_columns() -> None:
    pair = fit(BayesianPCA(10, 6), SharedLoadings(10, 6), planted(0.2), steps=200, progress=False).pair
    assert int(pair.guide.kept.sum()) == 3


def test_elbo_is_expected_evidence_given_loadings_less_what_they_cost(trained: Pair) -> None:
    # Wrong: N rows would not share one cost. With z exact given W, ELBO = E[log p(x | W)] - KL(q(W, alpha) || p) / N.
    x, model, guide = planted(), trained.model, trained.guide
    torch.manual_seed(0)
    with torch.no_grad():
        q_w, q_alpha = Normal(guide.loc, guide.scale), guide.precisions
        prior = Gamma(torch.tensor(model.shape), torch.tensor(model.rate))
        values = []
        for _ in range(200):
            w, alpha = q_w.sample(), q_alpha.sample()
            cost = (
                kl_divergence(q_w, Normal(torch.zeros(()), alpha.rsqrt())).sum() + kl_divergence(q_alpha, prior).sum()
            )
            values.append(float(model.plug_in_evidence(x, {"W": w}).mean()) - float(cost) / len(x))
        expected = torch.tensor(values)
        elbos = torch.stack([row_elbo(trained, x, seed=s).mean() for s in range(60)])
    error = math.hypot(float(expected.std()) / 200**0.5, float(elbos.std()) / 60**0.5)
    # z is as good as exact: what it lacks is in the tolerance.
    assert float(elbos.mean()) == pytest.approx(float(expected.mean()), abs=4 * error + 5e-3)


def test_the_precisions_posterior_is_the_best_beside_that_of_the_loadings(trained: Pair) -> None:
    # Wrong: a column that is being switched off would be held back. The best is p(alpha) exp E[log p(W | alpha)].
    model, guide = BayesianPCA(10, 8, shape=2.0, rate=3.0), SharedLoadings(10, 8)
    Pair(model, guide).start(planted())
    with torch.no_grad():
        guide.relative_loc.copy_(trained.guide.relative_loc)
        means, scales = guide.loc.double(), guide.scale.double()
        alpha = torch.logspace(-6, 7, 20_001, dtype=torch.float64)
        for k in range(8):
            expected = Normal(0.0, alpha.rsqrt()[:, None]).log_prob(means[:, k]).sum(1)
            expected = expected - 0.5 * alpha * scales[:, k].square().sum()
            log_density = Gamma(2.0, 3.0).log_prob(alpha) + expected
            mass = (log_density + alpha.log()).softmax(0)
            assert float(guide.precisions.mean[k]) == pytest.approx(float(mass @ alpha), rel=1e-3)
            assert float(guide.precisions.variance[k]) == pytest.approx(
                float(mass @ alpha.square() - (mass @ alpha) ** 2), rel=1e-3
            )


def test_noise_that_is_a_thousandth_of_the_signal_is_found() -> None:
    # Wrong: it would start far above, from where every loading has to follow it down.
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(400, 3, generator=generator) @ torch.randn(3, 10, generator=generator)
    x = signal + 1e-3 * torch.randn(400, 10, generator=generator)
    pair = fit(BayesianPCA(10, 6), SharedLoadings(10, 6), x, steps=400, progress=False).pair
    assert int(pair.guide.kept.sum()) == 3
    assert float(pair.model.noise_scale.detach()) == pytest.approx(1e-3, rel=0.1)


def test_held_out_rows_are_graded_by_a_plug_in_evidence_that_says_so(trained: Pair) -> None:
    x = planted(num_rows=700)[400:]
    graded = grade(trained, x, train_rows=planted())
    assert graded.log_evidence is None
    assert graded.gap is None
    # As good as a model that was told the number of directions.
    best = float(PPCA(10, 3).maximum_likelihood(planted()).log_evidence(x).detach().mean())
    assert graded.plug_in_evidence == pytest.approx(best, abs=0.1)
    # Held-out rows carry 1/N of the shared latents' cost, N the rows that were trained on.
    one = grade(trained, x[:1], train_rows=planted())
    assert one.elbo > graded.elbo - 30


def test_the_predictive_evidence_averages_over_the_loadings(trained: Pair) -> None:
    # Wrong: what is uncertain about the loadings would be left out, or averaged in nats.
    x, guide, model = planted(num_rows=500)[400:], trained.guide, trained.model
    graded = grade(trained, x, train_rows=planted())
    rng = np.random.default_rng(0)
    loc, scale, mean = (value.detach().double().numpy() for value in (guide.loc, guide.scale, model.mean))
    noise, unit = float(model.noise_variance.detach()), float(model.unit)
    densities = []
    for _ in range(4000):
        w = unit * rng.normal(loc, scale)
        densities.append(multivariate_normal(mean, w @ w.T + noise * np.eye(len(w))).logpdf(x.double().numpy()))
    expected = float((logsumexp(densities, axis=0) - math.log(4000)).mean())
    assert graded.predictive_evidence == pytest.approx(expected, abs=5e-3)
    assert abs(expected - graded.plug_in_evidence) > 1e-2  # type: ignore[operator]


def test_what_averaging_gains_does_not_depend_on_how_many_rows_are_graded(trained: Pair) -> None:
    # Wrong: a large table would be worth less a row than a small one.
    x = planted(num_rows=500)[400:]
    few, many = (grade(trained, rows, train_rows=planted()) for rows in (x, x.repeat(70, 1)))
    gained = [graded.predictive_evidence - graded.plug_in_evidence for graded in (few, many)]  # type: ignore[operator]
    assert abs(gained[0]) > 1e-2
    assert gained[1] == pytest.approx(gained[0], abs=0.1 * abs(gained[0]))


def test_the_same_model_whatever_the_unit() -> None:
    # Wrong: the prior on the loadings would mean another thing in metres than in millimetres.
    x = planted()
    here, there = BayesianPCA(10, 4), BayesianPCA(10, 4)
    guides = SharedLoadings(10, 4), SharedLoadings(10, 4)
    for model, guide, rows in ((here, guides[0], x), (there, guides[1], 1e-3 * x + 5)):
        Pair(model, guide).start(rows, torch.Generator().manual_seed(0))
    assert torch.allclose(guides[0].loc.abs(), guides[1].loc.abs(), atol=1e-3)
    assert float(there.noise_scale / here.noise_scale) == pytest.approx(1e-3, rel=1e-3)


def test_what_is_no_bayesian_pca_is_refused_in_one_line() -> None:
    with pytest.raises(PairError, match="latent_dim=10 with 10 features: Bayesian PCA needs 1 <= latent_dim < 10"):
        BayesianPCA(10, 10)
    with pytest.raises(PairError, match="rate=0: expected a positive number"):
        BayesianPCA(10, 2, rate=0)
    with pytest.raises(PairError, match="latent_dim=0: expected a whole number from 1 up"):
        SharedLoadings(10, 0)
    with pytest.raises(PairError, match="PPCA has no shape, rate: expected a model with a gamma prior on alpha"):
        SharedLoadings(5, 1).start(torch.randn(9, 5), PPCA(5, 1))
    with pytest.raises(DataError, match="feature 0 of the data has no observed entry"):
        BayesianPCA(3, 1).start(torch.full((4, 3), math.nan))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_five_of_twenty_columns_are_kept(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(30, 5, generator=generator)
    x = torch.randn(500, 5, generator=generator) @ w.T + 0.7 * torch.randn(500, 30, generator=generator) + 3
    pair = fit(BayesianPCA(30, 20), SharedLoadings(30, 20), x, seed=seed, progress=False).pair
    assert int(pair.guide.kept.sum()) == 5
