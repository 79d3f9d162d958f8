"""Factor analysis as a pair: its exact answers, its floors, and training to EM's maximum."""

import math
import warnings

import numpy as np
import pytest
import torch
from pyro import poutine
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from pyro_lvm import data, em, fit, grade
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.guides import LinearGaussian, ProductOfExperts
from pyro_lvm.models import FactorAnalysis

SCALES = torch.tensor([1, 20, 0.1, 1, 3, 1, 5.0])


def rows(missing: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(400, 2, generator=generator)
    noise = torch.tensor([0.3, 0.5, 0.7, 0.9, 0.4, 0.6, 0.8])
    x = z @ torch.randn(2, 7, generator=generator) + noise * torch.randn(400, 7, generator=generator)
    holes = torch.rand(400, 7, generator=generator) < missing
    return (x * SCALES + 5).masked_fill(holes, math.nan)


def started(x: Tensor, **options: float) -> FactorAnalysis:
    model = FactorAnalysis(x.shape[1], 2, **options)
    model.start(x, torch.Generator().manual_seed(0))
    return model


def test_evidence_is_that_of_the_marginal_gaussian_of_what_is_observed() -> None:
    # Wrong: the pair would be graded against the truth of another model.
    x, model = rows(0.3), started(rows(0.3))
    w, mu, psi = (t.detach().double().numpy() for t in (model.loadings, model.mean, model.noise_variance))
    covariance = w @ w.T + np.diag(psi)
    evidence = model.log_evidence(x).detach()
    for n in range(30):
        seen = ~torch.isnan(x[n]).numpy()
        expected = (
            multivariate_normal(mu[seen], covariance[np.ix_(seen, seen)]).logpdf(x[n].double().numpy()[seen])
            if seen.any()
            else 0.0
        )
        assert float(evidence[n]) == pytest.approx(expected, abs=1e-9)


def test_the_pyro_density_is_evidence_times_posterior() -> None:
    # Wrong: what Pyro trains would not be what is graded.
    x, model, z = rows(), started(rows()), torch.randn(400, 2)
    trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x)
    joint = sum(trace.nodes[name]["fn"].log_prob(trace.nodes[name]["value"]) for name in ("z", "x"))
    exact = model.log_evidence(x) + model.exact_posterior(x).log_prob(z.double())
    assert torch.allclose(joint.double(), exact, atol=1e-3)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_training_reaches_the_maximum_that_em_finds(missing: float) -> None:
    # Wrong: noise of each feature's own scale would not train by one learning rate.
    x = rows(missing)
    barely = em.FactorAnalysis(2, noise_floor=1e-3, n_init=1, max_iter=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = FactorAnalysis.from_estimator(barely.fit(x.double().numpy()))
    graded = grade(fit(model, ProductOfExperts(7, 2), x, steps=400, progress=False).pair, x)
    expected = em.FactorAnalysis(2, noise_floor=1e-3, random_state=1).fit(x.double().numpy()).score(x.double().numpy())
    assert graded.log_evidence_ml == pytest.approx(expected, abs=1e-6)
    # It starts 0.035 and 0.044 nats below.
    assert -1e-6 < graded.gap < 8e-3  # type: ignore[operator]
    assert graded.kl_to_exact < 3e-3  # type: ignore[operator]
    assert graded.elbo_agrees


def test_the_start_leads_to_the_best_of_several_maxima() -> None:
    # Wrong: which maximum training ends at would be the seed's luck: of single starts some end 0.04 nats lower.
    x = data.load("digits").rows
    x = x[:, x.std(0) > 0]
    x = (x - x.mean(0)) / x.std(0, correction=0)
    single = [em.FactorAnalysis(8, n_init=1, random_state=s).fit(x.double().numpy()) for s in range(4)]
    found = []
    for seed in range(3):
        model = FactorAnalysis(61, 8)
        model.start(x, torch.Generator().manual_seed(seed))
        found.append(float(model.log_evidence(x).detach().mean()))
    scores = [fitted.score(x.double().numpy()) for fitted in single]
    assert max(scores) - min(scores) > 0.03
    assert min(found) > max(scores) - 1e-2


def test_a_rare_category_does_not_hold_the_start() -> None:
    # Wrong: a sample of the rows would see a constant there, and put its noise on the floor, from where nothing moves.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12_000, 2, generator=generator) @ torch.randn(2, 5, generator=generator)
    x = torch.cat([x + torch.randn(x.shape, generator=generator), torch.zeros(len(x), 1)], 1)
    x[[5, 700], 5] = 1.0
    model = started(x)
    best = em.FactorAnalysis(2, noise_floor=1e-3, random_state=0).fit(x.double().numpy()).score(x.double().numpy())
    assert float(model.log_evidence(x).detach().mean()) > best - 0.1
    assert float(model.relative_noise_scale.detach().min()) > 2 * math.sqrt(model.noise_floor)


def test_a_feature_that_is_hardly_ever_observed_does_not_stop_the_start() -> None:
    # Wrong: where a choice of rows has none of it, it would have no mean, and the start no Cholesky factor.
    x = torch.randn(12_000, 4, generator=torch.Generator().manual_seed(0))
    x[1:, 3] = math.nan
    x[2:9000] = math.nan
    assert bool(started(x).log_evidence(x[:2]).isfinite().all())


def test_start_follows_each_features_unit() -> None:
    x = rows()
    plain, scaled = started(x), started(x * SCALES.flip(0) + 1e3)
    # Up to a rotation.
    shared, unit = (model.loadings @ model.loadings.T for model in (scaled, plain)), SCALES.flip(0)
    assert torch.allclose(next(shared) / torch.outer(unit, unit), next(shared), rtol=1e-2, atol=1e-2)
    assert torch.allclose(scaled.noise_scale, plain.noise_scale * SCALES.flip(0), rtol=1e-3)


def test_floor_keeps_a_feature_without_noise_finite() -> None:
    # Wrong: the likelihood has no maximum where a factor takes over a feature, and training would run off.
    x = rows()
    x[:, 3] = x[:, 0]
    x[:, 6] = 2.0
    pair = fit(FactorAnalysis(7, 2, noise_floor=1e-2), LinearGaussian(7, 2), x, steps=200, progress=False).pair
    with torch.no_grad():
        least = (pair.model.noise_variance / pair.model.unit.square()).min()
        assert torch.isfinite(pair.model.log_evidence(x)).all()
    assert float(least) >= 1e-2 * (1 - 1e-5)


@pytest.mark.parametrize("holes", [False, True])
def test_to_an_estimator_and_back(holes: bool) -> None:
    # Wrong: a run's imputation would come from another model than the one that was graded.
    x = rows(0.3 if holes else 0.0).double()
    model = started(x).double()
    estimator = model.to_estimator()
    np.testing.assert_allclose(estimator.score_samples(x.numpy()), model.log_evidence(x).detach(), atol=1e-9)
    back = FactorAnalysis.from_estimator(estimator, torch.float64)
    np.testing.assert_allclose(back.log_evidence(x).detach(), model.log_evidence(x).detach(), atol=1e-9)
    assert back.noise_floor == model.noise_floor
    assert bool(back.started)


def test_an_estimator_on_its_floor_can_be_taken_over() -> None:
    x = rows().double()
    x[:, 3] = x[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = em.FactorAnalysis(2, noise_floor=1e-3, random_state=0).fit(x.numpy())
    model = FactorAnalysis.from_estimator(estimator, torch.float64)
    assert float(model.log_evidence(x).detach().mean()) == pytest.approx(estimator.score(x.numpy()), abs=1e-5)


def test_what_is_no_factor_analysis_is_refused_in_one_line() -> None:
    with pytest.raises(PairError, match="latent_dim=3 with 3 features: factor analysis needs 1 <= latent_dim < 3"):
        FactorAnalysis(3, 3)
    with pytest.raises(PairError, match="noise_floor=0: expected a number between 0 and 1"):
        FactorAnalysis(3, 1, noise_floor=0)
    with pytest.raises(DataError, match="every feature of X is constant"):
        FactorAnalysis(3, 1).start(torch.ones(5, 3))
    with pytest.raises(DataError, match="feature 1 of the data has no observed entry"):
        FactorAnalysis(3, 1).start(torch.randn(5, 3).index_fill(1, torch.tensor([1]), math.nan))


@pytest.mark.slow
def test_default_fit_on_standardised_digits(digits: Tensor) -> None:
    x = digits[:, digits.std(0) > 0]
    x = (x - x.mean(0)) / x.std(0, correction=0)
    graded = grade(fit(FactorAnalysis(61, 8), ProductOfExperts(61, 8), x, progress=False).pair, x)
    assert graded.gap < 5e-4  # type: ignore[operator]
    assert graded.kl_to_exact < 2e-3  # type: ignore[operator]
