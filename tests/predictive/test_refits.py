"""Refits count what a fit doesn't know of its parameters, for any pair, and leave no trace."""

from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

from pyro_lvm import Pair, data_plate, observe
from pyro_lvm.errors import DataError, PairError, PyroLvmError, TrainingError
from pyro_lvm.predictive import DEFAULT_STATISTICS, check

# Of PPCA's rows none is exactly zero, nor of its replicates: there is nothing to be uniform.
CONTINUOUS = tuple(name for name in DEFAULT_STATISTICS if name != "zeros")


def normal_pair(x: Tensor) -> Pair:
    """A normal at the mean and the variance (over n - 1) of rows of one feature."""
    mean, scale = x.nanmean(0), (x - x.nanmean(0)).square().nansum(0).div(len(x) - 1).sqrt()

    def model(x: Tensor) -> None:
        with data_plate(x):
            observe("x", dist.Normal(mean, scale).expand(x.shape), x)

    return Pair(model, lambda x: None)


def test_p_values_are_those_of_exact_tests() -> None:
    """Wrong: the parameters' uncertainty is left out, or counted with the wrong sign or size.

    Of a normal with unknown mean and variance the means of two tables are compared by t, their variances by F. The
    p-value's standard error is about 0.03.
    """
    generator = torch.Generator().manual_seed(0)
    trained_on, x = (torch.randn(12, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    x = 1.6 * x / x.std() * trained_on.std() - x.mean() + trained_on.mean() + 0.8 * trained_on.std()
    pair = normal_pair(trained_on)
    options = {"held_out": True, "num_draws": 200}
    found = check(pair, x, ("mean", "variance"), trained_on=trained_on, refits=200, refit=normal_pair, **options)
    known = check(pair, x, ("mean", "variance"), **options)
    apart = float((x.mean() - trained_on.mean()) / (trained_on.std() * (2 / 12) ** 0.5))
    ratio = float(x.var() / trained_on.var())
    exact = {"mean": 2 * stats.t.sf(abs(apart), 11), "variance": 2 * stats.f.sf(ratio, 11, 11)}
    for name, p in exact.items():
        assert found[name].p_value == pytest.approx(p, abs=0.09)
        assert known[name].p_value < p - 0.05
    assert not found.conservative
    assert "200 tables" in found.note
    assert found.replicates == "200 mixed replicates of 200 refits"


def test_the_more_rows_are_checked_the_more_refits() -> None:
    """Wrong: many replicates share few fits' errors, and p-values of a right model are too small. Oracle: the t test.

    Of 500 rows against 20, all but a 26th of a mean's variance is the fit's: 20 fits would tell p to 0.05 or so, 200
    tell it to 0.02.
    """
    generator = torch.Generator().manual_seed(3)
    trained_on = torch.randn(20, 1, generator=generator, dtype=torch.float64)
    x = torch.randn(500, 1, generator=generator, dtype=torch.float64)
    apart = float(trained_on.std()) * (1 / 20 + 1 / 500) ** 0.5
    x = (x - x.mean()) / x.std() * trained_on.std() + trained_on.mean() + 1.8 * apart
    pair, options = normal_pair(trained_on), {"held_out": True, "refit": normal_pair, "trained_on": trained_on}
    found = check(pair, x, ("mean",), num_draws=200, **options)
    assert found.refits == 200
    assert found["mean"].p_value == pytest.approx(2 * stats.t.sf(1.8, 19), abs=0.06)
    for rows, count in ((x[:20], 20), (x[:70], 70)):
        assert check(pair, rows, ("mean",), num_draws=199, **options).refits == count
    with pytest.warns(UserWarning, match="20 refits are few for 70 rows of a pair that was fitted to 20: .* take 70"):
        check(pair, x[:70], ("mean",), num_draws=199, refits=20, **options)


def learned_mean() -> tuple[Callable, Callable]:
    """Plain functions whose parameters are ``pyro.param``'s, with a latent of each row."""

    def model(x: Tensor) -> None:
        mean = pyro.param("mean", torch.zeros(2))
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            observe("x", dist.Normal(mean + z[..., None], 1.0), x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(0.3))
        with data_plate(x):
            pyro.sample("z", dist.Normal(slope * (x - pyro.param("centre", torch.zeros(2))).nansum(1), 3**-0.5))

    model.learning_rate = 0.05

    return model, guide


def test_training_in_place_leaves_no_trace() -> None:
    """Wrong: the pair keeps a refit's parameters, the caller's store or random state changes, or refits don't move.

    With as many rows to learn from as to check on, a mean strays twice as far, in variance, as its parameter known.
    """
    pair = Pair(*learned_mean())
    trained_on, x = torch.randn(60, 2), torch.randn(60, 2)
    pair.materialize(x)
    with torch.no_grad():
        dict(pair.named_parameters())["store.slope"].fill_(1 / 3)
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    pyro.param("mean", torch.tensor(17.0))
    random_state = torch.get_rng_state()
    options = {"held_out": True, "num_draws": 200, "seed": 1}
    found = check(pair, x, ("feature-mean",), trained_on=trained_on, refits=16, refit_steps=100, **options)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert dict(pyro.get_param_store().items()) == {"mean": torch.tensor(17.0)}
    after = pair.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    known = check(pair, x, ("feature-mean",), **options)
    ratio = found["feature-mean"].replicated.var(0) / known["feature-mean"].replicated.var(0)
    # The standard error of each is about 0.4.
    assert ((ratio > 1.2) & (ratio < 3.5)).all(), ratio
    assert "100 steps of training" in found.note
    once, again = (
        check(pair, x, ("mean",), trained_on=trained_on, refits=2, refit_steps=3, **options)["mean"] for _ in range(2)
    )
    assert torch.equal(once.replicated, again.replicated)


def test_a_refit_that_fails_leaves_the_pair_as_it_was(make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: an error, or a refit of one's own that trains the very pair, leaves other parameters behind."""
    rows = torch.from_numpy(make_rows(60, 1))
    pair = exact_pair(rows[:40].numpy())
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    calls = []

    def refit(table: Tensor) -> Pair:
        calls.append(table)
        if len(calls) == 3:
            raise DataError("no maximum")
        with torch.no_grad():
            pair.model.relative_mean += 1
        return pair

    with pytest.raises(TrainingError, match="refit 3 of 5 failed: no maximum"):
        check(pair, rows[40:], held_out=True, trained_on=rows[:40], refits=5, refit=refit, num_draws=200)
    assert all(torch.equal(pair.state_dict()[name], value) for name, value in before.items())
    # Each table is made by the fitted pair, not by the last refit.
    assert float((calls[2].mean(0) - rows[:40].mean(0)).abs().max()) < 1.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_tables_to_refit_on_are_like_the_one_that_was_fitted(dtype: torch.dtype) -> None:
    """Wrong: other holes, another shape or type, or images made flat."""
    tables = []

    def model(x: Tensor) -> None:
        with data_plate(x):
            rate = pyro.sample("rate", dist.Gamma(torch.tensor(9.0), 3.0))[:, None, None]
            if dtype is torch.int64:
                pyro.sample("x", dist.Poisson(rate.expand(x.shape)).to_event(2), obs=x)
            else:
                observe("x", dist.Normal(rate.to(dtype).expand(x.shape), 1.0), x)

    pair = Pair(model, lambda x: None)

    def refit(table: Tensor) -> Pair:
        tables.append(table)
        return pair

    trained_on, x = torch.full((30, 2, 3), 3, dtype=dtype), torch.full((20, 2, 3), 3, dtype=dtype)
    if dtype.is_floating_point:
        trained_on[4, 1] = torch.nan
        x[:, 0, 2] = torch.nan
    found = check(pair, x, ("mean",), held_out=True, trained_on=trained_on, refits=3, refit=refit, num_draws=199)
    assert found["mean"].replicated.shape == (199, 1)
    for table in tables:
        assert (table.shape, table.dtype) == (trained_on.shape, dtype)
        assert torch.equal(table.isnan(), trained_on.isnan())
    assert not torch.equal(tables[0], tables[1])


def test_shared_latents_are_one_draw_for_both_tables() -> None:
    """Wrong: the table to check is made at other values of what rows share than the table to refit on.

    The shared mean has a posterior of standard deviation 3, the rows 0.1 about it: both tables must agree on it.
    """

    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        with data_plate(x):
            observe("x", dist.Normal(mean, 0.1).expand(x.shape), x)

    def pair_about(loc: float, scale: float) -> Pair:
        return Pair(model, lambda x: pyro.sample("mean", dist.Normal(loc, scale)))

    found = check(
        pair_about(0.0, 3.0),
        torch.zeros(100, 1),
        ("mean",),
        held_out=True,
        trained_on=torch.zeros(100, 1),
        refits=4,
        refit=lambda table: pair_about(float(table.mean()), 0.03),
        num_draws=8,
    )
    # What a fit expects has a standard deviation of about 0.03; two draws of the shared mean are 4 apart.
    assert float(found["mean"].replicated.std()) / 3 < 10


def test_estimators_are_taken_where_there_are_some(make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: a model with an estimator is trained instead; told its rows, a check takes no refits."""
    rows = torch.from_numpy(make_rows(80, 2))
    rows[3, 2] = torch.nan
    pair = exact_pair(make_rows(80, 2)[:60])
    found = check(pair, rows[60:], ("mean",), held_out=True, trained_on=rows[:60], num_draws=199)
    assert found.refits == 20
    assert "by PPCA's estimator" in found.note
    assert found.to_json()["refits"] == 20


def test_rows_of_the_training(make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: with refits, each replicate isn't what its fit was made on: the variance then crowds about the rows'."""
    rows = torch.from_numpy(make_rows(100, 3))
    pair = exact_pair(rows.numpy())
    found = check(pair, rows, ("variance",), held_out=False, refits=60, num_draws=60)
    known = check(pair, rows, ("variance",), held_out=False, num_draws=60)
    assert not found.conservative
    assert "variance" in found.statistics[0].name
    assert float(found["variance"].replicated.std()) < 0.4 * float(known["variance"].replicated.std())


def observes_a_part(x: Tensor) -> None:
    with data_plate(x):
        pyro.sample("y", dist.Normal(x[:, 0], 1.0), obs=x[:, 1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"refits": 5}, "without rows to refit on"),
        ({"refits": 0, "trained_on": "rows"}, "refits=0"),
        ({"refits": 300, "trained_on": "rows"}, "from 1 to the 200 replicates"),
        ({"refit": normal_pair}, "expected trained_on"),
        ({"trained_on": "rows", "replication": "posterior"}, "replication='mixed'"),
        ({"trained_on": "narrow"}, "trained_on of shape"),
        ({"trained_on": "rows", "held_out": False, "refits": 200}, "these alone"),
        ({"held_out": False, "refits": 20}, "expected as many"),
        ({"trained_on": "rows", "refit": lambda rows: None}, "gave a NoneType"),
        ({"trained_on": "rows", "model": observes_a_part}, "whole rows"),
        ({"trained_on": "rows", "model": "trained", "refit_steps": 0}, "steps=0"),
        ({"trained_on": "rows", "model": "nothing"}, "nothing to train"),
    ],
)
def test_bad_requests(options: dict, said: str) -> None:
    """Wrong: a traceback from within, or p-values of something else than was asked for."""
    x = torch.randn(20, 2)
    given = {"held_out": True, "num_draws": 200, **options}
    model = given.pop("model", None)
    if given.get("trained_on") is not None:
        given["trained_on"] = torch.randn(30, 1) if given["trained_on"] == "narrow" else torch.randn(30, 2)
    pair = normal_pair(torch.randn(30, 2))
    if model == "trained":
        pair = Pair(*learned_mean())
    elif callable(model):
        pair = Pair(model, lambda x: None)
    with pytest.raises(PyroLvmError, match=said) as raised:
        check(pair, x, ("mean",), **given)
    assert isinstance(raised.value, (DataError, PairError, TrainingError))


def p_values_by_refits(num_sets: int, first: int, make_rows: Callable, exact_pair: Callable) -> dict:
    found = []
    for seed in range(num_sets):
        rows = make_rows(1000, first + seed)
        trained_on, x = torch.from_numpy(rows[:900]), torch.from_numpy(rows[900:])
        pair = exact_pair(rows[:900])
        options = {"held_out": True, "num_draws": 200, "seed": seed}
        found.append(check(pair, x, CONTINUOUS, trained_on=trained_on, **options))
    return {name: [one[name].p_value for one in found] for name in CONTINUOUS}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_held_out_p_value_is_uniform_over_100_data_sets(make_rows: Callable, exact_pair: Callable) -> None:
    """Wrong: p-values of a right model, fitted on 90% of the rows and checked on 10%, are not what they say."""
    values = p_values_by_refits(100, 50_000, make_rows, exact_pair)
    assert {name: p for name, v in values.items() if (p := stats.kstest(v, "uniform").pvalue) <= 0.01} == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_p_values_on_the_rows_of_the_training_are_uniform_with_refits(
    make_rows: Callable, exact_pair: Callable
) -> None:
    """Wrong: refits leave p-values on the rows of the training as conservative as they are without."""
    names = ("variance", "kurtosis", "spectrum", "row-spread")
    p: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(40):
        rows = make_rows(200, 60_000 + seed)
        found = check(
            exact_pair(rows), torch.from_numpy(rows), names, held_out=False, refits=100, num_draws=100, seed=seed
        )
        for name in names:
            p[name].append(found[name].p_value)
    assert {name: q for name, v in p.items() if (q := stats.kstest(v, "uniform").pvalue) <= 0.01} == {}
    assert np.mean(p["variance"]) < 0.8
