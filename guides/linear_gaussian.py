"""A linear-Gaussian guide: the exact posterior's own form for linear-Gaussian models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pyro
import torch
from pyro.distributions import MultivariateNormal, Normal
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.nn import PyroParam
from torch import Tensor
from torch.distributions import constraints

from pyro_lvm.errors import PairError
from pyro_lvm.modules import PairModule
from pyro_lvm.pair import HasExactPosterior
from pyro_lvm.plate import data_plate

# Rows that are asked for at a time.
_PROBES = 1024


class LinearGaussian(PairModule):
    r"""A Gaussian whose mean is linear in the row and whose covariance all rows share.

    .. math:: q(z_n \mid x_n) = N(A (x_n - c) + b, L L^\top)

    With a full covariance it contains the exact posterior of probabilistic PCA. A diagonal one does only once the
    model's loadings have turned to orthogonal columns, which is the slow part of training it.

    Args:
        data_dim: Number of features D.
        latent_dim: Number of latent coordinates d.
        covariance: ``"full"`` or ``"diagonal"``.

    Raises:
        PairError: Another ``covariance``.
    """

    origin: Tensor
    unit: Tensor
    scale_tril: Tensor
    scale: Tensor
    # Its mean is a sum over all features: a hole in one leaves no answer.
    accepts_missing = False

    def __init__(self, data_dim: int, latent_dim: int = 2, covariance: Literal["full", "diagonal"] = "full") -> None:
        super().__init__()
        if covariance not in ("full", "diagonal"):
            raise PairError(f"covariance={covariance!r}: expected 'full' or 'diagonal'")
        self.covariance = covariance
        self.register_buffer("origin", torch.zeros(data_dim))
        self.register_buffer("unit", torch.ones(()))
        self.relative_slope = torch.nn.Parameter(torch.zeros(latent_dim, data_dim))
        self.offset = torch.nn.Parameter(torch.zeros(latent_dim))
        if covariance == "full":
            self.scale_tril = PyroParam(  # type: ignore[assignment]
                torch.eye(latent_dim), constraint=constraints.lower_cholesky
            )
        else:
            self.scale = PyroParam(  # type: ignore[assignment]
                torch.ones(latent_dim), constraint=constraints.positive
            )

    def forward(self, x: Tensor) -> None:
        """The posterior of the latent coordinates of a batch of rows, shape (rows, D)."""
        with data_plate(x):
            pyro.sample("z", self.encode(x))

    def encode(self, x: Tensor) -> TorchDistribution:
        """q(z | x), batch shape (rows,), event shape (d,), for rows of shape (rows, D)."""
        # A mean over D features, not a sum: one learning rate then fits few features and many.
        slope = self.relative_slope / (self.unit * self.origin.numel() ** 0.5)
        loc = (x - self.origin) @ slope.T + self.offset
        if self.covariance == "full":
            return MultivariateNormal(loc, scale_tril=self.scale_tril)
        diagonal: TorchDistribution = Normal(loc, self.scale).to_event(1)
        return diagonal

    def start(self, x: Tensor, model: Any = None, generator: torch.Generator | None = None) -> None:
        """Start at the prior, reading rows relative to their mean and overall scale.

        Args:
            x: Rows, shape (rows, D), NaN where missing.
            model: Not needed.
            generator: Not needed: nothing is random.
        """
        rows = x.double()
        origin = rows.nanmean(0)
        unit = ((rows - origin) ** 2).nanmean().sqrt()
        with torch.no_grad():
            self.origin.copy_(origin)
            self.unit.copy_(unit if unit > 0 else torch.ones_like(unit))
        self.started.fill_(True)

    @torch.no_grad()
    def match(self, model: HasExactPosterior) -> None:
        r"""Take over a model's exact posterior of complete rows, the whole of it with a full covariance.

        A diagonal covariance becomes the one nearest to the exact posterior in KL(q || p), whose variances are
        :math:`1 / (\Sigma^{-1})_{ii}`.

        Args:
            model: One whose ``exact_posterior(x)`` is a normal with a mean linear in the row and one covariance.
        """
        origin, unit = self.origin.double(), self.unit.double()
        posterior: Callable[[Tensor], Any] = model.exact_posterior
        at_origin = posterior(origin[None])
        self.offset.copy_(at_origin.mean[0])
        # What a step along each feature changes, in blocks: together the steps are a D x D matrix.
        for places in torch.arange(len(origin), device=origin.device).split(_PROBES):
            rows = origin.repeat(len(places), 1)
            rows[torch.arange(len(places)), places] += unit
            change = posterior(rows).mean - at_origin.mean
            self.relative_slope[:, places] = (change.mT * len(origin) ** 0.5).to(self.relative_slope)
        factor = at_origin.scale_tril[0]
        if self.covariance == "full":
            self.scale_tril = factor.to(self.offset.dtype)
        else:
            self.scale = torch.cholesky_inverse(factor).diagonal().rsqrt().to(self.offset.dtype)
        self.started.fill_(True)
