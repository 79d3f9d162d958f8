"""Shuffled minibatches from a file that doesn't fit in memory.

Reading single rows at random runs at the speed of a disk's seeks. So the file is cut into blocks of neighbouring rows
(a Parquet file into its row groups), the blocks are read whole in random order, and rows are drawn at random from a
buffer of several blocks. A file that fits in the buffer is shuffled uniformly.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from pyro_lvm.data.blocks import ArrayBlocks, ParquetBlocks, check_is_file, memory_map, open_parquet
from pyro_lvm.errors import DataError

# A block of 4 MiB (of the default 64) costs more to read than to seek, even on a spinning disk.
_BLOCKS_PER_BUFFER = 16
_FLOAT_BYTES = 4


class RowStream(IterableDataset[Tensor]):
    """Minibatches of a data set, every row once an epoch, in an order that each epoch draws anew.

    Iterating runs through the epoch after the one that was begun last; :meth:`epoch` runs through a given one. It can
    be given to a ``DataLoader`` with ``batch_size=None``, without worker processes.

    Args:
        blocks: where the rows come from; :func:`stream` finds that out from a path.
        batch_size: rows a minibatch.
        seed: of the shuffling.
        chunk_bytes: size of the buffer in which rows are shuffled.
    """

    def __init__(self, blocks: ArrayBlocks | ParquetBlocks, *, batch_size: int, seed: int, chunk_bytes: int) -> None:
        self._blocks = blocks
        self.num_rows = blocks.num_rows
        self.feature_names = blocks.feature_names
        self.batch_size = batch_size
        self.seed = seed
        self.next_epoch = 0
        # A batch must fit, however wide the rows.
        self.buffer_rows = min(self.num_rows, max(batch_size, chunk_bytes // (_FLOAT_BYTES * self.data_dim)))

    @property
    def data_dim(self) -> int:
        """Number of columns."""
        return len(self.feature_names)

    def __len__(self) -> int:
        """Number of minibatches an epoch; the last may be smaller."""
        return -(-self.num_rows // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        if get_worker_info() is not None:
            # A worker process has a copy of the count, and starts from it in every epoch.
            raise DataError(
                f"{self._blocks.name} is streamed in a worker process: expected the main one; use num_workers=0"
            )
        self.next_epoch += 1
        return self.epoch(self.next_epoch - 1)

    def epoch(self, index: int) -> Iterator[Tensor]:
        """Run through one epoch.

        Args:
            index: its number from 0; with the seed, it determines the order.

        Yields:
            (batch_size, data_dim) float32, NaN for missing; the last may have fewer rows.

        Raises:
            DataError: for an infinity, or a number beyond float32.
        """
        rng = np.random.default_rng((self.seed, index))
        buffer = np.empty((self.buffer_rows, self.data_dim), np.float32)
        filled = 0
        for block in self._blocks.shuffled(rng, max(1, self.buffer_rows // _BLOCKS_PER_BUFFER)):
            while len(block):
                taken = min(len(block), self.buffer_rows - filled)
                buffer[filled : filled + taken] = block[:taken]
                filled, block = filled + taken, block[taken:]
                if filled == self.buffer_rows:
                    order = rng.permutation(filled)
                    # Half of them stay, to be mixed with what is read next.
                    half = filled // 2
                    leaving = min(filled, max(self.batch_size, half - half % self.batch_size))
                    for start in range(0, leaving, self.batch_size):
                        yield torch.from_numpy(buffer[order[start : start + self.batch_size]])
                    filled -= leaving
                    buffer[:filled] = buffer[order[leaving:]]
        order = rng.permutation(filled)
        for start in range(0, filled, self.batch_size):
            yield torch.from_numpy(buffer[order[start : start + self.batch_size]])


def stream(
    source: str | os.PathLike[str] | npt.NDArray[np.generic],
    batch_size: int,
    *,
    seed: int,
    features: Sequence[str] | str | None = None,
    chunk_bytes: int = 64 * 2**20,
) -> RowStream:
    """Stream shuffled minibatches from a file, holding only a buffer of it in memory.

    Args:
        source: a .npy file or a NumPy memory map of shape (num_rows, data_dim), or a Parquet file of numeric columns.
        batch_size: rows a minibatch.
        seed: of the shuffling, from 0 up; the same seed and epoch give the same minibatches.
        features: names of the columns to keep, in this order; an array's are ``"0"``, ``"1"`` and on.
        chunk_bytes: size of the buffer in which rows are shuffled; a file that fits in it is shuffled uniformly.

    Returns:
        The minibatches, to be iterated once an epoch.

    Raises:
        DataError: for a file that can't be streamed, a column that isn't numeric, or fewer than 2 rows.

    Warns:
        UserWarning: where the file's layout makes the shuffling local or the reading slow.
    """
    for argument, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0), ("chunk_bytes", chunk_bytes, 1)):
        if value < least:
            raise DataError(f"{argument}={value} can't be streamed with: expected at least {least}")
    chosen = [features] if isinstance(features, str) else features
    blocks: ArrayBlocks | ParquetBlocks
    if isinstance(source, np.ndarray):
        blocks = ArrayBlocks(source, chosen, "data")
    else:
        path = Path(source)
        blocks = ParquetBlocks(path, chosen) if _is_parquet(path) else ArrayBlocks(memory_map(path), chosen, path.name)
    rows = RowStream(blocks, batch_size=batch_size, seed=seed, chunk_bytes=chunk_bytes)
    blocks.warn_of_layout(rows.buffer_rows)
    return rows


def fits_in_memory(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file's data should be loaded at once and not streamed.

    Args:
        path: a .npy or .parquet file, whose numbers are counted at 4 bytes each; any other counts with its own size.

    Returns:
        True where the data takes less than a quarter of the memory that is available.

    Raises:
        DataError: for a file that isn't there or can't be read.
    """
    file = Path(path)
    if _is_parquet(file):
        metadata = open_parquet(file).metadata
        size = metadata.num_rows * metadata.num_columns * _FLOAT_BYTES
    elif file.suffix.lower() == ".npy":
        size = memory_map(file).size * _FLOAT_BYTES
    else:
        check_is_file(file)
        size = file.stat().st_size
    return bool(size < _available_memory() / 4)


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _available_memory() -> float:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        # Unlike SC_AVPHYS_PAGES, this counts the memory that only caches files.
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return float(fields["MemAvailable"].split()[0]) * 1024
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
