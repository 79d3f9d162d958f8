"""Delimited text: what is read, what is missing, and what is refused with a message that helps."""

import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pyro_lvm.data import Dataset, load
from pyro_lvm.errors import DataError

NAN = float("nan")


def write(folder: Path, text: str, name: str = "table.csv") -> str:
    path = folder / name
    path.write_bytes(text.encode())
    return str(path)


def equal(dataset: Dataset, expected: object) -> bool:
    return np.array_equal(dataset.rows.numpy(), np.asarray(expected, np.float32), equal_nan=True)


def refusal(*arguments: object, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        load(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message, "an error is one line"
    return message


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", [True, False])
def test_delimiter_and_header_are_found(tmp_path: Path, delimiter: str, header: bool) -> None:
    """A wrong guess makes one column of everything, or a row of names."""
    lines = [["height", "weight"]] * header + [["1", "2.5"], ["3", "-4e-3"]]
    dataset = load(write(tmp_path, "".join(delimiter.join(line) + "\n" for line in lines)))
    assert equal(dataset, [[1, 2.5], [3, -4e-3]])
    assert dataset.feature_names == (("height", "weight") if header else ("0", "1"))
    assert dataset.name == "table"


def test_every_way_of_leaving_a_cell_empty_is_missing(tmp_path: Path) -> None:
    """A missing value read as text would refuse the file, read as 0 would falsify it."""
    dataset = load(write(tmp_path, 'a,b\n1,1\n,2\n  ,3\nNA,4\n NaN ,5\nnull,6\n"",7\n2,8\n'))
    assert equal(dataset, [[1, 1], *([NAN, number] for number in range(2, 8)), [2, 8]])
    assert dataset.num_missing == 6


def test_text_that_reads_as_a_number_is_one(tmp_path: Path) -> None:
    """Spaces, quotes, exponents and truth values are how programs write numbers."""
    dataset = load(write(tmp_path, 'a,b,c,d\n 2.5 ,"3",1e-3,True\n"4 ", "5",-1E2,FALSE\n ,.5,+7.,true\n'))
    assert equal(dataset, [[2.5, 3, 1e-3, 1], [4, 5, -100, 0], [NAN, 0.5, 7, 1]])


def test_a_truth_column_with_a_hole_is_numeric(tmp_path: Path) -> None:
    """pandas makes objects of such a column, which must not be taken for text."""
    assert equal(load(write(tmp_path, "a,b\nTrue,1\n,2\nFalse,3\n")), [[1, 1], [NAN, 2], [0, 3]])


def test_headerless_file_with_text_labels_loses_no_row(tmp_path: Path) -> None:
    """The first row of such a file has text in it, and is data all the same."""
    dataset = load(write(tmp_path, "5.1,3.5,setosa\n4.9,,virginica\n4.7,3.2, setosa\n"), label="2")
    assert equal(dataset, [[5.1, 3.5], [4.9, NAN], [4.7, 3.2]])
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 1, 0]
    assert dataset.label_names == ("setosa", "virginica")


@pytest.mark.parametrize(
    ("text", "header", "names", "num_rows"),
    [
        ("0,1,2\n5,6,7\n8,9,1\n", None, ("0", "1", "2"), 2),  # as pandas names nameless columns
        ("1990,1991\n5,6\n8,9\n", None, ("0", "1"), 3),
        ("1990,1991\n5,6\n8,9\n", True, ("1990", "1991"), 2),
        ("?,x\n5,6\n8,9\n", None, ("?", "x"), 2),
        (",a\n0,6\n1,9\n", None, ("Unnamed: 0", "a"), 2),
    ],
)
def test_doubtful_headers(
    tmp_path: Path, text: str, header: bool | None, names: tuple[str, ...], num_rows: int
) -> None:
    """A header of numbers can't be told from data, but its owner can say so."""
    dataset = load(write(tmp_path, text), header=header)
    assert (dataset.feature_names, dataset.num_rows) == (names, num_rows)


def test_garbage_in_the_first_row_is_no_header(tmp_path: Path) -> None:
    """Taking it for names would drop a row of data without a word."""
    assert "column '1' of table.csv isn't numeric: '?' in row 1" in refusal(write(tmp_path, "5,?\n5,6\n8,9\n"))


@pytest.mark.parametrize("ending", [".csv.gz", ".tsv.gz", ".txt.gz"])
def test_compressed_text(tmp_path: Path, ending: str) -> None:
    """A compressed table is read as the table it holds."""
    path = tmp_path / f"small{ending}"
    path.write_bytes(gzip.compress(b"a\tb\n1\t2\n3\t\n"))
    dataset = load(path)
    assert equal(dataset, [[1, 2], [3, NAN]])
    assert dataset.name == "small"


def test_whitespace_table(tmp_path: Path) -> None:
    """Such tables are indented and aligned with varying numbers of spaces."""
    assert equal(load(write(tmp_path, "   1.0e0  2\n  -3\t\t4   \n\n 5 NaN\n", "t.txt")), [[1, 2], [-3, 4], [5, NAN]])


def test_spreadsheet_habits(tmp_path: Path) -> None:
    """A byte-order mark must not become part of a name, nor carriage returns or blank lines part of the data."""
    dataset = load(write(tmp_path, "\ufeffa,b\r\n1,2\r\n\r\n3,4\r\n"))
    assert dataset.feature_names == ("a", "b")
    assert equal(dataset, [[1, 2], [3, 4]])


# --- columns ----------------------------------------------------------------------------------------------------------

PEOPLE = "id,height,weight,city\n7,1.5,50,Oslo\n8,1.75,,\n9,2,80,Bergen\n"


def test_columns_come_in_the_order_asked_for(tmp_path: Path) -> None:
    """Loadings are read by column: a silent reordering would name them wrongly."""
    path = write(tmp_path, PEOPLE)
    assert equal(load(path, features=["weight", "id"]), [[50, 7], [NAN, 8], [80, 9]])
    dropped = load(path, drop="id", label="city")
    assert dropped.feature_names == ("height", "weight")
    assert equal(dropped, [[1.5, 50], [1.75, NAN], [2, 80]])
    assert dropped.labels is not None
    assert dropped.labels.tolist() == [1, -1, 0]
    assert dropped.label_names == ("Bergen", "Oslo")


@pytest.mark.parametrize(
    ("column", "names", "codes"),
    [
        (["10", "9", "10"], ("9", "10"), [1, 0, 1]),
        (["3", "", "3"], ("3",), [0, -1, 0]),
        (["0.5", "2", "0.5"], ("0.5", "2.0"), [0, 1, 0]),
        (["True", "False", "True"], ("False", "True"), [1, 0, 1]),
        (["2020-02-01", "2019-12-31", " "], ("2019-12-31", "2020-02-01"), [1, 0, -1]),
    ],
)
def test_labels_of_any_kind_are_coded(
    tmp_path: Path, column: list[str], names: tuple[str, ...], codes: list[int]
) -> None:
    """Labels are sorted as what they are (9 before 10), and a hole makes no label of its own."""
    dataset = load(write(tmp_path, "x,t\n" + "".join(f"{i},{label}\n" for i, label in enumerate(column))), label="t")
    assert dataset.labels is not None
    assert dataset.labels.dtype == torch.int64
    assert (dataset.label_names, dataset.labels.tolist()) == (names, codes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"drop": ["hieght"]}, ["table.csv", "'hieght'", "(drop)", "did you mean 'height'"]),
        ({"label": "City"}, ["'City'", "(label)", "did you mean 'city'"]),
        ({"features": ["id", "zzz"]}, ["'zzz'", "(features)", "choose from 'id', 'height', 'weight', 'city'"]),
        ({"features": ["id", "id"]}, ["'id'", "name it once"]),
        ({"features": ["id"], "drop": ["id"]}, ["'id'", "drop", "features", "name it once"]),
        ({"features": ["id"], "label": "id"}, ["'id'", "label", "features", "name it once"]),
        ({"drop": ["id", "height", "weight"], "label": "city"}, ["no columns left", "at least 1"]),
        ({"features": []}, ["no columns left"]),
        ({}, ["'city'", "'Oslo' in row 1", "--drop NAME", "--label NAME", "--features A,B"]),
        ({"drop": "city", "train": False}, ["train=False", "no test set"]),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, options: dict[str, object], words: list[str]) -> None:
    """A message that doesn't name the column leaves a person searching a wide table."""
    message = refusal(write(tmp_path, PEOPLE), **options)
    assert [word for word in words if word not in message] == []


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["table.csv is empty"]),
        ("\n \n", ["table.csv is empty"]),
        ("a,b\n", ["header and no rows"]),
        ("a,b\n1,2\n", ["1 row:", "at least 2 rows"]),
        ("1,2\n", ["1 row:", "at least 2 rows"]),
        ("a,b\n1,2\n1,2,3\n", ["3 fields in line 3", "expected 2"]),
        ("a,b\n1,2\n1\n", ["1 field in line 3", "expected 2"]),
        ("a,b\n1,2,\n3,4,\n", ["3 fields in line 2", "expected 2"]),
        ("a,b,a,c,c\n1,2,3,4,5\n1,2,3,4,5\n", ["more than one column 'a', 'c'"]),
        ("a,b\n1,2\ninf,2\n", ["column 'a'", "infinite in row 2"]),
        ("a,b\n1,2\n1,-Infinity\n", ["column 'b'", "infinite in row 2"]),
        ("a,b\n1,2\n1e39,2\n", ["column 'a'", "beyond float32", "row 2", "rescale"]),
        ("a,b\n1,\n2,\n", ["no value at all in column 'b'", "--drop"]),
        ("a,b\n1,2\n3,1_000\n", ["column 'b'", "'1_000' in row 2"]),
        ("a,b\n1,0x10\n3,4\n", ["column 'b'", "'0x10' in row 1"]),
        ('a,b\n1,"1,000"\n3,4\n', ["column 'b'", "'1,000' in row 1", "decimal point and no commas"]),
        ("a;b\n1;2,5\n3;4\n", ["column 'b'", "'2,5' in row 1", "decimal point and no commas"]),
        ("1,5;2,5\n3,5;4,5\n", ["column '1,5'", "'3,5' in row 1", "decimal point"]),
        ("a,b\n1,2020-01-01\n3,2020-01-02\n", ["column 'b'", "2020-01-01"]),
        ("country,1990,1991\nNO,1,2\nSE,3,4\n", ["column '0'", "'country' in row 1", "header=True"]),
        ('a,b\n1,"2\n3,4\n', ["table.csv"]),
        ("a,b\n1," + "x" * 200_000 + "\n", ["table.csv", "can't be read"]),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    """Each of these would otherwise end in another library's traceback, or in a wrong table."""
    message = refusal(write(tmp_path, text))
    assert [word for word in words if word not in message] == []
    assert len(message) < 400


