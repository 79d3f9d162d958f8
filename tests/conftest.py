"""What every test starts from: an empty parameter store, a fixed seed, and Pyro's checks on."""

from collections.abc import Iterator

import pyro
import pytest
import torch
from sklearn.datasets import load_digits


@pytest.fixture(autouse=True)
def _fresh_pyro() -> Iterator[None]:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(True):
        yield


@pytest.fixture(scope="session")
def digits() -> torch.Tensor:
    """Handwritten digits, 1797 x 64, grey values in [0, 1]."""
    return torch.tensor(load_digits().data / 16, dtype=torch.float32)
