"""What a person passes as X, read as batches of rows in float64 as often as needed.

Arrays, data frames, tensors and data sets are rows in memory. Sparse matrices, memory maps and iterables of batches are
read batch by batch in every sweep. An iterator, which can be read only once, is copied to a temporary file first.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, validate_data
from torch import Tensor

from pyro_lvm.data import Dataset
from pyro_lvm.em.rows import MemoryRows, Rows, StreamedRows
from pyro_lvm.errors import DataError

# Numbers that are read together from what isn't in memory (32 MB in float64).
_BATCH = 2**22


class Table:
    """Rows, in memory or not.

    Attributes:
        num_features: number of columns.
        whole: the rows, (num_rows, num_features), NaN where missing, float64; None where they aren't in memory.
    """

    def __init__(self, read: Callable[[], Iterator[Tensor]], num_features: int, whole: Tensor | None) -> None:
        self._read = read
        self.num_features = num_features
        self.whole = whole

    def batches(self) -> Iterator[Tensor]:
        """All rows from the first to the last, in batches of (any number, num_features)."""
        return self._read()

    def sample(self, share: float, random_state: np.random.RandomState) -> Tensor:
        """Some rows, (any number, num_features), each kept with the same probability.

        Args:
            share: the probability; all rows from 1 on.
            random_state: draws them.
        """
        if share >= 1:
            return torch.cat(list(self.batches()))
        return torch.cat([batch[random_state.random_sample(len(batch)) < share] for batch in self.batches()])

    def standardised(self, origin: Tensor, unit: Tensor, size: int) -> Rows:
        """The rows as the E-step reads them.

        Args:
            origin: what becomes 0, (num_features,).
            unit: what becomes 1, (num_features,); the rows go to its device.
            size: rows in a block.
        """
        if self.whole is not None:
            return MemoryRows((self.whole.to(unit.device) - origin) / unit, size)
        return StreamedRows(
            lambda: ((batch.to(unit.device) - origin) / unit for batch in self.batches()), self.num_features, size
        )


def read_table(estimator: BaseEstimator, data: Any, *, reset: bool, min_rows: int = 1, min_features: int = 1) -> Table:
    """Read and check what a person passed.

    Args:
        estimator: sets or checks its number and names of features, by scikit-learn's rules.
        data: rows of real numbers, NaN where missing, in any of the forms that the module names.
        reset: whether the estimator is being fitted, and learns them.
        min_rows: fewer are refused.
        min_features: fewer are refused.

    Raises:
        DataError: batches that don't fit together, or no batch at all.
        ValueError: from scikit-learn: no table of real, finite numbers, or another number of features than at the fit.
    """

    def checked(values: Any, *, reset: bool = False, least: int = 1, **options: Any) -> Any:
        return validate_data(
            estimator,
            values,
            reset=reset,
            dtype=np.float64,
            ensure_all_finite="allow-nan",
            ensure_min_samples=least,
            ensure_min_features=min_features,
            **options,
        )

    data = _as_array_like(data)
    if scipy.sparse.issparse(data):
        matrix = checked(data, reset=reset, least=min_rows, accept_sparse="csr")
        return _sliced(lambda rows: matrix[rows].toarray(), matrix.shape)
    if isinstance(data, np.memmap) and data.ndim == 2:
        checked(data[:min_rows], reset=reset, least=min_rows)
        return _sliced(lambda rows: checked(data[rows]), data.shape)
    if not _is_iterable_of_batches(data):
        # Pandas may hand out arrays that can't be written to, which PyTorch won't share.
        whole = torch.from_numpy(np.require(checked(data, reset=reset, least=min_rows), requirements=["C", "W"]))
        return Table(lambda: iter([whole]), whole.shape[1], whole)
    if isinstance(data, Iterator):
        spooled, names = _spool(data)
        checked(_named(spooled[:min_rows], names), reset=reset, least=min_rows)
        return _sliced(lambda rows: spooled[rows], spooled.shape)
    first, read = _sweeps(data)
    checked(_named(first.rows.numpy(), first.names), reset=reset)
    return Table(read, first.rows.shape[1], None)


class _Batch(NamedTuple):
    rows: Tensor  # (any number from 1 up, num_features), float64
    names: list[Any] | None  # of the columns, if they have any


def _as_array_like(data: Any) -> Any:
    """Data in the forms that scikit-learn doesn't know, in one that it does."""
    if isinstance(data, Dataset):
        names = data.feature_names
        return data.rows.numpy() if names is None else pd.DataFrame(data.rows.numpy(), columns=list(names))
    if isinstance(data, Tensor):
        return data.detach().to_dense().cpu().double().numpy()
    if isinstance(data, np.ma.MaskedArray) and data.dtype.kind in "buif":
        return np.ma.filled(data.astype(np.float64), np.nan)
    if isinstance(data, pd.DataFrame) and (data.dtypes == "object").any():
        # NumPy can't make a float of pandas' missing value.
        return data.where(data.notna())
    return data


