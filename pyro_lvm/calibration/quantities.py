"""What is looked at of a row's latents: numbers whose rank among the guide's draws is uniform if the guide is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_lvm.calibration.simulating import Latents
from pyro_lvm.errors import DataError

Own = Mapping[str, Callable[[dict[str, Tensor], Tensor], Tensor]]
"""A person's own quantities by name, each ``f(latents, x) -> (rows,)``."""

Kind = Literal["coordinate", "direction", "discrete", "confidence", "norm", "density", "distance", "own"]
"""What a quantity is of.

``coordinate``: of a continuous latent; ``direction``: a sum of its coordinates with random signs, each in units of the
guide's spread, which wrong correlations make too narrow or too wide. ``discrete``: a discrete latent's value;
``confidence``: how many of the guide's draws have that value. ``norm``: of a latent.
``density``: log p(x, z), log p(x | z) or log q(z | x). ``distance``: to a random point (TARP). ``own``: a person's.
"""

JOINT, LIKELIHOOD, GUIDE, DISTANCE = "log p(x, z)", "log p(x | z)", "log q(z | x)", "distance to a random point"

# Coordinates of a latent that are looked at one by one, and of all latents together; and directions of each.
_MOST, _MOST_TOGETHER, _DIRECTIONS = 20, 40, 6
# Multiples of rounding that a density of many terms can be off by.
_ROUNDING = 32


@dataclass(frozen=True)
class Described:
    """What a quantity is called, and of which latent it is (empty for several)."""

    name: str
    kind: Kind
    latent: str


