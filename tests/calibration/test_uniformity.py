"""The tests of ranks: how often they cry wolf, what they see, and how large they say it is."""

import numpy as np
import pytest
import torch

from pyro_lvm.calibration.bands import ecdf_band, ecdf_p_value, rank_counts
from pyro_lvm.calibration.ranks import effect, rank, tied_p_value, uniformity_p_value
from pyro_lvm.calibration.results import holm


def normal_ranks(num_rows: int, draws: int, shift: float = 0.0, width: float = 1.0, seed: int = 0) -> np.ndarray:
    """Ranks of standard normal truths among draws of a guide of this mean and standard deviation."""
    random = np.random.default_rng(seed)
    truth = random.normal(size=(num_rows, 1))
    return (shift + width * random.normal(size=(num_rows, draws)) < truth).sum(1)


@pytest.mark.parametrize(("num_rows", "draws"), [(60, 19), (1000, 99)])
def test_uniform_ranks_are_flagged_as_often_as_is_said(num_rows: int, draws: int) -> None:
    """Wrong: the false-alarm rate is not the level. Oracle: many null data sets, within four binomial errors."""
    random = np.random.default_rng(1)
    sets = [random.integers(0, draws + 1, num_rows) for _ in range(1500)]
    for p_values in (
        np.array([uniformity_p_value(ranks, draws) for ranks in sets]),
        np.array([ecdf_p_value(rank_counts(ranks, draws)) for ranks in sets]),
    ):
        for level in (0.05, 0.01):
            limit = level + 4 * np.sqrt(level / len(sets))
            assert 0.4 * level < (p_values <= level).mean() < limit


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_the_band_holds_the_whole_curve_with_its_probability(level: float) -> None:
    """Wrong: the band is pointwise, or for another number of ranks. Oracle: curves of uniform ranks."""
    num_rows, draws = 250, 49
    lower, upper = ecdf_band(num_rows, draws, level)
    random = np.random.default_rng(2)
    counts = random.multinomial(num_rows, np.full(draws + 1, 1 / (draws + 1)), size=4000)
    curves = counts.cumsum(1)[:, :-1] / num_rows
    held = ((curves >= lower - 1e-12) & (curves <= upper + 1e-12)).all(1).mean()
    assert abs(held - level) < 4 * np.sqrt(level * (1 - level) / len(curves)) + 0.015


def test_a_shape_that_neither_location_nor_scale_sees_is_seen() -> None:
    """Wrong: only the ranks' first two moments count. Ranks of four clumps have those of uniform ones."""
    random = np.random.default_rng(3)
    clumps = np.array([4, 32, 67, 95])[random.integers(0, 4, 1000)] + random.integers(-3, 4, 1000)
    assert uniformity_p_value(clumps, 99) < 1e-6


def test_a_large_sample_is_no_problem_of_size() -> None:
    """Wrong: the null distribution of 10^5 ranks is too narrow, and every exact guide is flagged then."""
    assert uniformity_p_value(np.random.default_rng(4).integers(0, 100, 100_000), 99) > 0.01


@pytest.mark.parametrize(
    ("shift", "width"),
    [(0.0, 1.0), (0.3, 1.0), (-1.5, 1.0), (0.0, 0.5), (0.0, 1.5), (0.4, 2.0), (0.0, 0.1), (0.0, 8.0)],
)
@pytest.mark.parametrize("draws", [19, 99])
def test_the_effect_is_the_one_that_was_planted(shift: float, width: float, draws: int) -> None:
    """Wrong: a sign, a unit, or an error that is no error. Oracle: normal truths and draws of known moments."""
    found = [effect(normal_ranks(2000, draws, shift, width, seed), draws) for seed in range(3)]
    for location, location_error, scale, scale_error in found:
        assert abs(location - shift) < 4 * location_error
        assert abs(scale - width) < 4 * scale_error
        assert location_error < 0.15 * max(1, abs(shift))
        assert scale_error < 0.15 * width


def test_the_errors_of_effects_are_their_spread() -> None:
    """Wrong: the information is of another number of rows, or of something else."""
    found = np.array([effect(normal_ranks(500, 49, 0.3, 0.7, seed), 49) for seed in range(200)])
    np.testing.assert_allclose(found[:, [0, 2]].std(0), found[:, [1, 3]].mean(0), rtol=0.25)


def test_a_point_mass_has_the_least_width() -> None:
    """Wrong: a guide without any spread makes the fit run away, or NaN."""
    ranks = np.where(np.random.default_rng(5).random(300) < 0.5, 0, 99)
    location, _, scale, _ = effect(ranks, 99)
    assert scale < 0.05
    assert abs(location) < 1


def test_ties_are_broken_at_random() -> None:
    """Wrong: equal values give the truth one end. Of all equal, ranks are uniform on 0 to L."""
    generator = torch.Generator().manual_seed(0)
    ranks = rank(torch.ones(4000, 1), torch.ones(9, 4000, 1), generator)[:, 0].numpy()
    assert ranks.min() == 0
    assert ranks.max() == 9
    assert uniformity_p_value(ranks, 9) > 0.01


def test_rounding_decides_no_rank() -> None:
    """Wrong: a difference of rounding makes an extreme rank. Of equal draws, ranks are uniform on 0 to L."""
    generator = torch.Generator().manual_seed(0)
    rounding = torch.finfo(torch.float32).eps * 100 * torch.randint(-1, 2, (1000, 1), generator=generator)
    tolerance = 32 * torch.finfo(torch.float32).eps * 100
    ranks = rank(100 + rounding.double(), torch.full((99, 1000, 1), 100.0).double(), generator, tolerance)
    assert uniformity_p_value(ranks[:, 0].numpy(), 99) > 0.01


def test_densities_as_coarse_as_they_are_apart_have_uniform_ranks() -> None:
    """Wrong: what is near is called equal, which is not transitive, and the ends are too rare.

    Oracle: truth and draws of one law, that of Exp(1) densities far from 0 in single precision; and the binomial errors
    of how often the truth is at an end.
    """
    generator = torch.Generator().manual_seed(0)
    value = (-50_000 + torch.empty(100, 4000, 1).exponential_(generator=generator)).double()
    tolerance = 32 * torch.finfo(torch.float32).eps * value.abs().amax(0)
    ranks = rank(value[0], value[1:], generator, tolerance)[:, 0].numpy()
    for end in (0, 99):
        assert abs((ranks == end).sum() - 40) < 4 * np.sqrt(40)
    assert uniformity_p_value(ranks, 99) > 0.01


def test_ties_have_a_valid_test_of_their_own() -> None:
    """Wrong: the bound is none, and rare values make false alarms. Oracle: null pools of few ones among zeros."""
    random = np.random.default_rng(6)
    p_values = []
    for _ in range(1000):
        share = random.beta(0.05, 1.0, size=(200, 1))
        pool = (random.random((200, 20)) < share).astype(float)
        p_values.append(tied_p_value(pool.mean(1) - pool[:, 0], pool.var(1), np.ptp(pool, axis=1)))
    assert (np.array(p_values) <= 0.05).mean() <= 0.05


def test_adjusted_p_values_are_holms() -> None:
    """Wrong: another adjustment. Oracle: worked by hand: 4 x .005, 3 x .01, 2 x .03, none below the last."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
