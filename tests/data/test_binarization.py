"""Zeros and ones from grey values: drawn once or anew, the same for a seed, and missing where they were."""

import math

import pytest
import torch
from torch import Tensor

from pyro_lvm import data, fit
from pyro_lvm.batches import make_batches
from pyro_lvm.errors import DataError
from pyro_lvm.guides import GaussianEncoder
from pyro_lvm.models import VAE


def grey() -> Tensor:
    return torch.rand(3000, 8, generator=torch.Generator().manual_seed(123))


def test_values_are_probabilities() -> None:
    x = grey().clamp(0.05, 0.95)
    drawn = torch.stack([data.binarize(x, seed) for seed in range(40)])
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    # 24,000 entries' means of 40 draws each: their standardised errors have variance 1, known to about one percent.
    errors = (drawn.mean(0) - x) / (x * (1 - x) / 40).sqrt()
    assert float(errors.square().mean()) == pytest.approx(1, abs=0.06)
    assert torch.equal(data.binarize(x, 3), drawn[3])
    extreme = torch.tensor([[0.0, 1.0]]).repeat(500, 1)
    assert torch.equal(data.binarize(extreme), extreme)


def test_missing_stays_missing_and_the_rest_is_checked() -> None:
    x = torch.tensor([[0.2, math.nan], [math.nan, 1.0]])
    assert torch.equal(torch.isnan(data.binarize(x)), torch.isnan(x))
    assert torch.equal(torch.isnan(data.redraw(x)), torch.isnan(x))
    with pytest.raises(DataError, match=r"2 values outside 0 to 1 such as 16: .* divide pixels by their largest value"):
        data.binarize(torch.tensor([[16.0, 0.0, -3.0]]))


def test_batches_are_drawn_anew_and_can_be_taken_up_again() -> None:
    rows = data.GreyRows.of(grey(), seed=1)
    for batch_size in (500, 3000):
        batches = make_batches(rows, batch_size, torch.device("cpu"))
        torch.manual_seed(0)
        batches.next()
        place, random = batches.state(), torch.get_rng_state()
        expected = [batches.next() for _ in range(8)]
        # Wrong: the same zeros and ones in each epoch would be static binarization.
        assert not torch.equal(expected[0], expected[-1])
        again = make_batches(rows, batch_size, torch.device("cpu"))
        again.restore(place)
        torch.set_rng_state(random)
        assert all(torch.equal(again.next(), batch) for batch in expected)
        assert torch.equal(batches.sample, data.binarize(grey(), 1))


def test_training_on_grey_rows_validates_on_one_draw_of_them() -> None:
    rows = data.GreyRows.of(grey(), seed=1)
    result = fit(
        VAE(8, 2, "bernoulli", hidden=[4]),
        GaussianEncoder(8, 2, hidden=[4]),
        rows,
        steps=40,
        validation=0.2,
        progress=False,
    )
    assert result.num_rows == 2400
    assert result.validation_rows is not None
    assert len(result.validation_rows) == 600
    # Each entry by itself, its probability uniform: ones and zeros are a coin's, 8 log 2 = 5.55 nats a row.
    assert -8 < result.history.records[-1]["validation_elbo"] < -5.3
