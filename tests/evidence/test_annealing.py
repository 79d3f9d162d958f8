"""Annealed bounds from both sides, against closed forms and numerical integration from other code."""

import math
from collections.abc import Callable

import numpy as np
import pyro
import pytest
import torch
from pyro.distributions import Beta, Categorical, Dirichlet, Gamma, LogNormal, Normal, Poisson, Uniform
from pyro.infer.autoguide import AutoNormal
from scipy import integrate, stats

from pyro_lvm import data_plate, observe
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.evidence import Sandwich, ais, reverse_ais, sandwich, simulate
from pyro_lvm.evidence.annealing import schedule
from pyro_lvm.evidence.density import LatentDensity
from pyro_lvm.evidence.hmc import move, tune
from pyro_lvm.guides import LinearGaussian, MixtureOfExperts, ProductOfExperts, SharedLoadings
from pyro_lvm.models import PPCA, BayesianPCA, FactorAnalysis, MixturePPCA
from pyro_lvm.pair import Pair


def ppca(data_dim: int = 6, latent_dim: int = 2, guide: type = LinearGaussian) -> Pair:
    torch.manual_seed(1)
    model = PPCA(data_dim, latent_dim)
    with torch.no_grad():
        model.relative_loadings.copy_(torch.randn(data_dim, latent_dim))
        model.relative_mean.copy_(torch.randn(data_dim))
    model.relative_noise_scale = torch.tensor(0.7)
    return Pair(model, guide(data_dim, latent_dim))


def factor_analysis() -> Pair:
    torch.manual_seed(2)
    model = FactorAnalysis(6, 2)
    with torch.no_grad():
        model.relative_loadings.copy_(torch.randn(6, 2))
    model.relative_noise_scale = torch.linspace(0.5, 1.5, 6)
    return Pair(model, LinearGaussian(6, 2))


def mixture() -> Pair:
    torch.manual_seed(3)
    model = MixturePPCA(4, 1, 3)
    with torch.no_grad():
        model.relative_loadings.copy_(torch.randn(3, 4, 1))
        model.relative_means.copy_(3 * torch.randn(3, 4))
        model.logits.copy_(torch.tensor([0.5, 0.0, -0.5]))
    model.relative_noise_scales = torch.tensor([0.6, 0.8, 1.0])
    guide = MixtureOfExperts(4, 1, 3)
    guide.match(model)
    return Pair(model, guide)


def bracketed(both: Sandwich, truth: np.ndarray, errors: float = 5.0) -> bool:
    """Whether both bounds are on their side of the truth, within so many of their own standard errors, for every row.

    Few chains know their own errors badly.
    """
    low = both.lower.per_row - errors * both.lower.particle_errors - 1e-5
    high = both.upper.per_row + errors * both.upper.particle_errors + 1e-5
    return bool((low.numpy() <= truth).all() and (truth <= high.numpy()).all())


@pytest.mark.parametrize("make", [ppca, factor_analysis, mixture])
def test_bounds_bracket_the_exact_evidence(make: Callable[[], Pair]) -> None:
    """Wrong: what is called a bound isn't one, or is of another quantity."""
    pair = make()
    like = torch.zeros(30, 4 if make is mixture else 6)
    rows, _ = simulate(pair, like, seed=1)
    truth = pair.model.log_evidence(rows).detach().numpy()
    both = sandwich(pair, like, 60, 8, leapfrogs=4, seed=1)
    assert bracketed(both, truth)
    assert 0 < both.width < 0.8
    # Each on its side: a bound that is a mere estimate is as often above as below.
    assert both.lower.mean < truth.mean() < both.upper.mean
    assert both.lower.acceptances is not None
    assert 0.5 < float(both.lower.acceptances.min()) <= float(both.lower.acceptances.max()) < 0.85


@pytest.mark.slow
@pytest.mark.parametrize("make", [ppca, factor_analysis, mixture])
@pytest.mark.parametrize("start", ["prior", "guide"])
def test_full_settings_leave_little_room(make: Callable[[], Pair], start: str) -> None:
    """Wrong: more temperatures don't close in on the evidence. All of 200 rows bracketed; 0.05 nats between.

    A standard error of 16 chains makes Student's t of what is three of them away: of 200 rows, about one.
    """
    pair = make()
    like = torch.zeros(200, 4 if make is mixture else 6)
    rows, _ = simulate(pair, like, seed=5)
    truth = pair.model.log_evidence(rows).detach().numpy()
    if make is not mixture:
        pair.guide.start(rows, pair.model)
        pair.guide.match(pair.model)
    both = sandwich(pair, like, 1000, 16, start=start, seed=5)
    for bound, sign in ((both.lower, 1), (both.upper, -1)):
        away = sign * (bound.per_row.numpy() - truth) / bound.particle_errors.numpy()
        assert (away > 3).sum() <= stats.binom.isf(1e-3, len(away), stats.t.sf(3, 15))
    assert bracketed(both, truth)
    assert abs(both.width) < 0.05


