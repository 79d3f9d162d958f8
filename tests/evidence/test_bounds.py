"""Evidence and its bounds, against closed forms and numerical integration from other code."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro.distributions import Categorical, Gamma, LogNormal, MultivariateNormal, Normal, Poisson
from scipy import integrate, stats
from torch.distributions import constraints

from pyro_lvm import data_plate, observe
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.evidence import bounds, elbo, exact, iwae
from pyro_lvm.evidence.weights import WeightSums
from pyro_lvm.guides import LinearGaussian, MixtureOfExperts, ProductOfExperts, SharedLoadings
from pyro_lvm.models import PPCA, BayesianPCA, MixturePPCA
from pyro_lvm.pair import Pair


def ppca(
    num_rows: int = 30, data_dim: int = 5, latent_dim: int = 2, guide: type = LinearGaussian
) -> tuple[Pair, torch.Tensor]:
    """A started PPCA, its guide at the exact posterior, and rows from it."""
    torch.manual_seed(1)
    model = PPCA(data_dim, latent_dim)
    with torch.no_grad():
        model.relative_loadings.copy_(torch.randn(data_dim, latent_dim))
        model.relative_mean.copy_(torch.randn(data_dim))
    model.relative_noise_scale = torch.tensor(0.7)
    model.started.fill_(True)
    x = model.decode(torch.randn(num_rows, latent_dim)).sample()
    own = guide(data_dim, latent_dim)
    own.start(x, model)
    own.match(model)
    return Pair(model, own), x


def closed_form(pair: Pair, x: torch.Tensor) -> np.ndarray:
    """log p of each row's observed part, by SciPy's joint Gaussian."""
    w, mean = (getattr(pair.model, name).detach().double().numpy() for name in ("loadings", "mean"))
    covariance = w @ w.T + float(pair.model.noise_variance.detach()) * np.eye(len(mean))
    values = []
    for row in x.double().numpy():
        seen = ~np.isnan(row)
        joint = stats.multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)]) if seen.any() else None
        values.append(0.0 if joint is None else joint.logpdf(row[seen]))
    return np.array(values)


def spoil(guide: LinearGaussian, how: str) -> None:
    with torch.no_grad():
        if how == "shifted":
            guide.offset += 0.8
        elif how == "wide":
            guide.scale_tril = 1.8 * guide.scale_tril
        elif how == "ignores x":
            guide.relative_slope.zero_()
            guide.offset.zero_()
            guide.scale_tril = torch.eye(2)


class TestPPCA:
    def test_every_draw_of_the_exact_posterior_gives_the_evidence(self) -> None:
        """Wrong: the weight is not p(x, z) / q(z | x)."""
        pair, x = ppca()
        for estimate in (*bounds(pair, x, 7), exact(pair, x)):
            np.testing.assert_allclose(estimate.per_row, closed_form(pair, x), atol=2e-5)
        np.testing.assert_allclose(iwae(pair, x, 7).effective_sample_sizes, 7, rtol=1e-6)

    @pytest.mark.parametrize("how", ["shifted", "wide", "ignores x"])
    def test_a_bad_guide_reaches_the_evidence_too(self, how: str) -> None:
        """Wrong: what is said of a VAE, whose guide is never exact, is off. Each row within its own error."""
        pair, x = ppca()
        spoil(pair.guide, how)
        truth = closed_form(pair, x)
        lower, estimate = bounds(pair, x, 20_000, seed=3)
        assert lower.mean < truth.mean() - 0.2
        scores = (estimate.per_row.numpy() - truth) / estimate.particle_errors.numpy()
        assert np.abs(scores).max() < 4.5
        assert abs(estimate.mean - truth.mean()) < 4 * estimate.particle_standard_error
        assert 0.6 < scores.std() < 1.5  # the errors are errors, neither too small nor too large

    def test_the_elbo_falls_short_by_the_kl(self) -> None:
        """Wrong: the ELBO, or its error, is another quantity's."""
        pair, x = ppca()
        spoil(pair.guide, "shifted")
        q, p = pair.guide.encode(x), pair.model.exact_posterior(x)
        p = torch.distributions.MultivariateNormal(p.loc.float(), scale_tril=p.scale_tril.float())
        kl = torch.distributions.kl_divergence(q, p)
        lower = elbo(pair, x, 3000)
        expected = closed_form(pair, x).mean() - float(kl.detach().mean())
        assert abs(lower.mean - expected) < 4 * lower.particle_standard_error

    def test_a_guide_too_narrow_stays_below_and_shows_in_the_sample_size(self) -> None:
        """Wrong: a person would trust a bound that few draws carry."""
        pair, x = ppca()
        with torch.no_grad():
            pair.guide.scale_tril = 0.2 * pair.guide.scale_tril
            pair.guide.offset += 1.0
        estimate = iwae(pair, x, 500)
        assert estimate.mean < closed_form(pair, x).mean()
        assert float(estimate.effective_sample_sizes.median()) < 25

    def test_missing_entries(self) -> None:
        """Wrong: holes add to the density, or make it NaN."""
        pair, x = ppca(guide=ProductOfExperts)
        x[torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.4] = math.nan
        x[0] = math.nan
        x[1:3] = x[1:3].nan_to_num(0.3)
        np.testing.assert_allclose(iwae(pair, x, 5).per_row, closed_form(pair, x), atol=3e-5)
        with pytest.raises(PairError, match="missing entries"):
            iwae(ppca()[0], x, 5)

    def test_chunks_and_batches_give_the_same_rows(self) -> None:
        """Wrong: rows are lost, doubled or out of order where they don't fit in one chunk."""
        pair, x = ppca()
        for rows, chunk in ((x, 7), (x, 1), (x, 1000), (list(x.split(11)), None)):
            np.testing.assert_allclose(iwae(pair, rows, 3, chunk_rows=chunk).per_row, closed_form(pair, x), atol=2e-5)

    def test_memory_is_bounded_by_the_chunk(self) -> None:
        """Wrong: 5000 particles of many rows don't fit. The model never sees more rows than a chunk."""
        pair, x = ppca()
        seen: list[int] = []

        def model(x: torch.Tensor) -> None:
            seen.append(len(x))
            pair.model(x)

        estimate = iwae(Pair(model, pair.guide), x, 100, chunk_rows=64)
        assert max(seen) <= 64
        assert sum(seen) == 100 * len(x)
        assert estimate.num_particles == 100

    def test_the_seed_decides_and_the_callers_state_stays(self) -> None:
        """Wrong: figures can't be had again, or an estimate changes what comes after."""
        pair, x = ppca()
        spoil(pair.guide, "wide")
        state = torch.get_rng_state()
        first, again, other = (iwae(pair, x, 9, seed=seed).per_row for seed in (4, 4, 5))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.equal(state, torch.get_rng_state())


