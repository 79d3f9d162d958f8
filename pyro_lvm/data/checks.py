"""What every table of numbers must satisfy before a model sees it, and the one conversion to float32."""

import difflib
import reprlib
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_lvm.errors import DataError

# Below this the error made by rounding to float32 is under a thousandth of a column's sd: three digits of it survive.
_LOST_FRACTION = 1e-3
_BLOCK_COLUMNS = 64


def quoted(names: Iterable[str], limit: int = 5) -> str:
    """Write names for an error message: quoted, and cut after ``limit`` of them.

    Args:
        names: the names.
        limit: how many to write out.

    Returns:
        For example ``'a', 'b' and 3 more``.
    """
    every = list(names)
    shown = ", ".join(repr(name) for name in every[:limit])
    return shown if len(every) <= limit else f"{shown} and {len(every) - limit} more"


def close_matches(name: str, known: Sequence[str]) -> list[str]:
    """Find the known names that a wrong name resembles, in whatever case.

    Args:
        name: what was given.
        known: what would have been right.

    Returns:
        At most three of the known names, the nearest first.
    """
    by_lower = {option.lower(): option for option in known}
    return [by_lower[match] for match in difflib.get_close_matches(name.strip().lower(), list(by_lower), n=3)]


def near_matches(name: str, known: Sequence[str]) -> str:
    """Suggest the known names that a wrong name resembles, or else list what is known.

    Args:
        name: what was given.
        known: what would have been right.

    Returns:
        The end of an error message: ``did you mean 'mnist'?`` or ``choose from 'a', 'b'``.
    """
    close = close_matches(name, known)
    if close:
        return f"did you mean {' or '.join(repr(match) for match in close)}?"
    return f"choose from {quoted(known, limit=10)}"


def brief(value: object) -> str:
    """Write one offending value for an error message, on one line and not longer than some 40 characters.

    Args:
        value: the value.

    Returns:
        Its shortened ``repr``.
    """
    shorten = reprlib.Repr()
    shorten.maxstring = shorten.maxother = 40
    return " ".join(shorten.repr(value.item() if isinstance(value, np.generic) else value).split())


