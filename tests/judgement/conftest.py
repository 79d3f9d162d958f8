"""A pair whose guide is the exact posterior, to be spoilt."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyro_lvm import Pair
from pyro_lvm.evidence import simulate
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.models import PPCA


@pytest.fixture
def ppca() -> Callable[[], tuple[Pair, Tensor, Tensor]]:
    """A PPCA with its guide at the exact posterior, and two sets of rows that it made."""

    def make() -> tuple[Pair, Tensor, Tensor]:
        torch.manual_seed(1)
        model = PPCA(6, 2)
        with torch.no_grad():
            model.relative_loadings.copy_(torch.randn(6, 2))
        model.relative_noise_scale = torch.tensor(0.7)
        pair = Pair(model, LinearGaussian(6, 2))
        x, _ = simulate(pair, torch.zeros(900, 6))
        pair.guide.start(x, model)
        pair.guide.match(model)
        return pair, x[:500], x[500:]

    return make
