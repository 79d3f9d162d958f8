"""Guides that are wrong in ways that are known, beside models whose posterior is: each is found out, and named."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_lvm import Pair, judge
from pyro_lvm.errors import PairError
from pyro_lvm.guides import LinearGaussian, ProductOfExperts
from pyro_lvm.judgement import Judgement

# Their evidence is known exactly.
pytestmark = pytest.mark.usefixtures("no_annealing")

Made = Callable[[], tuple[Pair, Tensor, Tensor]]


@torch.no_grad()
def spoil(guide: Any, how: str) -> None:
    if how == "narrow":
        guide.scale_tril = guide.scale_tril / 2
    elif how == "biased":
        guide.offset += 0.6 * guide.scale_tril.diagonal()
    elif how == "ignoring":
        guide.relative_slope.zero_()
    elif how == "one unit":
        # Say nothing of the second coordinate, and of it alone: it is then the prior, whatever the first is.
        guide.relative_slope[1].zero_()
        guide.offset[1] = 0.0
        guide.scale_tril = torch.diag(torch.stack([guide.scale_tril[0, 0], torch.ones(())]))


def judged(pair: Pair, x: Any, held_out: Any = None, **options: Any) -> Judgement:
    return judge(pair, x, held_out, progress=False, **options)


@pytest.mark.parametrize(
    ("how", "bad", "said"),
    [
        ("narrow", ("posterior", "calibration"), ("calibration", "too narrow")),
        ("biased", ("calibration",), ("calibration", "biased")),
        ("ignoring", ("posterior", "encoder", "latents", "calibration"), ("calibration", "ignores x")),
        ("one unit", ("posterior", "encoder", "calibration"), ("latents", "z2")),
    ],
)
def test_a_planted_fault_is_named(how: str, bad: tuple[str, ...], said: tuple[str, str], ppca: Made) -> None:
    """Wrong: a fault goes by, or the encoder's is laid upon the family, which holds the exact posterior."""
    pair, x, held_out = ppca()
    spoil(pair.guide, how)
    found = judged(pair, x, held_out)
    assert [name for name in bad if found[name].level != "bad"] == [], str(found)
    assert said[1] in found[said[0]].found, str(found)
    assert found["family"].level == "good", str(found)
    assert found["realism"].level == "good", str(found)
    assert found.summary.startswith("Most is lost by the encoder"), str(found)
    # What the encoder is said to miss is the exact KL of the few rows that are looked at one by one. Where the guide
    # ignores the rows it differs between them by as much as its mean, and the mean of these few by a half of that.
    kl, missed = found["posterior"].figures["kl"], found["encoder"].figures
    assert missed["loss"] == pytest.approx(kl, abs=4 * missed["error"] + 0.5 * kl)
    assert all(verdict.advice for verdict in found.verdicts if verdict.level == "bad")


def test_whose_fault_a_narrow_family_is(ppca: Made) -> None:
    """Wrong: the encoder is blamed for what its family can't say. Oracle: KL of the best diagonal Gaussian."""
    pair, x, held_out = ppca()
    with torch.no_grad():
        angle = torch.tensor(0.7)
        turn = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
        pair.model.relative_loadings.copy_(torch.tensor([[3.0, 0.0]] + [[0.0, 0.7]] * 5) @ turn)
    diagonal = LinearGaussian(6, 2, "diagonal")
    diagonal.start(x, pair.model)
    diagonal.match(pair.model)
    precision = torch.linalg.inv(pair.model.exact_posterior(x[:1]).covariance_matrix[0].detach())
    lacking = 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision))
    found = judged(Pair(pair.model, diagonal), x, held_out)
    family = found["family"]
    assert family.figures["loss"] == pytest.approx(lacking, abs=4 * family.figures["error"] + 0.01)
    assert family.advice == "a guide with a full covariance"
    assert found["encoder"].level == "good"
    assert found["calibration"].level in ("look", "bad")
    if found["model"].level == "good":
        assert found.summary.startswith("Most is lost by the guide's family")


def test_rows_of_an_array_and_holes(ppca: Made) -> None:
    """Wrong: an array in double precision is refused, or rows with holes are, by a guide that takes them."""
    pair, x, held_out = ppca()
    guide = ProductOfExperts(6, 2)
    guide.match(pair.model)
    rows = x.double().numpy().copy()
    rows[::3, 1] = np.nan
    found = judged(Pair(pair.model, guide), rows, held_out.numpy(), num_rows=4)
    assert found["posterior"].level == found["calibration"].level == "good", str(found)


def test_holes_that_the_guide_can_not_take_are_left_out(ppca: Made) -> None:
    """Wrong: a run by EM, whose guide is for complete rows, can't be judged at all."""
    pair, x, _ = ppca()
    x = x.clone()
    x[::2, 0] = torch.nan
    found = judged(pair, x, num_rows=4)
    assert found["posterior"].level == "good", str(found)
    with pytest.raises(PairError, match="missing entries"):
        judge(pair, x[::2])
