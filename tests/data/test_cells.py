"""Cells are written as they were read, whatever kind of file they are in."""

import decimal
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyro_lvm.data.cells import Cells
from pyro_lvm.data.writing import check_new_file, write_table
from pyro_lvm.errors import DataError

TEXT = {
    "comma.csv": '"",name,a,b\n1,"x, y",1.50,NA\n2,NA, 1e2 ,\n3,,007,+2\n',
    "semicolon.csv": "id;a;b\n1;1.50;NA\n2;;3\n",
    "tab.tsv": "id\ta\tb\n1\t1.50\tNA\n2\t\t3\n",
    "blanks.txt": "id a b\n1 1.50 NA\n2 NaN 3\n",
    "bare.csv": "1,1.50,\n2,,3\n",
}


@pytest.mark.parametrize("name", TEXT)
def test_text_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    # Wrong: a column of codes such as 007 would lose its zeros because another column was filled.
    path = tmp_path / name
    path.write_text(TEXT[name])
    cells = Cells.read(path)
    cells.write(tmp_path / f"again_{name}", [cells.frame])
    again = Cells.read(tmp_path / f"again_{name}")
    assert again.frame.equals(cells.frame)
    assert (again.header, again.delimiter) == (cells.header, cells.delimiter)
    columns = list(cells.frame.columns)[-2:]
    values = np.full((len(cells.frame), 2), -1.25)
    missing = np.isnan(cells.numbers(columns))
    filled = cells.filled(columns, values, missing)
    assert missing.any()
    for i, column in enumerate(columns):
        assert list(filled[column][missing[:, i]]) == ["-1.25"] * int(missing[:, i].sum())
        assert filled[column][~missing[:, i]].equals(cells.frame[column][~missing[:, i]])
    others = [column for column in cells.frame.columns if column not in columns]
    assert filled[others].equals(cells.frame[others])


def test_numbers_keep_their_kind(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "whole": pd.array([1, None, 3], dtype="Int64"),
            "single": np.array([1.5, np.nan, 2.5], np.float32),
            "word": ["a", None, "c"],
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    cells = Cells.read(tmp_path / "t.parquet")
    missing = np.isnan(cells.numbers(["whole", "single"]))
    filled = cells.filled(["whole", "single"], np.full((3, 2), 9.25), missing)
    cells.write(tmp_path / "u.parquet", [filled])
    again = pd.read_parquet(tmp_path / "u.parquet")
    assert list(again["whole"]) == [1.0, 9.25, 3.0]
    assert again["single"].dtype == np.float32
    assert list(again["word"].fillna("")) == ["a", "", "c"]


def test_other_kinds_of_numbers_are_filled_as_numbers(tmp_path: Path) -> None:
    # Wrong: what is filled in would be lost, as no category, or be text among decimal fractions, which no file takes.
    categories = pd.Series([10.0, None, 30.0]).astype("category")
    decimals = [decimal.Decimal("1.5"), None, decimal.Decimal("2.5")]
    words = pd.Series(["1.50", None, "007"]).astype("category")
    pd.DataFrame({"a": categories, "b": decimals, "c": words}).to_parquet(tmp_path / "t.parquet")
    cells = Cells.read(tmp_path / "t.parquet")
    missing = np.isnan(cells.numbers(["a", "b", "c"]))
    cells.write(tmp_path / "u.parquet", [cells.filled(["a", "b", "c"], np.full((3, 3), 9.25), missing)])
    again = pd.read_parquet(tmp_path / "u.parquet")
    assert list(again["a"]) == [10.0, 9.25, 30.0]
    assert list(again["b"]) == [1.5, 9.25, 2.5]
    assert list(again["c"]) == ["1.50", "9.25", "007"]


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet", "t.npy"])
def test_draws_are_written_one_at_a_time(tmp_path: Path, name: str) -> None:
    # Wrong: the memory that draws of a long table take would grow with their number.
    path, rows = tmp_path / name, np.arange(12.0).reshape(4, 3)
    if name.endswith(".npy"):
        np.save(path, rows)
    else:
        write_table(path, [pd.DataFrame(rows, columns=["a", "b", "c"])])
    cells = Cells.read(path)
    living: list[weakref.ref[pd.DataFrame]] = []

    def frames() -> Iterator[pd.DataFrame]:
        for draw in range(6):
            gc.collect()
            assert sum(frame() is not None for frame in living) <= 2
            frame = cells.frame.copy() if name.startswith("t.csv") else cells.frame + draw
            living.append(weakref.ref(frame))
            yield frame
            del frame

    out = tmp_path / f"out_{name}"
    cells.write(out, frames(), draws=6)
    if name.endswith(".npy"):
        np.testing.assert_array_equal(np.load(out), rows + np.arange(6.0)[:, None, None])
        return
    again = Cells.read(out)
    assert list(again.frame.columns) == ["draw", "a", "b", "c"]
    drawn = again.numbers(["draw", "a", "b", "c"])
    np.testing.assert_array_equal(drawn[:, 0], np.repeat(np.arange(1, 7), 4))
    added = 0 if name.startswith("t.csv") else np.repeat(np.arange(6.0), 4)[:, None]
    np.testing.assert_array_equal(drawn[:, 1:], np.tile(rows, (6, 1)) + added)


def test_a_file_that_is_there_survives_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("precious")

    class Full(pd.DataFrame):
        def to_csv(self, *arguments: object, **options: object) -> None:  # type: ignore[override]
            raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match="No space left on device"):
        write_table(path, [Full({"a": [1]})])
    assert path.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]
    with pytest.raises(DataError, match="--force"):
        check_new_file(path, force=False)
    with pytest.raises(DataError, match="is a folder"):
        check_new_file(tmp_path, force=True)
