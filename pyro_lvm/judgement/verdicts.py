"""What is said of a pair: a verdict a line, and all of them together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pyro_lvm.calibration import Calibration, Realism
from pyro_lvm.evidence import Gap
from pyro_lvm.predictive import RowWeights

Level = Literal["good", "look", "bad", "unknown"]
"""``good``: nothing to be done. ``look``: something is off, by little. ``bad``: so much that what is read off the guide
changes. ``unknown``: it couldn't be found out, for a reason that is given."""


@dataclass(frozen=True)
class Verdict:
    """One line of a judgement.

    Attributes:
        name: What was looked at.
        level: How it is.
        found: What was found, with its figures.
        advice: What to do about it; empty where there is nothing to be done.
        figures: The figures by themselves, as plain JSON.
    """

    name: str
    level: Level
    found: str
    advice: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain JSON; None for a figure that is not finite."""
        figures = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in self.figures.items()
        }
        return {
            "name": self.name,
            "level": self.level,
            "found": self.found,
            "advice": self.advice,
            "figures": figures,
        }


@dataclass(frozen=True)
class Judgement:
    """All that was found out about a pair; printing shows a line for each verdict.

    Attributes:
        verdicts: In the order in which they were found; ``judgement["encoder"]`` is one of them.
        summary: One sentence or two: whose fault what is wrong is, the largest loss first.
        rows: Which rows it was judged on: ``"training"`` or ``"held-out"``.
        num_rows: How many of them.
        budget: ``"quick"`` or ``"full"``.
        training: The gap of rows that the pair was trained on; None where it couldn't be taken apart.
        held_out: The gap of held-out rows, likewise.
        weights: Importance weights of the guide's draws; None where rows have none of their own.
        calibration: On rows that the model made itself; None where it can't make any.
        realism: How far the rows are from those, likewise.
    """

    verdicts: tuple[Verdict, ...]
    summary: str
    rows: str
    num_rows: int
    budget: str
    training: Gap | None = None
    held_out: Gap | None = None
    weights: RowWeights | None = None
    calibration: Calibration | None = None
    realism: Realism | None = None

    def __getitem__(self, name: str) -> Verdict:
        for verdict in self.verdicts:
            if verdict.name == name:
                return verdict
        raise KeyError(f"{name!r}: expected one of {', '.join(verdict.name for verdict in self.verdicts)}")

    @property
    def level(self) -> Level:
        """The worst of the verdicts; ``unknown`` where nothing is off, and something couldn't be found out."""
        found = {verdict.level for verdict in self.verdicts}
        order: tuple[Level, ...] = ("bad", "look", "unknown", "good")
        return next((level for level in order if level in found), "unknown")

    def to_json(self) -> dict[str, Any]:
        """The judgement as plain JSON."""
        return {
            "level": self.level,
            "summary": self.summary,
            "rows": self.rows,
            "num_rows": self.num_rows,
            "budget": self.budget,
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "calibration": None if self.calibration is None else self.calibration.to_json(),
        }

    def __str__(self) -> str:
        lines = []
        for verdict in self.verdicts:
            lines.append(f"{verdict.level:<8}{verdict.name}: {verdict.found}")
            if verdict.advice:
                lines.append(f"{'':<8}-> {verdict.advice}")
        return "\n".join([*lines, self.summary])
