"""Missing entries by a chain of proposals, held against probabilistic PCA's exact conditional Gaussian."""

import math

import numpy as np
import numpy.typing as npt
import pyro
import pytest
import torch
from pyro.distributions import Normal
from torch import Tensor

from pyro_lvm import data_plate, observe
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.guides import GaussianEncoder, MaskedGaussianEncoder, SharedLoadings
from pyro_lvm.imputation import ImputationChain, imputed_draws, imputed_mean
from pyro_lvm.models import VAE, BayesianPCA
from pyro_lvm.pair import Pair

D, K = 6, 2
FloatArray = npt.NDArray[np.float64]


def linear_pair(guide: type[GaussianEncoder] = GaussianEncoder) -> Pair:
    """A linear VAE in thousands, and a guide that is near its posterior but not it."""
    generator = torch.Generator().manual_seed(0)
    x = 1000 * torch.randn(300, K, generator=generator) @ torch.randn(K, D, generator=generator) + 5000
    pair = Pair(VAE(D, K, hidden=[]), guide(D, K, hidden=[]))
    pair.start(x + 500 * torch.randn(300, D, generator=generator), generator)
    with torch.no_grad():
        model, encoder = pair.model, pair.guide.encoder[0]
        model.decoder[0].weight.copy_(torch.randn(D, K, generator=generator))
        model.likelihood.relative_log_scale.fill_(-0.5)
        # The posterior mean of complete rows, somewhat rotated, and scales that are too wide.
        w = model.as_ppca().loadings / pair.guide.unit[:, None]
        encoder.weight.zero_()
        encoder.bias.zero_()
        encoder.weight[:K, :D] = torch.linalg.pinv(w) * 0.7 + 0.05
        encoder.bias[K : 2 * K] = -0.7
    return pair


def rows(pair: Pair) -> Tensor:
    """Copies of three rows: one with holes, one of which but one entry is seen, one of which nothing is."""
    with torch.no_grad():
        x = pair.model.decode(torch.tensor([[1.0, -0.5], [0.3, 1.2], [0.0, 0.0]])).mean.clone()
    x[0, [1, 4]] = math.nan
    x[1, 1:] = math.nan
    x[2] = math.nan
    return x.repeat_interleave(400, 0)


def exact(pair: Pair, x: Tensor) -> tuple[FloatArray, FloatArray]:
    """Mean and covariance of a row's missing entries given the others, from the joint covariance."""
    ppca = pair.model.as_ppca()
    w, mean = ppca.loadings.detach().double().numpy(), ppca.mean.detach().double().numpy()
    covariance = w @ w.T + float(ppca.noise_variance.detach()) * np.eye(D)
    value = x.double().numpy()
    mis, obs = np.isnan(value), ~np.isnan(value)
    gain = covariance[np.ix_(mis, obs)] @ np.linalg.inv(covariance[np.ix_(obs, obs)]) if obs.any() else None
    if gain is None:
        return mean, covariance
    return mean[mis] + gain @ (value[obs] - mean[obs]), covariance[np.ix_(mis, mis)] - gain @ covariance[
        np.ix_(obs, mis)
    ]


@pytest.mark.filterwarnings("ignore:of . rows less than 1%")
@pytest.mark.parametrize("guide", [GaussianEncoder, MaskedGaussianEncoder])
def test_draws_have_the_exact_conditional_mean_and_covariance(guide: type[GaussianEncoder]) -> None:
    # Wrong: without the acceptance step draws follow what the guide believes, which here is far from the posterior.
    pair = linear_pair(guide)
    x = rows(pair)
    kept = torch.random.get_rng_state()
    draws = torch.stack(list(imputed_draws(pair, x, 4, seed=1))).double().numpy()
    assert torch.equal(kept, torch.random.get_rng_state())
    seen = ~x.isnan().numpy()
    assert (draws[:, seen] == x.numpy()[seen]).all()
    for number in range(3):
        of_row = draws[:, 400 * number : 400 * (number + 1)]
        mean, covariance = exact(pair, x[400 * number])
        some = of_row[..., np.isnan(x[400 * number].numpy())]
        # Rows are independent chains; the four draws of one count as one.
        errors = np.sqrt(np.diag(covariance) / 400)
        assert np.abs(some.mean((0, 1)) - mean).max() < 4.5 * errors.max()
        spread = np.mean([np.cov(one.T) for one in some], 0)
        scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
        assert np.abs((spread - covariance) / scale).max() < 4.5 * math.sqrt(2 / 400)