def poisson_model(x: torch.Tensor) -> None:
    rate = pyro.param("rate", torch.tensor([1.0, 3.0]), constraint=constraints.positive)
    with data_plate(x):
        z = pyro.sample("z", Gamma(2.0, 2.0))
        observe("x", Poisson(rate * z[:, None]), x)


def poisson_guide(x: torch.Tensor) -> None:
    scale = pyro.param("scale", torch.tensor(0.6), constraint=constraints.positive)
    with data_plate(x):
        pyro.sample("z", LogNormal((x.sum(-1) + 1).log() - 1.6, scale))


def test_plain_functions_with_pyro_param() -> None:
    """Wrong: pairs that are not modules are judged by other parameters, or not at all. Oracle: SciPy's quadrature."""
    x = torch.tensor([[0.0, 2.0], [3.0, 9.0], [1.0, 1.0]])

    def density(z: float, row: np.ndarray) -> float:
        return float(stats.gamma.pdf(z, 2, scale=0.5) * stats.poisson.pmf(row, np.array([1.0, 3.0]) * z).prod())

    truth = [math.log(integrate.quad(density, 0, 30, args=(row,))[0]) for row in x.numpy()]
    estimate = iwae(Pair(poisson_model, poisson_guide), x, 40_000)
    assert np.abs((estimate.per_row.numpy() - truth) / estimate.particle_errors.numpy()).max() < 4


