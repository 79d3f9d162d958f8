"""Polynomial-decay averaging of parameters, a part of the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class PolynomialAverage:
    r"""Running averages of parameters that forget the start (Shamir and Zhang 2013).

    .. math:: \bar\theta_t = \bar\theta_{t-1} + \frac{\eta + 1}{t + \eta} (\theta_t - \bar\theta_{t-1})

    Args:
        parameters: What is averaged; the averages start as copies of it.
        eta: How much the start is forgotten; 0 is the plain mean.

    Attributes:
        parameters: What is averaged.
        averages: The averages, one each.
        count: Steps averaged, shape (1,), float64.
    """

    def __init__(self, parameters: Sequence[Tensor], eta: float = 8.0) -> None:
        self.parameters = list(parameters)
        self.eta = eta
        self.averages = [p.detach().clone() for p in parameters]
        device = self.parameters[0].device if self.parameters else None
        self.count = torch.zeros(1, dtype=torch.float64, device=device)

    def update(self) -> None:
        """Take the parameters' present values in."""
        weight = (self.eta + 1) / (float(self.count) + 1 + self.eta)
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], weight)
            self.count += 1

    def write(self, parameters: Sequence[Any], averages: Sequence[Any], count: Any, dtypes: Sequence[Any]) -> None:
        """The same as operations on proxies, in place."""
        weight = (self.eta + 1) / (count[0] + (1 + self.eta))
        for p, average, dtype in zip(parameters, averages, dtypes, strict=True):
            average.copy_(average + (p - average) * weight.to(dtype))
        count.copy_(count + 1)
