"""Rows as the E-step reads them: standardised, in blocks, with the patterns of their missing entries.

Rows with the same pattern share one factorization, so rows in memory are sorted by pattern once. Rows that don't fit in
memory are read again in every sweep, and share within a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pyro_lvm.patterns import missing_patterns, unpacked

# Numbers in one temporary of the E-step: what a processor's cache holds, and what keeps a GPU busy.
_BLOCK = {"cpu": 2**19, "cuda": 2**25}


class Block(NamedTuple):
    """Some rows.

    Attributes:
        x: (num_rows, data_dim), 0 where missing.
        masks: the patterns among these rows, (num_patterns, data_dim) of torch.bool, True where observed; None where
            all entries are observed.
        pattern: the position of each row's pattern in ``masks``, (num_rows,); None where ``masks`` is.
    """

    x: Tensor
    masks: Tensor | None
    pattern: Tensor | None


class Rows(Protocol):
    """Rows that can be swept over again and again."""

    @property
    def data_dim(self) -> int:
        """Number of features."""

    def blocks(self) -> Iterator[Block]:
        """Every row with something observed, once."""


def block_rows(device: torch.device, data_dim: int, num_components: int, latent_dim: int) -> int:
    """How many rows make a block: what the E-step keeps for each of them takes ``_BLOCK`` numbers together.

    Args:
        device: where the rows are.
        data_dim: number of features.
        num_components: number of mixture components.
        latent_dim: number of latent dimensions.
    """
    width = max(data_dim, num_components * (latent_dim + 1) ** 2)
    return max(16, _BLOCK[device.type] // width)


def blocks_of(x: Tensor, size: int) -> Iterator[Block]:
    """Cut rows into blocks, sorted by pattern where entries are missing; rows with nothing observed are left out.

    Args:
        x: (num_rows, data_dim), NaN where missing; float64.
        size: rows in a block.
    """
    if not x.isnan().any():
        for part in x.split(size):
            yield Block(part, None, None)
        return
    packed, pattern_of = missing_patterns(x, size)
    order = np.argsort(pattern_of, kind="stable")
    something_observed = np.any(packed, axis=1)[pattern_of]
    order = order[something_observed[order]]
    for places in (order[start : start + size] for start in range(0, len(order), size)):
        present, local = np.unique(pattern_of[places], return_inverse=True)
        rows, pattern = (torch.from_numpy(index).to(x.device) for index in (places, local))
        masks = unpacked(packed[present], x.shape[1]).to(x.device)
        if bool(masks.all()):
            yield Block(x[rows], None, None)
        else:
            yield Block(x[rows].nan_to_num(0.0), masks, pattern)


class MemoryRows:
    """Rows in memory.

    Args:
        x: (num_rows, data_dim), NaN where missing; float64.
        size: rows in a block.
    """

    def __init__(self, x: Tensor, size: int) -> None:
        self.data_dim = x.shape[1]
        self._blocks = list(blocks_of(x, size))

    def blocks(self) -> Iterator[Block]:
        """Every row with something observed, once."""
        return iter(self._blocks)


class StreamedRows:
    """Rows that are read anew in every sweep.

    Args:
        read: begins a sweep over batches of rows, (any number, data_dim), NaN where missing, float64.
        data_dim: number of features.
        size: rows in a block.
    """

    def __init__(self, read: Callable[[], Iterator[Tensor]], data_dim: int, size: int) -> None:
        self.data_dim = data_dim
        self._read = read
        self._size = size

    def blocks(self) -> Iterator[Block]:
        """Every row with something observed, once."""
        for batch in self._read():
            yield from blocks_of(batch, self._size)
