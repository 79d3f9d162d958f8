"""Test statistics: numbers that a table of rows has, and a replicate of it should have too.

All take tables of shape (..., rows, features), NaN where missing, and give one number a table or several. Those of
the library see each feature in the model's own mean and unit, so that none is drowned by another's scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_lvm.catalogue import run_file
from pyro_lvm.errors import DataError

Function = Callable[[Tensor], Any]
"""Rows in the data's units, shape (rows, ...), NaN where missing, to a number or several."""

_LEVELS = (0.05, 0.5, 0.95)
# Leading eigenvalues that are looked at one by one.
_NUM_EIGENVALUES = 10
# Features that have a covariance matrix together; of more, so many evenly spaced ones.
_MAX_FEATURES = 1024
# Of a feature's unit: what scaling and its inverse leave of a zero.
_ZERO = 1e-6


@dataclass(frozen=True)
class Statistic:
    """A test statistic by name.

    Attributes:
        name: What it is called.
        function: From a table to its numbers: of the library shape (..., rows, features) to (...,) or (..., numbers),
            in units; of a person's own shape (rows, ...) to a number or several, in the data's units.
        own: Whether it is a person's own.
        by_feature: Whether its numbers are one for each feature.
        centred: Whether it sees features about the model's mean of them, and not only in its unit.
    """

    name: str
    function: Function
    own: bool = False
    by_feature: bool = False
    centred: bool = True

    def labels(self, count: int, feature_names: Sequence[str] | None) -> list[str]:
        """What its numbers are called."""
        if self.name == "quantiles":
            return [f"{level:.0%}" for level in _LEVELS]
        if self.name == "spectrum":
            return [*[f"eigenvalue {i + 1}" for i in range(count - 1)], "the rest"]
        if self.by_feature and feature_names is not None and len(feature_names) == count:
            return list(feature_names)
        return [self.name] if count == 1 else [f"{'feature ' if self.by_feature else ''}{i + 1}" for i in range(count)]


def mean(x: Tensor) -> Tensor:
    """Mean of each feature, shape (..., features)."""
    return x.nanmean(-2)


def variance(x: Tensor) -> Tensor:
    """Variance of each feature."""
    return _central(x).square().nanmean(-2)


def skewness(x: Tensor) -> Tensor:
    """Third standardized moment of each feature, 0 where it doesn't vary."""
    return _standardized_moment(x, 3)


def kurtosis(x: Tensor) -> Tensor:
    """Fourth standardized moment of each feature: 3 for a normal, more for heavy tails, less for two clusters."""
    return _standardized_moment(x, 4)


def zeros(x: Tensor) -> Tensor:
    """Share of each feature's entries that are zero."""
    return torch.where(x.isnan(), torch.nan, (x.abs() <= _ZERO).to(x)).nanmean(-2)


def quantile(x: Tensor, level: float) -> Tensor:
    """Quantile of each feature's entries, linearly interpolated; NaN sorts last."""
    ordered = x.sort(-2).values
    place = level * ((~x.isnan()).sum(-2, keepdim=True).to(x) - 1).clamp(min=0)
    low, high = (ordered.gather(-2, p.long()) for p in (place.floor(), place.ceil()))
    return torch.lerp(low, high, place - place.floor()).squeeze(-2)


def quantiles(x: Tensor) -> Tensor:
    """5%, 50% and 95% quantiles, each the mean over the features, shape (..., 3)."""
    return torch.stack([quantile(x, level).nanmean(-1) for level in _LEVELS], -1)


def smallest(x: Tensor) -> Tensor:
    """Smallest entry of all, shape (...,)."""
    return x.nan_to_num(torch.inf).amin((-2, -1))


def largest(x: Tensor) -> Tensor:
    """Largest entry of all."""
    return x.nan_to_num(-torch.inf).amax((-2, -1))


def largest_correlation(x: Tensor) -> Tensor:
    """Largest absolute correlation of two features."""
    covariance = _covariance(x)
    scale = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    product = scale.unsqueeze(-1) * scale.unsqueeze(-2)
    correlation = torch.where(product > 0, covariance / product, 0.0)
    correlation.diagonal(dim1=-2, dim2=-1).zero_()
    return correlation.abs().amax((-2, -1))


