"""The pair keeps its contract, and trains to where independent answers say it must."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyro_lvm import Pair, em, fit, grade
from pyro_lvm.pair import Half
from pyro_lvm.scaffold.continuous import Guide, Model
from pyro_lvm.testing import PairContract


def rows() -> Tensor:
    """Rows of five features in unlike units, made from two latent coordinates."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(400, 2, generator=generator)
    x = z @ torch.randn(2, 5, generator=generator)
    x = x + 0.5 * torch.randn(400, 5, generator=generator)
    return 3 + x * torch.tensor([0.01, 1.0, 5.0, 40.0, 1000.0])


class TestContract(PairContract):
    def make_pair(self) -> tuple[Half, Half]:
        pair = Pair(Model(5), Guide(5))
        pair.start(rows())
        return pair.model, pair.guide

    def make_rows(self) -> Tensor:
        return rows()


class TestContractWithHoles(TestContract):
    def make_rows(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        holes = torch.rand(400, 5, generator=generator) < 0.2
        return rows().masked_fill(holes, torch.nan)


def test_training_reaches_the_exact_answers() -> None:
    # Holds for this model alone: write another when it says another story.
    x = rows()
    model = Model(5)
    pair = fit(model, Guide(5), x, steps=2000, progress=False).pair
    with torch.no_grad():
        weights = model.unit[:, None] * model.weights
        at_zero = model.decode(torch.zeros(2))
        covariance = weights @ weights.T + at_zero.variance.diag()
        exact = MultivariateNormal(at_zero.mean, covariance)
        log_evidence = float(exact.log_prob(x).mean())
    # Wrong: the model would not be as likely as the likeliest.
    best = em.FactorAnalysis(2).fit(x.numpy()).score(x.numpy())
    assert best - 0.02 < log_evidence < best + 0.001
    # Wrong: the guide would not be near the exact posterior, or its ELBO no bound.
    assert log_evidence - 0.02 < grade(pair, x).elbo < log_evidence + 0.005
