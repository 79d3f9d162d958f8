"""What counts as 1: EM runs on standardised rows, so that neither its precision nor its end depends on units."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from pyro_lvm.em.moments import Moments
from pyro_lvm.errors import DataError

# Ratio of two features' ranges beyond which the smaller one means nothing to a noise variance that they share.
_WILD = 1e4


def common_unit(moments: Moments) -> Tensor:
    """One unit for all features, their root mean variance, so that distances and rotations keep their meaning.

    Args:
        moments: of the rows.

    Returns:
        (data_dim,), all entries the same.

    Raises:
        DataError: no feature varies.
    """
    variance = moments.variances.mean()
    if not variance > 0:
        raise DataError("every feature of X is constant: expected rows that differ; there is nothing to fit")
    return variance.sqrt().expand_as(moments.variances)


def own_units(moments: Moments) -> Tensor:
    """Each feature's own unit, its standard deviation; a constant feature's is its magnitude, or else 1.

    Args:
        moments: of the rows.

    Returns:
        (data_dim,).

    Raises:
        DataError: no feature varies.
    """
    variances = moments.variances
    if not (variances > 0).any():
        raise DataError("every feature of X is constant: expected rows that differ; there is nothing to fit")
    magnitude = torch.where(moments.means == 0, 1.0, moments.means.abs())
    return torch.where(variances > 0, variances.sqrt(), magnitude)


def warn_of_scales(low: Tensor, high: Tensor, names: Callable[[Tensor], str]) -> None:
    """Warn where features share a noise variance though they are measured on scales that differ wildly.

    Args:
        low: the least entry of each feature, (data_dim,).
        high: the largest, (data_dim,).
        names: names the features at the positions that are True.

    Warns:
        UserWarning: names the extremes.
    """
    spread = high - low
    varied = spread[spread > 0]
    if len(varied) and varied.max() > _WILD * varied.min():
        warnings.warn(
            f"{names(spread == varied.max())} of X ranges over {varied.max():.1e} and {names(spread == varied.min())} "
            f"over {varied.min():.1e}, and one noise variance is for both: standardise X (StandardScaler), or use "
            "FactorAnalysis",
            stacklevel=5,
        )
