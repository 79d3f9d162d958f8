"""Each estimator against a truth that is written down here, and what it refuses."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.distributions.transforms import AffineTransform, ComposeTransform, ExpTransform
from torch import Tensor

from pyro_lvm import Pair, data_plate
from pyro_lvm.errors import PairError
from pyro_lvm.gradients import ESTIMATORS, GradientEstimator, admitted, exact_gradient
from pyro_lvm.gradients.drawing import Scored
from pyro_lvm.guides import LinearGaussian, MixtureOfExperts, SharedLoadings
from pyro_lvm.models import PPCA, BayesianPCA, MixturePPCA


def dense_elbo(pair: Pair, x: Tensor) -> Tensor:
    """The ELBO a row of PPCA from E_q[log p(x | z)] and KL(q || prior), by dense algebra."""
    model: Any = pair.model
    guide: Any = pair.guide
    q = guide.encode(x)
    covariance = q.covariance_matrix if guide.covariance == "full" else torch.diag_embed(q.variance)
    w, variance = model.loadings, model.noise_variance
    misfit = (x - q.mean @ w.T - model.mean).square().sum(-1) + torch.einsum("jd,ndk,jk->n", w, covariance, w)
    expected = -0.5 * (x.shape[1] * (math.log(2 * math.pi) + variance.log()) + misfit / variance)
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    divergence = 0.5 * (trace + q.mean.square().sum(-1) - q.mean.shape[1] - torch.logdet(covariance))
    return (expected - divergence).mean()


def draws_of(reference: str, pair: Pair, x: Tensor, count: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard error of the uphill gradient, by parameter, of rows that stand for many alike."""
    pair.materialize(x)
    estimator = GradientEstimator(reference, pair, x)
    found: dict[str, list[Tensor]] = {name: [] for name, _ in pair.named_parameters()}
    with pyro.validation_enabled(False):
        for _ in range(count):
            estimator.backward(x)
            for name, p in pair.named_parameters():
                found[name].append(torch.zeros_like(p).double() if p.grad is None else -p.grad.double())
                p.grad = None
    stacked = {name: torch.stack(gradients) for name, gradients in found.items()}
    return {name: (g.mean(0), g.std(0) / math.sqrt(count)) for name, g in stacked.items()}


def assert_near(found: tuple[Tensor, Tensor], truth: Tensor, errors: float = 4.5) -> None:
    mean, error = found
    assert bool(((mean - truth).abs() <= errors * error + 1e-5).all()), (mean - truth).abs() / error


class TestExactGradient:
    @pytest.mark.parametrize("covariance", ["full", "diagonal"])
    def test_it_is_that_of_the_dense_formula(self, make_ppca, ppca_rows, covariance):
        """Every other figure of a comparison is measured against it."""
        pair = make_ppca(covariance, torch.float64)
        x = ppca_rows.double()
        found = exact_gradient(pair, x)
        parameters = dict(pair.named_parameters())
        expected = torch.autograd.grad(dense_elbo(pair, x), list(parameters.values()))
        assert found is not None
        for (name, gradient), truth in zip(found.items(), expected, strict=True):
            torch.testing.assert_close(gradient, truth, rtol=1e-9, atol=1e-9, msg=name)

    def test_one_that_lacks_a_part_is_not_believed(self, make_ppca, ppca_rows):
        """A model that detaches would make every sound estimator look biased."""

        class Detached(PPCA):
            def log_evidence(self, x: Tensor) -> Tensor:
                return super().log_evidence(x).detach()

        pair = make_ppca()
        pair.model.__class__ = Detached
        assert exact_gradient(pair, ppca_rows) is None

    def test_the_pair_and_its_store_stay(self, make_ppca, ppca_rows):
        pair = make_ppca()
        before = {name: t.clone() for name, t in pair.state_dict().items()}
        exact_gradient(pair, ppca_rows)
        for name, value in pair.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert not list(pyro.get_param_store().keys())


