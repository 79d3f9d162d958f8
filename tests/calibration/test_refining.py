"""Draws that importance weights and Hamiltonian moves make of a guide's, against exact posteriors."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_lvm import Pair, data_plate
from pyro_lvm.calibration import Refined, refine
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.evidence import simulate
from pyro_lvm.guides import MixtureOfExperts, SharedLoadings
from pyro_lvm.models import BayesianPCA, MixturePPCA

DRAWS = 1000


def deviations(pair: Pair, x: Tensor, found: Refined) -> tuple[Tensor, Tensor]:
    """Of the draws' mean, in standard deviations of the exact posterior, (rows, 2); and of their covariance, (2, 2)."""
    with torch.no_grad():
        exact = pair.model.exact_posterior(x)
    factor = exact.scale_tril[0].double()
    z = torch.linalg.solve_triangular(factor, (found.latents["z"].double() - exact.mean).unsqueeze(-1), upper=False)
    z = z.squeeze(-1)
    covariance = torch.einsum("srj,srk->jk", z, z) / z[..., 0].numel()
    return z.mean(0), covariance - torch.eye(2)


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (1.4, 0.0), (0.85, 0.0), (1.2, 0.3)])
def test_reweighted_draws_have_the_exact_moments(ppca: Any, factor: float, shift: float) -> None:
    """Wrong: weights are of other draws, or turned about. Oracle: PPCA's posterior, within four errors."""
    pair, x = ppca(10)
    with torch.no_grad():
        pair.guide.offset += shift * pair.guide.scale_tril.norm(dim=1)
        pair.guide.scale_tril = pair.guide.scale_tril * factor
    found = refine(pair, x, DRAWS, progress=False)
    assert found.num_unreliable == 0
    mean, covariance = deviations(pair, x, found)
    # Twice the error of independent draws: some are equal.
    error = 2 / math.sqrt(DRAWS * float(found.effective_share.mean()))
    assert mean.square().mean().sqrt() < error
    assert covariance.abs().max() < 4 * error / math.sqrt(len(x)) + 0.02


def test_moves_mend_a_guide_that_weights_can_not(ppca: Any) -> None:
    """Wrong: moves leave another density than the posterior as it is, or mix rows. Oracle: PPCA's posterior."""
    pair, x = ppca(10)
    with torch.no_grad():
        pair.guide.offset += 4 * pair.guide.scale_tril.norm(dim=1)
        pair.guide.scale_tril = pair.guide.scale_tril / 2
    alone = refine(pair, x, DRAWS, progress=False)
    assert alone.num_unreliable == len(x)
    assert deviations(pair, x, alone)[0].abs().max() > 1
    moved = refine(pair, x, DRAWS, hmc_steps=15, progress=False)
    mean, covariance = deviations(pair, x, moved)
    assert mean.square().mean().sqrt() < 1.5 / math.sqrt(DRAWS)
    assert covariance.abs().max() < 0.06
    assert moved.acceptance is not None
    assert moved.acceptance.shape == (len(x),)
    assert 0.4 < moved.acceptance.mean() < 0.95
    torch.testing.assert_close(moved.pareto_k, alone.pareto_k)


@pytest.mark.parametrize("hmc_steps", [0, 6])
def test_a_mixtures_component_is_refined_too(hmc_steps: int) -> None:
    """Wrong: components keep the guide's shares, or lose touch with their z. Oracle: exact responsibilities."""
    torch.manual_seed(3)
    model, guide = MixturePPCA(4, 1, 2), MixtureOfExperts(4, 1, 2)
    with torch.no_grad():
        model.relative_loadings.copy_(torch.randn(2, 4, 1))
        model.relative_means.copy_(0.3 * torch.randn(2, 4))
    guide.match(model)
    pair = Pair(model, guide)
    x, _ = simulate(pair, torch.zeros(12, 4))
    with torch.no_grad():
        exact = model.exact_posterior(x)
        guide.log_weights += torch.tensor([0.8, 0.0])
    found = refine(pair, x, DRAWS, hmc_steps=hmc_steps, progress=False)
    share = (found.latents["t"] == 1).double().mean(0)
    wanted = exact.responsibilities[:, 1].double()
    errors = (share - wanted) / (wanted * (1 - wanted) / DRAWS).sqrt()
    assert errors.square().mean().sqrt() < 2
    ones = found.latents["t"] == 1
    z = torch.where(ones, found.latents["z"][..., 0], torch.nan).nanmean(0)
    often = wanted > 0.1
    np.testing.assert_allclose(z[often], exact.latents[1].mean[often, 0], atol=0.25)


def test_positive_latents_and_inner_plates_keep_their_place() -> None:
    """Wrong: coordinates are not mapped back, or features and rows change places. Oracle: the gamma posterior."""

    def model(x: Tensor) -> None:
        with pyro.plate("features", 3, dim=-2), data_plate(x):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Poisson(rate), obs=x.T)

    def guide(x: Tensor) -> None:
        with pyro.plate("features", 3, dim=-2), data_plate(x):
            pyro.sample("rate", dist.LogNormal(((2 + x.T) / 2).log(), 0.7))

    x = torch.tensor([[0.0, 4.0, 9.0], [1.0, 1.0, 20.0]])
    for hmc_steps in (0, 8):
        found = refine(Pair(model, guide), x, 2000, hmc_steps=hmc_steps, progress=False)
        assert found.latents["rate"].shape == (2000, 2, 3)
        np.testing.assert_allclose(found.latents["rate"].mean(0), (2 + x) / 2, rtol=0.12)


def test_a_seed_gives_the_same_and_a_row_its_own(ppca: Any) -> None:
    """Wrong: draws can't be repeated, or figures are of other rows."""
    pair, x = ppca(10)
    first, second = (refine(pair, x, 50, seed=7, progress=False) for _ in range(2))
    assert torch.equal(first.latents["z"], second.latents["z"])
    assert not torch.equal(first.latents["z"], refine(pair, x, 50, seed=8, progress=False).latents["z"])
    assert first.to_json()["num_rows"] == len(x)
    assert first.to_json()["acceptance"] is None


def test_what_cannot_be_refined_says_why(ppca: Any) -> None:
    """Wrong: a traceback, or draws that are no posterior's."""
    pair, x = ppca(10)
    shared = Pair(BayesianPCA(6, 2), SharedLoadings(6, 2))
    with pytest.raises(PairError, match=r"rows share the latents .*: no row has importance weights of its own"):
        refine(shared, x, progress=False)
    with pytest.raises(DataError, match="num_draws=0"):
        refine(pair, x, 0, progress=False)
    with pytest.raises(DataError, match="hmc_steps=-1"):
        refine(pair, x, hmc_steps=-1, progress=False)
    with pytest.raises(DataError, match="there are no rows"):
        refine(pair, x[:0], progress=False)

    def coins(x: Tensor) -> None:
        with data_plate(x):
            t = pyro.sample("t", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(t[..., None], 1.0).expand([len(x), 6]).to_event(1), obs=x)

    def coins_guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("t", dist.Bernoulli(0.5).expand([len(x)]))

    with pytest.raises(PairError, match="no continuous latent"):
        refine(Pair(coins, coins_guide), x, hmc_steps=2, progress=False)
