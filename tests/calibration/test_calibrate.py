"""Guides that are right are not flagged, guides that are wrong in a known way are, by as much as they are wrong."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import Planar
from torch import Tensor

from pyro_lvm import Pair, data_plate, observe
from pyro_lvm.calibration import Calibration, calibrate, simulating
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.guides import LinearGaussian, MixtureOfExperts
from pyro_lvm.models import BayesianPCA, MixturePPCA
from pyro_lvm.tables import calibration_table


def run(pair: Pair, x: Tensor, simulations: int = 600, draws: int = 49, **options: Any) -> Calibration:
    return calibrate(pair, x, simulations, draws, progress=False, **options)


# ---- conjugate pairs: exact guides of other shapes, supports and types


def shapes_and_supports() -> dict[str, tuple[Any, Any, Tensor]]:
    def counts(x: Tensor) -> None:
        with data_plate(x):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Poisson(rate[..., None]).expand([len(x), 3]).to_event(1), obs=x.float())

    def counts_guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("rate", dist.Gamma(2.0 + x.float().sum(-1), 4.0))

    def topics(x: Tensor) -> None:
        with data_plate(x):
            p = pyro.sample("p", dist.Dirichlet(torch.tensor([0.7, 1.0, 2.0])))
            pyro.sample("x", dist.Multinomial(12, p), obs=x)

    def topics_guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("p", dist.Dirichlet(torch.tensor([0.7, 1.0, 2.0]) + x))

    def images(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
            pyro.sample("x", dist.Normal(z[:, None], 2.0).to_event(3), obs=x)

    def images_guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", dist.Normal(x[:, 0] / 5, math.sqrt(4 / 5)).to_event(2))

    def chain(x: Tensor) -> None:
        with data_plate(x):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0).to_event(0), obs=x[:, 0])

    def chain_guide(x: Tensor) -> None:
        with data_plate(x):
            b = pyro.sample("b", dist.Normal(x[:, 0] * 2 / 3, math.sqrt(2 / 3)))
            pyro.sample("a", dist.Normal(b / 2, math.sqrt(1 / 2)))

    def inner_plate(x: Tensor) -> None:
        with pyro.plate("features", 3, dim=-2), data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def inner_plate_guide(x: Tensor) -> None:
        with pyro.plate("features", 3, dim=-2), data_plate(x):
            pyro.sample("z", dist.Normal(x.T / 2, math.sqrt(1 / 2)))

    def wide_inner_plate(x: Tensor) -> None:
        with pyro.plate("rows", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("features", 16, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def wide_inner_plate_guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.sum(1, keepdim=True) / 17, math.sqrt(1 / 17)))

    def deterministic(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            double = pyro.deterministic("double", 2 * z, event_dim=0)
            mean = pyro.deterministic("mean", double + 1)
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def deterministic_guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", dist.Normal(2 * (x - 1) / 5, math.sqrt(1 / 5)))

    def coins(x: Tensor) -> None:
        with data_plate(x):
            t = pyro.sample("t", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(t[..., None], 1.0).expand([len(x), 2]).to_event(1), obs=x)

    def coins_guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("t", dist.Bernoulli(logits=math.log(0.3 / 0.7) + (x - 0.5).sum(-1)))

    return {
        "positive, counts": (counts, counts_guide, torch.zeros(5, 3, dtype=torch.long)),
        "simplex": (topics, topics_guide, torch.tensor([[12.0, 0.0, 0.0]])),
        "images, a latent matrix": (images, images_guide, torch.zeros(7, 1, 2, 3)),
        "two latents, one a row of one number": (chain, chain_guide, torch.zeros(4, 1)),
        "a plate beside the rows'": (inner_plate, inner_plate_guide, torch.zeros(9, 3)),
        "a plate as long as a few rows": (wide_inner_plate, wide_inner_plate_guide, torch.ones(40, 16).cumsum(1)),
        "names for what latents come to": (deterministic, deterministic_guide, torch.zeros(9)),
        "discrete": (coins, coins_guide, torch.zeros(9, 2)),
    }


@pytest.mark.parametrize("name", list(shapes_and_supports()))
def test_exact_guides_of_any_shape_are_not_flagged(name: str) -> None:
    """Wrong: a shape, type or support is mixed up, so that truth and draws differ. Oracle: conjugacy."""
    model, guide, like = shapes_and_supports()[name]
    found = run(Pair(model, guide), like)
    assert not found.flagged, found.diagnosis
    assert found.diagnosis == ()


@pytest.mark.parametrize("name", list(shapes_and_supports()))
def test_the_same_guides_of_other_data_are_flagged(name: str) -> None:
    """Wrong: nothing is compared at all: a guide that reads other rows than it is given must be flagged."""
    model, guide, like = shapes_and_supports()[name]
    assert run(Pair(model, lambda x: guide(x.roll(1, 0))), like).flagged


def test_exact_posteriors_of_ppca_with_holes_and_of_a_mixture_are_not_flagged(ppca: Any) -> None:
    """Wrong: rows lack other entries than their guide sees, or a component is drawn from another distribution."""
    pair, x = ppca(holes=True)
    x[::2, 1:4] = math.nan
    assert not run(pair, x).flagged
    torch.manual_seed(3)
    model, experts = MixturePPCA(4, 1, 3), MixtureOfExperts(4, 1, 3)
    with torch.no_grad():
        model.relative_loadings.copy_(torch.randn(3, 4, 1))
    experts.match(model)
    found = run(Pair(model, experts), torch.zeros(5, 4))
    assert not found.flagged, found.diagnosis
    with torch.no_grad():
        # Between components that overlap, the guide has a favourite.
        experts.log_weights += torch.tensor([1.5, 0.0, 0.0])
    found = run(Pair(model, experts), torch.zeros(5, 4))
    assert found.flagged
    assert any(sentence.startswith("t ") for sentence in found.diagnosis)


def test_exact_guides_are_flagged_once_in_a_hundred_at_most(ppca: Any) -> None:
    """Wrong: p-values of many quantities are not adjusted for their number."""
    pair, x = ppca()
    p_values = [run(pair, x, 200, 19, seed=seed).p_value for seed in range(16)]
    assert sum(p < 0.01 for p in p_values) <= 1
    assert np.median(p_values) > 0.3


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda g: setattr(g, "scale_tril", g.scale_tril / 2), "z is too narrow in all 2 coordinates"),
        (lambda g: setattr(g, "scale_tril", g.scale_tril * 1.5), "z is too wide in all 2 coordinates"),
        (lambda g: g.offset.data[0].add_(0.3 * g.scale_tril[0].detach().norm()), "z[0] is biased by +0."),
        (lambda g: setattr(g, "scale_tril", g.scale_tril * torch.tensor([[1.0], [-1.0]])), "correlations are wrong"),
    ],
)
def test_what_is_wrong_is_named(ppca: Any, spoil: Any, said: str) -> None:
    """Wrong: a fault is missed, or called by another name."""
    pair, x = ppca()
    if said == "correlations are wrong":
        # The diagonal stays positive: rows and columns change their sign.
        spoil = lambda g: setattr(g, "scale_tril", g.scale_tril * torch.tensor([[1.0, 1.0], [-1.0, 1.0]]))  # noqa: E731
    with torch.no_grad():
        spoil(pair.guide)
    found = run(pair, x)
    assert found.flagged
    assert said in "; ".join(found.diagnosis)


def test_means_that_follow_x_wrongly_are_told_from_too_narrow_a_guide(ppca: Any) -> None:
    """Wrong: a guide that is off row by row is told to be wider. Oracle: regression of truth on mean."""
    pair, x = ppca()
    with torch.no_grad():
        exact = pair.model.exact_posterior(x)
        guide: Any = pair.guide
        guide.relative_slope[0] *= 2
        guide.scale_tril = guide.scale_tril / 2
    found = run(pair, x, 1500, 49)
    assert "z[0] is wrong row by row: the truth moves by 0.5 where the guide's mean moves by 1" in found.diagnosis
    assert any(sentence.startswith("z[1] is too narrow by a factor of") for sentence in found.diagnosis)
    for name, slope in (("z[0]", 0.5), ("z[1]", 1.0)):
        assert abs(found[name].slope - slope) < 4 * found[name].slope_error
        assert found[name].slope_error < 0.05
    # The slope's error is that of a regression whose residuals are the posterior's.
    spread = exact.covariance_matrix[0].diagonal().sqrt()
    means = (1 - exact.covariance_matrix[0].diagonal()).sqrt()
    assert math.isclose(found["z[1]"].slope_error, float(spread[1] / means[1]) / math.sqrt(1500), rel_tol=0.15)


def test_effects_are_those_that_were_planted(ppca: Any) -> None:
    """Wrong: a unit or a sign. Oracle: the spoilt guide's moments relative to the exact posterior's."""
    pair, x = ppca()
    with torch.no_grad():
        exact = pair.model.exact_posterior(x)
        spread = exact.covariance_matrix[0].diagonal().sqrt().float()
        pair.guide.scale_tril = pair.guide.scale_tril / 2
        pair.guide.offset += torch.tensor([0.0, 0.4]) * spread
    found = run(pair, x, 1500, 99)
    for name, location in (("z[0]", 0.0), ("z[1]", 0.4)):
        one = found[name]
        assert abs(one.location - location) < 4 * one.location_error
        assert abs(one.scale - 0.5) < 4 * one.scale_error


def test_coverage_is_the_gaussians(ppca: Any) -> None:
    r"""Wrong: regions are of lowest density, or levels are off by one.

    Oracle: in two dimensions a region of level a of a guide that is too narrow by 2 holds the truth with probability
    1 - (1 - a)^(1/4).
    """
    pair, x = ppca()
    with torch.no_grad():
        pair.guide.scale_tril = pair.guide.scale_tril / 2
    found = run(pair, x, 2000, 99).coverage
    assert found is not None
    np.testing.assert_allclose(found.empirical, 1 - (1 - found.levels) ** 0.25, atol=4 * 0.5 / math.sqrt(2000))
    exact, x = ppca()
    found = run(exact, x, 2000, 99)
    for coverage in (found.coverage, found.tarp):
        assert coverage is not None
        assert (coverage.empirical >= coverage.lower).all()
        assert (coverage.empirical <= coverage.upper).all()


def test_a_guide_that_is_the_prior_is_seen_by_the_likelihood_alone(ppca: Any) -> None:
    """Wrong: a guide passes that never looks at its row (Modrák et al. 2023): its coordinates' ranks are uniform."""
    pair, x = ppca()
    with torch.no_grad():
        pair.guide.relative_slope.zero_()
        pair.guide.offset.zero_()
        pair.guide.scale_tril = torch.eye(2)
    found = run(pair, x)
    assert not found["z[0]"].flagged
    assert found["log p(x | z)"].flagged
    assert found.diagnosis == ("the guide ignores x: its draws of z don't depend on the row",)


