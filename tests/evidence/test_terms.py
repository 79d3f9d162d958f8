"""The ELBO's terms and what latent dimensions are used for, against closed forms for linear-Gaussian pairs."""

import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro.distributions import Exponential, Gamma, LogNormal, MultivariateNormal, Normal, Poisson

from pyro_lvm import data_plate
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.evidence import LatentUnits, collapse, elbo, elbo_terms
from pyro_lvm.pair import Pair

MEANS = torch.tensor([1.0, 0.05, 0.0])
SCALES = torch.tensor([0.5, 0.9, 1.0])
PRIOR = torch.tensor([1.0, 1.0, 2.0])


def model(x: torch.Tensor) -> None:
    with data_plate(x):
        z = pyro.sample("z", Normal(torch.zeros(3), PRIOR).to_event(1))
        pyro.sample("x", Normal(z[..., :2], 0.5).to_event(1), obs=x)


def guide(x: torch.Tensor) -> None:
    """The first coordinate follows x, the second hardly, the third not at all."""
    with data_plate(x):
        pyro.sample("z", Normal(x[:, :1] * MEANS, SCALES).to_event(1))


def rows(count: int = 200) -> torch.Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def _collapse_is_expected():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "posterior collapse")
        yield


@pytest.mark.usefixtures("_collapse_is_expected")
class TestTerms:
    def test_kl_is_the_closed_form(self) -> None:
        """Wrong: what the latents cost is estimated where it is known, or known wrongly."""
        x = rows()
        terms = elbo_terms(Pair(model, guide), x, 2)
        mean, s, p = x[:, :1] * MEANS, SCALES, PRIOR
        each = (p / s).log() + (s**2 + mean**2) / (2 * p**2) - 0.5
        assert terms.analytic == {"z": True}
        np.testing.assert_allclose(terms.kl["z"], each.sum(1), rtol=1e-5)
        np.testing.assert_allclose(terms.units[0].kl, each.mean(0), rtol=1e-5, atol=1e-7)

    def test_reconstruction_is_its_expectation(self) -> None:
        """Wrong: the terms don't add up to the ELBO. Oracle: the Gaussian expectation, written out."""
        x = rows()
        terms = elbo_terms(Pair(model, guide), x, 400)
        mean = (x[:, :1] * MEANS)[:, :2]
        expected = -0.5 * (((x - mean) ** 2 + SCALES[:2] ** 2) / 0.25).sum(1) - 2 * math.log(
            0.5 * math.sqrt(2 * math.pi)
        )
        scores = (terms.reconstruction - expected) / terms.reconstruction_errors
        assert float(scores.abs().max()) < 4.5
        lower = elbo(Pair(model, guide), x, 400, seed=9)
        error = math.hypot(lower.particle_standard_error, terms.reconstruction_standard_error)
        assert abs(float(terms.elbo.mean()) - lower.mean) < 4 * error

    def test_without_a_closed_form_the_kl_is_estimated(self) -> None:
        """Wrong: such pairs have no terms. Oracle: the log-normal's entropy and moments against the gamma."""

        def gamma(x: torch.Tensor) -> None:
            with data_plate(x):
                z = pyro.sample("z", Gamma(2.0, 3.0))
                pyro.sample("x", Poisson(z[:, None]).to_event(1), obs=x)

        def log_normal(x: torch.Tensor) -> None:
            with data_plate(x):
                pyro.sample("z", LogNormal(torch.full((len(x),), 0.2), 0.5))

        terms = elbo_terms(Pair(gamma, log_normal), torch.ones(2000, 1), 50)
        entropy = 0.2 + 0.5 * math.log(2 * math.pi * math.e * 0.25)
        expected = -entropy - (2 * math.log(3.0) + 0.2 - 3 * math.exp(0.2 + 0.125))
        assert terms.analytic == {"z": False}
        assert terms.units[0].kl is None
        assert abs(float(terms.kl["z"].mean()) - expected) < 0.02

    def test_order_of_latents_that_forbids_the_closed_form(self) -> None:
        """Wrong: KL(q(b) || p(b | a)) at an a drawn *after* b is not the term's mean."""

        def ab(x: torch.Tensor) -> None:
            with data_plate(x):
                a = pyro.sample("a", Normal(torch.zeros(len(x)), 1.0))
                b = pyro.sample("b", Normal(a, 1.0))
                pyro.sample("x", Normal(b[:, None], 1.0).to_event(1), obs=x)

        def ba(x: torch.Tensor) -> None:
            with data_plate(x):
                b = pyro.sample("b", Normal(torch.zeros(len(x)), 0.5))
                pyro.sample("a", Normal(b, 0.5))

        terms = elbo_terms(Pair(ab, ba), torch.zeros(3000, 1), 20)
        assert terms.analytic == {"a": True, "b": False}
        # KL of the joint Gaussians, by linear algebra.
        q = MultivariateNormal(torch.zeros(2), torch.tensor([[0.5, 0.25], [0.25, 0.25]]))
        p = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 1.0], [1.0, 2.0]]))
        assert abs(float(terms.total_kl.mean()) - float(torch.distributions.kl_divergence(q, p))) < 0.03

    def test_a_full_covariance_has_marginal_divergences(self) -> None:
        """Wrong: dimensions of a correlated guide are left without figures, or their sum passes for the KL."""
        factor = torch.tensor([[0.5, 0.0, 0.0], [0.4, 0.5, 0.0], [0.0, 0.0, 1.0]])

        def correlated(x: torch.Tensor) -> None:
            with data_plate(x):
                pyro.sample("z", MultivariateNormal(x[:, :1] * MEANS, scale_tril=factor))

        terms = elbo_terms(Pair(model, correlated), rows(), 1)
        deviation = factor.square().sum(1).sqrt()
        mean = rows()[:, :1] * MEANS
        each = (PRIOR / deviation).log() + (deviation**2 + mean**2) / (2 * PRIOR**2) - 0.5
        np.testing.assert_allclose(terms.units[0].kl, each.mean(0), rtol=1e-4)
        assert float(terms.units[0].kl.sum()) < float(terms.kl["z"].mean()) - 0.1

    def test_batches_are_one_data_set(self) -> None:
        """Wrong: the variance of the posterior means is that within a batch."""
        whole, parts = (elbo_terms(Pair(model, guide), x, 1) for x in (rows(), list(rows().split(37))))
        torch.testing.assert_close(whole.units[0].mean_variance, parts.units[0].mean_variance)
        torch.testing.assert_close(whole.kl["z"], parts.kl["z"])