def test_more_temperatures_come_closer() -> None:
    """Wrong: the path isn't taken in the small steps that are paid for."""
    pair = ppca()
    rows, latents = simulate(pair, torch.zeros(20, 6))
    truth = float(pair.model.log_evidence(rows).mean().detach())
    for bound, sign in ((ais, 1), (lambda p, r, t, c: reverse_ais(p, r, latents, t, c), -1)):
        few, many = (sign * (truth - bound(pair, rows, count, 4).mean) for count in (8, 120))
        assert many < 0.4 * few


def test_holes() -> None:
    """Wrong: missing entries add to the density, or rows that are simulated for them are complete."""
    pair = ppca(guide=ProductOfExperts)
    like = torch.zeros(20, 6)
    like[torch.rand(20, 6, generator=torch.Generator().manual_seed(0)) < 0.4] = math.nan
    like[0] = math.nan
    rows, _ = simulate(pair, like)
    assert torch.equal(rows.isnan(), like.isnan())
    assert bracketed(sandwich(pair, like, 60, 8), pair.model.log_evidence(rows).detach().numpy())


def test_from_a_guide_the_way_is_shorter() -> None:
    """Wrong: q is left out of the weights, or its draws are. At the exact posterior every weight is the evidence."""
    pair = ppca()
    rows, _ = simulate(pair, torch.zeros(12, 6))
    pair.guide.start(rows, pair.model)
    pair.guide.match(pair.model)
    truth = pair.model.log_evidence(rows).detach()
    torch.testing.assert_close(ais(pair, rows, 3, 2, start="guide").per_row, truth, rtol=0, atol=1e-4)
    with torch.no_grad():
        pair.guide.offset += 0.8
    found = ais(pair, rows, 100, 8, start="guide")
    assert abs(found.mean - float(truth.mean())) < 4 * found.particle_standard_error + 0.05


def gamma_poisson(x: torch.Tensor) -> None:
    with data_plate(x):
        z = pyro.sample("z", Gamma(2.0, 2.0))
        observe("x", Poisson(torch.tensor([1.0, 3.0]) * z[:, None]), x)


def lognormal(x: torch.Tensor) -> None:
    with data_plate(x):
        pyro.sample("z", LogNormal((x.sum(-1) + 1).log() - 1.6, 0.6))


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_a_latent_with_bounds(start: str) -> None:
    """Wrong: the Jacobian of the map to the real line is left out, or has the other sign. Oracle: quadrature."""
    x = torch.tensor([[0.0, 2.0], [3.0, 9.0], [1.0, 1.0]])

    def density(z: float, row: np.ndarray) -> float:
        return float(stats.gamma.pdf(z, 2, scale=0.5) * stats.poisson.pmf(row, np.array([1.0, 3.0]) * z).prod())

    truth = np.log([integrate.quad(density, 0, 30, args=(row,))[0] for row in x.numpy()])
    found = ais(Pair(gamma_poisson, lognormal), x, 100, 32, start=start, seed=2)
    assert np.abs((found.per_row.numpy() - truth) / found.particle_errors.numpy()).max() < 4
    assert float(found.particle_errors.max()) < 0.2


def test_a_support_that_depends_on_another_latent_and_one_with_fewer_dimensions() -> None:
    """Wrong: the map is that of the first draw's support, or a simplex is moved off itself. Oracle: quadrature."""

    def model(x: torch.Tensor) -> None:
        with data_plate(x):
            top = pyro.sample("top", Beta(2.0, 2.0))
            z = pyro.sample("z", Uniform(torch.zeros(len(x)), top))
            shares = pyro.sample("shares", Dirichlet(torch.tensor([2.0, 3.0])))
            loc = torch.stack([4 * z, 3 * shares[..., 0]], -1)
            pyro.sample("x", Normal(loc, 0.5).to_event(1), obs=x)

    x = torch.tensor([[1.5, 2.0], [0.2, 0.5]])

    def first(z: float, top: float, value: float) -> float:
        return float(stats.beta.pdf(top, 2, 2) / top * stats.norm.pdf(value, 4 * z, 0.5))

    def second(share: float, value: float) -> float:
        return float(stats.beta.pdf(share, 2, 3) * stats.norm.pdf(value, 3 * share, 0.5))

    truth = [
        math.log(integrate.dblquad(first, 1e-9, 1, 0, lambda top: top, args=(float(row[0]),))[0])
        + math.log(integrate.quad(second, 0, 1, args=(float(row[1]),))[0])
        for row in x
    ]
    found = ais(Pair(model, lambda x: None), x, 100, 32)
    assert np.abs((found.per_row.numpy() - truth) / found.particle_errors.numpy()).max() < 4
    assert float(found.particle_errors.max()) < 0.2


