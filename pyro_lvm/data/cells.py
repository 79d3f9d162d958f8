"""Tables whose cells stay as they are in their file, to be written again with some of them filled or columns added."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pyro_lvm.data.checks import check_no_infinity, quoted
from pyro_lvm.data.columns import named_columns, to_numbers
from pyro_lvm.data.files import TEXT_ENDINGS, ending_of, read_numpy, read_parquet
from pyro_lvm.data.text import read_verbatim
from pyro_lvm.data.writing import replacing, write_table
from pyro_lvm.errors import DataError

# What float32 parameters can tell of a number.
_FORMAT = "{:.9g}"
_DRAW = "draw"
_ADVICE = "the run was fitted to this column: write its cells as numbers, and missing ones as empty cells or NA"


@dataclass(frozen=True)
class Cells:
    """A table as a file has it.

    Args:
        frame: its cells: text of a text file, else numbers or whatever else the file holds.
        name: of the file.
        ending: of the file's name.
        named: whether the columns have names of their own, or are numbered.
        header: a text file's first line, where that is one.
        delimiter: between two cells of a text file.
    """

    frame: pd.DataFrame
    name: str
    ending: str
    named: bool = True
    header: Sequence[str] | None = None
    delimiter: str = ","

    @classmethod
    def read(cls, path: Path) -> Cells:
        """Read a file.

        Args:
            path: delimited text, .parquet, or .npy of two dimensions.

        Raises:
            DataError: for another file, or one that can't be read.
        """
        ending = ending_of(path.name)
        if ending is None or ending == ".npz":
            expected = ", ".join((*TEXT_ENDINGS, ".parquet", ".npy"))
            raise DataError(f"'{path}' is no table in a file: expected one that ends in {expected}")
        if not path.is_file():
            raise DataError(f"there is no file {path}: check the path")
        if ending in TEXT_ENDINGS:
            text = read_verbatim(path, whitespace=ending.startswith(".txt"))
            return cls(text.cells, path.name, ending, text.header is not None, text.header, text.delimiter)
        if ending == ".parquet":
            return cls(named_columns(read_parquet(path), name=path.name), path.name, ending)
        values, _ = read_numpy(path)
        if values.ndim != 2 or values.dtype.kind not in "buif":
            raise DataError(
                f"{path.name} holds {values.dtype} of shape {values.shape}: expected numbers, rows x columns"
            )
        return cls(named_columns(pd.DataFrame(values), name=path.name), path.name, ending, named=False)

    def columns(self, names: Sequence[str] | None, data_dim: int) -> list[str]:
        """Find columns by their names, or by their places where the one or the other has none.

        Args:
            names: what is looked for, None where it has no names.
            data_dim: how many columns that is.

        Raises:
            DataError: where they aren't all there.
        """
        known = list(self.frame.columns)
        if names is not None and set(names) <= set(known):
            return list(names)
        numbered = names is None or list(names) == [str(index) for index in range(data_dim)]
        if (numbered or not self.named) and len(known) == data_dim:
            return known
        if names is None:
            raise DataError(f"{self.name} has {len(known)} columns: expected the {data_dim} that the run was fitted to")
        absent = [name for name in names if name not in known]
        raise DataError(
            f"{self.name} has no column {quoted(absent)}, which the run was fitted to: its columns are "
            f"{quoted(known, limit=10)}"
        )

    def numbers(self, columns: Sequence[str]) -> npt.NDArray[np.float64]:
        """Read columns as numbers, (num_rows, number of columns), NaN for a missing one.

        Args:
            columns: their names.

        Raises:
            DataError: for a cell that isn't a number, or is infinite.
        """
        values = to_numbers(self.frame[list(columns)], name=self.name, advice=_ADVICE)
        check_no_infinity(values, name=self.name, names=tuple(columns))
        return values

    def filled(
        self, columns: Sequence[str], values: npt.NDArray[np.float64], missing: npt.NDArray[np.bool_]
    ) -> pd.DataFrame:
        """Fill what is missing, and leave every other cell as it is.

        Args:
            columns: names of the columns to fill.
            values: (num_rows, number of columns), of which those of missing cells are used.
            missing: (num_rows, number of columns), which cells these are.
        """
        frame = self.frame.copy(deep=False)
        for index, column in enumerate(columns):
            if missing[:, index].any():
                frame[column] = _filled_column(frame[column], values[:, index], missing[:, index])
        return frame

    def write(self, path: Path, frames: Iterable[pd.DataFrame], *, draws: int | None = None) -> None:
        """Write tables with this one's columns to a file of the same kind.

        Args:
            path: the file, with this one's ending; one that is there is replaced once the new one is complete.
            frames: one table, or several, which follow each other; they are taken one at a time.
            draws: None for one table; else how many there are: a column ``draw`` in front says which of them a row is
                of, from 1 on, and .npy has a dimension more in front.

        Raises:
            DataError: for a column of the name ``draw`` among the others, or a file that can't be written.
        """
        if self.ending == ".npy":
            with replacing(path) as beside:
                _write_array(beside, (frame.to_numpy() for frame in frames), draws)
            return
        header = self.header
        if draws is not None:
            if _DRAW in self.frame.columns:
                raise DataError(f"{self.name} has a column {_DRAW!r} already: rename it, or ask for no draws")
            frames = (_numbered(frame, index) for index, frame in enumerate(frames, start=1))
            header = None if header is None else [_DRAW, *header]
        write_table(path, frames, delimiter=self.delimiter, header=False if header is None else header)


def _filled_column(column: pd.Series, values: npt.NDArray[np.float64], missing: npt.NDArray[np.bool_]) -> pd.Series:
    if not pd.api.types.is_numeric_dtype(column.dtype):
        cells = column.to_numpy(dtype=object, copy=True)
        if all(isinstance(cell, str) for cell in cells[~missing]):
            cells[missing] = [_FORMAT.format(value) for value in values[missing]]
            # What is filled in isn't among the categories.
            dtype = None if isinstance(column.dtype, pd.CategoricalDtype) else column.dtype
            return pd.Series(cells, column.index, dtype=dtype)
        # Such as a decimal fraction's: one kind of number a column.
        column = pd.to_numeric(pd.Series(np.where(missing, np.nan, cells), column.index))
    whole = np.where(missing, values, column.to_numpy(dtype=np.float64, na_value=np.nan))
    return pd.Series(whole, column.index).astype(
        column.dtype if pd.api.types.is_float_dtype(column.dtype) else np.float64
    )


def _numbered(frame: pd.DataFrame, draw: int) -> pd.DataFrame:
    frame.insert(0, _DRAW, draw)
    return frame


def _write_array(path: Path, arrays: Iterable[npt.NDArray[np.generic]], draws: int | None) -> None:
    """As numpy.save would write them stacked, one after the other."""
    with path.open("wb") as file:
        for index, array in enumerate(arrays):
            if index == 0:
                facts = np.lib.format.header_data_from_array_1_0(np.ascontiguousarray(array))
                facts["shape"] = array.shape if draws is None else (draws, *array.shape)
                np.lib.format.write_array_header_1_0(file, facts)
            file.write(array.tobytes())
