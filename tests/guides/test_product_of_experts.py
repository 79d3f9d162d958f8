"""The product of experts against exact posteriors: at a model, and where training with holes takes it."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from pyro_lvm import fit, grade, linear_gaussian
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.guides import ProductOfExperts
from pyro_lvm.linear_gaussian import gaussian_kl
from pyro_lvm.models import PPCA, FactorAnalysis
from pyro_lvm.pair import Pair
from pyro_lvm.plate import feeding

SCALES = torch.tensor([1, 20, 0.1, 1, 3, 1.0])


def rows(missing: float = 0.0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 2, generator=generator, dtype=dtype) @ torch.randn(2, 6, generator=generator, dtype=dtype)
    x = x + 0.4 * torch.randn(300, 6, generator=generator, dtype=dtype) + 7
    holes = torch.rand(300, 6, generator=generator) < missing
    return x.masked_fill(holes, math.nan)


@pytest.mark.parametrize("kind", [PPCA, FactorAnalysis])
def test_it_starts_as_the_models_posterior_for_every_pattern(kind: type[PPCA] | type[FactorAnalysis]) -> None:
    # Wrong: training would begin by unlearning, and no training could make up for a form that lacks the truth.
    x = rows(dtype=torch.float64) * SCALES
    model, guide = kind(6, 2).double(), ProductOfExperts(6, 2).double()
    Pair(model, guide).start(x, torch.Generator().manual_seed(0))
    patterns = torch.tensor(list(itertools.product([True, False], repeat=6)))
    holes = x[: len(patterns)].masked_fill(~patterns, math.nan)
    with torch.no_grad():
        assert float(gaussian_kl(guide.encode(holes), model.exact_posterior(holes)).max()) < 1e-12
        nothing = guide.encode(holes[-1:])
        assert torch.equal(nothing.mean, torch.zeros(1, 2, dtype=torch.float64))
        with feeding(300, complete=True):
            shared = guide.encode(x)
        assert torch.allclose(shared.mean, guide.encode(x).mean)


def test_it_becomes_the_posterior_of_a_model_that_says_nothing_of_units() -> None:
    class Foreign:
        loadings = 1e4 * torch.randn(6, 2, dtype=torch.float64)
        mean = torch.full((6,), 3e6, dtype=torch.float64)
        noise_variance = torch.tensor(1e7, dtype=torch.float64)

    x = Foreign.mean + 1e4 * torch.randn(20, 6, dtype=torch.float64)
    guide = ProductOfExperts(6, 2).double()
    guide.match(Foreign)
    exact = linear_gaussian.posterior(x, Foreign.loadings, Foreign.mean, Foreign.noise_variance)
    assert float(gaussian_kl(guide.encode(x), exact).detach().max()) < 1e-10


def test_training_with_holes_reaches_the_truth() -> None:
    # Wrong: what the guide is for would not work. The yardstick is EM, which integrates the holes out.
    x = rows(0.3)
    graded = grade(fit(PPCA(6, 2), ProductOfExperts(6, 2), x, steps=700, progress=False).pair, x)
    assert graded.gap is not None
    assert graded.kl_to_exact is not None
    assert -1e-6 < graded.gap < 1e-2
    assert graded.kl_to_exact < 1e-2
    assert graded.elbo_agrees


def test_beside_a_model_of_another_kind_it_starts_near_the_prior() -> None:
    x = rows(0.2)
    guide = ProductOfExperts(6, 2)
    guide.start(x, lambda x: None, torch.Generator().manual_seed(0))
    encoded = guide.encode(x)
    assert torch.isfinite(encoded.mean).all()
    assert float(encoded.mean.detach().abs().mean()) < 0.5
    with pytest.raises(DataError, match="feature 2 of the data has no observed entry"):
        guide.start(x.index_fill(1, torch.tensor([2]), math.nan), None)


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    with pytest.raises(PairError, match="latent_dim=0: expected a whole number from 1 up"):
        ProductOfExperts(6, 0)
    with pytest.raises(PairError, match=r"loadings have shape \(6, 3\), the guide's \(6, 2\)"):
        ProductOfExperts(6, 2).match(PPCA(6, 3))
    with pytest.raises(PairError, match="object has no loadings, mean, noise_variance"):
        ProductOfExperts(6, 2).match(object())


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0.3, 0.6])
def test_default_fit_on_digits_with_holes(digits: Tensor, missing: float) -> None:
    holes = torch.rand(digits.shape, generator=torch.Generator().manual_seed(5)) < missing
    x = digits.masked_fill(holes, math.nan)
    graded = grade(fit(PPCA(64, 8), ProductOfExperts(64, 8), x, progress=False).pair, x)
    assert graded.gap is not None
    assert graded.kl_to_exact is not None
    assert graded.gap < 5e-4
    assert graded.kl_to_exact < 2e-3
