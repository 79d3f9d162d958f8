"""What predictive checks found: p-values, and what they are to be read as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_lvm.errors import DataError
from pyro_lvm.predictive.replicating import Replication
from pyro_lvm.wording import plus_minus

Verdict = Literal["misfit", "doubtful", "fits"]

# Two-sided p-values up to which a line is called so.
MISFIT, _DOUBTFUL = 0.01, 0.05
# What sums of many float64 numbers may differ by that would be the same but for their order.
_ROUNDING = 1e-9
UNITS = (
    "features in the replicates' units, of mean 0 and standard deviation 1; for functions of your own in the data's "
    "units"
)
"""In what units statistics are."""


@dataclass(frozen=True)
class StatisticCheck:
    """A statistic of the rows among those of replicates.

    Attributes:
        name: The statistic.
        labels: What its numbers are called.
        observed: Of the rows, shape (numbers,), float64.
        replicated: Of each replicate, shape (draws, numbers), float64.
    """

    name: str
    labels: tuple[str, ...]
    observed: Tensor
    replicated: Tensor

    @property
    def p_values(self) -> Tensor:
        r"""Two-sided p-value of each number by itself, shape (numbers,).

        .. math:: \min\Bigl(1, \tfrac{2}{S + 1} \min\bigl(1 + \#\{T^s \ge T\},\, 1 + \#\{T^s \le T\}\bigr)\Bigr)

        Never 0: S replicates can't tell more than that 2 / (S + 1) is reached.
        """
        above = (self.replicated >= self.observed).sum(0) + 1
        below = (self.replicated <= self.observed).sum(0) + 1
        return (2 * torch.minimum(above, below).double() / (len(self.replicated) + 1)).clamp(max=1)

    @property
    def p_value(self) -> float:
        """Two-sided p-value of the statistic, all its numbers together.

        Of several numbers it is that of the one that strays most, in standard deviations, compared with the one that
        strays most in each replicate: as many chances are given to the replicates as to the rows.
        """
        if len(self.labels) == 1:
            return float(self.p_values[0])
        rows, replicates = self._strays()
        return float(((replicates >= rows).sum() + 1) / (len(replicates) + 1))

    @property
    def worst(self) -> int:
        """Place of the number that strays most."""
        return int(self._deviations()[-1].argmax())

    @property
    def z(self) -> float:
        """Of the number that strays most: how many of the replicates' standard deviations above their mean."""
        own = self.replicated[:, self.worst]
        apart = float(self.observed[self.worst] - own.mean())
        if not self.alike:
            return apart / float(own.std())
        return 0.0 if abs(apart) <= _ROUNDING * float(own.abs().max()) else float(np.copysign(np.inf, apart))

    @property
    def alike(self) -> bool:
        """Whether that number is the same in all replicates, but for rounding."""
        own = self.replicated[:, self.worst]
        return float(own.max() - own.min()) <= _ROUNDING * float(own.abs().max())

    @property
    def label(self) -> str:
        """The statistic's name; of several numbers, also which one strays most."""
        return self.name if len(self.labels) == 1 else f"{self.name}: {self.labels[self.worst]}"

    @property
    def expected(self) -> str:
        """In words, that number in the replicates: mean and standard deviation."""
        own = self.replicated[:, self.worst]
        return f"{own[0]:.3g}, all alike" if self.alike else plus_minus(float(own.mean()), float(own.std()))

    @property
    def verdict(self) -> Verdict:
        """``misfit`` up to p = 0.01, ``doubtful`` up to 0.05, else ``fits``."""
        return "misfit" if self.p_value <= MISFIT else "doubtful" if self.p_value <= _DOUBTFUL else "fits"

    def _deviations(self) -> Tensor:
        """How far each number of each table strays, the rows' last: the rows are one table more among the others."""
        tables = torch.cat([self.replicated, self.observed[None]])
        centred = tables - tables.mean(0)
        spread = tables.std(0)
        return torch.where(spread > _ROUNDING * tables.abs().amax(0), centred.abs() / spread, 0.0)

    def _strays(self) -> tuple[Tensor, Tensor]:
        strays = self._deviations().amax(1)
        return strays[-1], strays[:-1]

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.label}: rows {self.observed[self.worst]:.3g}, replicates {self.expected}, p = {self.p_value:.2g}: "
            f"{self.verdict}"
        )

    def __repr__(self) -> str:
        return f"StatisticCheck({self})"

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        own = self.replicated[:, self.worst]
        return {
            "name": self.name,
            "p_value": self.p_value,
            "verdict": self.verdict,
            "z": self.z if np.isfinite(self.z) else None,
            "worst": self.labels[self.worst],
            "observed": float(self.observed[self.worst]),
            "replicated_mean": float(own.mean()),
            "replicated_sd": float(own.std()),
            "numbers": [
                {"label": label, "observed": float(value), "p_value": float(p)}
                for label, value, p in zip(self.labels, self.observed, self.p_values, strict=True)
            ],
        }


