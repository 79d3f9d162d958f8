"""The latent space of linear pairs, where what decodes to what is known, and of plain functions."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro.distributions import Categorical, Gamma, LogNormal, Normal, Poisson
from scipy import stats

from pyro_lvm import data_plate, observe
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.guides import LinearGaussian, MixtureOfExperts
from pyro_lvm.latent import LatentSpace
from pyro_lvm.models import PPCA, MixturePPCA
from pyro_lvm.pair import Pair


@pytest.fixture
def space() -> LatentSpace:
    """PPCA with its exact posterior, 60 rows of 6 features, 3 latent coordinates."""
    x = torch.randn(60, 6) @ torch.randn(6, 6) + 2
    pair = Pair(PPCA(6, 3), LinearGaussian(6, 3))
    pair.start(x, torch.Generator().manual_seed(0))
    pair.guide.match(pair.model)
    return LatentSpace(pair, x)


def scaled_model(x: torch.Tensor) -> None:
    """No decode, a prior that is not standard, and a shape that is an image's."""
    with data_plate(x):
        z = pyro.sample("z", Normal(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.5])).to_event(1))
        loc = z.sum(-1)[..., None, None] * torch.ones(3, 4)
        observe("x", Normal(loc, 1.0), x)


def scaled_guide(x: torch.Tensor) -> None:
    with data_plate(x):
        pyro.sample("z", Normal(x.mean((1, 2))[:, None].expand(-1, 2), torch.tensor([0.1, 0.2])).to_event(1))


class TestLinear:
    def test_embedding_is_the_posterior_mean(self, space: LatentSpace) -> None:
        """Wrong: the map shows something else than the rows' posteriors."""
        mean, deviation = space.moments()
        posterior = space.pair.model.exact_posterior(space.rows)
        np.testing.assert_allclose(mean, posterior.mean.detach(), atol=1e-4)
        np.testing.assert_allclose(deviation, posterior.stddev.detach(), atol=1e-4)

    def test_decoding_is_linear(self, space: LatentSpace) -> None:
        """Wrong: figures show other points than they say."""
        z = torch.randn(4, 5, 3)
        expected = z @ space.pair.model.loadings.T + space.pair.model.mean
        torch.testing.assert_close(space.decode(z), expected.detach())

    def test_draws_have_the_posteriors_spread(self, space: LatentSpace) -> None:
        """Wrong: new rows are made from the means alone, or from the prior."""
        z = space.draw(space.rows[:1].expand(4000, -1))
        mean, deviation = space.moments(space.rows[:1])
        assert float(((z.mean(0) - mean[0]) / deviation[0]).abs().max()) < 4 / math.sqrt(4000)
        assert float((z.std(0) / deviation[0] - 1).abs().max()) < 4 / math.sqrt(8000)

    def test_grid_lies_on_prior_quantiles(self, space: LatentSpace) -> None:
        """Wrong: corners of the picture are points that the model never makes."""
        z = space.grid(5, dims=(2, 0))
        levels = stats.norm.ppf((np.arange(5) + 0.5) / 5)
        np.testing.assert_allclose(z[0, :, 2], levels, atol=1e-5)
        np.testing.assert_allclose(z[:, 0, 0], levels, atol=1e-5)
        assert float(z[:, :, 1].abs().max()) < 1e-6

    def test_traversals_move_one_coordinate(self, space: LatentSpace) -> None:
        """Wrong: what is seen is not what the coordinate does."""
        start = torch.tensor([0.3, -1.0, 2.0])
        z = space.traverse(start, dims=[1, 2], num=7)
        assert z.shape == (2, 7, 3)
        np.testing.assert_allclose(z[0, :, 1], stats.norm.ppf(np.linspace(0.02, 0.98, 7)), atol=1e-5)
        assert torch.equal(z[0][:, [0, 2]], start[[0, 2]].expand(7, 2))

    def test_interpolation_ends_where_it_should(self, space: LatentSpace) -> None:
        """Wrong: the ends are not the two rows."""
        start, end = torch.randn(2, 3), torch.randn(2, 3)
        z = space.interpolate(start, end, 5)
        assert torch.equal(z[:, 0], start)
        torch.testing.assert_close(z[:, -1], end)
        torch.testing.assert_close(z[:, 2], (start + end) / 2)

    def test_samples_near_rows_are_from_their_posteriors(self, space: LatentSpace) -> None:
        """Wrong: a new 1 is drawn where no 1 is. Moments of the mixture of the two posteriors."""
        x = space.rows[:2]
        mean, deviation = space.moments(x)
        z = space.sample_near(x, 6000, seed=1)
        variance = deviation.square().mean(0) + mean.var(0, unbiased=False)
        assert float(((z.mean(0) - mean.mean(0)) / variance.sqrt()).abs().max()) < 4 / math.sqrt(6000)
        torch.testing.assert_close(z.var(0), variance, rtol=0.1, atol=0)


