"""Grey values as zeros and ones: drawn once, or anew in each batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyro_lvm.errors import DataError

BinarizationKind = Literal["none", "static", "dynamic"]
"""``none``; ``static``: drawn once; ``dynamic``: drawn anew whenever rows are trained on."""


def binarize(rows: Tensor, seed: int = 0) -> Tensor:
    r"""Draw zeros and ones with the rows' values as probabilities, each entry by itself.

    The result is other data than the grey rows: nats of the one say nothing of the other.

    Args:
        rows: Values from 0 to 1, NaN where missing.
        seed: Of the draws.

    Returns:
        Rows of the same shape, on the same device: 0, 1, or NaN.

    Raises:
        DataError: A value is outside 0 to 1.

    Example:
        >>> binarize(torch.tensor([[0.0, 1.0, float("nan")]]))
        tensor([[0., 1., nan]])
    """
    _check(rows)
    # On the CPU, so that a seed means the same data everywhere.
    uniform = torch.rand(rows.shape, generator=torch.Generator().manual_seed(seed), dtype=rows.dtype)
    return _threshold(rows, uniform.to(rows.device))


@dataclass(frozen=True)
class GreyRows:
    """Rows to be binarized dynamically: whoever trains on them draws anew for every batch.

    Args:
        intensities: Probabilities of a one, shape (rows, data_dim), NaN where missing.
        fixed: One draw of them, for what is looked at more than once: starts, validation, grades.

    Raises:
        DataError: An intensity is outside 0 to 1.
    """

    intensities: Tensor
    fixed: Tensor

    @classmethod
    def of(cls, rows: Tensor, seed: int = 0) -> GreyRows:
        """Grey rows with one draw of them."""
        return cls(rows, binarize(rows, seed))

    @property
    def shape(self) -> torch.Size:
        """Shape of the rows."""
        return self.intensities.shape

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.intensities)

    def __getitem__(self, chosen: Tensor) -> GreyRows:
        """Some of the rows."""
        return GreyRows(self.intensities[chosen], self.fixed[chosen])


def redraw(intensities: Tensor) -> Tensor:
    """Zeros and ones of a batch, from PyTorch's own random state; NaN stays NaN."""
    return _threshold(intensities, torch.rand_like(intensities))


def _threshold(rows: Tensor, uniform: Tensor) -> Tensor:
    return torch.where(torch.isnan(rows), rows, (uniform < rows).to(rows.dtype))


def _check(rows: Tensor) -> None:
    outside = rows[(rows < 0) | (rows > 1)]
    if outside.numel() > 0:
        raise DataError(
            f"rows to binarize have {outside.numel()} values outside 0 to 1 such as {float(outside[0]):.4g}: they are "
            "probabilities; divide pixels by their largest value"
        )
