"""Pairs small enough for the truth to be written down beside them."""

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro.distributions import Categorical, Normal

from pyro_lvm import Pair, data_plate
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.models import PPCA

CENTRES = torch.tensor([-1.0, 0.5, 2.0])


@pytest.fixture(scope="session")
def ppca_rows() -> torch.Tensor:
    """Twelve rows of five features."""
    return 2 * torch.randn(12, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def make_ppca(ppca_rows: torch.Tensor) -> Callable[..., Pair]:
    """PPCA with loadings that matter and a guide that is off the exact posterior."""

    def make(covariance: Any = "full", dtype: torch.dtype = torch.float32) -> Pair:
        torch.manual_seed(2)
        model, guide = PPCA(5, 2), LinearGaussian(5, 2, covariance=covariance)
        pair = Pair(model.to(dtype), guide.to(dtype))
        pair.start(ppca_rows, torch.Generator().manual_seed(0))
        with torch.no_grad():
            model.relative_loadings.normal_()
            guide.relative_slope.normal_(0, 0.3)
            guide.offset.normal_(0, 0.3)
        model.relative_noise_scale = torch.tensor(0.6, dtype=dtype)
        if covariance == "full":
            guide.scale_tril = torch.tensor([[0.5, 0.0], [0.2, 0.7]], dtype=dtype)
        return pair

    return make


def discrete_model(x: torch.Tensor) -> None:
    """Three components on a line, without anything continuous that is hidden."""
    logits = pyro.param("logits", torch.tensor([0.3, -0.2, 0.1]))
    shift = pyro.param("shift", torch.tensor(0.2))
    with data_plate(x):
        t = pyro.sample("t", Categorical(logits=logits))
        pyro.sample("x", Normal(CENTRES[t] + shift, 1.0), obs=x)


def discrete_guide(x: torch.Tensor) -> None:
    slope = pyro.param("slope", torch.tensor([-0.8, 0.1, 0.9]))
    with data_plate(x):
        pyro.sample("t", Categorical(logits=slope * x[:, None]))


@pytest.fixture
def discrete_pair() -> Pair:
    return Pair(discrete_model, discrete_guide)
