"""Cells are written as they were read, whatever kind of file they are in."""

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
    filled = cells.filled(columns, values)
    missing = np.isnan(cells.numbers(columns))
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
    filled = cells.filled(["whole", "single"], np.full((3, 2), 9.25))
    cells.write(tmp_path / "u.parquet", [filled])
    again = pd.read_parquet(tmp_path / "u.parquet")
    assert list(again["whole"]) == [1.0, 9.25, 3.0]
    assert again["single"].dtype == np.float32
    assert list(again["word"].fillna("")) == ["a", "", "c"]


def test_a_file_that_is_there_survives_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("precious")

    class Full(pd.DataFrame):
        def to_csv(self, *arguments: object, **options: object) -> None:  # type: ignore[override]
            raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match="No space left on device"):
        write_table(path, Full({"a": [1]}))
    assert path.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]
    with pytest.raises(DataError, match="--force"):
        check_new_file(path, force=False)
    with pytest.raises(DataError, match="is a folder"):
        check_new_file(tmp_path, force=True)
