"""A pair with a discrete latent: clusters of rows."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.distributions import Categorical, Normal
from pyro.infer import TraceEnum_ELBO
from sklearn.cluster import KMeans
from torch import Tensor, nn

from pyro_lvm.errors import DataError
from pyro_lvm.modules import PairModule, feature_units
from pyro_lvm.plate import data_plate, observe


class Model(PairModule):
    r"""A cluster for each row, and noise of each feature's own about the cluster's centre.

    .. math:: t_n \sim \mathrm{Cat}(\pi), \qquad x_n \mid t_n \sim N(\mu_{t_n}, \mathrm{diag}\, \sigma^2)

    The parameters are held relative to each feature's mean and standard deviation, so that one learning rate fits data
    on any scale.

    Args:
        data_dim: Number of features D.
        num_components: Number of clusters K.
    """

    origin: Tensor
    unit: Tensor
    # Adam's first rate, where none is given.
    learning_rate = 0.03

    def __init__(self, data_dim: int, num_components: int = 3) -> None:
        super().__init__()
        self.register_buffer("origin", torch.zeros(data_dim))
        self.register_buffer("unit", torch.ones(data_dim))
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.centres = nn.Parameter(torch.randn(num_components, data_dim))
        self.log_noise = nn.Parameter(torch.zeros(data_dim))

    def forward(self, x: Tensor) -> None:
        """The generative story of a batch of rows, shape (rows, D), NaN where missing."""
        with data_plate(x):
            t = pyro.sample("t", Categorical(logits=self.logits))
            observe("x", self.decode(t), x)

    def decode(self, t: Tensor) -> Normal:
        """p(x | t), one density an entry, shape (..., D), for clusters of shape (...)."""
        # Without a floor, a feature that is the same in all of a cluster has no likeliest noise.
        scale = 0.01 + self.log_noise.exp()
        return Normal(self.origin + self.unit * self.centres[t], self.unit * scale)

    def start(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Start from data, rows of shape (rows, D), at the clusters of k-means: from elsewhere some stay empty."""
        if len(x) < len(self.logits):
            raise DataError(f"{len(self.logits)} clusters of {len(x)} rows: expected at most one a row; use fewer")
        origin, unit = feature_units(x)
        rows = ((x - origin) / unit).nan_to_num(0.0)
        seed = int(torch.randint(2**31, (), generator=generator))
        clusters = KMeans(len(self.logits), n_init=4, random_state=seed).fit(rows.numpy())
        self.origin.copy_(origin)
        self.unit.copy_(unit)
        with torch.no_grad():
            self.centres.copy_(torch.as_tensor(clusters.cluster_centers_))
        self.started.fill_(True)


class Guide(PairModule):
    r"""A probability of each cluster, its logarithm linear in the row and in which entries are there.

    .. math:: q(t_n = k \mid x_n) \propto \exp\Bigl(a_k +
        \sum_{j\ \text{observed}} (b_{kj} u_{nj} + c_{kj})\Bigr)

    Here u is the row relative to each feature's mean and standard deviation. This contains the exact posterior of
    clusters that share their noise.

    Args:
        data_dim: Number of features D.
        num_components: Number of clusters K.
    """

    origin: Tensor
    unit: Tensor
    accepts_missing = True
    # The sum over clusters has no noise from drawing one.
    elbo = TraceEnum_ELBO

    def __init__(self, data_dim: int, num_components: int = 3) -> None:
        super().__init__()
        self.register_buffer("origin", torch.zeros(data_dim))
        self.register_buffer("unit", torch.ones(data_dim))
        self.offset = nn.Parameter(torch.zeros(num_components))
        self.slope = nn.Parameter(torch.zeros(num_components, data_dim))
        self.share = nn.Parameter(torch.zeros(num_components, data_dim))

    def forward(self, x: Tensor) -> None:
        """The posterior of the clusters of a batch of rows, shape (rows, D)."""
        with data_plate(x):
            pyro.sample("t", self.encode(x), infer={"enumerate": "parallel"})

    def encode(self, x: Tensor) -> Categorical:
        """q(t | x), batch shape (rows,), for rows of shape (rows, D)."""
        observed = ~x.isnan()
        # Filled before anything is computed from a NaN, whose gradient would be one.
        row = (torch.where(observed, x, self.origin) - self.origin) / self.unit
        return Categorical(logits=self.offset + row @ self.slope.T + observed.to(row) @ self.share.T)

    def start(self, x: Tensor, model: Any, generator: torch.Generator | None = None) -> None:
        """Start from data, rows of shape (rows, D), near the posterior of the model's start."""
        origin, unit = feature_units(x)
        self.origin.copy_(origin)
        self.unit.copy_(unit)
        with torch.no_grad():
            self.slope.copy_(model.centres)
            self.share.copy_(-0.5 * model.centres**2)
        self.started.fill_(True)


# As the command line names a pair of a file: FILE.py:model,guide
model, guide = Model, Guide