def test_collapsed_dimensions_are_named() -> None:
    """Wrong: a person trains a latent space of 3 dimensions, uses 1, and is not told."""
    with pytest.warns(UserWarning, match=r"2 of 3 latent dimensions say the same of every row \(z2, z3\)"):
        terms = elbo_terms(Pair(model, guide), rows(), 1)
    (units,) = terms.units
    expected = (rows()[:, :1] * MEANS).var(0).double() / PRIOR.double() ** 2
    torch.testing.assert_close(units.mean_variance, expected, rtol=1e-4, atol=1e-8)
    assert units.num_active == 1


def test_active_units_are_relative_to_the_prior() -> None:
    """Wrong: with a prior of scale 0.05 every latent counts as collapsed, though the guide follows each row."""

    def small(x: torch.Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", Normal(torch.zeros(1), 0.05).to_event(1))
            pyro.sample("x", Normal(20 * z, 0.1).expand([len(x), 2]).to_event(1), obs=x)

    def follows(x: torch.Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", Normal(0.05 * x[:, :1], 0.01).to_event(1))

    (units,) = elbo_terms(Pair(small, follows), rows(), 1).units
    assert units.names == ("z",)
    assert units.num_active == 1


def test_one_row_tells_nothing_of_collapse() -> None:
    """Wrong: a single row, whose posterior mean has no variance, counts as collapse."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (units,) = elbo_terms(Pair(model, guide), rows(1), 1).units
    assert units.collapsed == ()


def test_many_collapsed_dimensions_stay_one_line() -> None:
    """Wrong: fifty names bury what to do."""
    line = collapse([LatentUnits("z", None, torch.zeros(50))])
    assert line is not None
    assert "and 38 more" in line
    assert collapse([LatentUnits("z", None, torch.ones(3))]) is None


def test_a_prior_that_hangs_on_what_is_summed_out() -> None:
    """Wrong: reconstruction and KL would be taken from one draw of a latent that the guide never draws."""

    def mixture(x: torch.Tensor) -> None:
        with data_plate(x):
            t = pyro.sample("t", pyro.distributions.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
            z = pyro.sample("z", Normal(t.float(), 1.0))
            pyro.sample("x", Normal(z[..., None], 1.0).expand([*z.shape, 2]).to_event(1), obs=x)

    def only_z(x: torch.Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", Normal(torch.zeros(len(x)), 1.0))

    with pytest.raises(PairError, match="the prior of 'z' depends on 't'"):
        elbo_terms(Pair(mixture, only_z), rows(5), 1)


def test_bad_counts() -> None:
    """Wrong: no rows or no draws give NaN."""
    with pytest.raises(DataError, match="no rows"):
        elbo_terms(Pair(model, guide), rows()[:0])
    with pytest.raises(DataError, match="draws=0"):
        elbo_terms(Pair(model, guide), rows(), 0)


def test_priors_without_moments_in_closed_form_have_units() -> None:
    """Wrong: an exponential prior, whose KL torch knows against a gamma, has none."""

    def exponential(x: torch.Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", Exponential(2.0))
            pyro.sample("x", Poisson(z[:, None]).expand([len(x), 2]).to_event(1), obs=x)

    def gamma(x: torch.Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", Gamma(x[:, 0] + 1.0, 3.0))

    x = torch.arange(8.0).repeat(2, 1).T.contiguous()
    (units,) = elbo_terms(Pair(exponential, gamma), x, 1).units
    torch.testing.assert_close(units.mean_variance, (x[:, :1] / 3).var(0).double() * 4, rtol=1e-4, atol=1e-6)
