"""Which columns of a table become features and which the labels, and how a column's cells become numbers."""

import collections
import decimal
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from pyro_lvm.data.checks import brief, near_matches, quoted
from pyro_lvm.errors import DataError

# The words that pandas reads as missing (the na_values of read_csv); needed again for cells with spaces around them.
_MISSING_WORDS = frozenset({"", "NA", "N/A", "n/a", "NULL", "null", "None", "NaN", "nan", "-NaN", "-nan", "<NA>"}) | {
    *("#N/A", "#N/A N/A", "#NA", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN")
}
_ADVICE = (
    "leave it out (--drop NAME), use it as the label (--label NAME), or choose the numeric columns (--features A,B)"
)
_TRUTH = {"true": 1.0, "false": 0.0}
# float() alone would also take 1_000, and digits of other scripts.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.ASCII | re.IGNORECASE)


def is_missing_word(text: str) -> bool:
    """Tell whether a cell's text stands for a missing value.

    Args:
        text: the cell, with or without spaces around it.

    Returns:
        True for an empty cell and for ``NA``, ``NaN``, ``null`` and their like.
    """
    return text.strip() in _MISSING_WORDS


def number_in(value: object) -> float | None:
    """Read one cell as a number.

    Args:
        value: text (spaces around it don't matter), a number, a truth value, or a missing value.

    Returns:
        The number, 1 or 0 for a truth value, NaN for a missing one, and None for anything else.
    """
    if isinstance(value, str):
        text = value.strip()
        if text in _MISSING_WORDS:
            return float("nan")
        return float(text) if _NUMBER.fullmatch(text) else _TRUTH.get(text.lower())
    if isinstance(value, (bool, int, float, decimal.Decimal, np.bool_, np.integer, np.floating)):
        try:
            return float(value)
        except OverflowError:
            return float("inf")
    if value is None or value is pd.NA or value is pd.NaT:
        return float("nan")
    return None


def named_columns(table: pd.DataFrame, *, name: str) -> pd.DataFrame:
    """Give a table whose column names are distinct strings.

    Args:
        table: any table.
        name: what messages call it.

    Returns:
        The same columns under ``str`` names.

    Raises:
        DataError: where two columns have the same name.
    """
    names = pd.Index([str(column) for column in table.columns], dtype=object)
    check_distinct(list(names), name=name)
    return table.set_axis(names, axis="columns")


def check_distinct(names: Sequence[str], *, name: str) -> None:
    """Check that no two columns share a name.

    Args:
        names: the columns' names.
        name: what messages call the table.

    Raises:
        DataError: names the ones that come twice.
    """
    twice = [column for column, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{name} has more than one column {quoted(twice)}: rename them so that every name is distinct")


def split_columns(
    table: pd.DataFrame,
    *,
    drop: Sequence[str] = (),
    label: str | None = None,
    features: Sequence[str] | None = None,
    name: str = "data",
) -> tuple[pd.DataFrame, "pd.Series | None"]:
    """Choose the feature columns and the label column of a table.

    Args:
        table: a table whose names are distinct strings.
        drop: names of columns to leave out.
        label: name of the column that holds the labels; it is no feature.
        features: names of the columns to keep, in this order; every column but the label and the dropped without it.
        name: what messages call the table.

    Returns:
        The table of features, and the label column if one was named.

    Raises:
        DataError: for a name that the table doesn't have, or one that is given two roles.
    """
    known = [str(column) for column in table.columns]
    roles = {"drop": [*drop], "label": [] if label is None else [label], "features": [*(features or ())]}
    role_of: dict[str, str] = {}
    for role, given in roles.items():
        for column in given:
            if column not in known:
                raise DataError(f"{name} has no column {column!r} ({role}): {near_matches(column, known)}")
            if column in role_of:
                raise DataError(
                    f"column {column!r} of {name} is named in {role_of[column]} and in {role}: name it once"
                )
            role_of[column] = role
    kept = [column for column in known if column not in role_of] if features is None else roles["features"]
    if not kept:
        raise DataError(f"{name} has no columns left to model: keep at least 1 besides the label and the dropped ones")
    return table[kept], None if label is None else table[label]


def to_numbers(table: pd.DataFrame, *, name: str = "data", advice: str = _ADVICE) -> npt.NDArray[np.float64]:
    """Read every cell of a table as a number.

    Args:
        table: columns of numbers, truth values, or text that reads as a number (``" 2.5 "``, ``"1e-3"``); a missing
            value is an empty cell, NaN, NA or None.
        name: what messages call the table.
        advice: what to do about a column that isn't numeric.

    Returns:
        (num_rows, data_dim) float64, NaN for a missing value.

    Raises:
        DataError: names the first column that isn't numeric, and the cell that isn't a number.
    """
    numbers = np.empty(table.shape, np.float64)
    for index, column in enumerate(table.columns):
        numbers[:, index] = _column_numbers(table[column], name, advice)
    return numbers


def _column_numbers(column: "pd.Series", name: str, advice: str) -> npt.NDArray[np.float64]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = pd.Series(np.asarray(column.array), name=column.name)
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_complex_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    numbers = [number_in(value) for value in column]
    if None not in numbers:
        return np.asarray(numbers, np.float64)
    row = numbers.index(None)
    value = column.iloc[row]
    hint = ""
    if isinstance(value, str) and number_in(value.replace(",", "")) is not None:
        hint = " (write numbers with a decimal point and no commas)"
    elif isinstance(value, str) and not any(map(str.isalnum, value)):
        hint = " (leave a missing value's cell empty, or write NA)"
    elif row == 0 and str(column.name).isdecimal():
        hint = " (if that is a header, say header=True)"
    raise DataError(
        f"column {str(column.name)!r} of {name} isn't numeric: {brief(value)} in row {row + 1}{hint}; {advice}"
    )


def code_labels(labels: "pd.Series", *, name: str = "data") -> tuple[Tensor, tuple[str, ...]]:
    """Number the distinct labels in sorted order.

    Args:
        labels: (num_rows,) numbers, text, truth values or dates.
        name: what messages call the data.

    Returns:
        (num_rows,) int64 codes from 0, -1 where the label is missing, and the labels' names by code.

    Raises:
        DataError: where no row has a label.
    """
    if isinstance(labels.dtype, pd.CategoricalDtype):
        labels = pd.Series(np.asarray(labels.array))
    if pd.api.types.is_float_dtype(labels.dtype) and (labels.dropna() % 1 == 0).all() and (labels.abs().max() < 2**53):
        # Whole numbers become floats in a column with a hole; a person wrote "3", not "3.0".
        labels = labels.astype("Int64")
    elif not pd.api.types.is_numeric_dtype(labels.dtype) and not pd.api.types.is_datetime64_any_dtype(labels.dtype):
        words = [None if pd.isna(label) or is_missing_word(str(label)) else str(label).strip() for label in labels]
        labels = pd.Series(words, dtype=object)
    codes, distinct = pd.factorize(labels, sort=True)
    if len(distinct) == 0:
        raise DataError(f"{name} has no label in any row: expected labels; choose another column")
    return torch.from_numpy(codes.astype(np.int64)), tuple(str(label) for label in distinct)
