"""What is known of log p(x): a number a row, and two kinds of error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_lvm.wording import plus_minus


@dataclass(frozen=True)
class Estimate:
    """log p(x) of each row, or a bound on it, in nats.

    Attributes:
        kind: ``"elbo"``, ``"iwae"``, ``"ais"``, ``"exact"``; or ``"reverse"``, which is an upper bound.
        per_row: Shape (rows,), float64, on the CPU.
        particle_errors: Monte Carlo standard error of each row's estimate, over the draws of the latents; zeros where
            nothing is drawn, NaN from a single draw. Where few draws carry the weight, it is itself too small.
        num_particles: Draws K a row; 0 where nothing is drawn.
        effective_sample_sizes: Of each row's importance weights, from 1 to K; None where none are used.
        shared_latents: Whether rows share latents, so that their Monte Carlo errors add up instead of cancelling.
        acceptances: Of each row's Hamiltonian moves, from 0 to 1; None where there are none.
    """

    kind: str
    per_row: Tensor
    particle_errors: Tensor
    num_particles: int
    effective_sample_sizes: Tensor | None = None
    shared_latents: bool = False
    acceptances: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.per_row)

    @property
    def mean(self) -> float:
        """Mean over the rows, nats a row."""
        return float(self.per_row.mean())

    @property
    def row_standard_error(self) -> float:
        """Of the mean as an estimate for the population that the rows come from; NaN from one row."""
        return float(self.per_row.std()) / math.sqrt(self.num_rows) if self.num_rows > 1 else math.nan

    @property
    def particle_standard_error(self) -> float:
        """Of the mean as an estimate for these rows; an upper bound where latents are shared."""
        if self.shared_latents:
            return float(self.particle_errors.mean())
        return float(self.particle_errors.square().sum().sqrt()) / self.num_rows

    def __str__(self) -> str:
        """One line."""
        drawn = f"; {self.num_particles:,} draws a row, ± {self.particle_standard_error:.2g}"
        return (
            f"{self.kind} {plus_minus(self.mean, self.row_standard_error)} nats a row over {self.num_rows:,} rows"
            f"{drawn if self.num_particles else ''}"
        )

    def __repr__(self) -> str:
        return f"Estimate({self})"

    def to_json(self) -> dict[str, Any]:
        """Means and errors as plain JSON; None for what is not known."""
        sizes = self.effective_sample_sizes
        figures = {
            "mean": self.mean,
            "row_standard_error": self.row_standard_error,
            "particle_standard_error": self.particle_standard_error,
            "effective_sample_size_median": math.nan if sizes is None else float(sizes.median()),
            "effective_sample_size_least": math.nan if sizes is None else float(sizes.min()),
        }
        if self.acceptances is not None:
            figures["acceptance_mean"] = float(self.acceptances.mean())
            figures["acceptance_least"] = float(self.acceptances.min())
        known = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        return {"kind": self.kind, "num_rows": self.num_rows, "num_particles": self.num_particles, **known}
