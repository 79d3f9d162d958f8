"""What a gradient is compared with: the closed form where a pair has one, else a long run."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_lvm.errors import PyroLvmError
from pyro_lvm.mixture_posterior import posterior_kl
from pyro_lvm.pair import Encodes, HasExactPosterior, HasLogEvidence, Pair

# Rows times features whose exact answers are held at once.
_CHUNK_ENTRIES = 2**22
# A closed form is believed where it changes along a random direction as its gradient says: for a step of this size
# relative to the parameters, within this part, or within what float64 leaves of the value.
_STEP, _TOLERANCE, _ROUNDING = 1e-4, 1e-2, 1e-12

Gradient = dict[str, Tensor]
"""By the parameters' names, float64."""


@dataclass(frozen=True)
class Reference:
    """The gradient of a bound a row, to which estimates are held.

    Attributes:
        bound: What it is the gradient of.
        how: Where it is from.
        gradient: By the parameters' names, float64.
        error: Standard error of each entry; zeros for a closed form.
        exact: Whether it is from a closed form.
    """

    bound: str
    how: str
    gradient: Gradient
    error: Gradient
    exact: bool

    @property
    def norm(self) -> float:
        """Euclidean norm of the whole gradient, in nats a row per unit of the parameters."""
        return math.sqrt(sum(float(g.square().sum()) for g in self.gradient.values()))

    @property
    def relative_error(self) -> float:
        """Its expected distance from the truth, as a part of its norm."""
        return math.sqrt(sum(float(e.square().sum()) for e in self.error.values())) / max(self.norm, 1e-300)


def exact_gradient(pair: Pair, x: Tensor) -> Gradient | None:
    r"""The gradient of the ELBO a row in closed form, where the pair has one.

    .. math:: \nabla \frac{1}{N} \sum_n \log p(x_n) - \mathrm{KL}(q(z_n \mid x_n) \,\|\, p(z_n \mid x_n))

    It takes modules: a model with ``log_evidence`` and ``exact_posterior`` and a guide with ``encode``, so written that
    they can be differentiated, which is looked at by a finite difference. It is computed on copies in float64.

    Args:
        pair: Any pair.
        x: All rows, shape (rows, ...).

    Returns:
        By the parameters' names, float64; None where there is no closed form, or it doesn't carry the whole gradient.
    """
    can = isinstance(pair.model, HasLogEvidence) and isinstance(pair.model, HasExactPosterior)
    if not (can and isinstance(pair.guide, Encodes)):
        return None
    try:
        model, guide = copy.deepcopy((pair.model, pair.guide))
        if not (isinstance(model, nn.Module) and isinstance(guide, nn.Module)):
            return None
        device = torch.device("cpu") if x.device.type == "mps" else x.device
        exact = Pair(model.to(device, torch.float64), guide.to(device, torch.float64))
        parameters = {name: p for name, p in exact.named_parameters() if p.requires_grad}
        if list(parameters) != [name for name, p in pair.named_parameters() if p.requires_grad]:
            return None
        return _differentiated(exact, parameters, x.to(device, torch.float64))
    except (PyroLvmError, NotImplementedError, RuntimeError, TypeError):
        # What can't be copied, has no float64, no divergence that is known, or no derivative.
        return None


def _differentiated(pair: Pair, parameters: dict[str, Tensor], x: Tensor) -> Gradient | None:
    gradient = {name: torch.zeros_like(p) for name, p in parameters.items()}
    chunks = x.split(max(1, _CHUNK_ENTRIES // max(1, x[:1].numel())))

    model: Any = pair.model
    guide: Any = pair.guide

    def value_of(rows: Tensor) -> Tensor:
        divergence = posterior_kl(guide.encode(rows), model.exact_posterior(rows))
        value: Tensor = (model.log_evidence(rows) - divergence).sum() / len(x)
        return value

    for rows in chunks:
        parts = torch.autograd.grad(value_of(rows), list(parameters.values()), allow_unused=True)
        for total, part in zip(gradient.values(), parts, strict=True):
            total += torch.zeros_like(total) if part is None else part

    with torch.no_grad():
        directions = {
            n: _STEP * torch.randn_like(p) * p.square().mean().sqrt().clamp(min=1e-2) for n, p in parameters.items()
        }
        values = []
        for step in (1.0, -2.0):
            for name, p in parameters.items():
                p += step * directions[name]
            values.append(sum(float(value_of(rows)) for rows in chunks))
    expected = 2 * sum(float((gradient[name] * direction).sum()) for name, direction in directions.items())
    found = values[0] - values[1]
    believed = abs(found - expected) <= _TOLERANCE * abs(expected) + _ROUNDING * (1 + abs(values[0]))
    return gradient if believed else None
