"""Files that are read block by block: neighbouring rows together, the blocks in random order."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pyro_lvm.data.checks import (
    check_no_infinity,
    check_no_overflow,
    check_shape,
    column_names,
    first_line,
    near_matches,
)
from pyro_lvm.data.columns import check_distinct
from pyro_lvm.errors import DataError

_NUMERIC_TYPES = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)


class ArrayBlocks:
    """Blocks of an array, which may be a memory map.

    Args:
        array: (num_rows, data_dim) of a real dtype.
        features: positions (as text) of the columns to keep, in this order; all of them without it.
        name: what messages call the data.

    Raises:
        DataError: for an array that is no table of numbers, or a column that it doesn't have.
    """

    def __init__(self, array: npt.NDArray[np.generic], features: Sequence[str] | None, name: str) -> None:
        check_shape(array.shape, name=name)
        if array.dtype.kind not in "buif":
            raise DataError(f"{name} holds {array.dtype}: expected real numbers; convert it, missing entries to NaN")
        self.name = name
        self.num_rows = len(array)
        self.feature_names = _chosen(column_names(array.shape[1], None), features, name)
        self._array = array
        self._columns = None if features is None else [int(feature) for feature in self.feature_names]

    def shuffled(self, rng: np.random.Generator, block_rows: int) -> Iterator[npt.NDArray[np.float32]]:
        """Read every block once.

        Args:
            rng: draws their order.
            block_rows: rows a block.

        Yields:
            (at most block_rows, data_dim), NaN for missing.

        Raises:
            DataError: for an infinity, or a number beyond float32.
        """
        for start in rng.permutation(np.arange(0, self.num_rows, block_rows)).tolist():
            block = self._array[start : start + block_rows]
            yield _to_float32(block if self._columns is None else block[:, self._columns], self, start)

    def warn_of_layout(self, buffer_rows: int) -> None:
        """Warn where the rows of a large file aren't stored together.

        Args:
            buffer_rows: number of rows that are shuffled together.
        """
        if self.num_rows > buffer_rows and not self._array.flags.c_contiguous:
            warnings.warn(
                f"{self.name} is stored column by column, which makes streaming slow: save it row by row "
                "(numpy.ascontiguousarray)",
                stacklevel=3,
            )


class ParquetBlocks:
    """Blocks of a Parquet file's row groups.

    Args:
        path: the file.
        features: names of the columns to keep, in this order; all of them, but for a stored pandas index, without it.

    Raises:
        DataError: for a file that can't be read, or a column that it doesn't have or that isn't numeric.
    """

    def __init__(self, path: Path, features: Sequence[str] | None) -> None:
        self.name = path.name
        self._path = path
        with open_parquet(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            self._group_rows = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        self.num_rows = sum(self._group_rows)
        # pandas stores its index among the columns, and doesn't count it as one when it reads them.
        index = (schema.pandas_metadata or {}).get("index_columns", [])
        self.feature_names = _chosen([column for column in schema.names if column not in index], features, self.name)
        check_shape((self.num_rows, len(self.feature_names)), name=self.name)
        for column in self.feature_names:
            kind = schema.field(column).type
            if not any(test(kind) for test in _NUMERIC_TYPES):
                raise DataError(
                    f"column {column!r} of {self.name} isn't numeric ({kind}): choose the numeric columns "
                    "(features=..., --features A,B)"
                )

    def shuffled(self, rng: np.random.Generator, block_rows: int) -> Iterator[npt.NDArray[np.float32]]:
        """Read every row group once, in blocks from its start to its end.

        Args:
            rng: draws the order of the row groups.
            block_rows: rows a block.

        Yields:
            (at most block_rows, data_dim), NaN for missing.

        Raises:
            DataError: for an infinity, a number beyond float32, or a damaged file.
        """
        names = list(self.feature_names)
        starts = np.cumsum([0, *self._group_rows]).tolist()
        with open_parquet(self._path) as file:
            for group in rng.permutation(len(self._group_rows)).tolist():
                start = starts[group]
                try:
                    for batch in file.iter_batches(block_rows, row_groups=[group], columns=names):
                        # Whole numbers beyond 2**53 may be rounded: float32 rounds them harder.
                        columns = [batch.column(name).cast(pa.float64(), safe=False) for name in names]
                        numbers = np.column_stack([column.to_numpy(zero_copy_only=False) for column in columns])
                        yield _to_float32(numbers, self, start)
                        start += len(numbers)
                except (OSError, pa.ArrowException) as error:
                    raise DataError(f"{self.name} is damaged ({first_line(error)}): write it anew") from error

    def warn_of_layout(self, buffer_rows: int) -> None:
        """Warn where the row groups are so large that few of them are shuffled together.

        Args:
            buffer_rows: number of rows that are shuffled together.
        """
        largest = max(self._group_rows)
        if self.num_rows > buffer_rows and largest > buffer_rows // 2:
            warnings.warn(
                f"{self.name} has row groups of up to {largest} rows, of which {buffer_rows} are shuffled together: "
                "the file's order shows; write it with "
                f"row_group_size={max(1, buffer_rows // 16)} or raise chunk_bytes",
                stacklevel=3,
            )


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file and read what it says of itself.

    Args:
        path: the file.

    Returns:
        The open file.

    Raises:
        DataError: where there is none, or it isn't Parquet.
    """
    check_is_file(path)
    try:
        return pq.ParquetFile(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path.name} can't be read as Parquet ({first_line(error)}): check the file") from error


def memory_map(path: Path) -> npt.NDArray[np.generic]:
    """Map a .npy file into memory, reading none of its numbers yet.

    Args:
        path: the file.

    Returns:
        The array.

    Raises:
        DataError: where there is none, or it isn't an array that can be mapped.
    """
    check_is_file(path)
    if path.suffix.lower() != ".npy":
        raise DataError(f"{path.name} can't be streamed: expected .npy or .parquet; convert it once")
    try:
        array: npt.NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        # A damaged header raises whatever its bytes lead NumPy into.
        raise DataError(f"{path.name} can't be read: expected an array of numbers written by numpy.save") from error
    return array


def check_is_file(path: Path) -> None:
    """Check that there is such a file.

    Args:
        path: the file.

    Raises:
        DataError: where there is none.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}: expected one to stream from; check the path")


def _to_float32(
    block: npt.NDArray[np.generic], source: ArrayBlocks | ParquetBlocks, first_row: int
) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        rows = np.asarray(block, np.float32)
    if np.isinf(rows).any():
        check_no_infinity(block, name=source.name, names=source.feature_names, first_row=first_row)
        check_no_overflow(rows, name=source.name, names=source.feature_names, first_row=first_row)
    return rows


def _chosen(known: Sequence[str], features: Sequence[str] | None, name: str) -> tuple[str, ...]:
    check_distinct(known, name=name)
    if features is None:
        return tuple(known)
    check_distinct(features, name=f"features of {name}")
    for feature in features:
        if feature not in known:
            raise DataError(f"{name} has no column {feature!r} (features): {near_matches(feature, known)}")
    return tuple(features)
