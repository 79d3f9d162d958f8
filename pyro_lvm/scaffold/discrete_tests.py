"""The pair keeps its contract, and trains to where independent answers say it must."""

from __future__ import annotations

import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from pyro_lvm import Pair, fit, grade
from pyro_lvm.pair import Half
from pyro_lvm.scaffold.discrete import Guide, Model
from pyro_lvm.testing import PairContract


def planted() -> tuple[Tensor, Tensor]:
    """Rows of five features in unlike units, and the clusters they were made from."""
    generator = torch.Generator().manual_seed(0)
    t = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), 400, replacement=True, generator=generator)
    x = 2 * torch.randn(3, 5, generator=generator)[t]
    x = x + 0.5 * torch.randn(400, 5, generator=generator)
    return 3 + x * torch.tensor([0.01, 1.0, 5.0, 40.0, 1000.0]), t


class TestContract(PairContract):
    def make_pair(self) -> tuple[Half, Half]:
        pair = Pair(Model(5), Guide(5))
        pair.start(planted()[0])
        return pair.model, pair.guide

    def make_rows(self) -> Tensor:
        return planted()[0]


class TestContractWithHoles(TestContract):
    def make_rows(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        holes = torch.rand(400, 5, generator=generator) < 0.2
        return planted()[0].masked_fill(holes, torch.nan)


def test_training_reaches_the_exact_answers() -> None:
    # Holds for this model alone: write another when it says another story.
    x, t = planted()
    model, guide = Model(5), Guide(5)
    pair = fit(model, guide, x, steps=500, progress=False).pair
    with torch.no_grad():
        densities = model.decode(torch.arange(3)).log_prob(x[:, None]).sum(-1)
        joint = densities + model.logits.log_softmax(0)
        log_evidence = float(joint.logsumexp(1).mean())
        found = guide.encode(x).probs.argmax(1)
        shares = model.logits.softmax(0)
    # Wrong: the guide would not be near the exact posterior, or its ELBO no bound.
    assert log_evidence - 0.01 < grade(pair, x).elbo < log_evidence + 1e-4
    # Wrong: the clusters would not be those that made the rows.
    assert adjusted_rand_score(t, found) > 0.98
    expected = t.bincount().sort().values / len(t)
    torch.testing.assert_close(shares.sort().values, expected, atol=0.02, rtol=0)
