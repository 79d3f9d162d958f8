"""Every pair that comes with the package trains by traced steps, and comes out of them as out of eager ones."""

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_lvm import catalogue, check_pair, fit
from pyro_lvm.compiled import SVI
from pyro_lvm.pair import Pair

STEPS = 25
CASES: dict[str, tuple[str, str, dict[str, Any], float]] = {
    "ppca-full": ("ppca", "full", {}, 0.0),
    "ppca-diagonal": ("ppca", "diagonal", {}, 0.0),
    "ppca-holes": ("ppca", "experts", {}, 0.3),
    "factor-analysis-full": ("factor-analysis", "full", {}, 0.0),
    "factor-analysis-holes": ("factor-analysis", "experts", {}, 0.3),
    "mixture-enumerate": ("mixture-ppca", "experts", {"num_components": 3}, 0.3),
    # Where a dimension has one entry, tensors lie otherwise in memory once a gather has become a view.
    "mixture-line": ("mixture-ppca", "experts", {"num_components": 4, "latent_dim": 1}, 0.0),
    "mixture-score": ("mixture-ppca", "experts", {"num_components": 3, "estimator": "score"}, 0.0),
    "mixture-baseline": ("mixture-ppca", "experts", {"num_components": 3, "estimator": "baseline"}, 0.0),
    "mixture-network": ("mixture-ppca", "network", {"num_components": 3}, 0.0),
    "bayesian-pca": ("bayesian-pca", "shared", {}, 0.3),
    "vae-diagonal": ("vae", "diagonal", {"hidden": (8,)}, 0.0),
    "vae-full": ("vae", "full", {"hidden": (8,)}, 0.0),
    "vae-masked": ("vae", "masked", {"hidden": (8,)}, 0.3),
}
# A pair that came later has a case too: it would else train eagerly and nobody would notice.
_COVERED = {(name, guide) for name, guide, _, _ in CASES.values()}
CASES |= {
    f"{name}-{guide}": (name, guide, {}, 0.0)
    for name in catalogue.names()
    for guide in catalogue.find(name).guides
    if (name, guide) not in _COVERED
}


def rows(missing: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 2, generator=generator) @ torch.randn(2, 5, generator=generator)
    x = x + 0.3 * torch.randn(120, 5, generator=generator)
    return x.masked_fill(torch.rand(120, 5, generator=generator) < missing, math.nan)


def make(name: str, guide: str, options: dict[str, Any]) -> Pair:
    facts = {"data_dim": 5, "image_shape": None}
    own = {"latent_dim": 2} if "latent_dim" in catalogue.find(name).options(guide) else {}
    return catalogue.build(name, facts, guide=guide, options={**own, **options})


@pytest.mark.parametrize("case", CASES)
def test_a_pair_trains_by_traced_steps(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: the default way of training would fall back to eager Pyro, or train to something else.
    name, guide, options, missing = CASES[case]
    made: list[SVI] = []

    class Noted(SVI):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr("pyro_lvm.training.SVI", Noted)
    monkeypatch.setattr("pyro_lvm.compiled.policy._WORTH_TRACING", 1)
    x = rows(missing)

    def train(compile: Any) -> Any:
        pair = make(name, guide, options)
        return fit(pair.model, pair.guide, x, steps=STEPS, batch_size=50, compile=compile, progress=False, pair=pair)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*eager Pyro.*")
        traced = train("auto")
    eager = train(False)
    report = made[0].explain()
    assert report.reasons == []
    assert report.steps == {"traced": STEPS}
    assert made[1].explain().steps == {"eager": STEPS}
    ours, theirs = ([record["elbo"] for record in result.history.records] for result in (traced, eager))
    # Where components are drawn, rounding may send one row at the edge to another component: that row's step differs.
    drawn = options.get("estimator") in ("score", "baseline")
    assert ours == pytest.approx(theirs, rel=1e-3, abs=0.1 if drawn else 1e-3)
    for (_, parameter), (_, expected) in zip(
        traced.pair.named_parameters(), eager.pair.named_parameters(), strict=True
    ):
        torch.testing.assert_close(parameter, expected, rtol=1e-2, atol=0.1 if drawn else 1e-2)
    for trained in (traced, eager):
        assert check_pair(trained.pair.model, trained.pair.guide, x).errors == ()
