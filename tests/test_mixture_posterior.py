"""The divergence of posteriors over component and latents, against numerical integration."""

import math

import pytest
import torch
from scipy.integrate import quad
from torch.distributions import Categorical, MultivariateNormal, Normal

from pyro_lvm.errors import DataError
from pyro_lvm.mixture_posterior import MixturePosterior, posterior_kl


def one_row(weights: list[float], locs: list[float], scales: list[float]) -> MixturePosterior:
    latents = [
        MultivariateNormal(torch.tensor([[m]]), torch.tensor([[s * s]])) for m, s in zip(locs, scales, strict=True)
    ]
    return MixturePosterior(Categorical(torch.tensor([weights])), latents)


def test_divergence_is_the_integral_over_component_and_latents() -> None:
    # Wrong: a mixture's guide would be graded by another figure than the one that the ELBO lacks.
    q = one_row([0.7, 0.2, 0.1], [0.0, 1.0, -2.0], [1.0, 0.5, 2.0])
    p = one_row([0.3, 0.6, 0.1], [0.2, 1.0, 1.0], [0.8, 0.7, 1.5])
    total = 0.0
    for k in range(3):
        share, other = float(q.responsibilities[0, k]), float(p.responsibilities[0, k])
        own, its = (Normal(float(d.latents[k].mean), float(d.latents[k].stddev)) for d in (q, p))

        def density(z: float, own: Normal = own, its: Normal = its, ratio: float = share / other) -> float:
            at = torch.tensor(z)
            log_ratio = float(own.log_prob(at) - its.log_prob(at)) + math.log(ratio)
            return math.exp(float(own.log_prob(at))) * log_ratio

        total += share * quad(density, -12, 12, limit=200)[0]
    assert float(posterior_kl(q, p)) == pytest.approx(total, abs=1e-5)
    assert float(posterior_kl(p, p)) == pytest.approx(0, abs=1e-12)


def test_a_component_that_is_ruled_out_is_finite() -> None:
    # Wrong: one row far from one component would make the grade of a whole data set infinite.
    shape = torch.zeros(1, 1), torch.eye(1)
    q = MixturePosterior(Categorical(logits=torch.tensor([[0.0, -5000.0]])), [MultivariateNormal(*shape)] * 2)
    p = MixturePosterior(Categorical(logits=torch.tensor([[0.0, -9000.0]])), [MultivariateNormal(*shape)] * 2)
    assert float(posterior_kl(q, p)) == pytest.approx(0, abs=1e-12)


def test_a_normal_is_compared_as_one() -> None:
    q, p = MultivariateNormal(torch.ones(1, 2), torch.eye(2)), MultivariateNormal(torch.zeros(1, 2), torch.eye(2))
    assert float(posterior_kl(q, p)) == pytest.approx(1.0)


def test_other_kinds_and_sizes_are_refused() -> None:
    mixture = one_row([0.5, 0.5], [0.0, 0.0], [1.0, 1.0])
    with pytest.raises(DataError, match="q has 2 components, p MultivariateNormal: expected posteriors over the same"):
        posterior_kl(mixture, mixture.latents[0])
    with pytest.raises(DataError, match="q has 2 components, p 1 components"):
        posterior_kl(mixture, one_row([1.0], [0.0], [1.0]))
