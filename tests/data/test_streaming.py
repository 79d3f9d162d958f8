"""Streams: every row once an epoch, shuffled, reproducible, in bounded memory."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from pyro_lvm.data import fits_in_memory, stream
from pyro_lvm.errors import DataError

NAN = float("nan")


def refusal(call: Callable[..., object], *arguments: object, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message, "an error is one line"
    return message


def numbered(num_rows: int, data_dim: int) -> np.ndarray:
    """Rows that can be told apart, and whose columns can."""
    return np.arange(num_rows, dtype=np.float32)[:, None] + np.arange(data_dim, dtype=np.float32) * 10_000


def write(folder: Path, values: np.ndarray, kind: str, row_group_size: int = 7) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "npy":
        np.save(path, values)
    else:
        columns = {str(index): values[:, index] for index in range(values.shape[1])}
        pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


@pytest.mark.filterwarnings("ignore:.*row groups:UserWarning")
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_rows=st.integers(2, 200),
    data_dim=st.integers(1, 3),
    batch_size=st.integers(1, 70),
    chunk_rows=st.integers(1, 120),
    row_group_size=st.integers(1, 60),
    kind=st.sampled_from(["npy", "parquet"]),
)
def test_every_row_comes_once(
    tmp_path: Path, num_rows: int, data_dim: int, batch_size: int, chunk_rows: int, row_group_size: int, kind: str
) -> None:
    """A row that is lost or comes twice biases every gradient; batches of odd sizes bias their scale."""
    values = numbered(num_rows, data_dim)
    path = write(tmp_path, values, kind, row_group_size)
    batches = stream(path, batch_size, seed=0, chunk_bytes=chunk_rows * data_dim * 4)
    sizes = [len(batch) for batch in batches]
    assert sizes == [batch_size] * (num_rows // batch_size) + [num_rows % batch_size] * (num_rows % batch_size > 0)
    assert len(batches) == len(sizes)
    for epoch in range(2):
        rows = torch.cat(list(batches.epoch(epoch))).numpy()
        assert rows.dtype == np.float32
        assert np.array_equal(rows[rows[:, 0].argsort()], values)


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_order_is_new_in_each_epoch_and_the_same_for_a_seed(tmp_path: Path, kind: str) -> None:
    """The same order in every epoch trains worse; an order that can't be had again can't be debugged."""
    path = write(tmp_path, numbered(100, 1), kind)

    def orders(seed: int) -> list[list[float]]:
        batches = stream(path, 9, seed=seed, chunk_bytes=200)
        return [torch.cat(list(batches)).flatten().tolist() for _ in range(3)]

    first, again, other = orders(0), orders(0), orders(1)
    assert first == again
    assert len({tuple(order) for order in (*first, *other, range(100))}) == 7
    assert torch.cat(list(stream(path, 9, seed=0, chunk_bytes=200).epoch(2))).flatten().tolist() == first[2]


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_shuffling_mixes_a_sorted_file(tmp_path: Path, kind: str) -> None:
    """A file sorted by class, streamed in its order, gives minibatches of one class.

    A batch of 32 rows drawn uniformly from 0..9999 has a mean with standard error 10000 / sqrt(12 * 32) = 510. Batches
    of neighbours would have means spread like the rows themselves: 2887. The buffer holds a tenth of the file.
    """
    path = write(tmp_path, numbered(10_000, 1), kind, row_group_size=60)
    batches = list(stream(path, 32, seed=0, chunk_bytes=4_000))
    assert torch.stack([batch.mean() for batch in batches[:-1]]).std() < 3 * 510
    within = torch.stack([batch.std() for batch in batches[:-1]])
    assert within.mean() > 0.75 * 2887


def test_a_file_that_fits_is_shuffled_uniformly(tmp_path: Path) -> None:
    """Then streaming is no worse than loading: every row is as likely in every place.

    Of 2000 shuffles of 10 rows, each row comes first in 200 +- 13.4; five standard errors are 67.
    """
    batches = stream(write(tmp_path, numbered(10, 1), "npy"), 1, seed=0)
    first = torch.stack([next(batches.epoch(epoch)).flatten() for epoch in range(2000)])
    assert (first.long().flatten().bincount(minlength=10) - 200).abs().max() < 67


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """What is streamed doesn't fit: holding more than some buffers of it would end the process."""
    path = write(tmp_path, np.zeros((400_000, 8), np.float64), "npy")
    batches = stream(path, 256, seed=0, chunk_bytes=2**19)
    tracemalloc.start()
    for _ in batches:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**19


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8, np.bool_])
def test_any_dtype_and_memory_maps(tmp_path: Path, dtype: Any) -> None:
    """Whatever the file holds, a model gets float32; an open memory map is as good as its path."""
    values = (np.arange(60).reshape(20, 3) % 2).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    from_path = stream(tmp_path / "a.npy", 6, seed=3)
    from_map = stream(np.load(tmp_path / "a.npy", mmap_mode="r"), 6, seed=3)
    for left, right in zip(from_path, from_map, strict=True):
        assert left.dtype == torch.float32
        assert torch.equal(left, right)
    assert (from_path.num_rows, from_path.data_dim) == (20, 3)


