"""Patterns of missing entries: rows that share one share its factorizations too."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def missing_patterns(x: Tensor, chunk_rows: int) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Find the distinct patterns of missing entries, and which of them each row has.

    Args:
        x: (num_rows, data_dim), NaN where missing.
        chunk_rows: rows that are looked at together.

    Returns:
        The patterns, (num_patterns, data_dim / 8) with one bit an entry and 1 = observed, as ``numpy.packbits`` packs
        them; and the position of each row's pattern among them, (num_rows,).
    """
    packed = np.concatenate([np.packbits((~p.isnan()).cpu().numpy(), axis=1) for p in x.split(chunk_rows)])
    if len(packed) and (packed == packed[0]).all():
        return packed[:1], np.zeros(len(packed), dtype=np.intp)
    distinct, pattern_of = np.unique(packed, axis=0, return_inverse=True)
    return distinct, pattern_of.reshape(-1)


def unpacked(packed: NDArray[np.uint8], data_dim: int) -> Tensor:
    """Unpack patterns to one byte an entry.

    Args:
        packed: (num_patterns, data_dim / 8), from :func:`missing_patterns`.
        data_dim: number of features.

    Returns:
        (num_patterns, data_dim) of torch.bool on the CPU, True where observed.
    """
    return torch.from_numpy(np.unpackbits(packed, axis=1, count=data_dim)).bool()
