"""What the zoo's models and guides have in common: parameters of their own, in units of the data."""

from __future__ import annotations

import itertools

import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_lvm.errors import DataError

# Of the features' root mean variance.
_SMALLEST_UNIT = 1e-3

_serial = itertools.count()


class PairModule(PyroModule):
    """A :class:`~pyro.nn.PyroModule` whose parameters can never meet another module's in Pyro's global store.

    Pyro files a module's parameters under their attribute names. Two modules with an attribute of the same name would
    silently share its value, so every instance files its own under a name of its own.

    Attributes:
        started: Whether the parameters hold something worth keeping (a start from data, a load, training);
            :func:`pyro_lvm.fit` starts what is not.
    """

    started: Tensor

    def __init__(self) -> None:
        super().__init__(name=f"{type(self).__name__}_{next(_serial)}")
        self.register_buffer("started", torch.tensor(False))


def feature_units(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unit of each feature of rows, which one learning rate's parameters are held relative to.

    Args:
        x: Rows, shape (rows, data_dim), NaN where missing.

    Returns:
        The means and what :func:`units_of` gives, each (data_dim,) in float64.

    Raises:
        DataError: A feature has no observed entry.
    """
    rows = x.double()
    empty = torch.isnan(rows).all(0).nonzero().flatten().tolist()
    if empty:
        raise DataError(f"feature {empty[0]} of the data has no observed entry: leave out what was never measured")
    origin = torch.nanmean(rows, 0)
    return origin, units_of(torch.nanmean((rows - origin) ** 2, 0))


def units_of(variance: Tensor) -> Tensor:
    """Standard deviations, (data_dim,), of features of given variance, no less than a thousandth of their root mean.

    A feature that hardly varies so has room to, should the rows to come vary more; where nothing varies they are 1.
    """
    unit = variance.clamp(min=_SMALLEST_UNIT**2 * float(variance.mean())).sqrt()
    return torch.where(unit > 0, unit, 1.0)