class TestScoreFunction:
    @pytest.mark.parametrize(
        "build",
        [
            lambda a, b: dist.Normal(a, b.exp()),
            lambda a, b: dist.Normal(a, b.exp()).expand([4, 3]).to_event(1),
            lambda a, b: dist.Normal(a, b.exp()).mask(torch.tensor(True)),
            lambda a, b: dist.LogNormal(a, b.exp()).expand([4, 3]).to_event(1).mask(torch.ones(4).bool()),
            lambda a, b: dist.MultivariateNormal(a * torch.ones(3), b.exp() * torch.eye(3)),
            lambda a, b: dist.Gamma(a.exp(), b.exp()),
            lambda a, b: dist.TransformedDistribution(
                dist.Normal(torch.zeros(3), 1.0), [AffineTransform(a, b.exp(), cache_size=1)]
            ),
            lambda a, b: dist.TransformedDistribution(
                dist.Normal(0.0, 1.0).expand([3]).to_event(1),
                [ComposeTransform([AffineTransform(a, b.exp(), cache_size=1), ExpTransform(cache_size=1)])],
            ),
        ],
        ids=["normal", "event", "masked", "all of it", "multivariate", "gamma", "cached affine", "cached chain"],
    )
    def test_its_draws_carry_no_gradient_and_their_density_all_of_it(self, build):
        """With a cached inverse the density would forget that the transform has parameters: a silent bias."""
        a, b = torch.tensor(0.3, requires_grad=True), torch.tensor(-0.4, requires_grad=True)
        scored = Scored(build(a, b))
        value = scored()
        assert not scored.has_rsample
        assert not value.requires_grad
        found = torch.autograd.grad(scored.log_prob(value).sum(), (a, b))
        expected = torch.autograd.grad(build(a, b).log_prob(value.clone()).sum(), (a, b))
        torch.testing.assert_close(found, expected)
        assert all(bool(g != 0) for g in found)

    def test_a_point_mass_keeps_its_gradient(self, ppca_rows):
        """It is a parameter, not a draw: by the score function it would never be trained."""

        def model(x: Tensor) -> None:
            mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
            with data_plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                pyro.sample("x", dist.Normal(z[:, None] + mean, 1.0).expand([len(x), 5]).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            pyro.sample("mean", dist.Delta(pyro.param("centre", torch.tensor(0.7))))
            with data_plate(x):
                pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(0.1)) * x.sum(1), 0.5))

        pair = Pair(model, guide)
        found = draws_of("score", pair, ppca_rows, 200)
        # E_q[x - z - mean] summed over entries, and the prior's pull, a row.
        z = 0.1 * ppca_rows.sum(1)
        truth = ((ppca_rows - z[:, None] - 0.7).sum() - 0.7 / 9) / len(ppca_rows)
        assert_near(found["store.centre"], truth)


class TestDiscreteLatents:
    def truth(self, x: Tensor) -> dict[str, Tensor]:
        """The ELBO a row by a sum over the three components, and its gradient."""
        logits, shift, slope = (
            torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([0.3, -0.2, 0.1], 0.2, [-0.8, 0.1, 0.9])
        )
        x = x.double()
        q = (slope * x[:, None]).log_softmax(-1)
        centres = torch.tensor([-1.0, 0.5, 2.0]).double() + shift
        joint = logits.log_softmax(0) - 0.5 * (x[:, None] - centres).square() - 0.5 * math.log(2 * math.pi)
        elbo = (q.exp() * (joint - q)).sum(-1).mean()
        found = torch.autograd.grad(elbo, (logits, shift, slope))
        return dict(zip(("store.logits", "store.shift", "store.slope"), found, strict=True))

    def test_enumeration_is_the_sum(self, discrete_pair):
        x = torch.tensor([-2.0, 0.1, 0.4, 1.7, 3.0])
        found = draws_of("enumeration", discrete_pair, x, 2)
        for name, truth in self.truth(x).items():
            torch.testing.assert_close(found[name][0], truth, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("reference", ["score", "score:3", "score+average", "score+network"])
    def test_the_score_function_is_unbiased(self, discrete_pair, reference):
        """A baseline that knew its own draw, or stayed in the average's gradient, would bias it."""
        x = torch.tensor([-2.0, 0.1, 0.4, 1.7, 3.0])
        # Each row forty times: the same gradient, a fortieth of its variance.
        found = draws_of(reference, discrete_pair, x.repeat(40), 100)
        for name, truth in self.truth(x).items():
            assert_near(found[name], truth)

    def test_the_guides_own_wish_for_enumeration_is_no_obstacle(self):
        """A pair that is trained by enumeration could otherwise not be compared with anything."""
        pair = Pair(MixturePPCA(4, 1, 2), MixtureOfExperts(4, 1, 2, estimator="enumerate"))
        x = torch.randn(8, 4)
        assert admitted(pair, x) == [
            "enumeration",
            "mixed",
            "mixed+average",
            "mixed+network",
            "score",
            "score+average",
            "score+network",
        ]
        for name in ("mixed", "score"):
            assert math.isfinite(GradientEstimator(name, pair, x).backward(x))


class TestMinibatches:
    def test_the_divergence_counts_n_over_b_times(self, make_ppca, ppca_rows):
        """The notes' gradient for the guide leaves the factor out: the prior would then all but vanish."""
        pair = make_ppca("diagonal")
        with torch.no_grad():
            # What the rows say of z is nothing, so that the guide's gradient is the divergence's alone, without noise.
            pair.model.relative_loadings.zero_()
        x, num_rows = ppca_rows, len(ppca_rows)

        def divergence(rows: Tensor) -> Tensor:
            q = pair.guide.encode(rows)
            return 0.5 * (q.variance + q.mean.square() - 1 - q.variance.log()).sum()

        guides = dict(pair.guide.named_parameters())
        total = {name: torch.zeros_like(p) for name, p in guides.items()}
        for rows in x.split(3):
            GradientEstimator("analytic KL", pair, rows, num_rows=num_rows).backward(rows)
            expected = torch.autograd.grad(divergence(rows) * (num_rows / 3) / num_rows, list(guides.values()))
            for (name, p), gradient in zip(guides.items(), expected, strict=True):
                torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)
                total[name] += p.grad / 4
            for _, p in pair.named_parameters():
                p.grad = None
        whole = torch.autograd.grad(divergence(x) / num_rows, list(guides.values()))
        for gradient, truth in zip(total.values(), whole, strict=True):
            torch.testing.assert_close(gradient, truth, rtol=1e-4, atol=1e-6)


