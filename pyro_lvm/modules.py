"""What the zoo's models and guides have in common: parameters of their own, in units of the data."""

from __future__ import annotations

import itertools

import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_lvm.errors import DataError, PairError

# Of the features' root mean variance.
_SMALLEST_UNIT = 1e-3
# Variance relative to theirs that a start leaves to noise.
_SMALLEST_REST = 1e-7

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


def check_latent_dim(
    latent_dim: int,
    data_dim: int,
    name: str,
    advice: str = "choose a smaller latent_dim or data with more features",
) -> None:
    """Check the number of latent coordinates of a model with a subspace of the data's.

    Args:
        latent_dim: Number of latent coordinates d.
        data_dim: Number of features D.
        name: What the message calls the model.
        advice: What the message says to do.

    Raises:
        PairError: d is not a whole number from 1 to D - 1.
    """
    if not isinstance(latent_dim, int) or isinstance(latent_dim, bool) or not 1 <= latent_dim < data_dim:
        raise PairError(
            f"latent_dim={latent_dim} with {data_dim} features: {name} needs 1 <= latent_dim < {data_dim}; {advice}"
        )


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


def principal_start(x: Tensor, latent_dim: int) -> tuple[Tensor, Tensor]:
    """Loadings along the principal axes of rows in units of their features' root mean variance, and what is left over.

    Args:
        x: Rows in these units about their mean, shape (rows, data_dim), NaN where missing, which counts as the mean.
        latent_dim: Number of axes d, below data_dim.

    Returns:
        The loadings, (data_dim, latent_dim), in order of explained variance; and the mean variance along the other
        axes, a scalar, at least 1e-7, from where noise can still shrink; both in float64.
    """
    filled = x.double().nan_to_num(0.0)
    values, vectors = torch.linalg.eigh(filled.mT @ filled / len(filled))
    rest = values[:-latent_dim].mean().clamp(min=_SMALLEST_REST)
    scales = (values[-latent_dim:] - rest).clamp(min=_SMALLEST_REST).sqrt()
    return (vectors[:, -latent_dim:] * scales).flip(1), rest
