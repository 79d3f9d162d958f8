"""A data set in memory: rows of numbers with their names and labels, made from whatever a person holds."""

import dataclasses
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse
import torch
from torch import Tensor

from pyro_lvm.data.checks import as_array, brief, check_rows, to_float32
from pyro_lvm.data.columns import named_columns, to_numbers
from pyro_lvm.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Rows to be modelled, with what is known about them.

    Args:
        rows: (num_rows, data_dim) float32, NaN for a missing entry; images are flattened.
        labels: (num_rows,) int64 codes, -1 where the label is missing; never shown to a model.
        label_names: the labels' names by code.
        feature_names: the columns' names.
        image_shape: the shape of one image, where a row is one; its product is data_dim.
        name: what people and messages call the data.

    Raises:
        DataError: where the shapes contradict each other.
    """

    rows: Tensor
    labels: Tensor | None = None
    label_names: tuple[str, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    image_shape: tuple[int, ...] | None = None
    name: str = "data"

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or self.rows.dtype != torch.float32:
            raise DataError(
                f"{self.name} has rows of shape {tuple(self.rows.shape)} and {self.rows.dtype}: "
                "expected (num_rows, data_dim) of torch.float32; as_rows() makes such from other data"
            )
        for what, length, expected in (
            ("labels", None if self.labels is None else len(self.labels), self.num_rows),
            ("feature names", None if self.feature_names is None else len(self.feature_names), self.data_dim),
            ("pixels", None if self.image_shape is None else int(np.prod(self.image_shape)), self.data_dim),
        ):
            if length is not None and length != expected:
                raise DataError(
                    f"{self.name} has {length} {what} for {self.num_rows} rows of {self.data_dim} columns: "
                    f"expected {expected}; give as many"
                )

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return int(self.rows.shape[0])

    @property
    def data_dim(self) -> int:
        """Number of columns."""
        return int(self.rows.shape[1])

    @property
    def num_missing(self) -> int:
        """Number of missing entries."""
        return int(self.rows.isnan().sum())

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {self.num_rows} rows x {self.data_dim} columns, {self.num_missing} missing)"


def as_rows(data: Any, *, name: str = "data") -> Dataset:
    """Make a data set of what a person holds in memory.

    Args:
        data: a ``Dataset``, or a tensor, NumPy array (masked entries are missing), SciPy sparse matrix, or nested list
            of real numbers of shape (num_rows, data_dim), or images (num_rows, ...) of two or three dimensions each; or
            a pandas ``DataFrame``, whose column names become the features'. NaN is a missing entry. A writable float32
            matrix on the CPU is shared, not copied.
        name: what people and messages call the data.

    Returns:
        The data set, on the CPU.

    Raises:
        DataError: for anything that isn't a table of finite real numbers with at least 2 rows.

    Warns:
        UserWarning: where float32 loses the variation of a column.
    """
    if isinstance(data, Dataset):
        check_rows(data.rows, name=data.name, feature_names=data.feature_names)
        return data
    if isinstance(data, pd.DataFrame):
        table = named_columns(data, name=name)
        names = tuple(table.columns)
        return Dataset(
            to_float32(to_numbers(table, name=name), name=name, feature_names=names), feature_names=names, name=name
        )
    if isinstance(data, (str, os.PathLike)):
        raise DataError(
            f"{name} is a name or a path ({brief(data)}): expected the numbers themselves; load() reads files"
        )
    values = _array(data, name)
    if values.dtype.kind not in "buif":
        raise DataError(
            f"{name} holds {values.dtype}: expected real numbers; convert it, missing entries to float('nan')"
        )
    if values.ndim not in (2, 3, 4):
        raise DataError(
            f"{name} has shape {values.shape}: expected rows x columns or a stack of images; "
            "reshape it (a single column with .reshape(-1, 1))"
        )
    image_shape = values.shape[1:] if values.ndim > 2 else None
    if image_shape is not None:
        values = values.reshape(len(values), int(np.prod(image_shape)))
    return Dataset(to_float32(values, name=name), image_shape=image_shape, name=name)


def _array(data: Any, name: str) -> npt.NDArray[np.generic]:
    if isinstance(data, Tensor):
        return as_array(data)
    if isinstance(data, np.ma.MaskedArray):
        if data.dtype.kind not in "buif":
            return np.asarray(data.data)
        wide = np.float32 if np.can_cast(data.dtype, np.float32, "safe") else np.float64
        return np.ma.filled(data.astype(wide), np.nan)
    if scipy.sparse.issparse(data):
        return np.asarray(data.toarray())
    try:
        return np.asarray(data)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"{name} ({type(data).__name__}) is no table of numbers: expected rows of equally many; check their lengths"
        ) from error
