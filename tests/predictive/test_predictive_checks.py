"""Predictive checks find planted misfit, pass what is right, and have calibrated p-values on held-out rows."""

from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

from pyro_lvm import Pair, data_plate, observe
from pyro_lvm.errors import DataError
from pyro_lvm.predictive import DEFAULT_STATISTICS, PredictiveCheck, StatisticCheck, check

# Of PPCA's rows none is exactly zero, nor of its replicates: there is nothing to be uniform.
CONTINUOUS = tuple(name for name in DEFAULT_STATISTICS if name != "zeros")


def heavy_tails(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each row's deviations stretched by one number, as of a multivariate t with 3 degrees of freedom."""
    return rows.mean(0) + (rows - rows.mean(0)) / np.sqrt(random.chisquare(3, size=(len(rows), 1)) / 3)


def outliers(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return rows + 12 * (random.random(rows.shape) < 0.01)


def two_clusters(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return rows + 4 * random.integers(0, 2, size=(len(rows), 1)) * np.array([1, -1, 1, -1, 1, -1])


@pytest.mark.parametrize(
    ("plant", "seen_by"),
    [(heavy_tails, ("kurtosis", "row-spread")), (outliers, ("largest", "kurtosis")), (two_clusters, ("kurtosis",))],
)
def test_planted_misfit(plant: Callable, seen_by: tuple[str, ...], make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: PPCA passes for a model of data with heavy tails, with outliers, or of two clusters."""
    rows = plant(make_rows(2000, 11), np.random.default_rng(0))
    found = check(exact_pair(rows[:1800]), torch.from_numpy(rows[1800:]), held_out=True, num_draws=200)
    for name in seen_by:
        assert found[name].verdict == "misfit", (name, found[name].p_value)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_wrong_noise(factor: float, make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: noise that is off by a factor of 2 goes unseen, though nothing else is."""
    rows = make_rows(1000, 12)
    pair = exact_pair(rows[:900])
    pair.model.relative_noise_scale = factor * pair.model.relative_noise_scale.detach()
    found = check(pair, torch.from_numpy(rows[900:]), ("spectrum", "mean"), held_out=True, num_draws=200)
    assert found["spectrum"].verdict == "misfit"
    # The noise has five eigenvalues to itself; the first is the latents'.
    assert found["spectrum"].labels[found["spectrum"].worst] != "eigenvalue 1"
    assert found["mean"].verdict == "fits"


def test_what_is_right_passes(make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: a model of the right family is called a misfit; rows with holes are held against complete replicates."""
    rows = make_rows(1000, 13)
    x = torch.from_numpy(rows[900:].copy())
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.3] = torch.nan
    x[:, 4] = torch.nan
    pair = exact_pair(rows[:900])
    for held in (x, torch.from_numpy(rows[900:])):
        found = check(pair, held, held_out=True, num_draws=400)
        assert found.misfits == ()
    # Nothing is said of a feature that nobody has measured.
    assert len(check(pair, x, ("feature-mean",), held_out=True, num_draws=50)["feature-mean"].labels) == 5


def test_counts_and_zeros() -> None:
    """Wrong: too many zeros in counts are not seen, or ties of a discrete statistic are taken for extremes."""

    def model(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.Gamma(x.new_tensor(20.0), 20.0))
            observe("x", dist.Poisson(3 * z.unsqueeze(-1).expand(-1, 4)), x)

    pair = Pair(model, lambda x: None)
    random = np.random.default_rng(0)
    counts = random.poisson(3 * random.gamma(20.0, 1 / 20.0, size=(400, 1)) * np.ones(4))
    x = torch.from_numpy(counts).float()
    fits = check(pair, x, ("zeros", "mean", "smallest"), held_out=True, num_draws=200)
    assert [one.verdict for one in fits.statistics] == ["fits"] * 3
    # The least count is 0 in every table.
    assert fits["smallest"].p_value == 1
    inflated = x * (torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) > 0.1)
    assert check(pair, inflated, ("zeros",), held_out=True, num_draws=200)["zeros"].verdict == "misfit"


def test_p_values_by_counting() -> None:
    """Wrong: a p-value is one-sided, can be 0, or several numbers together are extreme by chance."""
    replicated = torch.arange(1.0, 100.0, dtype=torch.float64)[:, None]
    one = StatisticCheck("t", ("t",), torch.tensor([97.5], dtype=torch.float64), replicated)
    assert one.p_value == pytest.approx(2 * (1 + 2) / 100)
    beyond = StatisticCheck("t", ("t",), torch.tensor([1e9], dtype=torch.float64), replicated)
    assert beyond.p_value == pytest.approx(2 / 100)
    # 60 numbers of noise: the least of their p-values is near 2 / 60, the joint one is uniform.
    generator = torch.Generator().manual_seed(0)
    joint = []
    for _ in range(200):
        noise = torch.randn(100, 60, generator=generator, dtype=torch.float64)
        many = StatisticCheck("t", tuple(map(str, range(60))), noise[0], noise[1:])
        joint.append(many.p_value)
    assert stats.kstest(joint, "uniform").pvalue > 0.01


def test_labels_of_what_p_values_are(make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: p-values of the rows of the training pass for calibrated ones, which they are far from being."""
    rows = make_rows(200, 3)
    pair, x = exact_pair(rows), torch.from_numpy(rows)
    same = check(pair, x, ("variance",), held_out=False, num_draws=50)
    assert same.conservative
    assert "fitted to these rows" in same.note
    assert (
        "latents come from the row"
        in check(pair, x, ("mean",), held_out=True, num_draws=9, replication="posterior").note
    )
    assert not check(pair, x, ("mean",), held_out=True, num_draws=9).conservative
    assert same.to_json()["statistics"][0]["name"] == "variance"


def test_functions_of_ones_own(make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: they see scaled rows, or several tables at once."""
    rows = make_rows(50, 4)
    shapes = []

    def first_entries(x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return x[0, :2]

    found = check(
        exact_pair(rows),
        torch.from_numpy(rows),
        (first_entries,),
        held_out=False,
        num_draws=20,
        in_units=lambda x: 10 * x,
    )
    assert set(shapes) == {(50, 6)}
    np.testing.assert_allclose(found["first_entries"].observed, 10 * rows[0, :2])
    for wrong, said in ((lambda x: "three", "failed"), (lambda x: [], "nothing"), (lambda x: np.nan, "not finite")):
        with pytest.raises(DataError, match=said):
            check(exact_pair(rows), torch.from_numpy(rows), (wrong,), held_out=False, num_draws=3)
    with pytest.raises(DataError, match="all entries"):
        check(exact_pair(rows), torch.full((5, 6), torch.nan, dtype=torch.float64), held_out=False)


def test_units_do_not_matter(make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: a feature in thousandths drowns the others, or in thousands."""
    rows = make_rows(200, 5)
    scale = torch.tensor([1e-3, 1.0, 1e3, 1.0, 1.0, 1e6], dtype=torch.float64)
    pair, x = exact_pair(rows), torch.from_numpy(rows)
    plain, scaled = (
        check(pair, x, CONTINUOUS, held_out=True, num_draws=100, in_units=units)
        for units in (None, lambda v: v * scale)
    )
    for one, other in zip(plain.statistics, scaled.statistics, strict=True):
        assert one.p_value == pytest.approx(other.p_value, abs=1e-9), one.name


def held_out_p_values(num_sets: int, statistics: tuple[str, ...], make_rows: Callable, exact_pair: Callable) -> dict:
    found = [
        check(
            exact_pair(rows[:-100]),
            torch.from_numpy(rows[-100:]),
            statistics,
            held_out=True,
            num_draws=200,
            seed=seed,
        )
        for seed in range(num_sets)
        # Without refits the parameters are taken for known: there have to be enough rows to learn them from.
        for rows in [make_rows(3000, 1000 + seed)]
    ]
    return {name: [one[name].p_value for one in found] for name in statistics}


def test_held_out_p_values_are_uniform(make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: p-values of a right model on rows that it hasn't seen are not what they say. With refits: test_refits."""
    values = held_out_p_values(30, ("variance", "kurtosis"), make_rows, exact_pair)
    for name, p in values.items():
        assert stats.kstest(p, "uniform").pvalue > 0.01, name


def test_p_values_on_the_rows_of_the_training_are_conservative(make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: the label is there for nothing: the model follows its rows, and their p-values crowd far from 0."""
    p = []
    for seed in range(15):
        rows = make_rows(300, 2000 + seed)
        found = check(exact_pair(rows), torch.from_numpy(rows), ("variance",), held_out=False, num_draws=100)
        p.append(found["variance"].p_value)
    assert min(p) > 0.5


def test_replicates_that_differ_by_rounding_alone_are_alike() -> None:
    """Wrong: 1e-16 over 1e-16 stands as a z, or numbers that never vary outdo those that do."""
    replicated = torch.tensor([[-1.13, 0.0], [-1.13 + 2e-16, 1.0], [-1.13 - 2e-16, 2.0]], dtype=torch.float64)
    single = StatisticCheck("t", ("t",), replicated[1, :1], replicated[:, :1])
    assert (single.alike, single.z, single.expected) == (True, 0.0, "-1.13, all alike")
    assert StatisticCheck("t", ("t",), torch.tensor([2.0]).double(), replicated[:, :1]).z == float("inf")
    both = StatisticCheck("t", ("a", "b"), torch.tensor([-1.13, 1.5], dtype=torch.float64), replicated)
    assert (both.label, both.alike, both.expected) == ("t: b", False, "1.0 ± 1.0")


def test_what_is_printed_is_to_be_read() -> None:
    """Wrong: a check, printed or left on the last line of a cell, is thousands of lines of tensors."""
    replicated = torch.randn(1000, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = StatisticCheck(
        "feature-mean", tuple(f"f{i}" for i in range(300)), torch.full((300,), 9.0).double(), replicated
    )
    found = PredictiveCheck((one,), "mixed", 100, 1000, held_out=True, seed=0)
    title, head, line, note, units = str(found).splitlines()
    assert title == "100 held-out rows against 1000 mixed replicates"
    assert head.split()[0] == "statistic"
    assert line.startswith("feature-mean: f")
    assert line.endswith("misfit")
    assert note.startswith("p-values: uniform")
    assert units.startswith("statistics: ")
    assert repr(found).endswith("1 statistics, misfit: feature-mean)")
    assert len(repr(one).splitlines()) == 1
