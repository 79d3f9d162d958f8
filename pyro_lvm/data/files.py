"""Data files, read by the ending of their name."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from pyro_lvm.data.checks import first_line, quoted, to_float32
from pyro_lvm.data.columns import code_labels, named_columns, split_columns, to_numbers
from pyro_lvm.data.dataset import Dataset, as_rows
from pyro_lvm.data.text import read_text
from pyro_lvm.errors import DataError

TEXT_ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
FILE_ENDINGS = (*TEXT_ENDINGS, ".parquet", ".npy", ".npz")
"""Endings of the file names that :func:`read_file` knows."""

_ROWS_KEYS = ("x", "X", "data")
_LABELS_KEYS = ("y", "labels")


def ending_of(name: str) -> str | None:
    """Find which of the known endings a file's name has.

    Args:
        name: a file's name or path.

    Returns:
        The longest known ending, or None.
    """
    found = [ending for ending in FILE_ENDINGS if name.lower().endswith(ending)]
    return max(found, key=len, default=None)


def read_file(
    path: Path,
    *,
    drop: Sequence[str] = (),
    label: str | None = None,
    features: Sequence[str] | None = None,
    header: bool | None = None,
) -> Dataset:
    """Read a data set from a file.

    Args:
        path: delimited text, Parquet, or NumPy's .npy and .npz. An .npz holds one array, or the rows as ``x``, ``X`` or
            ``data`` and the labels as ``y`` or ``labels``. Arrays of more than two dimensions are images.
        drop: names of columns to leave out; the columns of a file without names are ``"0"``, ``"1"`` and on.
        label: name of the column that holds the labels.
        features: names of the columns to keep, in this order.
        header: for text, whether the first line holds names; ``None`` looks.

    Returns:
        The data set, named after the file.

    Raises:
        DataError: for a file that can't be read as a table of numbers.
    """
    ending = ending_of(path.name)
    if ending is None:
        raise DataError(f"{path.name} has an ending that isn't known: expected one of {', '.join(FILE_ENDINGS)}")
    if header is not None and ending not in TEXT_ENDINGS:
        raise DataError(f"header={header} was given for {path.name}: only text files have a header line; leave it away")
    chooses = bool(drop) or label is not None or features is not None
    labels: npt.NDArray[np.generic] | pd.Series | None = None
    if ending in TEXT_ENDINGS:
        table = read_text(path, whitespace=ending.startswith(".txt"), header=header)
    elif ending == ".parquet":
        table = named_columns(read_parquet(path), name=path.name)
    else:
        values, labels = read_numpy(path)
        if not chooses:
            return _with_labels(as_rows(values, name=path.name), labels, path)
        if values.ndim != 2:
            raise DataError(
                f"{path.name} is no table {values.shape}: drop, label and features choose columns; leave them out"
            )
        if labels is not None and label is not None:
            raise DataError(f"{path.name} holds an array of labels already: leave out label={label!r}")
        table = named_columns(pd.DataFrame(values), name=path.name)
    chosen, label_column = split_columns(table, drop=drop, label=label, features=features, name=path.name)
    names = tuple(str(column) for column in chosen.columns)
    rows = to_float32(to_numbers(chosen, name=path.name), name=path.name, feature_names=names)
    dataset = Dataset(rows, feature_names=names, name=path.name)
    return _with_labels(dataset, labels if label_column is None else label_column, path)


def _with_labels(dataset: Dataset, labels: "npt.NDArray[np.generic] | pd.Series | None", path: Path) -> Dataset:
    name = path.name[: -len(ending_of(path.name) or "")]
    if labels is None:
        return dataclasses.replace(dataset, name=name)
    if labels.shape not in ((dataset.num_rows,), (dataset.num_rows, 1)):
        raise DataError(
            f"{path.name} has labels of shape {labels.shape}: expected one for each of {dataset.num_rows} rows"
        )
    codes, label_names = code_labels(
        pd.Series(labels.reshape(-1) if isinstance(labels, np.ndarray) else labels), name=path.name
    )
    return dataclasses.replace(dataset, labels=codes, label_names=label_names, name=name)


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a Parquet file's table.

    Args:
        path: the file.

    Raises:
        DataError: for a file that isn't one.
    """
    try:
        return pd.read_parquet(path)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(f"{path.name} can't be read as Parquet ({first_line(error)}): check the file") from error


def read_numpy(path: Path) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic] | None]:
    """Read the array of rows in a .npy or .npz file, and that of labels where there is one.

    Args:
        path: the file.

    Raises:
        DataError: for a file that holds no such array.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
        with loaded:
            arrays = {key: np.asarray(loaded[key]) for key in loaded.files}
    except Exception as error:
        # A damaged file raises whatever its bytes lead NumPy into (zip, zlib, tokenizer), and NumPy's own words for
        # some of it recommend to unpickle the file.
        detail = f" ({first_line(error)})" if isinstance(error, (OSError, MemoryError)) else ""
        raise DataError(
            f"{path.name} can't be read{detail}: expected arrays of numbers written by numpy.save or numpy.savez; "
            "arrays of Python objects are not read"
        ) from error
    labels = next((arrays.pop(key) for key in _LABELS_KEYS if key in arrays and len(arrays) > 1), None)
    if len(arrays) == 1:
        return next(iter(arrays.values())), labels
    rows = next((arrays[key] for key in _ROWS_KEYS if key in arrays), None)
    if rows is None:
        raise DataError(
            f"{path.name} holds {quoted(arrays) or 'no array'}: expected one array, or the rows as "
            f"{quoted(_ROWS_KEYS)} and the labels as {quoted(_LABELS_KEYS)}; save it under such names"
        )
    return rows, labels
