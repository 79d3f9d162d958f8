"""What calibration found: ranks, how unlikely they are, and how large what is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from pyro_lvm.calibration.bands import Array, ecdf_band, rank_counts
from pyro_lvm.calibration.quantities import DISTANCE, GUIDE, Kind
from pyro_lvm.errors import DataError

ALPHA = 0.01
"""Up to this p-value a calibration is flagged: of exact guides, as many are."""


@dataclass(frozen=True)
class Quantity:
    """Ranks of the truth among the guide's draws, of one number that latents have.

    Attributes:
        name: Such as ``z[0]``.
        kind: What it is of.
        latent: The latent's name; empty where it is of all.
        ranks: How many draws are below the truth, from 0 to ``draws``, shape (rows,), int64.
        draws: Of each row, L.
        p_value: That uniform ranks stray so far.
        adjusted_p_value: That of any quantity they do (Holm).
        location: How far the guide is above the truth, in standard deviations of the right posterior; of a
            ``confidence``, by how much the share that the guide gives its own values exceeds that of the right ones.
        location_error: Its standard error.
        scale: The guide's standard deviation relative to the right one; NaN for a ``confidence``.
        scale_error: Its standard error.
        slope: By how much the truth moves from row to row where the mean of the guide's draws moves by 1; 1 is right.
        slope_error: Its standard error.
        dependence: Share of the guide's draws' variance that is between rows; near 0 where the guide ignores them.
        dependence_error: Its standard error where there is none.
    """

    name: str
    kind: Kind
    latent: str
    ranks: Tensor
    draws: int
    p_value: float
    adjusted_p_value: float
    location: float
    location_error: float
    scale: float
    scale_error: float
    slope: float
    slope_error: float
    dependence: float
    dependence_error: float

    @property
    def flagged(self) -> bool:
        """Whether the adjusted p-value is below 0.01."""
        return self.adjusted_p_value < ALPHA

    @property
    def ecdf(self) -> Array:
        """Share of ranks below i, for i = 1 to L, shape (draws,)."""
        shares: Array = rank_counts(self.ranks.numpy(), self.draws).cumsum()[:-1] / len(self.ranks)
        return shares

    def band(self, level: float = 1 - ALPHA) -> tuple[Array, Array]:
        """Both ends of the band that holds all of the ECDF with a probability of ``level`` if ranks are uniform."""
        return ecdf_band(len(self.ranks), self.draws, level)

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        figures = {
            name: getattr(self, name)
            for name in (
                "p_value",
                "adjusted_p_value",
                "location",
                "location_error",
                "scale",
                "scale_error",
                "slope",
                "slope_error",
                "dependence",
            )
        }
        return {
            "name": self.name,
            "kind": self.kind,
            **{name: value if math.isfinite(value) else None for name, value in figures.items()},
        }


@dataclass(frozen=True)
class Coverage:
    """How often regions that should hold the truth so often do.

    Attributes:
        levels: The probability that the guide gives the region, shape (levels,).
        empirical: How often the truth is in it, likewise.
        lower: Least share by chance alone, all levels together, with probability 0.99.
        upper: Largest.
    """

    levels: Array
    empirical: Array
    lower: Array
    upper: Array

    def at(self, level: float) -> float:
        """How often the region of the nearest level holds the truth."""
        return float(self.empirical[np.abs(self.levels - level).argmin()])

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        return {
            name: [float(value) for value in getattr(self, name)] for name in ("levels", "empirical", "lower", "upper")
        }


@dataclass(frozen=True)
class Calibration:
    """A guide on rows that its model made of latents that are known.

    Attributes:
        quantities: What was ranked, those of latents first.
        num_simulations: Rows.
        draws: The guide's draws of each.
        diagnosis: What is wrong in words, a sentence each; none where nothing is.
        notes: What could not be looked at, and why.
        seed: Of the simulation.
    """

    quantities: tuple[Quantity, ...]
    num_simulations: int
    draws: int
    diagnosis: tuple[str, ...]
    notes: tuple[str, ...]
    seed: int

    def __getitem__(self, name: str) -> Quantity:
        """The quantity of this name."""
        for one in self.quantities:
            if one.name == name:
                return one
        raise DataError(f"no quantity '{name}': expected one of {', '.join(one.name for one in self.quantities)}")

    @property
    def p_value(self) -> float:
        """That a guide which is right is taken for as wrong as this: no more often than so, whatever the quantities."""
        return min(one.adjusted_p_value for one in self.quantities)

    @property
    def flagged(self) -> bool:
        """Whether the p-value is below 0.01."""
        return self.p_value < ALPHA

    @cached_property
    def coverage(self) -> Coverage | None:
        """Coverage of the guide's regions of highest density; None where the guide's density isn't to be had."""
        found = [one for one in self.quantities if one.name == GUIDE]
        return _coverage(found[0], from_above=True) if found else None

    @cached_property
    def tarp(self) -> Coverage | None:
        """Coverage of balls around random points (Lemos et al. 2023); None where no latent is continuous."""
        found = [one for one in self.quantities if one.name == DISTANCE]
        return _coverage(found[0], from_above=False) if found else None

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        return {
            "flagged": self.flagged,
            "p_value": self.p_value,
            "diagnosis": list(self.diagnosis),
            "notes": list(self.notes),
            "num_simulations": self.num_simulations,
            "draws": self.draws,
            "seed": self.seed,
            "quantities": [one.to_json() for one in self.quantities],
            "coverage": None if self.coverage is None else self.coverage.to_json(),
            "tarp": None if self.tarp is None else self.tarp.to_json(),
        }


def _coverage(one: Quantity, *, from_above: bool) -> Coverage:
    """The share of rows whose region of each level holds the truth: as many draws are in it as the level says."""
    inside = one.draws - one.ranks.numpy() if from_above else one.ranks.numpy()
    shares = rank_counts(inside, one.draws).cumsum()[:-1] / len(inside)
    lower, upper = one.band()
    return Coverage(np.arange(1, one.draws + 1) / (one.draws + 1), shares, lower, upper)


def holm(p_values: list[float]) -> list[float]:
    """p-values adjusted for their number, however they depend on each other.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6.
    """
    order = np.argsort(p_values, kind="stable")
    raised = np.minimum(1.0, np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(raised)
    return [float(value) for value in adjusted]