def test_plain_functions_are_read_from_their_traces() -> None:
    """Wrong: only the zoo's modules have a latent space. Images keep their shape."""
    x = torch.randn(9, 3, 4)
    space = LatentSpace(Pair(scaled_model, scaled_guide), x)
    torch.testing.assert_close(space.embed()[:, 0], x.mean((1, 2)))
    decoded = space.decode(torch.tensor([[1.0, 2.0], [0.5, -0.5]]))
    torch.testing.assert_close(decoded, torch.tensor([3.0, 0.0])[:, None, None].expand(2, 3, 4))
    quantiles = space.prior_quantiles([0.1, 0.5])
    torch.testing.assert_close(quantiles, torch.tensor([[1 - 2 * 1.2815516, -0.5 * 1.2815516], [1.0, 0.0]]))
    draws = space.draw_prior(5000)
    assert abs(float(draws[:, 0].std()) - 2.0) < 0.1


def test_a_scalar_latent_whose_prior_knows_no_quantiles() -> None:
    """Wrong: latents without a vector, or gamma priors, are left out. Oracle: SciPy's gamma."""

    def model(x: torch.Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", Gamma(2.0, 2.0))
            observe("x", Poisson(z[:, None] * torch.tensor([1.0, 3.0])), x)

    def guide(x: torch.Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", LogNormal(x.mean(-1).log1p(), 0.3))

    space = LatentSpace(Pair(model, guide), torch.ones(4, 2))
    assert space.latent_dim == 1
    levels = [0.1, 0.5, 0.9]
    np.testing.assert_allclose(space.prior_quantiles(levels)[:, 0], stats.gamma.ppf(levels, 2, scale=0.5), rtol=0.05)
    torch.testing.assert_close(space.decode(torch.tensor([[2.0]])), torch.tensor([[2.0, 6.0]]))


def test_rows_with_holes_where_the_guide_takes_none() -> None:
    """Wrong: one row with a hole among the first ones makes the whole space unusable."""
    x = torch.randn(20, 4)
    pair = Pair(PPCA(4, 2), LinearGaussian(4, 2))
    pair.start(x)
    holes = x.clone()
    holes[0, 0] = math.nan
    space = LatentSpace(pair, holes)
    assert bool(space.decode(space.grid(2)).isfinite().all())
    with pytest.raises(PairError, match="missing entries"):
        space.embed()


class TestBadInput:
    def test_a_mixture_has_no_common_space(self) -> None:
        """Wrong: coordinates of different components are drawn as if they were one's."""
        x = torch.randn(40, 4)
        pair = Pair(MixturePPCA(4, 1, 2), MixtureOfExperts(4, 1, 2))
        pair.start(x, torch.Generator().manual_seed(0))
        with pytest.raises(PairError, match="coordinates 'z' of its own"):
            LatentSpace(pair, x)

    def test_which_latent(self) -> None:
        """Wrong: of several latents an arbitrary one is drawn."""

        def two(x: torch.Tensor) -> None:
            with data_plate(x):
                pyro.sample("t", Categorical(torch.ones(len(x), 2)))
                pyro.sample("a", Normal(torch.zeros(len(x)), 1.0))
                pyro.sample("b", Normal(torch.zeros(2), 1.0).expand([len(x), 2]).to_event(1))

        pair = Pair(two, two)
        with pytest.raises(PairError, match=r"2 continuous latents for each row \(a, b\): choose one"):
            LatentSpace(pair, torch.ones(5, 1))
        with pytest.raises(PairError, match="site='t': expected a continuous latent of each row, of a, b"):
            LatentSpace(pair, torch.ones(5, 1), site="t")
        assert LatentSpace(pair, torch.ones(5, 1), site="b").latent_dim == 2

    def test_shapes(self, space: LatentSpace) -> None:
        """Wrong: a wrong shape ends in a traceback from inside torch."""
        with pytest.raises(DataError, match=r"expected \(\.\.\., 3\)"):
            space.decode(torch.zeros(4, 2))
        with pytest.raises(DataError, match="2 different coordinates from 0 to 2"):
            space.grid(4, dims=(1, 3))
        with pytest.raises(DataError, match="num=1"):
            space.interpolate(torch.zeros(3), torch.ones(3), 1)
        with pytest.raises(DataError, match="between 0 and 1"):
            space.prior_quantiles([0.0])
        with pytest.raises(DataError, match="no rows"):
            LatentSpace(space.pair, space.rows[:0])