def _is_iterable_of_batches(data: Any) -> bool:
    if isinstance(data, (list, tuple)):
        tables = (np.ndarray, Tensor, pd.DataFrame)
        return len(data) > 0 and all(
            scipy.sparse.issparse(part) or (isinstance(part, tables) and part.ndim == 2) for part in data
        )
    array_like = isinstance(data, (str, bytes, dict)) or any(
        hasattr(data, name) for name in ("shape", "__array__", "__array_function__", "__dataframe__")
    )
    return isinstance(data, Iterable) and not array_like


def _sliced(rows_at: Callable[[slice], NDArray[np.float64]], shape: tuple[int, ...]) -> Table:
    num_rows, num_features = shape
    step = max(1, _BATCH // max(1, num_features))

    def read() -> Iterator[Tensor]:
        for start in range(0, num_rows, step):
            # A copy: a memory map can't be written to.
            yield torch.from_numpy(np.array(rows_at(slice(start, start + step)), dtype=np.float64))

    return Table(read, num_features, None)


def _named(rows: NDArray[np.float64], names: list[Any] | None) -> Any:
    return rows if names is None else pd.DataFrame(rows, columns=names)


def _sweeps(data: Iterable[Any]) -> tuple[_Batch, Callable[[], Iterator[Tensor]]]:
    """The first batch of an iterable that starts anew, and a function that begins a sweep over all of them."""
    begun = _checked_batches(data)
    first = next(begun, None)
    if first is None:
        raise DataError("X has no rows: expected a batch at least; an iterable must start anew whenever it is iterated")
    # The batch that was looked at belongs to the first sweep: what was iterated by mistake can't give it again.
    unread = [itertools.chain([first], begun)]
    known: list[int] = []

    def read() -> Iterator[Tensor]:
        num_rows = 0
        for batch in unread.pop() if unread else _checked_batches(data):
            num_rows += len(batch.rows)
            yield batch.rows
        if known and num_rows != known[0]:
            raise DataError(
                f"X gave {known[0]} rows when it was iterated first, and {num_rows} later: expected the same rows "
                "whenever it is iterated; pass an iterator, iter(X), which is copied once"
            )
        known[:] = [num_rows]

    return first, read


def _checked_batches(data: Iterable[Any]) -> Iterator[_Batch]:
    """Batches in float64, all of the width and, as far as they have any, the column names of the first."""
    width, names = None, None
    for index, batch in enumerate(data):
        # A DataLoader over a TensorDataset gives each batch as a list of its tensors.
        rows = batch[0] if isinstance(batch, (list, tuple)) and isinstance(batch[0], Tensor) else batch
        rows = _as_array_like(rows)
        values = check_array(
            rows,
            accept_sparse="csr",
            dtype=np.float64,
            ensure_all_finite="allow-nan",
            ensure_min_samples=0,
            input_name=f"batch {index} of X",
        )
        values = values.toarray() if scipy.sparse.issparse(values) else values
        own_names = list(rows.columns) if isinstance(rows, pd.DataFrame) else None
        width = values.shape[1] if width is None else width
        if values.shape[1] != width:
            raise DataError(
                f"batch {index} of X has {values.shape[1]} features and those before it {width}: expected the same "
                "columns in every batch"
            )
        names = own_names if names is None else names
        for own_name, name in zip(own_names or [], names or [], strict=False):
            if own_name != name:
                raise DataError(
                    f"batch {index} of X has a column {own_name!r} where those before it have {name!r}: expected the "
                    "same columns in the same order in every batch"
                )
        if len(values):
            yield _Batch(torch.from_numpy(np.array(values)), names)


def _spool(batches: Iterator[Any]) -> tuple[NDArray[np.float64], list[Any] | None]:
    """The rows of an iterator, in a temporary file that vanishes with the array, and the names of their columns."""
    width, num_rows, names = 0, 0, None
    # The memory map keeps the file's rows when the file itself is closed.
    with tempfile.TemporaryFile() as file:
        for batch in _checked_batches(batches):
            file.write(batch.rows.numpy().tobytes())
            num_rows, width, names = num_rows + len(batch.rows), batch.rows.shape[1], batch.names
        if not num_rows:
            raise DataError("X has no rows: expected a batch at least; the iterator is used up")
        file.flush()
        spooled: NDArray[np.float64] = np.memmap(file, dtype=np.float64, mode="r", shape=(num_rows, width))
    return spooled, names