def spectrum(x: Tensor) -> Tensor:
    """Leading eigenvalues of the covariance of the features, then the sum of the others; largest first."""
    complete = not bool(x.isnan().any())
    if complete and x.shape[-2] < min(x.shape[-1], _MAX_FEATURES):
        # As many eigenvalues as there are rows aren't zero.
        centred = _central(_some_features(x))
        values = torch.linalg.eigvalsh(centred @ centred.mT / x.shape[-2])
    else:
        values = torch.linalg.eigvalsh(_covariance(x))
    values = values.flip(-1)
    leading = values[..., : min(_NUM_EIGENVALUES, max(1, values.shape[-1] - 1))]
    rest = values.sum(-1, keepdim=True) - leading.sum(-1, keepdim=True)
    return torch.cat([leading, rest], -1)


def row_spread(x: Tensor) -> Tensor:
    """Variance between rows of their mean square, over its squared mean: large where whole rows stray together."""
    size = x.square().nanmean(-1)
    return _variance_over(size) / size.nanmean(-1).square().clamp(min=torch.finfo(x.dtype).tiny)


def _overall(function: Callable[[Tensor], Tensor]) -> Function:
    return lambda x: function(x).nanmean(-1)


_BY_FEATURE: dict[str, Function] = {
    "mean": mean,
    "variance": variance,
    "skewness": skewness,
    "kurtosis": kurtosis,
    "zeros": zeros,
    **{f"{level:.0%}-quantile": partial(quantile, level=level) for level in _LEVELS},
}
_GLOBAL: dict[str, Function] = {
    **{name: _overall(_BY_FEATURE[name]) for name in ("mean", "variance", "skewness", "kurtosis", "zeros")},
    "quantiles": quantiles,
    "smallest": smallest,
    "largest": largest,
    "largest-correlation": largest_correlation,
    "spectrum": spectrum,
    "row-spread": row_spread,
}
STATISTICS: dict[str, Statistic] = {
    **{name: Statistic(name, function, centred=name != "zeros") for name, function in _GLOBAL.items()},
    **{
        f"feature-{name}": Statistic(f"feature-{name}", function, by_feature=True, centred=name != "zeros")
        for name, function in _BY_FEATURE.items()
    },
}
"""The library: of the whole table (mean, variance, ...: the mean over features), or, ``feature-...``, by feature."""

DEFAULT_STATISTICS = (*_GLOBAL, "feature-mean", "feature-variance")
"""What is looked at where nobody chooses."""


def choose(given: Sequence[str | Statistic | Function] | None) -> list[Statistic]:
    """Statistics from names of the library, ``FILE.py:FUNCTION``, or functions.

    Raises:
        DataError: A name is unknown, or given twice, or a file has no such function.
    """
    chosen = [_one(item) for item in (DEFAULT_STATISTICS if given is None else given)]
    names = [statistic.name for statistic in chosen]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not chosen or twice:
        raise DataError(f"statistics {', '.join(names) or 'none'}: expected one at least, and each once")
    return chosen


def _one(item: str | Statistic | Function) -> Statistic:
    if isinstance(item, Statistic):
        return item
    if callable(item):
        return Statistic(getattr(item, "__name__", type(item).__name__), item, own=True)
    if item in STATISTICS:
        return STATISTICS[item]
    path, _, name = item.rpartition(":")
    if not path.endswith(".py"):
        raise DataError(f"statistic '{item}': expected FILE.py:FUNCTION, or one of {', '.join(STATISTICS)}")
    if not Path(path).is_file():
        raise DataError(f"statistic '{item}': there is no file '{path}', expected FILE.py:FUNCTION")
    function = getattr(run_file(Path(path)), name, None)
    if not callable(function):
        raise DataError(f"statistic '{item}': '{path}' has no function '{name}'")
    return Statistic(name, function, own=True)


def _central(x: Tensor) -> Tensor:
    return x - x.nanmean(-2, keepdim=True)


def _standardized_moment(x: Tensor, order: int) -> Tensor:
    centred = _central(x)
    spread = centred.square().nanmean(-2)
    return torch.where(spread > 0, centred.pow(order).nanmean(-2) / spread.pow(order / 2), 0.0)


def _some_features(x: Tensor) -> Tensor:
    count = x.shape[-1]
    return x if count <= _MAX_FEATURES else x[..., torch.linspace(0, count - 1, _MAX_FEATURES).long()]


def _covariance(x: Tensor) -> Tensor:
    """Covariance of the features; of each two over the rows that have both."""
    centred = _central(_some_features(x))
    seen = (~centred.isnan()).to(x)
    filled = centred.nan_to_num(0.0)
    return filled.mT @ filled / (seen.mT @ seen).clamp(min=1)


def _variance_over(values: Tensor) -> Tensor:
    return (values - values.nanmean(-1, keepdim=True)).square().nanmean(-1)