@dataclass(frozen=True)
class PredictiveCheck:
    """Statistics of rows among those of replicates.

    Attributes:
        statistics: One check a statistic, in the order asked for.
        replication: Where the replicates' latents came from.
        num_rows: Rows of the table, and of each replicate.
        num_draws: Replicates S.
        held_out: Whether the rows were kept out of training.
        seed: Of the replicates.
        refits: Fits that the replicates are spread over; 0 where the parameters are taken for known.
        manner: In words, how the pair was fitted anew.
    """

    statistics: tuple[StatisticCheck, ...]
    replication: Replication
    num_rows: int
    num_draws: int
    held_out: bool
    seed: int
    refits: int = 0
    manner: str = ""

    def __getitem__(self, name: str) -> StatisticCheck:
        """The check of the statistic of this name."""
        for one in self.statistics:
            if one.name == name:
                return one
        raise DataError(f"no statistic '{name}': expected one of {', '.join(one.name for one in self.statistics)}")

    @property
    def conservative(self) -> bool:
        """Whether p-values are nearer to 1/2 than the uniform that they have on rows of the model's own."""
        return (not self.held_out and not self.refits) or self.replication == "posterior"

    @property
    def replicates(self) -> str:
        """In words, what the rows were compared with."""
        made = f"{self.num_draws} {self.replication} replicates"
        return f"{made} of {self.refits} refits" if self.refits else made

    @property
    def note(self) -> str:
        """What the p-values are to be read as."""
        if self.replication == "posterior":
            return (
                "conservative: each replicate's latents come from the row that it is compared with; a small p-value "
                "tells, a large one tells nothing"
            )
        if self.refits:
            return (
                f"uniform from 0 to 1 if the model is right: the pair was fitted anew {self.manner} to each of "
                f"{self.refits} tables of its own making, so that what it doesn't know about its parameters counts"
            )
        if not self.held_out:
            return (
                "conservative: the model was fitted to these rows, so that replicates follow them more closely than "
                "new rows would; a small p-value tells, a large one tells little"
            )
        return (
            "uniform from 0 to 1 if the model is right, but for what it doesn't know about its parameters, which only "
            "refits count"
        )

    @property
    def rows(self) -> str:
        """In words, the rows."""
        return f"{self.num_rows:,} {'held-out' if self.held_out else 'training'} rows"

    def __str__(self) -> str:
        """A line a statistic, as on the command line."""
        lines = [("statistic", "rows", "replicates", "p", "verdict")]
        for one in self.statistics:
            observed = f"{one.observed[one.worst]:.3g}"
            lines.append((one.label, observed, one.expected, f"{one.p_value:.2g}", one.verdict))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        title = f"{self.rows} against {self.replicates}"
        return "\n".join([title, *map(str.rstrip, table), f"p-values: {self.note}", f"statistics: {UNITS}"])

    def __repr__(self) -> str:
        misfits = ", ".join(one.name for one in self.misfits) or "none"
        found = f"{len(self.statistics)} statistics, misfit: {misfits}"
        return f"PredictiveCheck({self.rows} against {self.replicates}: {found})"

    @property
    def misfits(self) -> tuple[StatisticCheck, ...]:
        """Those whose verdict is ``misfit``."""
        return tuple(one for one in self.statistics if one.verdict == "misfit")

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        return {
            "replication": self.replication,
            "num_rows": self.num_rows,
            "num_draws": self.num_draws,
            "held_out": self.held_out,
            "refits": self.refits,
            "conservative": self.conservative,
            "note": self.note,
            "seed": self.seed,
            "statistics": [one.to_json() for one in self.statistics],
        }