@pytest.mark.parametrize("row", ["1,2,3,4", "1,2", "1"])
def test_ragged_rows_far_down(tmp_path: Path, row: str) -> None:
    """pandas would fill a row that is cut off with missing values, and the model would believe it."""
    good = "1,2,3\n" * 500
    message = refusal(write(tmp_path, f"a,b,c\n{good}{row}\n{good}"))
    assert "line 502" in message
    assert "xpected 3" in message


def test_undecodable_and_damaged_files(tmp_path: Path) -> None:
    """A person should learn that the file is at fault, and how."""
    (tmp_path / "excel.csv").write_bytes("a,b\n1,2\n".encode("utf-16"))
    assert "isn't UTF-8" in refusal(tmp_path / "excel.csv")
    (tmp_path / "not.csv.gz").write_bytes(b"a,b\n1,2\n3,4\n")
    assert "can't be read" in refusal(tmp_path / "not.csv.gz")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 1000)[:-20])
    assert "can't be read" in refusal(tmp_path / "cut.csv.gz")


def test_label_without_a_value(tmp_path: Path) -> None:
    """Labels that are missing everywhere are a mistake in the file or in the name."""
    assert "no label in any row" in refusal(write(tmp_path, "a,t\n1,\n2,NA\n"), label="t")


def test_rows_missing_entirely_and_constant_columns_are_data(tmp_path: Path) -> None:
    """Refusing them would refuse real tables; a row without a value has a posterior: the prior."""
    assert equal(load(write(tmp_path, "a,b\n1,2\n,\n1,3\n")), [[1, 2], [NAN, NAN], [1, 3]])


