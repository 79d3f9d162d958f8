r"""What a check would have found, had the model been right: all of it again, on tables that the fitted pair makes.

A predictive distribution at fitted parameters takes them for known, and a table strays from it by what they are off
besides what it strays anyway. How far they are off is seen where the truth is known: tables for training and for
checking are drawn from the pair as it was fitted, the pair is fitted anew to the former, and the latter are compared
with what *that* fit expects.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_lvm.errors import DataError, PairError, PyroLvmError, TrainingError
from pyro_lvm.evidence.observing import Sites, find_sites
from pyro_lvm.pair import HasEstimator, Pair, refuse_holes
from pyro_lvm.predictive.measuring import Measuring, Units
from pyro_lvm.predictive.replicating import replicate
from pyro_lvm.progress import Reporter
from pyro_lvm.retraining import Retraining
from pyro_lvm.seeding import derived_seed, seeded

Refit = Callable[[Tensor], Pair]
"""Rows to train on, as the pair sees them, to a pair that was fitted to them as the one in question was to its own."""

# Replicates that tell what a fit expects of a statistic: they add a hundredth to the variance of what is compared.
_EXPECTING = 100
# EM has converged where it gains less than this in all rows together, nats: a thousandth of what rows tell by chance.
_EM_GAIN = 1e-3
# Rows that show what parameters a pair has.
_PROBE_ROWS = 16


@dataclass(frozen=True)
class Refits:
    """How often and how a pair is fitted anew.

    Attributes:
        trained_on: The rows that it was fitted to; None for those that are checked.
        count: Fits.
        refit: A person's own way; None for the model's estimator, else training.
        steps: Gradient steps of a training.
    """

    trained_on: Tensor | None
    count: int
    refit: Refit | None
    steps: int

    def manner(self, pair: Pair) -> str:
        """In words, how a pair is fitted anew."""
        if self.refit is not None:
            return f"by {getattr(self.refit, '__name__', type(self.refit).__name__)}"
        if isinstance(pair.model, HasEstimator):
            return f"by {type(pair.model.to_estimator()).__name__}'s estimator"
        return f"by {self.steps:,} steps of training"


def replicate_by_refits(
    pair: Pair, measuring: Measuring, refits: Refits, num_draws: int, *, seed: int, progress: bool
) -> tuple[Units, dict[str, Tensor]]:
    r"""Statistics as they would be if the fit were as far from the truth as fits are, in the place of replicates.

    .. math::

        \tilde T^r = m(\hat\theta) + s(\hat\theta)\, \frac{T(x^r) - m(\theta^r)}{s(\theta^r)}, \qquad
        x^r, y^r \sim p(\cdot \mid \hat\theta), \quad \theta^r = \text{refit}(y^r)

    m and s are the mean and the standard deviation of a statistic under a fit, by a hundred replicates at least: the
    rows' own :math:`(T(x) - m(\hat\theta)) / s(\hat\theta)` is one more of the same kind if the
    model is right. (Replicates of the refitted pairs themselves would be the simpler choice; they have the bias of an
    estimator twice, where this takes it away.)

    Args:
        pair: The fitted pair; as it was, afterwards.
        measuring: What is looked at.
        refits: How the pair is fitted anew.
        num_draws: Tables to check, spread over the fits.
        seed: Of everything.
        progress: Show how far it is.

    Returns:
        The fitted pair's own units, and the values, (num_draws, numbers) each.

    Raises:
        DataError: There are more fits than tables, or other than as many where the rows of the training are checked.
        PairError: The model doesn't make whole rows.
        TrainingError: A fit failed.

    Sources: Beran 1988, "Prepivoting test statistics", JASA 83; Davison & Hinkley 1997, "Bootstrap methods and their
    application", section 6.3.3; Hjort, Dahl & Steinbakk 2006, "Post-processing posterior predictive p values", JASA
    101, who do the same to p-values.
    """
    sites = find_sites(pair, measuring.rows)
    _refuse_impossible(sites, measuring, refits, num_draws)
    base = measuring.expected(pair, max(num_draws, _EXPECTING), derived_seed(seed, 0))
    counts = [num_draws // refits.count + (i < num_draws % refits.count) for i in range(refits.count)]
    apart, spreads = [], []
    refit = refits.refit or _own_way(pair, measuring, refits)
    with _kept(pair) as restore, Reporter("refits", enabled=progress) as reporter:
        for i, count in enumerate(counts, 1):
            table, tables = _simulate(pair, sites, measuring, refits.trained_on, count, derived_seed(seed, i, 0))
            fitted = _fit(refit, table, derived_seed(seed, i, 1), f"refit {i} of {refits.count}")
            expected = measuring.expected(fitted, _EXPECTING, derived_seed(seed, i, 2))
            restore()
            found = measuring.evaluate(expected.units, tables)
            apart.append({name: value - expected.mean[name] for name, value in found.items()})
            spreads.append({name: spread.expand(count, -1) for name, spread in expected.spread.items()})
            reporter.update(i, refits.count, "fits")
    away, by = measuring.stacked(apart), measuring.stacked(spreads)
    values = {}
    for name, mean in base.mean.items():
        own, theirs = _positive(base.spread[name], by[name])
        values[name] = mean + own * away[name] / theirs
    return base.units, values


def _refuse_impossible(sites: Sites, measuring: Measuring, refits: Refits, num_draws: int) -> None:
    if not 1 <= refits.count <= num_draws:
        raise DataError(f"refits={refits.count}: expected a whole number from 1 to the {num_draws} replicates")
    if measuring.replication != "mixed":
        raise DataError(
            f"refits of {measuring.replication} replicates: expected replication='mixed', new rows of the population "
            "that a fit describes"
        )
    if sites.whole_rows != (measuring.site,):
        raise PairError(
            f"refits need whole rows to train on, and the model observes {', '.join(sites.observed)}, of which "
            f"{', '.join(sites.whole_rows) or 'none'} holds them: check without refits"
        )
    given = refits.trained_on
    if given is None:
        if refits.count != num_draws:
            raise DataError(
                f"refits={refits.count} for {num_draws} replicates of rows of the training: expected as many, since "
                "each replicate is what one fit was made on"
            )
    elif len(given) < 2 or given.shape[1:] != measuring.rows.shape[1:]:
        raise DataError(
            f"trained_on of shape {tuple(given.shape)}: expected two rows at least of shape "
            f"{tuple(measuring.rows.shape[1:])}, as those that are checked"
        )


def _positive(own: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviations that can be divided by: where one is 0, the mean of the others, and 1 where all are."""
    spreads = torch.cat([own[None], theirs])
    usual = spreads.sum(0) / (spreads > 0).sum(0).clamp(min=1)
    spreads = torch.where(spreads > 0, spreads, torch.where(usual > 0, usual, 1.0))
    return spreads[0], spreads[1:]