def test_parquet_columns(tmp_path: Path) -> None:
    """Nulls are missing, whole numbers and truth values numbers, and columns come in the order asked for."""
    table = pd.DataFrame(
        {
            "count": pd.array([1, None, 3], dtype="Int64"),
            "when": pd.to_datetime(["2020", "2021", "2022"]),
            "a.b c": [0.5, NAN, 2.5],
            "truth": pd.array([None, True, False], dtype="boolean"),
        },
        index=pd.Index([3, 4, 5], name="id"),
    )
    table.to_parquet(tmp_path / "t.parquet")
    batches = stream(tmp_path / "t.parquet", 3, seed=0, features=["truth", "a.b c", "count"])
    rows = next(iter(batches))
    expected = np.array([[NAN, 0.5, 1], [1, NAN, NAN], [0, 2.5, 3]], np.float32)
    order = [int(np.flatnonzero([np.array_equal(row, known, equal_nan=True) for known in expected])[0]) for row in rows]
    assert sorted(order) == [0, 1, 2]
    assert batches.feature_names == ("truth", "a.b c", "count")
    message = refusal(stream, tmp_path / "t.parquet", 3, seed=0)
    assert "column 'when' of t.parquet isn't numeric" in message
    assert "'id'" in refusal(stream, tmp_path / "t.parquet", 3, seed=0, features="id")


def test_array_columns(tmp_path: Path) -> None:
    """Columns of an array are called by position, as load calls them."""
    path = write(tmp_path, numbered(10, 3), "npy")
    batch = next(iter(stream(path, 10, seed=0, features=["2", "0"])))
    assert torch.equal(batch[:, 0] - batch[:, 1], torch.full((10,), 20_000.0))
    assert "choose from '0', '1', '2'" in refusal(stream, path, 10, seed=0, features=["height"])
    assert "more than one column '1'" in refusal(stream, path, 10, seed=0, features=["1", "1"])


def test_data_loader_and_its_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's copy of the epoch count would give the same order in every epoch, and two workers each row twice."""
    batches = stream(write(tmp_path, numbered(20, 2), "npy"), 6, seed=0)
    assert [len(batch) for batch in DataLoader(batches, batch_size=None)] == [6, 6, 6, 2]
    monkeypatch.setattr("pyro_lvm.data.streaming.get_worker_info", object)
    assert "num_workers=0" in refusal(list, batches)


@pytest.mark.filterwarnings("error")
def test_layouts_that_defeat_streaming_are_warned_of(tmp_path: Path) -> None:
    """Both look as if they worked, and are slow or unshuffled; neither matters in a file that fits in the buffer."""
    columns_first = tmp_path / "f.npy"
    np.save(columns_first, np.asfortranarray(numbered(1000, 2)))
    stream(columns_first, 10, seed=0)
    with pytest.warns(UserWarning, match="column by column"):
        stream(columns_first, 10, seed=0, chunk_bytes=800)
    one_group = write(tmp_path, numbered(1000, 2), "parquet", row_group_size=1000)
    stream(one_group, 10, seed=0)
    with pytest.warns(UserWarning, match="row groups of up to 1000 rows.*row_group_size=6"):
        stream(one_group, 10, seed=0, chunk_bytes=800)


@pytest.mark.parametrize("kind", ["npy", "parquet"])
@pytest.mark.parametrize(("value", "words"), [(np.inf, "infinite"), (-1e300, "beyond float32")])
def test_numbers_that_cannot_be_modelled_are_found_on_the_way(
    tmp_path: Path, kind: str, value: float, words: str
) -> None:
    """A stream can't look ahead, but it must not hand an infinity to a model."""
    values = numbered(50, 2).astype(np.float64)
    values[37, 1] = value
    batches = stream(write(tmp_path, values, kind), 5, seed=0)
    message = refusal(list, batches)
    assert [word for word in ("column '1'", f"rows.{kind}", words, "row 38") if word not in message] == []


def test_what_cannot_be_streamed(tmp_path: Path) -> None:
    """Each names the file and what would do instead."""
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    assert ".npy or .parquet" in refusal(stream, tmp_path / "t.csv", 2, seed=0)
    assert "there is no file" in refusal(stream, tmp_path / "absent.npy", 2, seed=0)
    for name in ("bad.npy", "bad.parquet"):
        for content in (b"", b"nothing of the kind"):
            (tmp_path / name).write_bytes(content)
            assert f"{name} can't be read" in refusal(stream, tmp_path / name, 2, seed=0)
            assert f"{name} can't be read" in refusal(fits_in_memory, tmp_path / name)
    for values, words in ((np.zeros((1, 3)), "at least 2 rows"), (np.zeros((3, 2, 2)), "(3, 2, 2)")):
        np.save(tmp_path / "a.npy", values)
        assert words in refusal(stream, tmp_path / "a.npy", 2, seed=0)
    assert "<U1" in refusal(stream, np.array([["a"], ["b"]]), 2, seed=0)
    for options in ({"batch_size": 0, "seed": 0}, {"batch_size": 1, "seed": -1}):
        assert "expected at least" in refusal(stream, np.zeros((3, 2)), **options)


def test_fits_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size in question is that of the float32 numbers, not of a compressed or a wider file."""
    np.save(tmp_path / "a.npy", np.zeros((1000, 25), np.float64))  # 100,000 bytes as float32
    pd.DataFrame(np.zeros((1000, 25))).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_bytes(b"x" * 100_000)
    for available, fits in ((4 * 100_000 + 4, True), (4 * 100_000 - 4, False)):
        monkeypatch.setattr("pyro_lvm.data.streaming._available_memory", lambda available=available: available)
        for ending in ("npy", "parquet", "csv"):
            assert fits_in_memory(tmp_path / f"a.{ending}") is fits, ending
    monkeypatch.undo()
    assert fits_in_memory(tmp_path / "a.npy")
    assert "there is no file" in refusal(fits_in_memory, tmp_path / "absent.csv")
