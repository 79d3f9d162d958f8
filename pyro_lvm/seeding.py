"""Random numbers from a seed, with the caller's random state left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_lvm.errors import TrainingError

# What NumPy's generator takes, the narrowest of those that Pyro seeds.
_SEEDS = 2**32


def derived_seed(seed: int, *place: int) -> int:
    """A seed for each of several places, all from one, so that what is drawn at one can't change the next.

    Raises:
        TrainingError: The seed is not a whole number from 0 to 2^32 - 1.
    """
    _check_seed(seed)
    return int(np.random.SeedSequence([seed, *place]).generate_state(1)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the context every generator, on every device, starts from ``seed``.

    Raises:
        TrainingError: The seed is not a whole number from 0 to 2^32 - 1.
    """
    _check_seed(seed)
    state = pyro.util.get_rng_state()
    # Pyro seeds CUDA as well, but keeps only the CPU's state.
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    pyro.set_rng_seed(seed)
    try:
        yield
    finally:
        pyro.util.set_rng_state(state)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def some_rows(rows: Tensor, count: int, random: np.random.Generator) -> Tensor:
    """So many rows at random, in their order; all where there are no more."""
    if count >= len(rows):
        return rows
    # Never the first ones: rows often stand sorted by class.
    return rows[torch.from_numpy(np.sort(random.choice(len(rows), count, replace=False)))]


def _check_seed(seed: int) -> None:
    if not 0 <= seed < _SEEDS:
        raise TrainingError(f"seed={seed}: expected a whole number from 0 to {_SEEDS - 1}")