def test_loss_in_float32_is_said(tmp_path: Path) -> None:
    """A large offset drowns the variation: the fit would be to rounding errors."""
    lines = "".join(f"{1e9 + i / 10},{1e9 + 1e6 * i},{0.1},{i * 1e-44}\n" for i in range(10))
    with pytest.warns(UserWarning, match=r"fewer than 3 digits of the variation in column 'offset', 'tiny':") as caught:
        load(write(tmp_path, f"offset,fine,constant,tiny\n{lines}"))
    assert len(caught) == 1


# --- any table --------------------------------------------------------------------------------------------------------

FLOATS = st.floats(width=32, allow_infinity=False, allow_nan=True)
# A leading letter: a name that reads as a number, or as missing, can't be told from data.
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")) | st.sampled_from("\"' ,;"), max_size=12
).map(lambda name: f"n{name}".strip())


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    num_rows, data_dim = draw(st.integers(2, 6)), draw(st.one_of(st.integers(1, 5), st.just(200)))
    values = draw(hnp.arrays(np.float32, (num_rows, data_dim), elements=FLOATS, fill=st.just(np.float32(0.1))))
    values[0, np.isnan(values).all(0)] = 1.0
    names = draw(st.lists(NAMES, min_size=min(data_dim, 5), max_size=min(data_dim, 5), unique=True))
    return pd.DataFrame(values, columns=names + [f"c{i}" for i in range(len(names), data_dim)])


