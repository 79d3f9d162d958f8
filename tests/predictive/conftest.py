"""Pairs at exact answers, and the collection of sound pairs that the checker's tests have."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_lvm import Pair, em
from pyro_lvm.guides import ProductOfExperts
from pyro_lvm.models import PPCA


def _load_gallery() -> list:
    spec = importlib.util.spec_from_file_location(
        "checking_gallery_for_predictive", Path(__file__).parents[1] / "checking" / "gallery.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SOUND


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "sound_pair" in metafunc.fixturenames:
        metafunc.parametrize("sound_pair", _load_gallery(), ids=lambda case: case.name)


def linear_rows(num_rows: int, seed: int, data_dim: int = 6, latent_dim: int = 2) -> np.ndarray:
    """Rows of a linear-Gaussian model of its own, seed by seed."""
    random = np.random.default_rng(seed)
    loadings = random.normal(size=(data_dim, latent_dim))
    latents = random.normal(size=(num_rows, latent_dim))
    return latents @ loadings.T + 0.5 * random.normal(size=(num_rows, data_dim)) + np.arange(data_dim)


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., np.ndarray]:
    return linear_rows


@pytest.fixture(scope="session")
def exact_pair() -> Callable[..., Pair]:
    """PPCA at the maximum of the likelihood of rows, its guide at the exact posterior, in float64."""

    def make(rows: np.ndarray, latent_dim: int = 2) -> Pair:
        model = PPCA.from_estimator(em.PPCA(latent_dim).fit(rows), torch.float64)
        guide = ProductOfExperts(rows.shape[1], latent_dim).double()
        guide.match(model)
        return Pair(model, guide)

    return make