class Quantities:
    """The quantities of a model's latents, chosen from rows and latents that it was simulated with.

    Args:
        pilot: Latents of some rows, drawn from the prior.
        spread: How far apart the guide's draws of a row are, of each continuous latent, by site.
        discrete: Names of those that are discrete.
        own: A person's own.
        seed: Of random directions.

    Attributes:
        described: Each of the columns that :meth:`measure` gives.
        continuous: Whether there is a continuous latent, and so a distance.
        sizes: How many coordinates each latent has, and how many of them are looked at.
    """

    def __init__(
        self, pilot: Latents, spread: Mapping[str, Tensor], discrete: tuple[str, ...], own: Own, seed: int
    ) -> None:
        self._discrete, self._own = discrete, dict(own)
        floating = [value.dtype for value in pilot.values.values() if value.is_floating_point()]
        self._precision = floating[0] if floating else torch.get_default_dtype()
        random = np.random.default_rng(seed)
        share = max(1, min(_MOST, _MOST_TOGETHER // len(pilot.values)))
        self._chosen: dict[str, Tensor] = {}
        self._directions: dict[str, Tensor] = {}
        self._units: dict[str, Tensor] = {}
        self.described: list[Described] = []
        self.sizes: dict[str, tuple[int, int]] = {}
        for name, value in pilot.values.items():
            flat = _flat(value)
            size = flat.shape[1]
            apart = flat.std(0, correction=0)
            self._units[name] = torch.where(apart > 0, apart, 1.0)
            chosen = np.sort(random.choice(size, min(size, share), replace=False))
            self.sizes[name] = size, len(chosen)
            self._chosen[name] = torch.from_numpy(chosen).to(flat.device)
            labels = [_label(name, value.shape[1:], int(place)) for place in chosen]
            if name in discrete:
                self.described += [Described(label, "discrete", name) for label in labels]
                continue
            self.described += [Described(label, "coordinate", name) for label in labels]
            own_spread = spread[name].reshape(-1).double()
            signs = torch.from_numpy(_signs(size, random)).to(flat.device)
            self._directions[name] = torch.where(own_spread > 0, 1 / own_spread, 0.0)[:, None] * signs
            self.described += [
                Described(f"{name}, direction {i + 1}", "direction", name) for i in range(signs.shape[1])
            ]
            if size > 1:
                self.described.append(Described(f"norm of {name}", "norm", name))
        self.continuous = len(discrete) < len(pilot.values)
        if self.continuous:
            self.described.append(Described(DISTANCE, "distance", ""))
        self.described += [Described(name, "density", "") for name in (JOINT, LIKELIHOOD)]
        if pilot.log_guide is not None:
            self.described.append(Described(GUIDE, "density", ""))
        self.described += [Described(name, "own", "") for name in self._own]
        names = [one.name for one in self.described]
        taken = sorted({name for name in names if names.count(name) > 1})
        if taken:
            raise DataError(f"a quantity of the name '{taken[0]}' is there already: give your own another name")

    def measure(self, latents: Latents, rows: Tensor, reference: Tensor | None) -> Tensor:
        """Every quantity of each row, shape (rows, quantities), float64.

        Args:
            latents: A draw of each row's.
            rows: The rows.
            reference: A point of :meth:`points` for each row; None where no latent is continuous.

        Raises:
            DataError: One of a person's own gives another shape than (rows,), or NaN.
        """
        columns: list[Tensor] = []
        for name, value in latents.values.items():
            flat = _flat(value)
            columns.append(flat[:, self._chosen[name]])
            if name in self._discrete:
                continue
            columns.append(flat @ self._directions[name])
            if flat.shape[1] > 1:
                columns.append(flat.norm(dim=1, keepdim=True))
        if reference is not None:
            columns.append((self.points(latents) - reference).norm(dim=1, keepdim=True))
        columns += [latents.log_joint[:, None], latents.log_likelihood[:, None]]
        if latents.log_guide is not None:
            columns.append(latents.log_guide[:, None])
        columns += [self._by_person(name, latents, rows)[:, None] for name in self._own]
        return torch.cat([column.double() for column in columns], 1)

    def points(self, latents: Latents) -> Tensor:
        """All continuous latents of each row side by side, in units of their prior spread, shape (rows, dim)."""
        return torch.cat(
            [_flat(v) / self._units[name] for name, v in latents.values.items() if name not in self._discrete], 1
        )

    def tolerance(self, values: Tensor) -> Tensor:
        """More than rounding makes of equal values of shape (draws, rows, quantities); shape (rows, quantities).

        A likelihood that doesn't depend on the latents is the same for all of them, but for the order in which a batch
        of another size is summed.
        """
        densities = torch.tensor([one.kind == "density" for one in self.described], device=values.device)
        largest = values.abs().nan_to_num(posinf=0.0).amax(0)
        return torch.where(densities, _ROUNDING * torch.finfo(self._precision).eps * largest, 0.0)

    def _by_person(self, name: str, latents: Latents, rows: Tensor) -> Tensor:
        value = self._own[name](dict(latents.values), rows)
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if shape != (len(rows),):
            raise DataError(f"the quantity '{name}' gave {shape} for {len(rows)} rows: expected a number a row")
        if bool(value.isnan().any()):
            raise DataError(f"the quantity '{name}' gave NaN: expected a number for every row and draw")
        return value


def shares(values: Tensor) -> Tensor:
    """How many of a row's values are equal to each, a share; shape (draws, rows, quantities) as ``values``.

    Of the truth and the guide's draws together: what doesn't tell the truth from the draws keeps ranks uniform.
    """
    return torch.stack([(values == one).double().mean(0) for one in values])


def _flat(value: Tensor) -> Tensor:
    return value.reshape(len(value), -1).double()


def _signs(size: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Distinct columns of random signs, the first row's all +1; none of a single coordinate."""
    if size == 1:
        return np.empty((1, 0))
    wanted = min(_DIRECTIONS, 2 ** min(size - 1, 30))
    columns: dict[tuple[float, ...], None] = {}
    while len(columns) < wanted:
        columns[(1.0, *(float(sign) for sign in random.choice([-1.0, 1.0], size - 1)))] = None
    return np.array(list(columns)).T


def _label(name: str, shape: torch.Size, place: int) -> str:
    if not shape:
        return name
    return f"{name}[{', '.join(str(int(i)) for i in np.unravel_index(place, tuple(shape)))}]"