def test_a_name_with_another_files_delimiter_and_a_quote(tmp_path: Path) -> None:
    """The wrong delimiter would open a quote in the header that takes in the whole file."""
    dataset = load(write(tmp_path, 'n,"n;"""\n0.1,0.2\n0.3,0.4\n'))
    assert dataset.feature_names == ("n", 'n;"')
    assert equal(dataset, [[0.1, 0.2], [0.3, 0.4]])


@pytest.mark.filterwarnings("ignore:.*float32 keeps:UserWarning")  # neighbouring float32s, written as short decimals
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables(), delimiter=st.sampled_from(",;\t"), quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_any_table_survives_csv(tmp_path: Path, table: pd.DataFrame, delimiter: str, quoting: int) -> None:
    """Odd names, holes, a single column, many columns: the file's numbers come back to the last bit."""
    if table.shape[1] == 1:
        # A lone name with another file's delimiter in it is taken for a ragged file, unless it is quoted.
        quoting = csv.QUOTE_ALL
    path = tmp_path / "any.csv"
    text = io.StringIO()
    table.to_csv(text, index=False, sep=delimiter, quoting=quoting)
    path.write_bytes(text.getvalue().encode())
    dataset = load(path)
    assert dataset.feature_names == tuple(table.columns)
    assert equal(dataset, table.to_numpy())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables())
def test_any_table_survives_parquet_and_numpy(tmp_path: Path, table: pd.DataFrame) -> None:
    """Binary formats give the rows back exactly as well, with the names where they have any."""
    table.to_parquet(tmp_path / "any.parquet")
    np.save(tmp_path / "any.npy", table.to_numpy())
    np.savez_compressed(tmp_path / "any.npz", whatever=table.to_numpy())
    assert load(tmp_path / "any.parquet").feature_names == tuple(table.columns)
    for name in ("any.parquet", "any.npy", "any.npz"):
        assert equal(load(tmp_path / name), table.to_numpy()), name
