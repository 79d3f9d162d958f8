"""The record of a training."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd

COLUMNS = ("step", "epoch", "lr", "elbo", "validation_elbo")


class History:
    """One record for each stretch of training: ``step``, ``epoch``, ``lr``, mean ``elbo`` since the last record, and
    ``validation_elbo`` where it was looked at. ELBOs are in nats a row, higher is better.
    """

    def __init__(self, records: list[dict[str, float | None]] | None = None) -> None:
        self.records: list[dict[str, float | None]] = list(records or [])

    def add(self, *, step: int, epoch: float, lr: float, elbo: float) -> None:
        """Append a record."""
        self.records.append({"step": step, "epoch": epoch, "lr": lr, "elbo": elbo, "validation_elbo": None})

    def annotate(self, *, validation_elbo: float) -> None:
        """Add the validation rows' ELBO to the last record."""
        if self.records:
            self.records[-1]["validation_elbo"] = validation_elbo

    def to_frame(self) -> pd.DataFrame:
        """The records as a table, a column each."""
        return pd.DataFrame(self.records, columns=list(COLUMNS))

    def save(self, path: Path) -> None:
        """Write a CSV file that :meth:`load` reads back to the last bit."""
        self.to_frame().to_csv(path, index=False, float_format="%.17g")

    @classmethod
    def load(cls, path: Path) -> History:
        """Read what :meth:`save` wrote."""
        with path.open(newline="") as file:
            records = [
                {name: float(value) if value else None for name, value in row.items()} for row in csv.DictReader(file)
            ]
        return cls(records)

    def __len__(self) -> int:
        return len(self.records)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, History) and self.records == other.records

    __hash__ = None  # type: ignore[assignment]
