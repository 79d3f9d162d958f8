"""The best member of a family for each row, all rows at once, each with a rate and an end of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_lvm.evidence.families import Family, Parameters
from pyro_lvm.seeding import seeded

# Adam's.
_DECAY, _SQUARED_DECAY, _SMALLEST = 0.9, 0.99, 1e-8
_RATE = 0.1
# From one check to the next, and of each.
_STEPS, _STEP_DRAWS = 20, 8
CHECK_DRAWS = 64
"""Draws of the ELBO a row by which members are compared."""
# Nats a row that a round has to gain; without, the row's rate is halved, and after so often the row is finished.
_GAIN, _HALVINGS = 1e-3, 7
_MOST_ROUNDS = 200


@dataclass(frozen=True)
class Climb:
    """Where an optimization ended.

    Attributes:
        parameters: The best member found for each row.
        finished: Whether each row ended because nothing was left to gain, shape (rows,).
    """

    parameters: Parameters
    finished: Tensor


def climb(family: Family, num_rows: int, report: Callable[[int], None] = lambda finished: None) -> Climb:
    """Maximize each row's ELBO by Adam from where the family begins.

    After each round of steps, the mean of the round's iterates is compared with the best so far. A row that has gained
    less than a thousandth of a nat goes on at half the rate, and is finished after seven such rounds.

    Args:
        family: What is optimized.
        num_rows: Number of rows.
        report: Told how many rows are finished.
    """
    device = next(iter(family.begin.values())).device
    best = {name: value.detach().clone() for name, value in family.begin.items()}
    state = _State(best, num_rows, device)
    everything = torch.arange(num_rows, device=device)
    active = everything
    for _ in range(_MOST_ROUNDS):
        reached = state.round(family, active)
        gain = _gain(family, reached, {name: value[active] for name, value in best.items()}, active)
        better = gain > 0
        for name, value in reached.items():
            best[name][active[better]] = value[better]
        state.halvings[active[gain < _GAIN]] += 1
        active = (state.halvings < _HALVINGS).nonzero().flatten()
        report(num_rows - len(active))
        if not len(active):
            break
    return Climb(best, state.halvings >= _HALVINGS)


class _State:
    """Iterates and Adam's moments of all rows."""

    def __init__(self, begin: Parameters, num_rows: int, device: torch.device) -> None:
        self.halvings = torch.zeros(num_rows, dtype=torch.long, device=device)
        self._iterates = {name: value.clone() for name, value in begin.items()}
        self._moments = {name: (torch.zeros_like(v), torch.zeros_like(v)) for name, v in begin.items()}
        self._steps = 0

    def round(self, family: Family, rows: Tensor) -> Parameters:
        """Take a round of steps with some rows; returns the mean of their iterates."""
        rate = _RATE * 0.5 ** self.halvings[rows].double()
        own = {name: value[rows] for name, value in self._iterates.items()}
        moments = {name: (one[rows], two[rows]) for name, (one, two) in self._moments.items()}
        total = {name: torch.zeros_like(value) for name, value in own.items()}
        for step in range(self._steps + 1, self._steps + _STEPS + 1):
            free = {name: value.requires_grad_() for name, value in own.items()}
            with torch.enable_grad():
                elbo = family.elbo(free, rows, _STEP_DRAWS).mean(0).sum()
                gradients = torch.autograd.grad(elbo, list(free.values()), materialize_grads=True, allow_unused=True)
            for name, gradient in zip(free, gradients, strict=True):
                # A draw far out must not end a row's way.
                gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
                one, two = moments[name]
                one.lerp_(gradient, 1 - _DECAY)
                two.lerp_(gradient.square(), 1 - _SQUARED_DECAY)
                mean, square = one / (1 - _DECAY**step), two / (1 - _SQUARED_DECAY**step)
                wide = rate.to(gradient).reshape(-1, *(1,) * (gradient.dim() - 1))
                own[name] = own[name].detach() + wide * mean / (square.sqrt() + _SMALLEST)
                total[name] += own[name]
        self._steps += _STEPS
        for name, value in own.items():
            self._iterates[name][rows] = value
            for kept, new in zip(self._moments[name], moments[name], strict=True):
                kept[rows] = new
        return {name: value / _STEPS for name, value in total.items()}


def _gain(family: Family, new: Parameters, old: Parameters, rows: Tensor) -> Tensor:
    """What one member's ELBO is above another's under the same draws, nats, shape (rows,).

    Draws that were the same at every check would be learned by heart, too.
    """
    common = int(torch.randint(2**31, ()))
    elbo = []
    for parameters in (new, old):
        with seeded(common), torch.no_grad():
            elbo.append(family.elbo(parameters, rows, CHECK_DRAWS).mean(0).nan_to_num(-1e300))
    return elbo[0] - elbo[1]
