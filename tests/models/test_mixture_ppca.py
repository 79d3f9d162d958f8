"""A mixture of PPCAs as a pair: exact joint posterior, starts that keep every component, training against EM."""

import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from pyro_lvm import data, em, fit, grade
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.guides import MixtureOfExperts
from pyro_lvm.mixture_posterior import posterior_kl
from pyro_lvm.models import PPCA, MixturePPCA
from pyro_lvm.pair import Pair


def curved(missing: float = 0.0, num_rows: int = 300) -> Tensor:
    """A bent line in five dimensions: three straight pieces fit it, one doesn't."""
    generator = torch.Generator().manual_seed(0)
    angle = 3 * torch.rand(num_rows, generator=generator)
    plane = torch.stack([angle.cos(), angle.sin()], 1)
    x = plane @ torch.randn(2, 5, generator=generator) + 0.15 * torch.randn(num_rows, 5, generator=generator)
    return (10 * x + 3).masked_fill(torch.rand(num_rows, 5, generator=generator) < missing, math.nan)


def started(x: Tensor, **options: str) -> tuple[MixturePPCA, MixtureOfExperts]:
    pair = Pair(MixturePPCA(5, 1, 3), MixtureOfExperts(5, 1, 3, **options))  # type: ignore[arg-type]
    pair.start(x, torch.Generator().manual_seed(0))
    return pair.model, pair.guide  # type: ignore[return-value]


