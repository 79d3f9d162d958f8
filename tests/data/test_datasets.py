"""Data held in memory, and data in Parquet and NumPy files."""

import decimal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse
import torch

from pyro_lvm.data import Dataset, as_rows, check_rows, load
from pyro_lvm.errors import DataError

NAN = float("nan")
TABLE = [[1.0, 2.0, 0.0], [4.0, 0.0, 6.0]]


def refusal(call: Callable[..., object], *arguments: object, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message, "an error is one line"
    return message


# --- in memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        TABLE,
        tuple(map(tuple, TABLE)),
        np.array(TABLE, ">f4"),
        np.array(TABLE, np.float16),
        np.array(TABLE, np.longdouble),
        np.array(TABLE, np.int64),
        np.array(TABLE, np.uint8),
        np.asfortranarray(TABLE),
        np.array(TABLE)[::-1][::-1],
        torch.tensor(TABLE, requires_grad=True),
        torch.tensor(TABLE, dtype=torch.bfloat16),
        torch.tensor(TABLE, dtype=torch.int32),
        torch.tensor(TABLE).to_sparse(),
        scipy.sparse.csr_array(TABLE),
        scipy.sparse.coo_matrix(TABLE),
        pd.DataFrame(TABLE),
    ],
    ids=lambda data: f"{type(data).__name__}-{getattr(data, 'dtype', '')}",
)
def test_every_container_gives_the_same_rows(data: object) -> None:
    """A container read transposed, reversed or rounded would change the fit without a word."""
    dataset = as_rows(data)
    assert torch.equal(dataset.rows, torch.tensor(TABLE))
    assert not dataset.rows.requires_grad
    assert (dataset.num_rows, dataset.data_dim, dataset.num_missing) == (2, 3, 0)


def test_truth_values_become_numbers() -> None:
    """Binary data is often stored so."""
    assert as_rows(np.array([[True, False], [False, True]])).rows.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.int64])
def test_masked_entries_are_missing(dtype: type) -> None:
    """Under a mask lies whatever was there; as data it would be wrong."""
    data = np.ma.masked_equal(np.array([[1, 99], [3, 4]], dtype), 99)
    assert np.array_equal(as_rows(data).rows, [[1, NAN], [3, 4]], equal_nan=True)


def test_images_are_flattened_row_by_row() -> None:
    """Pixels in another order would scramble every picture that is drawn of a row."""
    images = torch.arange(24.0).reshape(2, 3, 4)
    dataset = as_rows(images)
    assert dataset.image_shape == (3, 4)
    assert torch.equal(dataset.rows.reshape(2, 3, 4), images)
    assert as_rows(images.reshape(2, 3, 2, 2)).image_shape == (3, 2, 2)


def test_large_matrices_are_shared_and_read_only_ones_copied() -> None:
    """Copying doubles the memory that a large data set takes; a tensor on read-only memory crashes when written to."""
    values = np.array(TABLE, np.float32)
    assert as_rows(values).rows.data_ptr() == values.ctypes.data
    values.flags.writeable = False
    assert as_rows(values).rows.data_ptr() != values.ctypes.data


