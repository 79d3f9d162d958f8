"""What every test starts from: an empty parameter store, a fixed seed, and Pyro's checks on."""

import dataclasses
from collections.abc import Iterator

import pyro
import pytest
import torch
from sklearn.datasets import load_digits

from pyro_lvm import evidence
from pyro_lvm.errors import PairError
from pyro_lvm.judgement import BUDGETS


@pytest.fixture(autouse=True)
def _fresh_pyro() -> Iterator[None]:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(True):
        yield


@pytest.fixture(scope="session", autouse=True)
def _seconds_to_judge() -> Iterator[None]:
    """A quick judgement takes half a minute: here one that is enough for faults that are plain."""
    quick = dataclasses.replace(
        BUDGETS["quick"],
        rows=8,
        particles=100,
        temperatures=4,
        chains=4,
        gap_draws=32,
        weight_draws=200,
        simulations=150,
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(BUDGETS, "quick", quick)
        yield


@pytest.fixture(scope="module")
def no_annealing() -> Iterator[None]:
    """Judgements without the seconds that annealing takes to be set up, where it isn't what a module tests."""

    def refused(*_: object, **__: object) -> None:
        raise PairError("there is no annealing in this test")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evidence, "ais", refused)
        yield


@pytest.fixture(scope="session")
def digits() -> torch.Tensor:
    """Handwritten digits, 1797 x 64, grey values in [0, 1]."""
    return torch.tensor(load_digits().data / 16, dtype=torch.float32)