@contextmanager
def _kept(pair: Pair) -> Iterator[Callable[[], None]]:
    """Within the context a pair may be trained in place: it is as it was afterwards, and whenever that is called."""
    state = {name: tensor.clone() for name, tensor in pair.state_dict().items()}
    passing = [(b, b.clone()) for module in pair.modules().values() for b in module.buffers()]

    def restore() -> None:
        with torch.no_grad():
            pair.load_state_dict({**pair.state_dict(), **state})
            for buffer, value in passing:
                buffer.copy_(value)

    try:
        yield restore
    finally:
        restore()


def _simulate(
    pair: Pair, sites: Sites, measuring: Measuring, trained_on: Tensor | None, count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """A table to train on, with the holes of the one that was, and tables to check, (count, rows, ...); as one draw."""
    rows = measuring.rows
    like = (
        rows if trained_on is None else torch.cat([trained_on.to(rows), rows.repeat(count, *(1,) * (rows.dim() - 1))])
    )
    draws = next(replicate(pair, like, 1, replication="mixed", seed=seed, sites=sites))
    drawn = draws.observed[measuring.site][0]
    original = rows if trained_on is None else trained_on
    table = drawn[: len(original)].reshape(original.shape).to(original)
    if original.is_floating_point():
        table = table.masked_fill(original.isnan(), torch.nan)
    checked = drawn if trained_on is None else drawn[len(original) :]
    return table, measuring.table(checked.reshape(count, len(rows), *drawn.shape[1:]))


def _fit(refit: Refit, table: Tensor, seed: int, name: str) -> Pair:
    try:
        # Nothing that it makes in Pyro's global store outlives it.
        with seeded(seed), pyro.get_param_store().scope():
            fitted = refit(table)
    except PyroLvmError as error:
        raise TrainingError(f"{name} failed: {error}") from error
    if not isinstance(fitted, Pair):
        raise PairError(f"{name} gave a {type(fitted).__name__}: expected the Pair that was fitted to the rows")
    return fitted


def _own_way(pair: Pair, measuring: Measuring, refits: Refits) -> Refit:
    """Fits as the pair itself offers them: by its model's estimator, or by training."""
    rows = measuring.rows if refits.trained_on is None else refits.trained_on
    model = pair.model
    if isinstance(model, HasEstimator):
        options = {"warm_start": True, "tol": _EM_GAIN / len(rows), "device": str(pair.device), "random_state": 0}
        dtype = next((p.dtype for _, p in pair.named_parameters() if p.is_floating_point()), torch.float32)

        def by_estimator(table: Tensor) -> Pair:
            estimator = model.to_estimator().set_params(**options)
            with warnings.catch_warnings():
                # What it warns of it has warned of when the model was fitted.
                warnings.simplefilter("ignore")
                estimator.fit(table)
            fitted: Any = type(model).from_estimator(estimator)
            # The guide has no part in new rows of the population: the model's own latents are each row's.
            return Pair(fitted.to(device=pair.device, dtype=dtype), pair.guide)

        return by_estimator
    refuse_holes(pair, rows)
    # What only running makes is made now: it is a part of what is to be restored.
    pair.materialize(rows[:_PROBE_ROWS].to(pair.device))
    training = Retraining(pair, refits.steps, refits.count)

    def by_training(table: Tensor) -> Pair:
        training.train(table)
        return pair

    return by_training