def test_a_latent_that_the_model_does_not_use_is_not_called_ignored() -> None:
    """Wrong: rounding of a likelihood that doesn't depend on the latent decides its ranks."""

    def model(x: Tensor) -> None:
        weights = torch.zeros(3, 5)
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            observe("x", dist.Normal(z @ weights + 1000.3, 0.1), x)

    def guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).expand([len(x), 3]).to_event(1))

    assert not run(Pair(model, guide), torch.zeros(4, 5)).flagged


def test_a_latent_of_very_many_coordinates_has_few_quantities() -> None:
    """Wrong: hundreds of quantities, of which none can stand out."""

    def model(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(300), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", dist.Normal(x / 2, 0.5).to_event(1))

    found = run(Pair(model, guide), torch.zeros(4, 300), 200, 19)
    assert len(found.quantities) < 40
    assert found.notes == ("z: 20 of its 300 coordinates",)
    assert found.flagged
    assert any("of 20 coordinates looked at, most in z[" in sentence for sentence in found.diagnosis), found.diagnosis


def test_a_latent_that_x_says_nothing_of_is_not_to_blame_for_another() -> None:
    """Wrong: a guide that is right of u is told to look at x. Oracle: u's posterior is its prior, z's is conjugate."""

    def model(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("u", dist.Normal(0.0, 1.0))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("u", dist.Normal(0.0, 1.0))
            pyro.sample("z", dist.Normal(x / 2, math.sqrt(1 / 2) / 2).to_event(1))

    found = run(Pair(model, guide), torch.zeros(4, 2))
    assert found["log p(x | z)"].flagged
    assert len(found.diagnosis) == 1
    assert found.diagnosis[0].startswith("z is too narrow in all 2 coordinates, most in")


def test_a_row_alone_in_its_block_is_not_its_own_reference(ppca: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong: the truth is at the distance 0 from itself, and below every draw of an exact guide."""
    monkeypatch.setattr(simulating, "_BLOCK_ROWS", 1)
    pair, x = ppca()
    found = run(pair, x, 60, 19)
    assert not found.flagged
    assert len(np.unique(found["distance to a random point"].ranks)) > 10


def test_a_guide_whose_density_is_known_of_its_own_draws_alone_is_looked_at_without_it() -> None:
    """Wrong: a flow without an inverse breaks the pair down. Oracle: the flow is of no effect, and the guide exact."""

    def model(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    flow = Planar(2)
    with torch.no_grad():
        # Where log(1 + exp(w u)) = 1, what is added to w's part of u takes it away.
        flow.w.copy_(torch.tensor([1.0, 0.0]))
        flow.u.copy_(torch.tensor([math.log(math.e - 1), 0.0]))

    def guide(x: Tensor) -> None:
        with data_plate(x):
            base = dist.Normal(x / 2, math.sqrt(1 / 2)).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    found = run(Pair(model, guide), torch.zeros(4, 2))
    assert not found.flagged
    assert found.coverage is None
    assert any("the guide's density of the latents isn't to be had" in note for note in found.notes)


def test_a_latent_left_to_enumeration_is_drawn_from_its_conditional() -> None:
    """Wrong: it is drawn from its prior, so that an exact guide of the other latent is flagged."""
    torch.manual_seed(0)
    locs = torch.randn(3, 4)

    def model(x: Tensor) -> None:
        with data_plate(x):
            t = pyro.sample("t", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(locs[t], 1.0).to_event(1), obs=x)

    found = run(Pair(model, lambda x: None), torch.zeros(4, 4))
    assert not found.flagged
    assert found.coverage is None
    assert any("t: left to enumeration" in note for note in found.notes)


def test_ones_own_quantities_are_ranked(ppca: Any) -> None:
    """Wrong: they are given something else than latents by name and the rows."""
    pair, x = ppca()
    with torch.no_grad():
        pair.guide.offset[0] += 0.5
    own = {"first of z less x's": lambda latents, rows: latents["z"][:, 0] - rows[:, 0]}
    found = run(pair, x, quantities=own)
    assert found["first of z less x's"].flagged
    np.testing.assert_array_equal(found["first of z less x's"].ranks, found["z[0]"].ranks)
    with pytest.raises(DataError, match=r"'pair' gave \(600, 2\) for 600 rows: expected a number a row"):
        run(pair, x, quantities={"pair": lambda latents, rows: latents["z"]})
    with pytest.raises(DataError, match="'odd' gave NaN"):
        run(pair, x, quantities={"odd": lambda latents, rows: rows[:, 0].log()})
    with pytest.raises(DataError, match=r"'z\[0\]' is there already"):
        run(pair, x, quantities={"z[0]": lambda latents, rows: rows[:, 0]})


def test_a_seed_gives_the_same_and_leaves_the_callers_state(ppca: Any) -> None:
    """Wrong: results can't be repeated, or someone else's random numbers change."""
    pair, x = ppca()
    state = torch.get_rng_state()
    first, second = run(pair, x, seed=4), run(pair, x, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.to_json() == second.to_json()
    assert first.to_json() != run(pair, x, seed=5).to_json()
    assert math.isfinite(first.to_json()["p_value"])
    assert calibration_table(first).row_count == len(first.quantities) + 2


# ---- bad input


def test_pairs_that_cannot_be_simulated_say_why(ppca: Any) -> None:
    """Wrong: a traceback, or no name of the site that is at fault."""

    def plain(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def with_factor(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[:, None], 1.0).expand([len(x), 2]).to_event(1), obs=x)
            pyro.factor("extra", -z.square())

    def reads_rows(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(x.flip(1) + z[:, None], 1.0).to_event(1), obs=x)

    def turned(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z[:, None], 1.0).expand([len(x), 2]).to_event(1), obs=2 * x)

    def nan_density(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            observe("x", dist.Normal(z[:, None].expand(-1, 2), torch.tensor(0.0), validate_args=False), x)

    def nan_draws(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            observe("x", dist.Normal(z[:, None].expand(-1, 2), torch.tensor(math.nan), validate_args=False), x)

    like = torch.randn(8, 2)
    for model, message in (
        (with_factor, "the site 'extra' is a factor"),
        (reads_rows, "the model's draws of 'x' depend on the rows"),
        (turned, "the site 'y' doesn't hold the rows as they are given"),
        (nan_density, "the model's density at the site 'x' is NaN"),
        (nan_draws, "the model draws NaN at the site 'x'"),
    ):
        with pytest.raises(PairError, match=message) as caught:
            run(Pair(model, plain), like)
        assert "\n" not in str(caught.value)
    pair, x = ppca()
    with pytest.raises(PairError, match="the guide doesn't draw the model's latent 'z'"):
        run(Pair(pair.model, lambda x: None), x)
    shared = BayesianPCA(6, 2)
    with pytest.raises(PairError, match="rows share the latents"):
        run(Pair(shared, LinearGaussian(6, 2)), x)
    with pytest.raises(PairError, match="breaks down on rows like those that it was given"):
        run(Pair(pair.model, LinearGaussian(5, 2)), x)
    x[0, 0] = math.nan
    with pytest.raises(PairError, match="1 missing entries, which the guide LinearGaussian cannot take"):
        run(pair, x)


def test_counts_that_are_too_small_are_refused(ppca: Any) -> None:
    """Wrong: a verdict from next to nothing."""
    pair, x = ppca()
    with pytest.raises(DataError, match="simulations=5: expected a whole number from 20 up"):
        run(pair, x, 5)
    with pytest.raises(DataError, match="draws=1: expected a whole number from 9 up"):
        run(pair, x, 100, 1)
    with pytest.raises(DataError, match="there are no rows"):
        run(pair, x[:0])
    assert not run(pair, x[:1]).flagged


def test_a_prior_with_parameters_is_taken_as_it_is() -> None:
    """Wrong: a learned prior is refused, or another one is simulated from. Oracle: the conjugate posterior."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(3.0))
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z[:, None], 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", dist.Normal((x[:, 0] + 3.0) / 2, math.sqrt(1 / 2)))

    assert not run(Pair(model, guide), torch.zeros(3, 1)).flagged
