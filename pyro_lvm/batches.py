"""Minibatches for ever, from memory or from a file, that can be taken up again exactly where they stopped."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_lvm.data import GreyRows, RowStream, redraw

# Rows of a stream that are kept in memory to start from and to judge by.
_SAMPLE_ROWS = 10_000


class Batches(Protocol):
    """A source of minibatches of one size.

    Attributes:
        num_rows: Rows N of the whole data set.
        batch_size: Rows a batch.
        sample: Rows to start from and to judge by: all of them where they are in memory.
        complete: True promises that no entry is missing.
    """

    num_rows: int
    batch_size: int
    sample: Tensor
    complete: bool

    def next(self) -> Tensor:
        """The next batch, shape (batch_size, ...)."""

    def state(self) -> dict[str, Tensor]:
        """Where the source is."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go to where a source of the same data was."""


class RowBatches:
    """Batches of rows in memory: a random permutation an epoch, taken by ``index_select``.

    An epoch's remainder is left out, and differs each time, so that all rows count the same.

    Args:
        x: Rows, shape (rows, ...), on the device where the batches are wanted.
        batch_size: Rows a batch, all of them where there are fewer.
    """

    def __init__(self, x: Tensor, batch_size: int) -> None:
        self.sample = x
        self.num_rows = len(x)
        self.batch_size = min(batch_size, len(x))
        self.complete = not (x.is_floating_point() and bool(torch.isnan(x).any()))
        self._order = torch.empty(0, dtype=torch.long)
        self._position = 0

    def next(self) -> Tensor:
        """The next batch, shape (batch_size, ...)."""
        if self.batch_size == self.num_rows:
            # In their own order, for guides that keep parameters for each row.
            return self.sample
        if self._position + self.batch_size > len(self._order):
            # Drawn on the CPU, so that a seed means the same batches on every device.
            self._order = torch.randperm(self.num_rows).to(self.sample.device)
            self._position = 0
        chosen = self._order[self._position : self._position + self.batch_size]
        self._position += self.batch_size
        return self.sample.index_select(0, chosen)

    def state(self) -> dict[str, Tensor]:
        """Where the source is."""
        return {"order": self._order.cpu(), "position": torch.tensor(self._position)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go to where a source of the same rows was."""
        self._order = state["order"].to(self.sample.device)
        self._position = int(state["position"])


class RedrawnBatches:
    """Batches of grey rows in memory, whose zeros and ones are drawn anew each time.

    Args:
        rows: The grey rows.
        batch_size: Rows a batch.
        device: Where the batches are wanted.
    """

    def __init__(self, rows: GreyRows, batch_size: int, device: torch.device) -> None:
        self._grey = RowBatches(rows.intensities.to(device), batch_size)
        self.sample = rows.fixed.to(device)
        self.num_rows, self.batch_size = self._grey.num_rows, self._grey.batch_size
        self.complete = self._grey.complete

    def next(self) -> Tensor:
        """The next batch, shape (batch_size, data_dim)."""
        return redraw(self._grey.next())

    def state(self) -> dict[str, Tensor]:
        """Where the source is; the draws go on from PyTorch's random state."""
        return self._grey.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go to where a source of the same rows was."""
        self._grey.restore(state)


class StreamBatches:
    """Batches of a file that need not fit in memory.

    Args:
        stream: What :func:`pyro_lvm.data.stream` gives.
        device: Where the batches are wanted.
    """

    def __init__(self, stream: RowStream, device: torch.device) -> None:
        self._stream = stream
        self._device = device
        self.num_rows = stream.num_rows
        self.batch_size = min(stream.batch_size, stream.num_rows)
        # What is further on in the file nobody has seen.
        self.complete = False
        enough = -(-_SAMPLE_ROWS // self.batch_size)
        self.sample = torch.cat(list(itertools.islice(stream.epoch(0), enough)))[:_SAMPLE_ROWS].to(device)
        self._epoch = 0
        self._taken = 0
        self._batches: Iterator[Tensor] = iter(())

    def next(self) -> Tensor:
        """The next batch, shape (batch_size, data_dim)."""
        batch = next(self._batches, None)
        # The last batch of an epoch may be smaller: it is left out, as in memory.
        if batch is None or len(batch) < self.batch_size:
            self._epoch += 1
            self._taken = 0
            self._batches = self._stream.epoch(self._epoch)
            batch = next(self._batches)
        self._taken += 1
        return batch.to(self._device, non_blocking=True)

    def state(self) -> dict[str, Tensor]:
        """Where the source is."""
        return {"epoch": torch.tensor(self._epoch), "taken": torch.tensor(self._taken)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go to where a source of the same file was; reads the epoch up to there."""
        self._epoch, self._taken = int(state["epoch"]), int(state["taken"])
        self._batches = itertools.islice(self._stream.epoch(self._epoch), self._taken, None)


def make_batches(rows: Any, batch_size: int, device: torch.device) -> Batches:
    """The source for rows in memory, grey rows or a stream."""
    if isinstance(rows, GreyRows):
        return RedrawnBatches(rows, batch_size, device)
    if isinstance(rows, RowStream):
        return StreamBatches(rows, device)
    return RowBatches(rows.to(device), batch_size)
