"""Scaling of features, undone exactly where a person sees numbers, and its Jacobian in log-densities."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from pyro_lvm.data.checks import check_rows
from pyro_lvm.errors import DataError

ScalingKind = Literal["none", "standard", "unit"]
"""``none``; ``standard``: mean 0 and sd 1; ``unit``: from 0 to 1; each feature by itself."""


@dataclasses.dataclass(frozen=True)
class Scaling:
    """A shift and a divisor for each feature: ``scaled = (x - shift) / divisor``.

    Args:
        kind: how they were found.
        shift: data_dim numbers in the data's units.
        divisor: data_dim positive numbers in the data's units; 1 for a constant feature.

    Raises:
        DataError: where they can't be a scaling.
    """

    kind: ScalingKind
    shift: tuple[float, ...]
    divisor: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_kind(self.kind)
        if not self.shift or len(self.shift) != len(self.divisor):
            raise DataError(
                f"scaling has {len(self.shift)} shifts and {len(self.divisor)} divisors: expected one of each a feature"
            )
        if not all(map(math.isfinite, (*self.shift, *self.divisor))) or min(self.divisor) <= 0:
            raise DataError(
                "scaling has a shift or divisor that isn't finite, or a divisor that isn't positive: fit it anew"
            )

    @classmethod
    def fit(cls, rows: Tensor, kind: ScalingKind) -> Self:
        """Find the scaling of a data set from its observed entries.

        Args:
            rows: (num_rows, data_dim), NaN for missing.
            kind: ``none``, ``standard`` (mean and population sd) or ``unit`` (smallest and largest value).

        Returns:
            The scaling.

        Raises:
            DataError: for an unknown kind, or rows that :func:`check_rows` refuses.
        """
        _check_kind(kind)
        check_rows(rows)
        exact = rows.detach().to("cpu", torch.float64)
        if kind == "none":
            return cls(kind, (0.0,) * exact.shape[1], (1.0,) * exact.shape[1])
        missing = exact.isnan()
        low = exact.masked_fill(missing, math.inf).amin(0)
        high = exact.masked_fill(missing, -math.inf).amax(0)
        if kind == "unit":
            shift, divisor = low, high - low
        else:
            shift = exact.nanmean(0)
            divisor = (exact - shift).square().nanmean(0).sqrt()
        # By its range: the computed sd of a constant is often a rounding error instead of 0.
        divisor = torch.where((high > low) & (divisor > 0), divisor, 1.0)
        return cls(kind, tuple(shift.tolist()), tuple(divisor.tolist()))

    def transform(self, rows: Tensor) -> Tensor:
        """Scale rows.

        Args:
            rows: (..., data_dim) in the data's units, floating-point; NaN stays NaN.

        Returns:
            (..., data_dim) without units, of the same dtype and on the same device.

        Raises:
            DataError: where the number of features isn't the fitted one.
        """
        shift, divisor = self._like(rows)
        return ((rows.double() - shift) / divisor).to(rows.dtype)

    def inverse(self, rows: Tensor) -> Tensor:
        """Undo :meth:`transform`.

        Args:
            rows: (..., data_dim) without units, floating-point; NaN stays NaN.

        Returns:
            (..., data_dim) in the data's units, of the same dtype and on the same device.

        Raises:
            DataError: where the number of features isn't the fitted one.
        """
        shift, divisor = self._like(rows)
        return (rows.double() * divisor + shift).to(rows.dtype)

    @property
    def log_jacobian(self) -> float:
        """Nats to subtract a complete row: ``log p(x) = log p(scaled) - log_jacobian``."""
        return math.fsum(map(math.log, self.divisor))

    def row_log_jacobian(self, rows: Tensor) -> Tensor:
        """Give each row's own :attr:`log_jacobian`: only its observed entries have a density.

        Args:
            rows: (num_rows, data_dim), scaled or not; NaN marks the missing entries.

        Returns:
            (num_rows,) float64, in nats.

        Raises:
            DataError: where the number of features isn't the fitted one.
        """
        _, divisor = self._like(rows)
        return (~rows.isnan()).double() @ divisor.log()

    def to_config(self) -> dict[str, Any]:
        """Describe the scaling in plain JSON.

        Returns:
            ``kind``, and ``shift`` and ``divisor`` as lists of floats, which JSON keeps to the last bit.
        """
        return {"kind": self.kind, "shift": list(self.shift), "divisor": list(self.divisor)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Rebuild a scaling from :meth:`to_config`.

        Args:
            config: what ``to_config`` gave.

        Returns:
            An equal scaling.

        Raises:
            DataError: for anything else.
        """
        try:
            shift, divisor = (tuple(float(number) for number in config[key]) for key in ("shift", "divisor"))
            kind = config["kind"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                "scaling can't be rebuilt: expected 'kind', and 'shift' and 'divisor' as lists of numbers"
            ) from error
        return cls(kind, shift, divisor)

    def _like(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and divisor as float64 tensors beside the rows."""
        if rows.shape[-1:] != (len(self.shift),) or not rows.is_floating_point():
            raise DataError(
                f"rows of shape {tuple(rows.shape)} and {rows.dtype} can't be scaled: "
                f"expected (..., {len(self.shift)}) floating-point numbers, as fitted"
            )
        return rows.new_tensor(self.shift, dtype=torch.float64), rows.new_tensor(self.divisor, dtype=torch.float64)


def _check_kind(kind: Any) -> None:
    kinds: Sequence[str] = get_args(ScalingKind)
    if kind not in kinds:
        raise DataError(f"scaling {kind!r} is unknown: expected one of {', '.join(kinds)}")