def test_a_discrete_latent_is_summed_out() -> None:
    """Wrong: a component is forgotten, or counted twice. Oracle: the mixture of two joint Gaussians."""

    def model(x: torch.Tensor) -> None:
        with data_plate(x):
            t = pyro.sample("t", Categorical(torch.tensor([0.3, 0.7])))
            z = pyro.sample("z", Normal(0.0, 1.0))
            loc = torch.where(t == 1, 2.0, -1.0) + z
            pyro.sample("x", Normal(loc.unsqueeze(-1), 0.5).expand([*loc.shape, 2]).to_event(1), obs=x)

    x = torch.tensor([[-1.0, -0.5], [2.0, 2.5], [0.4, 0.6]])
    covariance = np.ones((2, 2)) + 0.25 * np.eye(2)
    joint = [stats.multivariate_normal([m, m], covariance).pdf(x.numpy()) for m in (-1.0, 2.0)]
    truth = np.log(0.3 * joint[0] + 0.7 * joint[1])
    found = ais(Pair(model, lambda x: None), x, 100, 32)
    assert np.abs((found.per_row.numpy() - truth) / found.particle_errors.numpy()).max() < 4


def test_moves_leave_the_posterior_as_it_is() -> None:
    """Wrong: the moves prefer some places, and no weight means anything. 2000 exact draws, moved, are exact draws."""
    pair = ppca()
    x = simulate(pair, torch.zeros(1, 6))[0]
    density = LatentDensity(pair, x, 2000)
    steps = tune(LatentDensity(pair, x, 8), schedule(40), 4)
    with torch.no_grad():
        exact = pair.model.exact_posterior(x)
        start = exact.sample((2000,))[:, 0].float()
        point = density.evaluate(density.coordinates({"z": start}))
        for _ in range(10):
            point, probability = move(density, point, 1.0, steps.at(1.0, 2000), 4)
    moved = density.latents(point.u)["z"].double()
    assert 0.5 < float(probability.mean()) < 0.95
    assert float((moved - start).square().mean()) > 0.3 * float(exact.variance.mean())
    white = torch.linalg.solve_triangular(exact.scale_tril[0], (moved - exact.mean[0]).mT, upper=False).detach()
    for coordinate in white:
        assert stats.kstest(coordinate.numpy(), "norm").pvalue > 1e-3
    assert abs(float((white[0] * white[1]).mean())) < 4 / math.sqrt(2000)


def test_blocks_and_seed() -> None:
    """Wrong: rows are lost or mixed up where they don't fit at once; figures can't be had again."""
    pair = ppca()
    rows, latents = simulate(pair, torch.zeros(5, 6))
    truth = pair.model.log_evidence(rows).detach()
    state = torch.get_rng_state()
    whole, again = (ais(pair, rows, 20, 4, seed=3).per_row for _ in range(2))
    assert torch.equal(whole, again)
    assert torch.equal(state, torch.get_rng_state())
    lower = ais(pair, list(rows.split(3)), 60, 8, chunk_rows=24)
    upper = reverse_ais(pair, rows, latents, 60, 8, chunk_rows=32)
    assert bracketed(Sandwich(lower, upper), truth.numpy())
    assert float((upper.per_row - truth).abs().max()) < 3


