"""Mean and variance of draws of a gradient, without keeping the draws."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_lvm.gradients.reference import Gradient


class Moments:
    """Running mean and variance of each entry of a gradient, in float64.

    Args:
        gradient: One of its shape; what it holds is of no account.

    Source: Welford 1962, "Note on a method for calculating corrected sums of squares and products", Technometrics 4.
    """

    def __init__(self, gradient: Mapping[str, Tensor]) -> None:
        self.count = 0
        self.mean: Gradient = {name: torch.zeros_like(g, dtype=torch.float64) for name, g in gradient.items()}
        self._squares: Gradient = {name: g.clone() for name, g in self.mean.items()}

    def add(self, gradient: Mapping[str, Tensor]) -> None:
        """Take in a draw."""
        self.count += 1
        for name, g in gradient.items():
            away = g - self.mean[name]
            self.mean[name] += away / self.count
            self._squares[name] += away * (g - self.mean[name])

    @property
    def variance(self) -> Gradient:
        """Of a single draw, unbiased; needs two draws."""
        return {name: squares / (self.count - 1) for name, squares in self._squares.items()}

    @property
    def standard_error(self) -> Gradient:
        """Of the mean."""
        return {name: (v / self.count).sqrt() for name, v in self.variance.items()}
