"""Encoders: a network that reads a row and gives a Gaussian over its latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pyro
import torch
from pyro.distributions import MultivariateNormal, Normal
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.nn.functional import softplus

from pyro_lvm.errors import PairError
from pyro_lvm.modules import PairModule, feature_units
from pyro_lvm.networks import encoder_network, initialize
from pyro_lvm.plate import data_plate

# Of the prior's scale.
_SMALLEST_SCALE = 1e-6
# The number that softplus makes a one of.
_ONE = 0.5413248546129181


class GaussianEncoder(PairModule):
    r"""A Gaussian whose mean and scales a network gives for each row (Kingma and Welling 2014).

    .. math:: q(z_n \mid x_n) = N\bigl(\mu_\phi(x_n), \mathrm{diag}\, \sigma_\phi^2(x_n)\bigr)
        \quad\text{or}\quad N\bigl(\mu_\phi(x_n), L_\phi(x_n) L_\phi(x_n)^\top\bigr)

    Args:
        data_dim: Number of features D.
        latent_dim: Number of latent coordinates d.
        hidden: Sizes of the hidden layers; none makes the encoder linear.
        activation: ``"tanh"``, ``"relu"``, ``"elu"``, ``"silu"`` or ``"softplus"``.
        channels: Of convolutions, for images: each halves them.
        image_shape: (H, W), (C, H, W) or (H, W, C), where rows are images.
        covariance: ``"diagonal"`` or ``"full"``.

    Raises:
        PairError: An option is out of range.
    """

    origin: Tensor
    unit: Tensor
    prior_scale: Tensor
    accepts_missing = False

    def __init__(
        self,
        data_dim: int,
        latent_dim: int = 2,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        channels: Sequence[int] = (),
        image_shape: Sequence[int] | None = None,
        covariance: Literal["diagonal", "full"] = "diagonal",
    ) -> None:
        super().__init__()
        if covariance not in ("diagonal", "full"):
            raise PairError(f"covariance={covariance!r}: expected 'diagonal' or 'full'")
        if not isinstance(latent_dim, int) or isinstance(latent_dim, bool) or latent_dim < 1:
            raise PairError(f"latent_dim={latent_dim}: expected a whole number from 1 up")
        self.covariance = covariance
        self.latent_dim = latent_dim
        self.one_unit = image_shape is not None
        self.register_buffer("origin", torch.zeros(data_dim))
        self.register_buffer("unit", torch.ones(data_dim))
        self.register_buffer("prior_scale", torch.ones(latent_dim))
        below = latent_dim * (latent_dim - 1) // 2 if covariance == "full" else 0
        self.encoder = encoder_network(
            data_dim,
            2 * latent_dim + below,
            planes=2 if self.accepts_missing else 1,
            hidden=hidden,
            activation=activation,
            channels=channels,
            image_shape=image_shape,
        )

    def forward(self, x: Tensor) -> None:
        """The posterior of the latent coordinates of a batch of rows, shape (rows, D)."""
        with data_plate(x):
            pyro.sample("z", self.encode(x))

    def encode(self, x: Tensor) -> TorchDistribution:
        """q(z | x), batch shape (rows,), event shape (d,), for rows of shape (rows, D)."""
        outputs = self.encoder(self._inputs(x))
        d = self.latent_dim
        loc = self.prior_scale * outputs[..., :d]
        scale = self.prior_scale * (softplus(outputs[..., d : 2 * d] + _ONE) + _SMALLEST_SCALE)
        if self.covariance == "diagonal":
            diagonal: TorchDistribution = Normal(loc, scale).to_event(1)
            return diagonal
        # Row by row below the diagonal, relative to the row's own scale as the diagonal is.
        places = torch.tril_indices(d, d, -1, device=x.device)
        lower = outputs.new_zeros(*outputs.shape[:-1], d * d)
        lower = lower.index_copy(-1, places[0] * d + places[1], outputs[..., 2 * d :]).unflatten(-1, (d, d))
        return MultivariateNormal(loc, scale_tril=self.prior_scale[:, None] * lower + torch.diag_embed(scale))

    def _inputs(self, x: Tensor) -> Tensor:
        """What the network reads."""
        return (x - self.origin) / self.unit

    @torch.no_grad()
    def start(self, x: Tensor, model: Any = None, generator: torch.Generator | None = None) -> None:
        """Start from data: random weights, reading rows relative to their place and units.

        Args:
            x: Rows, shape (rows, D), NaN where missing.
            model: Where it has a ``prior_scale``, the latents are relative to that.
            generator: Source of the weights.
        """
        origin, unit = feature_units(x)
        self.origin.copy_(origin)
        if self.one_unit:
            # Pixels have one: a rare one would else outweigh all others. In units of their standard deviation hundreds
            # of them saturate the first layer, and it learns the training rows by heart.
            seen = x[~torch.isnan(x)].double()
            spread = seen.max() - seen.min()
            unit = torch.where(spread > 0, spread, 1.0).expand_as(unit)
        self.unit.copy_(unit)
        if isinstance(getattr(model, "prior_scale", None), Tensor):
            self.prior_scale.copy_(model.prior_scale)
        initialize(self.encoder, generator)
        self.started.fill_(True)


class MaskedGaussianEncoder(GaussianEncoder):
    """A :class:`GaussianEncoder` for rows with missing entries: it reads their mean instead, and which ones are there.

    The mask beside the row tells a hole from an entry that is at the mean (the zero imputation of Mattei and Frellsen
    2019, with the mask as a further input).
    """

    accepts_missing = True

    def _inputs(self, x: Tensor) -> Tensor:
        # Before anything is computed from a NaN, whose gradient would be one.
        missing = torch.isnan(x)
        filled = torch.where(missing, self.origin, x)
        return torch.cat([super()._inputs(filled), (~missing).to(x.dtype)], -1)