def test_without_the_acceptance_step_they_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    # The check above can fail: the pseudo-Gibbs sampler is caught by it.
    pair = linear_pair()
    x = rows(pair)[:400]
    monkeypatch.setattr(torch, "rand_like", lambda like, **_: torch.zeros_like(like))
    some = torch.stack(list(imputed_draws(pair, x, 1)))[0].double().numpy()[:, np.isnan(x[0].numpy())]
    mean, covariance = exact(pair, x[0])
    away = np.abs(some.mean(0) - mean) / np.sqrt(np.diag(covariance) / 400)
    ratio = np.var(some, axis=0) / np.diag(covariance)
    assert away.max() > 6 or np.abs(ratio - 1).max() > 0.4


def test_the_mean_is_the_exact_conditional_mean() -> None:
    pair = linear_pair()
    x = rows(pair)
    filled = imputed_mean(pair, x).double().numpy()
    seen = ~x.isnan().numpy()
    assert (filled[seen] == x.numpy()[seen]).all()
    for number in range(3):
        mean, covariance = exact(pair, x[400 * number])
        some = filled[400 * number : 400 * (number + 1)][:, np.isnan(x[400 * number].numpy())]
        spread = some.std(0, ddof=1)
        # A chain of 400 steps is worth many draws, and all chains agree on the truth.
        assert (spread < 0.5 * np.sqrt(np.diag(covariance))).all()
        assert (np.abs(some.mean(0) - mean) < 4.5 * spread / 20).all()


def test_blocks_of_rows_and_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: memory that grows with the table, rows mixed up between blocks, or draws that no seed repeats.
    pair = linear_pair()
    x = rows(pair)[::100]
    x[5] = x[0].nan_to_num(4000.0)
    monkeypatch.setattr("pyro_lvm.imputation._BLOCK_ENTRIES", 4 * D)
    chain = ImputationChain(pair, x, seed=3)
    filled = chain.run(5)
    assert torch.equal(filled[5], x[5])
    assert torch.equal(filled[~x.isnan()], x[~x.isnan()])
    assert not filled.isnan().any()
    again = ImputationChain(pair, x, seed=3)
    assert torch.equal(again.run(5), filled)
    assert not torch.equal(ImputationChain(pair, x, seed=4).run(5), filled)
    assert ((chain.acceptance >= 0) & (chain.acceptance <= 1)).all()
    assert chain.acceptance[5] == 1


def test_zeros_and_ones_stay_zeros_and_ones() -> None:
    x = torch.rand(40, 16, generator=torch.Generator().manual_seed(0)).round()
    pair = Pair(VAE(16, 2, "bernoulli", hidden=[8]), GaussianEncoder(16, 2, hidden=[8]))
    pair.start(x, torch.Generator().manual_seed(0))
    x[:, ::3] = math.nan
    chain = ImputationChain(pair, x)
    assert set(chain.run(5).unique().tolist()) == {0.0, 1.0}
    mean = chain.run(5, averaged=True)[x.isnan()]
    assert ((mean > 0) & (mean < 1)).all()


def test_plain_functions_work() -> None:
    # z ~ N(0, 1), x1 and x2 ~ N(z, 1): given x1 = 2, x2 has mean 1 and variance 1.5.
    def model(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", Normal(torch.zeros(()), 1.0))
            observe("x", Normal(z[..., None].expand(x.shape), 1.0), x)

    def guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", Normal(x.mean(-1) * 0.5, 1.0))

    draws = next(imputed_draws(Pair(model, guide), torch.tensor([[2.0, math.nan]]).repeat(4000, 1), 1))[:, 1]
    assert float(draws.mean()) == pytest.approx(1, abs=4.5 * math.sqrt(1.5 / 4000))
    assert float(draws.var()) == pytest.approx(1.5, rel=4.5 * math.sqrt(2 / 4000))


def test_a_guide_that_misses_the_posterior_is_named() -> None:
    pair = linear_pair()
    with torch.no_grad():
        pair.guide.encoder[0].bias[:K] = 30.0
    with pytest.warns(UserWarning, match="less than 1% of the guide's proposals were taken"):
        list(imputed_draws(pair, rows(pair)[:3], 1))


def test_what_can_not_be_imputed_is_refused() -> None:
    x = torch.randn(20, D)
    shared = Pair(BayesianPCA(D, 2), SharedLoadings(D, 2))
    shared.start(x, torch.Generator().manual_seed(0))
    x[0, 0] = math.nan
    with pytest.raises(PairError, match="lies outside the plate over rows"):
        ImputationChain(shared, x)
    with pytest.raises(DataError, match="steps=0"):
        ImputationChain(linear_pair(), x).run(0)