@pytest.mark.parametrize("drawn", [True, False])
def test_discrete_latents_drawn_or_summed_out(drawn: bool) -> None:
    """Wrong: a mixture's components are counted twice or not at all. Oracle: the mixture of two joint Gaussians."""

    def model(x: torch.Tensor) -> None:
        with data_plate(x):
            t = pyro.sample("t", Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
            z = pyro.sample("z", Normal(0.0, 1.0))
            loc = torch.where(t == 1, 2.0, -1.0) + z
            pyro.sample("x", Normal(loc.unsqueeze(-1), 0.5).expand([*loc.shape, 2]).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        with data_plate(x):
            if drawn:
                pyro.sample("t", Categorical(torch.tensor([0.5, 0.5]).expand(len(x), 2)))
            pyro.sample("z", Normal(torch.zeros(len(x)), 1.3))

    x = torch.tensor([[-1.0, -0.5], [2.0, 2.5], [0.4, 0.6]])
    covariance = np.ones((2, 2)) + 0.25 * np.eye(2)
    joint = [stats.multivariate_normal([m, m], covariance).pdf(x.numpy()) for m in (-1.0, 2.0)]
    truth = np.log(0.3 * joint[0] + 0.7 * joint[1])
    estimate = iwae(Pair(model, guide), x, 30_000)
    assert np.abs((estimate.per_row.numpy() - truth) / estimate.particle_errors.numpy()).max() < 4


def test_the_zoos_mixture_from_its_exact_posterior() -> None:
    """Wrong: draws of component and coordinates don't carry their joint weight."""
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1.0, 0.5, 1.0])
    pair = Pair(MixturePPCA(4, 1, 2), MixtureOfExperts(4, 1, 2))
    pair.start(x, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(iwae(pair, x, 20).per_row, exact(pair, x).per_row, atol=1e-4)


def test_a_plate_of_another_size_does_not_scale() -> None:
    """Wrong: a stranger's plate over the whole data set multiplies each row's weight by N/B."""

    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", 1000, subsample=x):
            z = pyro.sample("z", Normal(0.0, 1.0))
            pyro.sample("x", Normal(z[:, None], 1.0).expand([len(x), 3]).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        with pyro.plate("data", 1000, subsample=x):
            pyro.sample("z", Normal(x.sum(-1) / 4, 0.5))

    x = torch.randn(6, 3)
    truth = MultivariateNormal(torch.zeros(3), torch.eye(3) + 1).log_prob(x)
    np.testing.assert_allclose(iwae(Pair(model, guide), x, 4).per_row, truth, atol=1e-5)


def test_latents_that_rows_share_have_an_elbo_and_no_importance_weights() -> None:
    """Wrong: a weight of all rows together would be taken for a row's own."""
    x = torch.randn(20, 4)
    pair = Pair(BayesianPCA(4, 2), SharedLoadings(4, 2))
    pair.start(x)
    with pytest.raises(PairError, match="outside the plate over rows"):
        iwae(pair, x, 3)
    lower = elbo(pair, x, 30, seed=0)
    assert lower.shared_latents
    # Of one draw for all rows, errors add up: the mean's spread over seeds must fit the error that is given.
    spread = np.std([elbo(pair, x, 30, seed=1000 * seed).mean for seed in range(1, 13)])
    assert spread < 2 * lower.particle_standard_error


class TestSums:
    def test_extreme_weights(self) -> None:
        """Wrong: exp overflows at 1000 nats, or a zero weight makes NaN."""
        sums = WeightSums(3)
        weights = torch.tensor([[-2000.0, 1500.0, -math.inf], [-2001.0, 1400.0, 3.0], [-1999.0, 1500.0, -math.inf]])
        for part in weights.double().split(1):
            sums.add(part)
        exact_sum = torch.logsumexp(weights.double(), 0) - math.log(3)
        torch.testing.assert_close(sums.log_mean, exact_sum, rtol=0, atol=1e-10)
        normal = (weights.double() - torch.logsumexp(weights.double(), 0)).exp()
        torch.testing.assert_close(sums.effective_sample_size, 1 / normal.square().sum(0))
        torch.testing.assert_close(sums.mean[:2], weights.double().mean(0)[:2])

    def test_streamed_moments_are_those_of_all_particles(self) -> None:
        """Wrong: the parts of a stream are merged with wrong weights."""
        weights = 5 * torch.randn(101, 4, dtype=torch.float64)
        sums = WeightSums(4)
        for part in weights.split([1, 60, 40]):
            sums.add(part)
        torch.testing.assert_close(sums.mean, weights.mean(0))
        torch.testing.assert_close(sums.mean_error, weights.std(0) / math.sqrt(101))
        ratio = weights.exp() / weights.exp().mean(0)
        torch.testing.assert_close(sums.log_mean_error, ratio.std(0) / math.sqrt(101))


class TestBadInput:
    @pytest.mark.parametrize(("k", "rows", "said"), [(0, 5, "particles=0"), (3, 0, "no rows")])
    def test_counts(self, k: int, rows: int, said: str) -> None:
        """Wrong: an empty estimate is NaN without a word."""
        pair, x = ppca()
        with pytest.raises(DataError, match=said):
            iwae(pair, x[:rows], k)

    def test_a_diverged_pair_is_named_with_its_row(self) -> None:
        """Wrong: one NaN row makes the mean NaN, and nobody knows which."""
        pair, x = ppca()
        x[4] = math.inf
        with pytest.raises(PairError, match="row 4 is NaN or infinite"), pyro.validation_enabled(False):
            iwae(pair, x, 2)

    def test_no_closed_form(self) -> None:
        """Wrong: the error does not say what to use instead."""
        with pytest.raises(PairError, match="use iwae"):
            exact(Pair(poisson_model, poisson_guide), torch.ones(2, 2))
