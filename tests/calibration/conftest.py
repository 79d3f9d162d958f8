"""A PPCA whose guide is its exact posterior, to be spoilt."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyro_lvm import Pair
from pyro_lvm.evidence import simulate
from pyro_lvm.guides import LinearGaussian, ProductOfExperts
from pyro_lvm.models import PPCA

Maker = Callable[..., tuple[Pair, Tensor]]


@pytest.fixture(scope="session")
def ppca() -> Maker:
    """Makes the pair and so many rows of its model; with ``holes``, a guide that takes rows with missing entries."""

    def make(rows: int = 60, *, holes: bool = False) -> tuple[Pair, Tensor]:
        torch.manual_seed(1)
        model = PPCA(6, 2)
        with torch.no_grad():
            model.relative_loadings.copy_(torch.randn(6, 2))
        model.relative_noise_scale = torch.tensor(0.7)
        guide = (ProductOfExperts if holes else LinearGaussian)(6, 2)
        pair = Pair(model, guide)
        x, _ = simulate(pair, torch.zeros(rows, 6), seed=9)
        guide.start(x, model)
        guide.match(model)
        return pair, x

    return make