def barely_started(x: Tensor, num_components: int, latent_dim: int, seed: int = 0) -> MixturePPCA:
    """k-means, local PCA and one step of EM: far enough below a maximum for training to show."""
    estimator = em.MixturePPCA(num_components, latent_dim, n_init=1, max_iter=1, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return MixturePPCA.from_estimator(estimator.fit(x.double().numpy()))


def brute_force(model: MixturePPCA, row: np.ndarray) -> np.ndarray:
    """log pi_k + log p(x_observed | t = k) for each component."""
    seen = ~np.isnan(row)
    each = []
    for k in range(model.num_components):
        w, mu = model.loadings[k].detach().double().numpy(), model.means[k].detach().double().numpy()
        covariance = w @ w.T + float(model.noise_variance[k].detach()) * np.eye(len(mu))
        density = multivariate_normal(mu[seen], covariance[np.ix_(seen, seen)]).logpdf(row[seen]) if seen.any() else 0.0
        each.append(math.log(float(model.weights[k].detach())) + density)
    return np.array(each)


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_evidence_and_responsibilities_are_those_of_the_marginal_gaussians(missing: float) -> None:
    # Wrong: the pair would be graded against the truth of another model.
    x = curved(missing)
    x[0] = math.nan if missing else x[0]
    model, _ = started(x)
    with torch.no_grad():
        evidence, posterior = model.log_evidence(x), model.exact_posterior(x)
    for n in range(20):
        joint = brute_force(model, x[n].double().numpy())
        assert float(evidence[n]) == pytest.approx(logsumexp(joint), abs=1e-8)
        np.testing.assert_allclose(posterior.responsibilities[n], np.exp(joint - logsumexp(joint)), atol=1e-8)


def test_the_pyro_density_is_evidence_times_joint_posterior() -> None:
    # Wrong: what Pyro trains would not be what is graded.
    x = curved()
    model, _ = started(x)
    z, t = torch.randn(300, 1), torch.arange(300) % 3
    trace = poutine.trace(poutine.condition(model, {"z": z, "t": t})).get_trace(x)
    joint = sum(trace.nodes[name]["fn"].log_prob(trace.nodes[name]["value"]) for name in ("t", "z", "x"))
    posterior = model.exact_posterior(x)
    given = torch.stack([q.log_prob(z.double()) for q in posterior.latents], 1)[torch.arange(300), t]
    exact = model.log_evidence(x) + posterior.component.log_prob(t) + given
    assert torch.allclose(joint.double(), exact, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_the_guide_starts_as_the_models_joint_posterior(missing: float) -> None:
    # Wrong: components would lose their rows in the first steps.
    x = curved(missing).double()
    model, guide = MixturePPCA(5, 1, 3).double(), MixtureOfExperts(5, 1, 3).double()
    Pair(model, guide).start(x, torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert float(posterior_kl(guide.encode(x), model.exact_posterior(x)).abs().max()) < 1e-9


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_the_guide_concludes_what_a_mixture_of_factor_analysers_would(missing: float) -> None:
    # Wrong: q(t | x) and q(z | x, t) would not be of one joint posterior, and the first would not follow the second.
    x = curved(missing).double()[:20]
    guide = MixtureOfExperts(5, 2, 3).double()
    with torch.no_grad():
        guide.unit.copy_(torch.tensor([1.0, 10.0, 20.0, 5.0, 2.0]))
        guide.origin.fill_(3.0)
        for parameter in guide.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
        shares = guide.encode(x).responsibilities.numpy()
        u, b, noise, a = (
            value.numpy()
            for value in (guide.directions, guide.centres, (-guide.log_precisions).exp(), guide.log_weights)
        )
        relative = ((x - guide.origin) / guide.unit).numpy()
    for row, share in zip(relative, shares, strict=True):
        seen = ~np.isnan(row)
        joint = a.copy()
        for k in range(3 if seen.any() else 0):
            covariance = (u[k] @ u[k].T + np.diag(noise[k]))[np.ix_(seen, seen)]
            joint[k] += multivariate_normal(b[k][seen], covariance).logpdf(row[seen])
        np.testing.assert_allclose(share, np.exp(joint - logsumexp(joint)), atol=1e-10)


@pytest.mark.parametrize(
    ("estimator", "elbo", "steps", "lr", "gap"),
    [
        ("enumerate", TraceEnum_ELBO, 250, 0.02, 2.5e-2),
        ("score", Trace_ELBO, 300, 0.005, 4e-2),
        ("baseline", TraceGraph_ELBO, 250, 0.02, 3e-2),
        pytest.param("enumerate", TraceEnum_ELBO, 1000, None, 5e-3, marks=pytest.mark.slow),
        pytest.param("score", Trace_ELBO, 1000, None, 3e-2, marks=pytest.mark.slow),
        pytest.param("baseline", TraceGraph_ELBO, 1000, None, 1e-2, marks=pytest.mark.slow),
    ],
)
def test_training_goes_where_em_gets_from_the_same_start(
    estimator: str, elbo: type, steps: int, lr: float | None, gap: float
) -> None:
    # Wrong: a discrete latent would train to less than the truth, or components would die. The start is at 3.5e-2.
    x = curved()
    model, guide = barely_started(x, 3, 1), MixtureOfExperts(5, 1, 3, estimator)  # type: ignore[arg-type]
    wanted = Pair(model, guide).elbo
    assert (wanted if isinstance(wanted, type) else type(wanted)) is elbo
    fitted = model.to_estimator().set_params(warm_start=True, tol=1e-8, max_iter=2000).fit(x.double().numpy())
    pair = fit(model, guide, x, steps=steps, lr=lr, compile=False, progress=False).pair
    graded = grade(pair, x)
    assert fitted.score(x.double().numpy()) - graded.log_evidence < gap  # type: ignore[operator]
    assert -1e-6 < graded.gap < gap  # type: ignore[operator]
    assert graded.kl_to_exact < 2 * gap  # type: ignore[operator]
    assert graded.elbo_agrees
    assert float(model.weights.detach().min()) > 0.1


def test_training_with_holes_and_several_lines_beat_one() -> None:
    # Wrong: what the mixture is for would not show.
    x = curved(0.2)
    model, guide = barely_started(x, 3, 1), MixtureOfExperts(5, 1, 3)
    graded = grade(fit(model, guide, x, steps=250, lr=0.03, compile=False, progress=False).pair, x)
    # It starts 0.45 nats below.
    assert -1e-6 < graded.gap < 0.2  # type: ignore[operator]
    assert graded.kl_to_exact < 0.25  # type: ignore[operator]
    assert graded.elbo_agrees
    one = PPCA(5, 1).maximum_likelihood(x).log_evidence(x).detach().mean()
    assert graded.log_evidence > float(one) + 0.5  # type: ignore[operator]


def test_the_baseline_is_the_rows_evidence_at_the_exact_posterior() -> None:
    # Wrong: it would take nothing from the score function's noise. Its part of the ELBO is 1 / B under `fit`.
    x = curved(0.3)
    model, guide = started(x, estimator="baseline")
    site = poutine.trace(guide).get_trace(x).nodes["t"]
    expected = model.log_evidence(x) / len(x)
    assert torch.allclose(site["infer"]["baseline"]["baseline_value"].double(), expected, atol=1e-5)


def test_a_network_starts_near_the_exact_assignment_and_trains() -> None:
    x = curved(0.2)
    model, guide = started(x, assignment="network")
    with torch.no_grad():
        assert float(posterior_kl(guide.encode(x), model.exact_posterior(x)).mean()) < 0.2
    before = grade(Pair(model, guide), x)
    after = grade(fit(model, guide, x, steps=100, lr=0.01, compile=False, progress=False).pair, x)
    assert after.elbo > before.elbo
    assert float(model.weights.detach().min()) > 0.1


def test_the_start_is_where_the_best_of_many_get() -> None:
    # Wrong: training would end at whatever maximum one draw of k-means leads to. Single ones end up to 1.2 nats apart.
    x = data.load("digits").rows[::2]
    model = MixturePPCA(64, 2, 6)
    model.start(x, torch.Generator().manual_seed(0))
    singles = [
        em.MixturePPCA(6, 2, n_init=1, random_state=seed).fit(x.double().numpy()).score(x.double().numpy())
        for seed in range(5)
    ]
    assert float(model.log_evidence(x).detach().mean()) > max(singles)


def test_a_start_has_every_component_even_where_rows_are_too_few_for_them() -> None:
    # Wrong: a component would be missing from the model, or its parameters be undefined.
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    model = MixturePPCA(3, 1, 8)
    model.start(x, torch.Generator().manual_seed(0))
    assert model.weights.shape == (8,)
    assert bool(model.log_evidence(x).isfinite().all())


def test_the_start_of_a_table_with_few_rows_in_it() -> None:
    # Wrong: empty rows would be counted, or taken for the start in place of those with something in them.
    x = torch.full((12_000, 5), math.nan)
    x[::1200] = curved(num_rows=10)
    model = MixturePPCA(5, 1, 4)
    model.start(x, torch.Generator().manual_seed(0))
    assert bool(model.log_evidence(x[::1200]).isfinite().all())
    with pytest.raises(DataError, match="num_components=11 with 10 rows in which something is observed"):
        MixturePPCA(5, 1, 11).start(x)


def test_components_that_em_does_not_keep_leave_no_maximum_to_compare_with() -> None:
    # Wrong: a model of fewer components would be called the best, below the one that is graded.
    x = curved(num_rows=4)
    model, guide = started(x)
    with pytest.warns(UserWarning, match="lost their rows"), pytest.raises(DataError, match="EM keeps"):
        model.maximum_likelihood(x)
    with pytest.warns(UserWarning, match="lost their rows"):
        assert grade(Pair(model, guide), x).gap is None


def test_start_follows_the_datas_unit_and_seed() -> None:
    x = curved()
    model, scaled = MixturePPCA(5, 1, 3), MixturePPCA(5, 1, 3)
    model.start(x, torch.Generator().manual_seed(4))
    scaled.start(1e4 * x - 1e6, torch.Generator().manual_seed(4))
    assert torch.allclose(scaled.noise_scales, 1e4 * model.noise_scales, rtol=1e-2)
    # 5 log 1e4 nats a row.
    shift = model.log_evidence(x).mean() - scaled.log_evidence(1e4 * x - 1e6).mean()
    assert float(shift.detach()) == pytest.approx(5 * math.log(1e4), abs=0.1)


def test_to_an_estimator_and_back() -> None:
    # Wrong: a run's imputation would come from another model than the one that was graded.
    x = curved(0.3).double()
    model = started(x.float())[0].double()
    estimator = model.to_estimator()
    evidence = model.log_evidence(x).detach()
    np.testing.assert_allclose(estimator.score_samples(x.numpy()), evidence, atol=1e-9)
    back = MixturePPCA.from_estimator(estimator, torch.float64)
    np.testing.assert_allclose(back.log_evidence(x).detach(), evidence, atol=1e-9)
    assert back.noise_floor == model.noise_floor


def test_what_is_no_mixture_is_refused_in_one_line() -> None:
    with pytest.raises(PairError, match="num_components=0: expected a whole number from 1 up"):
        MixturePPCA(5, 1, 0)
    with pytest.raises(PairError, match="latent_dim=5 with 5 features: a mixture of probabilistic PCAs needs"):
        MixturePPCA(5, 5)
    with pytest.raises(PairError, match="noise_floor=-1: expected a number between 0 and 1"):
        MixturePPCA(5, 1, 2, noise_floor=-1)
    with pytest.raises(PairError, match="estimator='pathwise': expected one of enumerate, score, baseline"):
        MixtureOfExperts(5, 1, 2, "pathwise")  # type: ignore[arg-type]
    with pytest.raises(PairError, match="assignment='tree': expected one of quadratic, network"):
        MixtureOfExperts(5, 1, 2, assignment="tree")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="num_components=3 with 2 rows in which something is observed"):
        MixturePPCA(5, 1, 3).start(torch.randn(2, 5))
    with pytest.raises(PairError, match="PPCA has no weights, means, loadings, noise_variance"):
        MixtureOfExperts(5, 1, 3).start(torch.randn(9, 5), PPCA(5, 1))
    with pytest.raises(PairError, match=r"shape \(2, 5, 1\), the guide's \(3, 5, 1\)"):
        MixtureOfExperts(5, 1, 3).match(MixturePPCA(5, 1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_oil_flow_reaches_a_maximum_by_default(seed: int) -> None:
    # Wrong: responsibilities near 0 and 1 would hold the guide, and with it the model, where EM climbs on at once.
    root = os.environ.get("PYRO_LVM_DATA")
    if root is None:
        pytest.skip("PYRO_LVM_DATA names no folder with oil_flow/")
    x = data.load("oil-flow", root=str(Path(root) / "oil_flow")).rows
    result = fit(barely_started(x, 5, 2, seed), MixtureOfExperts(12, 2, 5), x, seed=seed, progress=False)
    graded = grade(result.pair, x)
    assert result.converged
    assert graded.gap < 2e-4  # type: ignore[operator]
    assert graded.kl_to_exact < 1e-3  # type: ignore[operator]
    assert float(result.pair.model.weights.detach().min()) > 0.02