def first_line(error: BaseException) -> str:
    """Give the first line of another library's error, so that ours stays one line.

    Args:
        error: the error that was caught.

    Returns:
        Its first line, or the name of its type where it says nothing.
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def column_names(data_dim: int, feature_names: Sequence[str] | None) -> tuple[str, ...]:
    """Give the names by which errors call the columns: the features' own, or else their positions from 0.

    Args:
        data_dim: number of columns.
        feature_names: their names, if they have any.

    Returns:
        As many names as columns.
    """
    return tuple(str(index) for index in range(data_dim)) if feature_names is None else tuple(feature_names)


def check_rows(
    rows: Tensor | npt.NDArray[np.generic], *, name: str = "data", feature_names: Sequence[str] | None = None
) -> None:
    """Check that a table of numbers can be modelled: enough rows, some columns, no infinity, no column without a value.

    Args:
        rows: (num_rows, data_dim), NaN for a missing entry; a row may be missing entirely.
        name: what messages call the data.
        feature_names: the columns' names for messages; positions from 0 without them.

    Raises:
        DataError: names what is wrong and, where it is a column, which one.
    """
    values = as_array(rows) if isinstance(rows, Tensor) else np.asarray(rows)
    check_shape(values.shape, name=name)
    if values.dtype.kind != "f":
        return
    names = column_names(values.shape[1], feature_names)
    check_no_infinity(values, name=name, names=names)
    empty = np.flatnonzero(np.isnan(values).all(0))
    if len(empty):
        which = quoted(names[index] for index in empty)
        raise DataError(f"{name} has no value at all in column {which}: leave it out (drop=..., --drop NAME)")


def check_shape(shape: Sequence[int], *, name: str = "data") -> None:
    """Check that an array has the shape of a table that can be modelled.

    Args:
        shape: the array's shape.
        name: what messages call the data.

    Raises:
        DataError: unless there are two dimensions, at least 2 rows and at least 1 column.
    """
    if len(shape) != 2:
        raise DataError(f"{name} has shape {tuple(shape)}: expected two dimensions, rows x columns; reshape it")
    num_rows, data_dim = shape
    if data_dim == 0:
        raise DataError(f"{name} has no columns: at least 1 column of numbers is needed")
    if num_rows < 2:
        raise DataError(f"{name} has {num_rows} row{'' if num_rows == 1 else 's'}: at least 2 rows are needed")


def as_array(tensor: Tensor) -> npt.NDArray[np.generic]:
    """View a tensor of any layout, device and dtype as a NumPy array.

    Args:
        tensor: of any shape.

    Returns:
        The same values, sharing memory where they lie on the CPU.
    """
    dense = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
    # NumPy has no bfloat16; float32 holds it exactly.
    return (dense.float() if dense.dtype == torch.bfloat16 else dense).cpu().numpy()


def to_float32(
    values: npt.NDArray[np.generic], *, name: str = "data", feature_names: Sequence[str] | None = None
) -> Tensor:
    """Round a table of numbers to float32 and check it, saying what the rounding would destroy.

    Args:
        values: (num_rows, data_dim) of any real or boolean dtype, NaN for missing. Shared, not copied, where it already
            is a writable C-ordered float32 array.
        name: what messages call the data.
        feature_names: the columns' names for messages.

    Returns:
        (num_rows, data_dim) float32.

    Raises:
        DataError: for a dtype that isn't real, a value beyond float32, or whatever :func:`check_rows` refuses.

    Warns:
        UserWarning: names the columns in which float32 keeps fewer than three digits of the standard deviation.
    """
    if values.dtype.kind not in "buif":
        raise DataError(f"{name} holds {values.dtype}: expected real numbers; convert it, missing entries to NaN")
    check_rows(values, name=name, feature_names=feature_names)
    if np.can_cast(values.dtype, np.float32, "safe"):
        rows = np.require(values, np.float32, ["C", "W"])
        return torch.from_numpy(rows)
    names = column_names(values.shape[1], feature_names)
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(values, np.float32)
    check_no_overflow(rows, name=name, names=names)
    lost: list[str] = []
    for start in range(0, values.shape[1], _BLOCK_COLUMNS):
        stop = start + _BLOCK_COLUMNS
        lost += [
            names[start + index] for index in _columns_lost(np.asarray(values[:, start:stop]), rows[:, start:stop])
        ]
    if lost:
        warnings.warn(
            f"{name}: float32 keeps fewer than 3 digits of the variation in column {quoted(lost)}: "
            "subtract an offset or rescale before loading",
            stacklevel=3,
        )
    return torch.from_numpy(rows)


def check_no_overflow(rows: npt.NDArray[np.float32], *, name: str, names: Sequence[str], first_row: int = 0) -> None:
    """Check that rounding finite numbers to float32 has left no infinity.

    Args:
        rows: (num_rows, data_dim) after rounding.
        name: what messages call the data.
        names: the columns' names.
        first_row: position in the data of the first of these rows.

    Raises:
        DataError: names the column and the row.
    """
    hits = np.argwhere(np.isinf(rows))
    if len(hits):
        row, column = hits[0].tolist()
        raise DataError(
            f"column {names[column]!r} of {name} holds a number beyond float32 (3.4e38) in row {first_row + row + 1}: "
            "rescale it"
        )


def check_no_infinity(values: npt.NDArray[np.generic], *, name: str, names: Sequence[str], first_row: int = 0) -> None:
    """Check that a block of rows holds no infinity.

    Args:
        values: (num_rows, data_dim) of a real dtype.
        name: what messages call the data.
        names: the columns' names.
        first_row: position in the data of the first of these rows.

    Raises:
        DataError: names the column and the row.
    """
    hits = np.argwhere(np.isinf(values))
    if len(hits):
        row, column = hits[0].tolist()
        raise DataError(
            f"column {names[column]!r} of {name} is infinite in row {first_row + row + 1}: expected finite numbers; "
            "mark it as missing (empty, NaN)"
        )


def _columns_lost(values: npt.NDArray[np.generic], rows: npt.NDArray[np.float32]) -> list[int]:
    """Positions of the columns whose rounding error (measured, rms) is more than a thousandth of their sd."""
    exact = values.astype(np.float64)
    # Squares of numbers near 1e-300 vanish; those of numbers of order one don't.
    scale = np.fmax.reduce(np.abs(exact), axis=0, initial=0.0)
    scale = np.where(scale > 0, scale, 1.0)
    exact /= scale
    error = np.sqrt(_mean_of_squares(exact - rows / scale))
    spread = exact - np.nansum(exact, axis=0) / np.maximum((~np.isnan(exact)).sum(0), 1)
    varies = np.fmin.reduce(exact, axis=0) < np.fmax.reduce(exact, axis=0)
    return [int(i) for i in np.flatnonzero(varies & (error > _LOST_FRACTION * np.sqrt(_mean_of_squares(spread))))]


def _mean_of_squares(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    present = np.maximum((~np.isnan(values)).sum(0), 1)
    return np.asarray(np.nansum(values * values, axis=0) / present)