def test_a_deterministic_is_neither_drawn_nor_a_latent() -> None:
    """Wrong: a name for what a latent comes to is drawn, and the model refused or its rows spoilt. Rows are N(1, 5)."""

    def model(x: torch.Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", Normal(0.0, 1.0))
            double = pyro.deterministic("double", 2 * z, event_dim=0)
            pyro.sample("x", Normal(pyro.deterministic("mean", double + 1), 1.0), obs=x)

    pair = Pair(model, lambda x: None)
    rows, latents = simulate(pair, torch.zeros(4000))
    assert list(latents) == ["z"]
    # Standard errors: 0.035 of the mean, 0.11 of the variance, 0.016 of the residuals' spread.
    assert float(rows.mean()) == pytest.approx(1, abs=0.15)
    assert float(rows.var()) == pytest.approx(5, abs=0.5)
    assert float((rows - 1 - 2 * latents["z"]).var()) == pytest.approx(1, abs=0.1)
    rows, _ = simulate(pair, torch.zeros(20))
    assert bracketed(sandwich(pair, torch.zeros(20), 60, 8), stats.norm(1, 5**0.5).logpdf(rows.numpy()))


def test_an_autoguide_is_not_needed_for_a_path_from_the_prior() -> None:
    """Wrong: pairs whose guide can't be copied can't be judged at all."""
    rows, _ = simulate(ppca(), torch.zeros(4, 6))
    model = ppca().model
    pair = Pair(model, AutoNormal(model))
    truth = model.log_evidence(rows).detach()
    found = ais(pair, rows, 60, 8)
    assert ((found.per_row - truth) / found.particle_errors).abs().max() < 6
    with pytest.raises(PairError, match="start from the prior"):
        ais(pair, rows, 5, 2, start="guide")


class TestBadInput:
    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"temperatures": 0}, "temperatures=0"),
            ({"chains": 0}, "chains=0"),
            ({"leapfrogs": 0}, "leapfrogs=0"),
            ({"start": "encoder"}, "expected one of prior, guide"),
        ],
    )
    def test_settings(self, settings: dict, said: str) -> None:
        """Wrong: nothing is annealed without a word."""
        with pytest.raises(DataError, match=said):
            ais(ppca(), torch.zeros(2, 6), **settings)

    def test_no_rows_and_no_draws(self) -> None:
        """Wrong: an empty estimate is NaN without a word."""
        for rows in (torch.zeros(0, 6), []):
            with pytest.raises(DataError, match="no rows"):
                ais(ppca(), rows, 5, 2)
        with pytest.raises(DataError, match="no rows"):
            sandwich(ppca(), torch.zeros(0, 6))
        with pytest.raises(DataError, match="latent 'z'"):
            reverse_ais(ppca(), torch.zeros(2, 6), {}, 5, 2)

    def test_a_latent_that_rows_share(self) -> None:
        """Wrong: all rows' evidence together would be taken for each row's."""
        x = torch.randn(20, 4)
        pair = Pair(BayesianPCA(4, 2), SharedLoadings(4, 2))
        pair.start(x)
        with pytest.raises(PairError, match=r"'alpha' lies outside the plate"):
            ais(pair, x, 5, 2)

    def test_latents_that_cannot_be_moved(self) -> None:
        """Wrong: counts would be moved as if there were numbers between them."""

        def counts(x: torch.Tensor) -> None:
            with data_plate(x):
                n = pyro.sample("n", Poisson(3.0))
                pyro.sample("x", Normal(n, 1.0), obs=x)

        def binary(x: torch.Tensor) -> None:
            with data_plate(x):
                t = pyro.sample("t", Categorical(torch.ones(2)))
                pyro.sample("x", Normal(t.float(), 1.0), obs=x)

        with pytest.raises(PairError, match="'n' is discrete and Poisson"):
            ais(Pair(counts, lambda x: None), torch.zeros(3), 5, 2)
        with pytest.raises(PairError, match="no continuous latent"):
            ais(Pair(binary, lambda x: None), torch.zeros(3), 5, 2)

    def test_a_diverged_pair_is_named_with_its_row(self) -> None:
        """Wrong: one NaN row makes the mean NaN, and nobody knows which."""
        rows = torch.zeros(5, 6)
        rows[3] = math.inf
        with pytest.raises(PairError, match="row 3"), pyro.validation_enabled(False):
            ais(ppca(), rows, 5, 2)

    def test_a_guide_that_cannot_take_holes(self) -> None:
        """Wrong: a NaN mean starts the chains. From the prior the guide isn't asked."""
        rows = torch.zeros(3, 6)
        rows[0, 0] = math.nan
        with pytest.raises(PairError, match="missing entries"):
            ais(ppca(), rows, 5, 2, start="guide")
        assert bool(ais(ppca(), rows, 5, 2).per_row.isfinite().all())

    def test_a_model_that_cannot_be_simulated_says_which_site(self) -> None:
        """Wrong: rows that the model never made would be bounded from above."""

        def halves(x: torch.Tensor) -> None:
            with data_plate(x):
                z = pyro.sample("z", Normal(0.0, 1.0))
                pyro.sample("logs", Normal(z, 1.0), obs=x.exp())

        def factor(x: torch.Tensor) -> None:
            with data_plate(x):
                z = pyro.sample("z", Normal(0.0, 1.0))
                pyro.factor("energy", -((x - z) ** 2))

        for model, site in ((halves, "logs"), (factor, "energy")):
            with pytest.raises(PairError, match=f"can't be simulated.*{site}"):
                sandwich(Pair(model, lambda x: None), torch.ones(3), 5, 2)
