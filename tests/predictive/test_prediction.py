"""Entries kept from the guide, against their exact conditional distribution."""

from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_lvm import Pair, PairError, data_plate, observe
from pyro_lvm.errors import DataError
from pyro_lvm.guides import GaussianEncoder
from pyro_lvm.models import PPCA
from pyro_lvm.predictive import predict


def test_held_out_entries_against_the_joint_gaussian(make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: the guide sees what is to be predicted, or shown entries are drawn again."""
    rows = make_rows(200, 1)
    pair = exact_pair(rows)
    x = torch.from_numpy(rows[:3].copy())
    x[0, 5] = torch.nan
    held_out = torch.zeros(3, 6, dtype=torch.bool)
    held_out[:, [1, 2]] = True
    prediction = predict(pair, x, held_out, 20_000, seed=1)
    w, mean, noise = (v.detach().numpy() for v in (pair.model.loadings, pair.model.mean, pair.model.noise_variance))
    covariance = w @ w.T + noise * np.eye(6)
    for row in range(3):
        hidden = prediction.predicted[row].numpy()
        assert hidden.tolist() == [False, True, True, False, False, row == 0]
        gain = covariance[hidden][:, ~hidden] @ np.linalg.inv(covariance[~hidden][:, ~hidden])
        exact = mean[hidden] + gain @ (x[row, ~hidden].numpy() - mean[~hidden])
        spread = np.sqrt(np.diag(covariance[hidden][:, hidden] - gain @ covariance[~hidden][:, hidden]))
        drawn = prediction.draws[:, row].numpy()
        assert (np.abs(drawn[:, hidden].mean(0) - exact) < 5 * spread / np.sqrt(20_000)).all()
        assert np.allclose(drawn[:, hidden].std(0), spread, rtol=0.03)
        assert (drawn[:, ~hidden] == x[row, ~hidden].numpy()).all()
        low, high = prediction.interval(0.9)
        np.testing.assert_allclose(low[row, hidden], exact - 1.645 * spread, atol=0.05)
        np.testing.assert_allclose(high[row, hidden], exact + 1.645 * spread, atol=0.05)


def test_where_the_truth_falls(make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: predictions of held-out entries are too sure of themselves, or not sure enough."""
    rows = make_rows(1200, 4)
    pair, x = exact_pair(rows[:1000]), torch.from_numpy(rows[1000:])
    held_out = torch.zeros_like(x, dtype=torch.bool)
    held_out[torch.arange(200), torch.arange(200) % 6] = True
    pit = predict(pair, x, held_out, 200).pit(x)
    assert pit.shape == (200,)
    assert stats.kstest(pit, "uniform").pvalue > 0.01
    too_sure = exact_pair(rows[:1000])
    too_sure.model.relative_noise_scale = 0.4 * too_sure.model.relative_noise_scale.detach()
    assert stats.kstest(predict(too_sure, x, held_out, 200).pit(x), "uniform").pvalue < 0.01


def test_reweighting_mends_a_guide_that_is_off(make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: predictions stand for the guide where the posterior was asked for."""
    rows = make_rows(100, 2)
    pair = exact_pair(rows)
    x = torch.from_numpy(rows[:20])
    held_out = torch.zeros_like(x, dtype=torch.bool)
    held_out[:, 0] = True
    exact = predict(pair, x, held_out, 2000).mean[:, 0]
    with torch.no_grad():
        pair.guide.log_precisions -= 0.3
    off = predict(pair, x, held_out, 2000, seed=1)
    mended = predict(pair, x, held_out, 2000, reweight=True, seed=1)
    assert off.weights is not None
    assert float((mended.mean[:, 0] - exact).abs().mean()) < 0.4 * float((off.mean[:, 0] - exact).abs().mean())


def test_requests_that_make_no_sense(make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: a complete row is 'predicted', or a guide reads a hole as a number."""
    rows = torch.from_numpy(make_rows(20, 3))
    pair = exact_pair(rows.numpy())
    with pytest.raises(DataError, match="no entry is missing or held out"):
        predict(pair, rows)
    with pytest.raises(DataError, match="held_out of shape"):
        predict(pair, rows, torch.ones(20, dtype=torch.bool))
    blind = Pair(PPCA(6, 2), GaussianEncoder(6, 2))
    with pytest.raises(PairError, match="cannot take"):
        predict(blind, rows.float(), torch.ones(20, 6, dtype=torch.bool))
    with pytest.raises(DataError, match="truth of shape"):
        predict(pair, rows, rows > 2, 5).pit(rows[:3])
    with pytest.raises(DataError, match="probability=1"):
        predict(pair, rows, rows > 2, 5).interval(1)


def test_a_guide_that_says_nothing_of_holes_and_cant_take_them() -> None:
    """Wrong: a person reads pages of what a distribution was given, and not what to do; or other faults pass for it."""

    def model(x: torch.Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            observe("x", dist.Poisson((0.3 * z).exp()[:, None].expand(x.shape)), x)

    def guide(x: torch.Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", dist.Normal(x.mean(-1), 1.0))

    def broken(x: torch.Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), -1.0))

    x = torch.ones(5, 3)
    x[0, 0] = torch.nan
    with pytest.raises(PairError, match="1 missing entries, which the guide") as refused:
        predict(Pair(model, guide), x)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="parameter scale"):
        predict(Pair(model, broken), x)
