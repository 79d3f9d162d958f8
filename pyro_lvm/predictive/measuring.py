"""Statistics of the tables of a check: of the rows, and of what pairs make in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from pyro_lvm.errors import DataError, PairError
from pyro_lvm.pair import Pair
from pyro_lvm.predictive.replicating import Replication, replicate
from pyro_lvm.predictive.statistics import Statistic

# Rows that the model's own units are taken from, at least.
_UNIT_ROWS = 1000


@dataclass(frozen=True)
class Units:
    """Place and unit of each feature, shape (features,)."""

    place: Tensor
    unit: Tensor

    @classmethod
    def of(cls, tables: list[Tensor]) -> Units:
        """Mean and standard deviation of each feature over tables of shape (draws, rows, ...)."""
        rows = torch.cat([table.flatten(0, 1).flatten(1) for table in tables])
        place = rows.nanmean(0)
        unit = (rows - place).square().nanmean(0).sqrt()
        return cls(place.nan_to_num(0.0), torch.where(unit > 0, unit, 1.0))

    def evaluate(self, statistic: Statistic, tables: Tensor) -> Tensor:
        """A statistic of tables in the data's units, shape (draws, rows, ...): (draws, numbers), float64."""
        if statistic.own:
            return _stacked(statistic.name, [_own_value(statistic, table)[None] for table in tables])
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


@dataclass(frozen=True)
class Expected:
    """What a pair expects of tables: units, and of each statistic's numbers the mean and the standard deviation."""

    units: Units
    mean: dict[str, Tensor]
    spread: dict[str, Tensor]


@dataclass(frozen=True)
class Measuring:
    """How tables like the rows are drawn and looked at, the same for every pair.

    Attributes:
        rows: The rows as a pair sees them, shape (rows, ...).
        site: The observed site.
        missing: Which entries of it are missing, shape (rows, ...).
        in_units: Takes what is observed to the data's units.
        statistics: What is looked at.
        replication: Where the replicates' latents come from.
    """

    rows: Tensor
    site: str
    missing: Tensor
    in_units: Callable[[Tensor], Tensor]
    statistics: tuple[Statistic, ...]
    replication: Replication

    def table(self, observed: Tensor) -> Tensor:
        """Draws of the site, shape (draws, rows, ...), in the data's units and with the rows' holes."""
        return self.in_units(observed.double()).masked_fill(self.missing, torch.nan)

    def units(self, pair: Pair, seed: int) -> Units:
        """The model's own units: were they the rows', statistics of the rows would be drawn towards them."""
        return Units.of(list(self._tables(pair, self._enough, seed)))

    @property
    def _enough(self) -> int:
        """Tables whose rows tell units."""
        return -(-_UNIT_ROWS // len(self.rows))

    def expected(self, pair: Pair, count: int, seed: int) -> Expected:
        """What a pair expects of each statistic, by so many replicates at least."""
        tables = self._tables(pair, max(count, self._enough), seed)
        first: list[Tensor] = []
        while sum(map(len, first)) < self._enough:
            first.append(next(tables))
        units = Units.of(first)
        values = self.stacked(self.evaluate(units, some) for some in chain(first, tables))
        return Expected(units, {n: v.mean(0) for n, v in values.items()}, {n: v.std(0) for n, v in values.items()})

    def evaluate(self, units: Units, tables: Tensor) -> dict[str, Tensor]:
        """Each statistic of tables of shape (draws, rows, ...): (draws, numbers)."""
        return {statistic.name: units.evaluate(statistic, tables) for statistic in self.statistics}

    def replicated(
        self, pair: Pair, units: Units, count: int, seed: int, *, progress: bool = False
    ) -> dict[str, Tensor]:
        """Each statistic of so many replicates, shape (count, numbers), a few in memory at a time."""
        return self.stacked(self.evaluate(units, some) for some in self._tables(pair, count, seed, progress=progress))

    def stacked(self, parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Statistics of several groups of tables, each (draws, numbers), as those of one."""
        known = list(parts)
        return {one.name: _stacked(one.name, [part[one.name] for part in known]) for one in self.statistics}

    def _tables(self, pair: Pair, count: int, seed: int, *, progress: bool = False) -> Iterator[Tensor]:
        for draws in replicate(pair, self.rows, count, replication=self.replication, seed=seed, progress=progress):
            if self.site not in draws.observed:
                raise PairError(f"the pair observes no site '{self.site}': expected it, as of the pair that is checked")
            yield self.table(draws.observed[self.site])


def _stacked(name: str, parts: list[Tensor]) -> Tensor:
    if any(part.shape[1] != parts[0].shape[1] for part in parts):
        raise DataError(f"statistic '{name}' gave other numbers of a replicate: expected as many of each table")
    return torch.cat(parts)
