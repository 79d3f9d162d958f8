"""The gap's two parts against exact KL divergences, for guides that are wrong in ways that are known."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro.distributions import Categorical, Gamma, Normal, Poisson
from torch.distributions import kl_divergence

from pyro_lvm import data_plate, observe
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.evidence import Estimate, Gap, advice, exact, simulate, take_apart
from pyro_lvm.guides import LinearGaussian, MixtureOfExperts, SharedLoadings
from pyro_lvm.linear_gaussian import gaussian_kl
from pyro_lvm.mixture_posterior import posterior_kl
from pyro_lvm.models import PPCA, BayesianPCA, MixturePPCA
from pyro_lvm.pair import Pair
from pyro_lvm.plots import gap_bars

ROWS = 12


def ppca(covariance: str) -> tuple[Pair, torch.Tensor]:
    """A PPCA, its guide at the best of its family, and rows from it."""
    torch.manual_seed(1)
    model = PPCA(6, 2)
    with torch.no_grad():
        model.relative_loadings.copy_(torch.randn(6, 2))
    model.relative_noise_scale = torch.tensor(0.7)
    pair = Pair(model, LinearGaussian(6, 2, covariance))
    x, _ = simulate(pair, torch.zeros(ROWS, 6))
    pair.guide.start(x, model)
    pair.guide.match(model)
    return pair, x


@torch.no_grad()
def spoil(guide: LinearGaussian, how: str) -> None:
    if how == "shifted":
        guide.offset += 0.5
    elif how == "narrow by 2" and guide.covariance == "full":
        guide.scale_tril = guide.scale_tril / 2
    elif how == "narrow by 2":
        guide.scale = guide.scale / 2
    elif how == "ignores x":
        guide.relative_slope.zero_()
    elif how == "swapped":
        guide.relative_slope[[0, 1]] = guide.relative_slope[[1, 0]].clone()


def within(found: torch.Tensor | float, expected: torch.Tensor | float, error: float) -> bool:
    """Within four standard errors, and what the stopping rule leaves."""
    return abs(float(torch.as_tensor(found).mean()) - float(torch.as_tensor(expected).mean())) < 4 * error + 3e-3


@pytest.mark.parametrize(
    ("covariance", "how"),
    [
        ("full", "not at all"),
        ("full", "ignores x"),
        pytest.param("full", "swapped", marks=pytest.mark.slow),
        ("diagonal", "not at all"),
        pytest.param("diagonal", "shifted", marks=pytest.mark.slow),
        pytest.param("diagonal", "ignores x", marks=pytest.mark.slow),
        ("diagonal", "narrow by 2"),
    ],
)
def test_the_split_is_the_exact_one(covariance: str, how: str) -> None:
    """Wrong: an encoder is blamed for its family, or the family for its encoder. Oracle: Gaussian KL divergences."""
    pair, x = ppca(covariance)
    spoil(pair.guide, how)
    with torch.no_grad():
        posterior = pair.model.exact_posterior(x)
        total = gaussian_kl(pair.guide.encode(x), posterior)
    precision = torch.linalg.inv(posterior.covariance_matrix[0])
    # Of all diagonal Gaussians, the one with the posterior's precisions is nearest.
    lacking = 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision)) if covariance != "full" else 0.0
    gap = take_apart(pair, x, draws=512)
    assert within(gap.total, total, gap.elbo.particle_standard_error)
    assert within(gap.approximation, lacking, gap.approximation_standard_error)
    assert within(gap.amortization, total - lacking, gap.amortization_standard_error)
    assert gap.finished == 1
    if covariance == "full":
        assert gap.full is None
    else:
        # A family with correlations holds the posterior itself.
        assert gap.gained_by_full is not None
        assert within(gap.gained_by_full, lacking, gap.approximation_standard_error)
        assert gap.full is not None
        np.testing.assert_allclose(gap.full.per_row, exact(pair, x).per_row, atol=0.02)


def test_a_mixture_is_split_over_its_components() -> None:
    """Wrong: the latents of one component, or the component itself, are left as the guide has them."""
    torch.manual_seed(3)
    model, guide = MixturePPCA(4, 1, 2), MixtureOfExperts(4, 1, 2)
    with torch.no_grad():
        model.relative_loadings.copy_(torch.randn(2, 4, 1))
        model.relative_means.copy_(torch.randn(2, 4))
    model.relative_noise_scales = torch.tensor([0.6, 0.9])
    guide.match(model)
    pair = Pair(model, guide)
    x, _ = simulate(pair, torch.zeros(ROWS, 4))
    with torch.no_grad():
        guide.centres += 0.3
        guide.log_weights += torch.tensor([1.0, 0.0])
        total = posterior_kl(guide.encode(x), model.exact_posterior(x))
    gap = take_apart(pair, x, draws=512)
    assert within(gap.approximation, 0.0, gap.approximation_standard_error)
    assert within(gap.amortization, total, gap.amortization_standard_error)
    assert gap.full is None


def counts(x: torch.Tensor) -> None:
    with data_plate(x):
        z = pyro.sample("z", Gamma(2.0, 2.0))
        observe("x", Poisson(torch.tensor([1.0, 3.0]) * z[:, None]), x)


def test_latents_that_are_not_gaussian() -> None:
    """Wrong: only Gaussians can be judged. Oracle: the gamma posterior of Poisson counts, and torch's KL."""

    def guide(x: torch.Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", Gamma(3.0 + x.sum(-1), 5.0))

    x, _ = simulate(Pair(counts, guide), torch.zeros(ROWS, 2))
    posterior = Gamma(2.0 + x.sum(-1), 6.0)
    log_p = (counts_joint(x, torch.ones(ROWS)) - posterior.log_prob(torch.ones(ROWS))).double()
    evidence = Estimate("exact", log_p, torch.zeros(ROWS, dtype=torch.float64), 0)
    gap = take_apart(Pair(counts, guide), x, evidence=evidence, draws=512)
    total = kl_divergence(Gamma(3.0 + x.sum(-1), 5.0), posterior)
    assert within(gap.approximation, 0.0, gap.approximation_standard_error)
    assert within(gap.amortization, total, gap.amortization_standard_error)
    assert gap.full is not None
    # A normal of log z is no gamma.
    assert -0.1 < gap.full.mean - gap.best.mean < 0


def counts_joint(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return Gamma(2.0, 2.0).log_prob(z) + Poisson(torch.tensor([1.0, 3.0]) * z[:, None]).log_prob(x).sum(-1)


def test_a_component_that_only_the_model_has() -> None:
    """Wrong: what the guide leaves to be summed out is not summed out. Oracle: a mixture of one component is none."""

    def model(x: torch.Tensor) -> None:
        with data_plate(x):
            t = pyro.sample("t", Categorical(torch.tensor([0.4, 0.6])), infer={"enumerate": "parallel"})
            z = pyro.sample("z", Normal(0.0, 1.0))
            pyro.sample("x", Normal(z + 0.0 * t, 1.0), obs=x)

    def guide(x: torch.Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", Normal(x / 2 + 0.5, 1.0))

    x = torch.linspace(-2, 2, ROWS)
    evidence = Estimate("exact", Normal(0.0, math.sqrt(2)).log_prob(x).double(), torch.zeros(ROWS).double(), 0)
    gap = take_apart(Pair(model, guide), x, evidence=evidence, draws=512)
    total = kl_divergence(Normal(x / 2 + 0.5, 1.0), Normal(x / 2, math.sqrt(0.5)))
    assert within(gap.approximation, 0.0, gap.approximation_standard_error)
    assert within(gap.amortization, total, gap.amortization_standard_error)


def known(log_p: float, elbo: float, best: float, full: float | None = None) -> Gap:
    def estimate(value: float) -> Estimate:
        return Estimate("elbo", torch.full((4,), value).double(), torch.full((4,), 1e-3).double(), 10)

    found = None if full is None else estimate(full)
    return Gap(estimate(log_p), estimate(elbo), estimate(best), found, torch.full((4,), 1e-3).double(), 1.0)


@pytest.mark.parametrize(
    ("training", "held_out", "said"),
    [
        (known(-10, -10.02, -10.01), None, "a better model"),
        (known(-10, -13, -11), None, "a bigger encoder"),
        (known(-10, -12, -11.8, -10.1), None, "a full covariance"),
        (known(-10, -12, -11.8, -11.7), None, "a richer family"),
        (known(-10, -11, -10.5), known(-10, -14, -10.5), "the encoder overfits"),
        (known(-10, -11, -10.2), known(-10, -11.05, -10.2), "a bigger encoder"),
    ],
)
def test_advice(training: Gap, held_out: Gap | None, said: str) -> None:
    """Wrong: a person mends what isn't broken."""
    assert said in advice(training, held_out)


def test_bars_show_both_parts() -> None:
    """Wrong: a picture of other numbers."""
    gap = known(-10, -12, -11.5, -10.5)
    ax = gap_bars({"training": gap, "held-out": gap})
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(heights, [1.5] * 2 + [0.5] * 2 + [1.0] * 2)
    with pytest.raises(DataError, match="no gap"):
        gap_bars({})


class TestBadInput:
    def test_counts(self) -> None:
        """Wrong: a mean of nothing, or an error of a single draw."""
        pair, x = ppca("full")
        with pytest.raises(DataError, match="no rows"):
            take_apart(pair, x[:0])
        with pytest.raises(DataError, match="draws=1"):
            take_apart(pair, x, draws=1)
        with pytest.raises(DataError, match="of 5 rows and there are 12"):
            take_apart(pair, x, evidence=exact(pair, x[:5]))

    def test_a_single_row(self) -> None:
        """Wrong: one row is no batch."""
        pair, x = ppca("full")
        assert take_apart(pair, x[:1], draws=4).total.shape == (1,)

    def test_families_that_cannot_be_optimized_a_row_at_a_time(self) -> None:
        """Wrong: a part of the family would be taken for the whole, and its lack for the family's."""

        def model(x: torch.Tensor) -> None:
            with data_plate(x):
                a = pyro.sample("a", Normal(0.0, 1.0))
                b = pyro.sample("b", Normal(a, 1.0))
                pyro.sample("x", Normal(b, 1.0), obs=x)

        def chained(x: torch.Tensor) -> None:
            with data_plate(x):
                a = pyro.sample("a", Normal(x, 1.0))
                pyro.sample("b", Normal(a, 1.0))

        def masked(x: torch.Tensor) -> None:
            with data_plate(x):
                pyro.sample("a", Normal(x, 1.0).mask(x > 0))
                pyro.sample("b", Normal(x, 1.0))

        for guide, said in ((chained, "'b' depends on what it draws before"), (masked, "MaskedDistribution of 'a'")):
            with pytest.raises(PairError, match=said):
                take_apart(Pair(model, guide), torch.linspace(-1, 1, 4), draws=2)

    def test_latents_that_rows_share(self) -> None:
        """Wrong: the loadings of all rows would be optimized for each."""
        x = torch.randn(20, 4)
        pair = Pair(BayesianPCA(4, 2), SharedLoadings(4, 2))
        pair.start(x)
        with pytest.raises(PairError, match="outside the plate over rows"):
            take_apart(pair, x)