def test_data_frame_columns() -> None:
    """Nullable, categorical, decimal and textual columns of numbers are numbers; names are kept as text."""
    table = pd.DataFrame(
        {
            "nullable": pd.array([1, None, 3], dtype="Int64"),
            "truth": pd.array([True, None, False], dtype="boolean"),
            "category": pd.Categorical([10, 20, None]),
            "decimal": [decimal.Decimal("0.5"), None, decimal.Decimal(2)],
            "mixed": [" 1 ", 2, None],
            7: np.array([1, 2, 3], np.float16),
        }
    )
    dataset = as_rows(table)
    expected = [[1, 1, 10, 0.5, 1, 1], [NAN, NAN, 20, NAN, 2, 2], [3, 0, NAN, 2, NAN, 3]]
    assert np.array_equal(dataset.rows, np.array(expected, np.float32), equal_nan=True)
    assert dataset.feature_names == ("nullable", "truth", "category", "decimal", "mixed", "7")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.array([["1", "2"], ["3", "4"]]), ["<U1", "real numbers"]),
        (np.array(TABLE, dtype=object), ["object", "float('nan')"]),
        ([[1.0, None], [2.0, 3.0]], ["object", "float('nan')"]),
        (np.array(TABLE, complex), ["complex128", "real numbers"]),
        (np.array(TABLE).astype("datetime64[s]"), ["datetime64", "real numbers"]),
        ([[1.0, 2.0], [3.0]], ["list", "equally many"]),
        ("table.csv", ["'table.csv'", "load()"]),
        (None, ["object"]),
        ([1.0, 2.0], ["(2,)", ".reshape(-1, 1)"]),
        (torch.zeros(2, 2, 2, 2, 2), ["(2, 2, 2, 2, 2)", "rows x columns"]),
        (torch.zeros(1, 3), ["1 row:", "at least 2 rows"]),
        (torch.zeros(0, 3), ["0 rows:", "at least 2 rows"]),
        (torch.zeros(3, 0), ["no columns"]),
        (pd.DataFrame(), ["no columns"]),
        ([[1.0, 2.0], [float("inf"), 3.0]], ["column '0'", "infinite in row 2"]),
        ([[1.0, NAN], [2.0, NAN]], ["no value at all in column '1'"]),
        ([[1.0, 1e300], [2.0, 3.0]], ["column '1'", "beyond float32", "row 1", "rescale"]),
        (np.array([[1.0, 1e300], [2.0, 3.0]]), ["column '1'", "beyond float32"]),
        (pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]), ["more than one column 'a'"]),
        (
            pd.DataFrame({"a": [1, 2], "when": pd.to_datetime(["2020", "2021"])}),
            ["column 'when'", "Timestamp", "row 1"],
        ),
        (pd.DataFrame({"a": [1, 2], "z": [1j, 2j]}), ["column 'z'", "1j", "row 1"]),
        (pd.DataFrame({"a": [1, 2], "list": [[1], [2]]}), ["column 'list'", "[1]", "row 1"]),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(data: object, words: list[str]) -> None:
    """Each of these would otherwise fail deep inside a model, or train on nonsense."""
    message = refusal(as_rows, data)
    assert [word for word in words if word not in message] == []


def test_loss_in_float32_is_measured_and_not_guessed() -> None:
    """A large number that float32 holds exactly loses nothing; a warning there would teach people to ignore it."""
    exact = 2.0**30 + 1024.0 * np.arange(10)
    as_rows(np.stack([exact, np.full(10, 0.1)], 1))
    with pytest.warns(UserWarning, match="column '1'"):
        as_rows(np.stack([exact, exact + np.arange(10) / 7 - 1024.0 * np.arange(10)], 1))
    with pytest.warns(UserWarning, match="column 'stamp'"):
        as_rows(pd.DataFrame({"stamp": 1_700_000_000_000_000_000 + 1_000_000 * np.arange(10)}))


def test_a_data_set_passes_through_and_is_checked() -> None:
    """Code that takes either must not lose labels and names on the way, nor trust what was built by hand."""
    dataset = Dataset(torch.zeros(2, 4), labels=torch.tensor([0, 1]), image_shape=(2, 2), name="mine")
    assert as_rows(dataset) is dataset
    assert repr(dataset) == "Dataset('mine', 2 rows x 4 columns, 0 missing)"
    assert "mine" in refusal(as_rows, Dataset(torch.zeros(1, 4), name="mine"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rows": torch.zeros(2, 4).double()}, ["torch.float64", "as_rows()"]),
        ({"rows": torch.zeros(4)}, ["(4,)", "as_rows()"]),
        ({"rows": torch.zeros(2, 4), "labels": torch.zeros(3)}, ["3 labels", "expected 2"]),
        ({"rows": torch.zeros(2, 4), "feature_names": ("a",)}, ["1 feature names", "expected 4"]),
        ({"rows": torch.zeros(2, 4), "image_shape": (3, 3)}, ["9 pixels", "expected 4"]),
    ],
)
def test_contradicting_shapes(fields: dict[str, Any], words: list[str]) -> None:
    """A data set whose parts don't fit fails where it is made, not where it is drawn."""
    message = refusal(Dataset, **fields)
    assert [word for word in words if word not in message] == []


def test_check_rows_takes_tensors_and_arrays() -> None:
    """Other code checks what it is given by this one function, in the dtype it has."""
    good = torch.tensor([[1.0, NAN], [NAN, NAN], [2.0, 3.0]])
    for rows in (good, good.double(), good.bfloat16(), good.numpy(), torch.ones(2, 2, dtype=torch.int8)):
        check_rows(rows)
    message = refusal(check_rows, good / 0.0, name="held-out rows", feature_names=("a", "b"))
    assert message.startswith("column 'a' of held-out rows is infinite in row 1")