def test_the_importance_weighted_gradient_is_that_of_the_integral():
    """Two draws a row, the integral over both by Gauss-Hermite quadrature; minibatch scale included."""
    torch.manual_seed(3)
    x = torch.randn(4, 2)
    model, guide = PPCA(2, 1), LinearGaussian(2, 1)
    pair = Pair(model, guide)
    with torch.no_grad():
        model.relative_loadings.normal_()
        guide.relative_slope.normal_()
    parameters = dict(pair.named_parameters())

    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    nodes, weights = torch.tensor(nodes).float(), torch.tensor(weights / weights.sum()).float()
    q = guide.encode(x)
    z = q.mean + q.stddev * nodes[:, None, None, None].squeeze(-1)
    joint = dist.Normal(0.0, 1.0).log_prob(z).squeeze(-1) + model.decode(z).log_prob(x).sum(-1)
    log_weight = joint - q.log_prob(z)
    pairs = torch.logaddexp(log_weight[:, None], log_weight[None]) - math.log(2)
    bound = torch.einsum("a,b,abn->n", weights, weights, pairs).mean()
    truth = dict(zip(parameters, torch.autograd.grad(bound, list(parameters.values())), strict=True))

    found = draws_of("importance-weighted:2", pair, x.repeat(100, 1), 60)
    for name, gradient in truth.items():
        assert_near(found[name], gradient.double())
    # The ELBO's is another: the check can fail.
    elbo = exact_gradient(pair, x)
    assert elbo is not None
    mean, error = found["guide.relative_slope"]
    assert float(((mean - elbo["guide.relative_slope"]).abs() / error).max()) > 6


def latent(prior: Any, posterior: Any, shared: bool = False) -> Pair:
    """A pair of one latent."""

    def model(x: Tensor) -> None:
        if shared:
            z = pyro.sample("z", prior())
        with data_plate(x):
            if not shared:
                z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z + x.new_zeros(len(x)), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        a = pyro.param("a", torch.tensor(1.5), constraint=constraints.positive)
        if shared:
            pyro.sample("z", posterior(a))
        else:
            with data_plate(x):
                pyro.sample("z", posterior(a))

    return Pair(model, guide)


NORMAL = (lambda: dist.Normal(0.0, 1.0), lambda a: dist.Normal(a, 1.0))
COUNTS = (lambda: dist.Poisson(2.0), lambda a: dist.Poisson(a))
REFUSED = [
    ("reparametrisation", NORMAL, "no gradient estimator 'reparametrisation': expected one of reparameterization,"),
    ("score:0", NORMAL, "expected score:DRAWS with draws a row from 1 up"),
    ("reparameterization", COUNTS, "'z' is drawn from a Poisson"),
    ("analytic KL", COUNTS, "'z' is drawn from a Poisson"),
    ("enumeration", COUNTS, "can't sum over 'z', drawn from a Poisson"),
    ("enumeration", NORMAL, "needs a discrete latent, and 'z' can be reparameterized"),
    ("mixed", NORMAL, "use reparameterization"),
    ("mixed", COUNTS, "use score"),
    (
        "analytic KL",
        (lambda: dist.LogNormal(0.0, 1.0), lambda a: dist.Gamma(a, 1.0)),
        r"no closed form for 'z', KL\(Gamma \|\| LogNormal\)",
    ),
    (
        "score",
        (lambda: dist.Normal(0.0, 1.0), lambda a: dist.Uniform(0.0, a)),
        "Uniform whose support depends",
    ),
    ("score", (lambda: dist.Normal(0.0, 1.0), lambda a: dist.Delta(a)), "point masses only"),
]


@pytest.mark.parametrize(("reference", "halves", "message"), REFUSED)
def test_what_a_pair_does_not_admit_is_refused_in_one_line(reference, halves, message):
    """A gradient that Pyro would compute without a word, and wrong, or a traceback from its depths."""
    x = torch.randn(5)
    pair = latent(*halves)
    pair.materialize(x)
    with pytest.raises(PairError, match=message) as caught:
        GradientEstimator(reference, pair, x)
    assert "\n" not in str(caught.value)


def test_latents_that_rows_share_have_no_importance_weights():
    with pytest.raises(PairError, match="share the latent 'z'"):
        GradientEstimator("importance-weighted", latent(*NORMAL, shared=True), torch.randn(5))
    # By everything else they go, each baseline included.
    pair, x = Pair(BayesianPCA(4, 2), SharedLoadings(4, 2)), torch.randn(6, 4)
    for name in admitted(pair, x):
        assert math.isfinite(GradientEstimator(name, pair, x).backward(x))


def test_every_estimator_says_what_it_is():
    assert all(spec.name == name and spec.summary for name, spec in ESTIMATORS.items())
