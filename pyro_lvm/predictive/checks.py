"""Posterior predictive checks: does a table look like those that the model would have made?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_lvm.errors import DataError
from pyro_lvm.pair import Pair
from pyro_lvm.predictive.replicating import Replication, find_sites, observed_rows, replicate
from pyro_lvm.predictive.results import MISFIT, PredictiveCheck, StatisticCheck
from pyro_lvm.predictive.statistics import Function, Statistic, choose
from pyro_lvm.seeding import derived_seed

# Rows that the model's own units are taken from, at least.
_UNIT_ROWS = 1000


def check(
    pair: Pair,
    x: Tensor,
    statistics: Sequence[str | Statistic | Function] | None = None,
    *,
    held_out: bool,
    num_draws: int = 400,
    replication: Replication = "mixed",
    site: str | None = None,
    in_units: Callable[[Tensor], Tensor] | None = None,
    feature_names: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> PredictiveCheck:
    r"""Compare statistics of rows with those of replicates of the rows.

    .. math:: p = P\bigl(T(x^{\text{rep}}) \ge T(x)\bigr), \qquad \text{two-sided}

    Replicates have holes where the rows have them. Under ``mixed`` they are new rows of the population that the model
    describes, latents and all, so that a wrong distribution of the latents shows; on held-out rows the p-values are
    then uniform if the model is right. Under ``posterior`` each row's latent is inferred from the row itself, and what
    shows is what the latents can't explain.

    Args:
        pair: Any pair.
        x: Rows as the pair sees them, shape (rows, ...), NaN where missing.
        statistics: Names of :data:`pyro_lvm.predictive.STATISTICS`, ``FILE.py:FUNCTION``, or functions of one table of
            rows in the data's units, NaN where missing, to a number or several; None for
            :data:`pyro_lvm.predictive.DEFAULT_STATISTICS`.
        held_out: Whether the rows were kept out of training. On others p-values are conservative, and labelled so.
        num_draws: Replicates S; the least p-value is 2 / (S + 1) of a single number, 1 / (S + 1) of several together.
        replication: Where the replicates' latents come from.
        site: The observed site; None where there is but one.
        in_units: Takes rows as the pair sees them to the data's units.
        feature_names: The features' names.
        seed: Of the replicates; the caller's random state is left as it was.
        progress: Show how far it is.

    Returns:
        The checks, a statistic each.

    Raises:
        DataError: There are fewer than two rows, a statistic is unknown or doesn't give numbers, all entries are
            missing, or ``num_draws`` isn't positive.
        PairError: What :func:`pyro_lvm.predictive.posterior_predictive` raises.

    Warns:
        UserWarning: The draws are too few for any p-value to tell.

    Sources: Gelman, Meng & Stern 1996, "Posterior predictive assessment of model fitness via realized discrepancies",
    Statistica Sinica 6; Robins, van der Vaart & Ventura 2000, "Asymptotic distribution of p values in composite null
    models", JASA 95, for why those on the rows of the training are conservative.
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

    def drawn(count: int, seed: int, progress: bool) -> Iterator[Tensor]:
        for draws in replicate(pair, x, count, replication=replication, seed=seed, progress=progress):
            yield to_units(draws.observed[name].double()).masked_fill(missing, torch.nan)

    least = 2 / (num_draws + 1)
    if least > MISFIT:
        warnings.warn(
            f"with {num_draws} replicates the p-value of a single number is never below {least:.3g}, however far the "
            f"rows stray: take {round(2 / MISFIT) - 1} or more",
            stacklevel=2,
        )
    # Units of the model's own: were they the rows', statistics of the rows would be drawn towards them.
    unit_seed = derived_seed(seed, num_draws, 1)
    units = _Units.of(list(drawn(-(-_UNIT_ROWS // len(x)), unit_seed, False)))
    replicated: dict[str, list[Tensor]] = {statistic.name: [] for statistic in chosen}
    for part in drawn(num_draws, seed, progress):
        for statistic in chosen:
            replicated[statistic.name].append(units.evaluate(statistic, part))
    checks = [
        _compared(statistic, units.evaluate(statistic, observed[None])[0], replicated[statistic.name], feature_names)
        for statistic in chosen
    ]
    return PredictiveCheck(tuple(checks), replication, len(x), num_draws, held_out, seed)


@dataclass(frozen=True)
class _Units:
    """Place and unit of each feature, shape (features,)."""

    place: Tensor
    unit: Tensor

    @classmethod
    def of(cls, tables: list[Tensor]) -> _Units:
        rows = torch.cat([table.flatten(0, 1).flatten(1) for table in tables])
        place = rows.nanmean(0)
        unit = (rows - place).square().nanmean(0).sqrt()
        return cls(place.nan_to_num(0.0), torch.where(unit > 0, unit, 1.0))

    def evaluate(self, statistic: Statistic, tables: Tensor) -> Tensor:
        """A statistic of tables in the data's units, shape (draws, rows, ...): (draws, numbers), float64."""
        if statistic.own:
            return torch.stack([_own_value(statistic, table) for table in tables])
        rows = tables.flatten(2)
        relative = (rows - self.place if statistic.centred else rows) / self.unit
        value: Tensor = statistic.function(relative)
        return value if value.dim() == 2 else value[:, None]


def _own_value(statistic: Statistic, table: Tensor) -> Tensor:
    try:
        value = torch.as_tensor(statistic.function(table), dtype=torch.float64).reshape(-1)
    except Exception as error:
        raise DataError(
            f"statistic '{statistic.name}' of rows of shape {tuple(table.shape)} failed ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}): expected a number or several"
        ) from error
    if value.numel() == 0:
        raise DataError(f"statistic '{statistic.name}' gave nothing: expected a number or several")
    return value


def _compared(
    statistic: Statistic, observed: Tensor, replicated: list[Tensor], feature_names: Sequence[str] | None
) -> StatisticCheck:
    if any(part.shape[1:] != observed.shape for part in replicated):
        raise DataError(
            f"statistic '{statistic.name}' gave other numbers of a replicate: expected as many of each table"
        )
    labels = statistic.labels(len(observed), feature_names)
    values = torch.cat(replicated)
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