# --- files ------------------------------------------------------------------------------------------------------------


def test_parquet_columns_and_index(tmp_path: Path) -> None:
    """A stored pandas index is no feature; text is a label or an error; a null is missing."""
    table = pd.DataFrame({"a": [1, None, 3], "kind": ["x", "y", "x"]}, index=pd.Index([5, 6, 7], name="id"))
    table.to_parquet(tmp_path / "t.parquet")
    dataset = load(tmp_path / "t.parquet", label="kind")
    assert dataset.feature_names == ("a",)
    assert np.array_equal(dataset.rows, [[1], [NAN], [3]], equal_nan=True)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 1, 0]
    assert "column 'kind' of t.parquet isn't numeric: 'x' in row 1" in refusal(load, tmp_path / "t.parquet")
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "twice.parquet")
    assert "twice.parquet" in refusal(load, tmp_path / "twice.parquet")


def test_array_files_have_columns_by_position(tmp_path: Path) -> None:
    """The choice of columns works for every kind of table."""
    np.save(tmp_path / "a.npy", np.array([[1.0, 2.0, 0.0], [3.0, 4.0, 1.0], [5.0, 6.0, 1.0]]))
    dataset = load(tmp_path / "a.npy", label="2", drop=["0"])
    assert dataset.rows.tolist() == [[2], [4], [6]]
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 1, 1]
    assert dataset.label_names == ("0", "1")
    assert "choose from '0', '1', '2'" in refusal(load, tmp_path / "a.npy", features=["height"])


@pytest.mark.parametrize(("rows_key", "labels_key"), [("x", "y"), ("X", "labels"), ("data", "y")])
def test_npz_with_labels(tmp_path: Path, rows_key: str, labels_key: str) -> None:
    """Labels are kept beside the rows, and images recognized."""
    arrays = {rows_key: np.ones((3, 2, 2), np.uint8), labels_key: np.array([[7], [3], [7]]), "other": np.zeros(5)}
    np.savez(tmp_path / "a.npz", **arrays)
    dataset = load(tmp_path / "a.npz")
    assert (dataset.num_rows, dataset.image_shape, dataset.label_names) == (3, (2, 2), ("3", "7"))
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1, 0, 1]
    assert "drop, label and features" in refusal(load, tmp_path / "a.npz", drop="0")


def test_npz_text_labels_and_single_arrays(tmp_path: Path) -> None:
    """Text needs no pickle, and a lone array is the rows whatever it is called."""
    np.savez(tmp_path / "a.npz", x=np.eye(2), y=np.array(["cat", "ant"]))
    assert load(tmp_path / "a.npz").label_names == ("ant", "cat")
    assert "already" in refusal(load, tmp_path / "a.npz", label="0")
    np.savez(tmp_path / "b.npz", y=np.eye(2))
    assert load(tmp_path / "b.npz").labels is None


def test_bad_array_files(tmp_path: Path) -> None:
    """Nothing that is loaded may execute code, and nothing ends in a traceback of NumPy's."""
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}, {}]), allow_pickle=True)
    assert "objects.npy can't be read" in refusal(load, tmp_path / "objects.npy")
    np.savez(tmp_path / "many.npz", train=np.eye(2), test=np.eye(2))
    assert "'train', 'test'" in refusal(load, tmp_path / "many.npz")
    np.savez(tmp_path / "uneven.npz", x=np.eye(2), y=np.zeros(3))
    assert "labels of shape (3,)" in refusal(load, tmp_path / "uneven.npz")
    np.savez(tmp_path / "none.npz")
    assert "no array" in refusal(load, tmp_path / "none.npz")
    np.save(tmp_path / "scalar.npy", np.array(1.0))
    assert "shape ()" in refusal(load, tmp_path / "scalar.npy")
    for name in ("garbage.npy", "garbage.npz", "garbage.parquet"):
        (tmp_path / name).write_bytes(b"not what the name says")
        assert f"{name} can't be read" in refusal(load, tmp_path / name)
        (tmp_path / name).write_bytes(b"")
        assert f"{name} can't be read" in refusal(load, tmp_path / name)
    assert "only text files have a header" in refusal(load, tmp_path / "scalar.npy", header=True)
