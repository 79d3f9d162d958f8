"""Posterior predictive checks: does a table look like those that the model would have made?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

from torch import Tensor

from pyro_lvm.errors import DataError
from pyro_lvm.evidence.observing import find_sites
from pyro_lvm.pair import Pair
from pyro_lvm.predictive.measuring import Measuring
from pyro_lvm.predictive.refitting import Refit, Refits, replicate_by_refits
from pyro_lvm.predictive.replicating import Replication, observed_rows
from pyro_lvm.predictive.results import MISFIT, PredictiveCheck, StatisticCheck
from pyro_lvm.predictive.statistics import Function, Statistic, choose
from pyro_lvm.seeding import derived_seed

# Fits of a check that is told what the pair was fitted to, where it has no more rows than that.
_REFITS = 20


def check(
    pair: Pair,
    x: Tensor,
    statistics: Sequence[str | Statistic | Function] | None = None,
    *,
    held_out: bool,
    num_draws: int = 400,
    replication: Replication = "mixed",
    trained_on: Tensor | None = None,
    refits: int | None = None,
    refit: Refit | None = None,
    refit_steps: int = 1000,
    site: str | None = None,
    in_units: Callable[[Tensor], Tensor] | None = None,
    feature_names: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> PredictiveCheck:
    r"""Compare statistics of rows with those of replicates of the rows.

    .. math:: p = P\bigl(T(x^{\text{rep}}) \ge T(x)\bigr), \qquad \text{two-sided}

    Replicates have holes where the rows have them. Under ``mixed`` they are new rows of the population that the model
    describes, latents and all, so that a wrong distribution of the latents shows. Under ``posterior`` each row's latent
    is inferred from the row itself, and what shows is what the latents can't explain.

    On held-out rows mixed p-values are uniform if the model is right and its parameters are known. They are estimated:
    told what the pair was fitted to, the check counts that too. The pair draws tables of its own to train and to check
    on, is fitted anew to the former, and what is compared is how far a table lies from what *its* fit expects:

    .. math::

        p = P\Bigl(\frac{T(x^r) - m(\theta^r)}{s(\theta^r)} \ge \frac{T(x) - m(\hat\theta)}{s(\hat\theta)}\Bigr),
        \qquad x^r, y^r \sim p(\cdot \mid \hat\theta), \quad \theta^r = \text{refit}(y^r)

    with m and s the mean and standard deviation of T under a fit: a studentized parametric bootstrap of the whole
    check. On the rows of the training, where :math:`x^r = y^r`, it makes p-values uniform too.

    Args:
        pair: Any pair.
        x: Rows as the pair sees them, shape (rows, ...), NaN where missing.
        statistics: Names of :data:`pyro_lvm.predictive.STATISTICS`, ``FILE.py:FUNCTION``, or functions of one table of
            rows in the data's units, NaN where missing, to a number or several; None for
            :data:`pyro_lvm.predictive.DEFAULT_STATISTICS`.
        held_out: Whether the rows were kept out of training. On others p-values are conservative, and labelled so,
            unless there are refits.
        num_draws: Replicates S; the least p-value is 2 / (S + 1) of a single number, 1 / (S + 1) of several together.
        replication: Where the replicates' latents come from.
        trained_on: The rows that the pair was fitted to, shape (rows, ...), of which number and holes count; None takes
            the parameters for known. Not for rows of the training, which are that themselves.
        refits: Fits that the replicates are spread over; None without ``trained_on`` for none, else for 20, and 20 n
            where there are n > 1 times as many rows as there: replicates of one fit stray together, the more so the
            more rows there are, and few fits make p-values too small. On the rows of the training, and at most
            elsewhere, as many as replicates.
        refit: How rows become a fitted :class:`pyro_lvm.Pair`; None for the model's estimator, where it has one, to the
            nearest maximum of the likelihood, else for training that goes on from the fitted parameters, which the pair
            has again afterwards.
        refit_steps: Steps of that training, on batches of 256: as many as take the pair to its optimum from nearby.
        site: The observed site; None where there is but one.
        in_units: Takes rows as the pair sees them to the data's units.
        feature_names: The features' names.
        seed: Of the replicates and refits; the caller's random state is left as it was.
        progress: Show how far it is.

    Returns:
        The checks, a statistic each.

    Raises:
        DataError: There are fewer than two rows, a statistic is unknown or doesn't give numbers, all entries are
            missing, ``num_draws`` isn't positive, or refits are asked for without rows to refit on.
        PairError: What :func:`pyro_lvm.predictive.posterior_predictive` raises; the model doesn't make whole rows,
            which refits need.
        TrainingError: A refit failed.

    Warns:
        UserWarning: The draws are too few for any p-value to tell, or the refits fewer than usual.

    Sources: Gelman, Meng & Stern 1996, "Posterior predictive assessment of model fitness via realized discrepancies",
    Statistica Sinica 6; Robins, van der Vaart & Ventura 2000, "Asymptotic distribution of p values in composite null
    models", JASA 95, for why those on the rows of the training are conservative; Davison & Hinkley 1997, "Bootstrap
    methods and their application", section 6.3.3, and Hjort, Dahl & Steinbakk 2006, "Post-processing posterior
    predictive p values", JASA 101, for refits.
    """
    chosen = choose(statistics)
    if num_draws < 1:
        raise DataError(f"num_draws={num_draws}: expected a whole number from 1 up")
    if len(x) == 1:
        raise DataError("one row: expected two or more, since statistics are of a table")
    to_units = in_units if in_units is not None else lambda rows: rows
    observed = to_units(observed_rows(pair, x, site).double())
    missing = observed.isnan()
    if bool(missing.all()):
        raise DataError(f"all entries of {len(x)} rows are missing: expected some to compare replicates with")
    name = find_sites(pair, x).choose(site)

    usual = _usual_refits(len(x), trained_on, num_draws)
    count = _count_refits(usual, trained_on, refits, refit, held_out)
    least = 2 / (num_draws + 1)
    if least > MISFIT:
        warnings.warn(
            f"with {num_draws} replicates the p-value of a single number is never below {least:.3g}, however far the "
            f"rows stray: take {round(2 / MISFIT) - 1} or more",
            stacklevel=2,
        )
    measuring = Measuring(x, name, missing, to_units, tuple(chosen), replication)
    manner = Refits(trained_on, count, refit, refit_steps) if count else None
    if manner is None:
        units = measuring.units(pair, derived_seed(seed, num_draws, 1))
        replicated = measuring.replicated(pair, units, num_draws, seed, progress=progress)
    else:
        units, replicated = replicate_by_refits(pair, measuring, manner, num_draws, seed=seed, progress=progress)
        if trained_on is not None and count < usual:
            warnings.warn(
                f"{count} refits are few for {len(x):,} rows of a pair that was fitted to {len(trained_on):,}: "
                f"p-values come out too small; take {usual} or more",
                stacklevel=2,
            )
    own = measuring.evaluate(units, observed[None])
    checks = [_compared(one, own[one.name][0], replicated[one.name], feature_names) for one in chosen]
    words = "" if manner is None else manner.manner(pair)
    return PredictiveCheck(tuple(checks), replication, len(x), num_draws, held_out, seed, count, words)


def _usual_refits(num_rows: int, trained_on: Tensor | None, num_draws: int) -> int:
    if trained_on is None:
        return 0
    return min(num_draws, math.ceil(_REFITS * max(1.0, num_rows / max(1, len(trained_on)))))


def _count_refits(
    usual: int, trained_on: Tensor | None, refits: int | None, refit: Refit | None, held_out: bool
) -> int:
    if refits is None:
        if refit is not None and trained_on is None:
            raise DataError("refit without rows: expected trained_on, the rows that the pair was fitted to")
        return usual
    if refits < 1:
        raise DataError(f"refits={refits}: expected a whole number from 1 up, or None")
    if held_out and trained_on is None:
        raise DataError(
            f"refits={refits} without rows to refit on: expected trained_on, those that the pair was fitted to"
        )
    if not held_out and trained_on is not None:
        raise DataError("trained_on beside rows of the training: expected these alone, as x, all of them")
    return refits


def _compared(
    statistic: Statistic, observed: Tensor, values: Tensor, feature_names: Sequence[str] | None
) -> StatisticCheck:
    if values.shape[1:] != observed.shape:
        raise DataError(
            f"statistic '{statistic.name}' gave other numbers of a replicate: expected as many of each table"
        )
    labels = statistic.labels(len(observed), feature_names)
    # Of a feature that nobody has measured there is nothing to say.
    defined = observed.isfinite()
    values = values[:, defined]
    if not bool(defined.any()) or not bool(values.isfinite().all()):
        raise DataError(
            f"statistic '{statistic.name}' is not finite for the rows or for a replicate: expected numbers, also where "
            "entries are NaN for missing"
        )
    kept = tuple(label for label, keep in zip(labels, defined.tolist(), strict=True) if keep)
    return StatisticCheck(statistic.name, kept, observed[defined], values)
