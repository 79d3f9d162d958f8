"""The variational autoencoder's generative model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import pyro
import torch
from pyro.distributions import Normal
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyro_lvm.errors import PairError
from pyro_lvm.likelihoods import FixedGaussian, LearnedGaussian, make_likelihood
from pyro_lvm.models.ppca import PPCA
from pyro_lvm.modules import PairModule
from pyro_lvm.networks import decoder_network, initialize
from pyro_lvm.plate import data_plate, observe


class VAE(PairModule):
    r"""A deep latent Gaussian model (Kingma and Welling 2014): probabilistic PCA with a network for its linear map.

    .. math:: z_n \sim N(0, \mathrm{diag}(s^2)), \qquad x_n \mid z_n \sim p(x \mid f_\theta(z_n / s))

    The network's numbers are relative to the data's place and units, which :meth:`start` takes from the rows: one
    learning rate fits data on any scale.

    Args:
        data_dim: Number of features D.
        latent_dim: Number of latent coordinates d, from 1 to D.
        likelihood: ``"gaussian"`` (one noise scale, learned), ``"gaussian-fixed"`` (``noise_scale``, set by the
            analyst), ``"gaussian-decoded"`` (each entry's scale from the decoder), ``"bernoulli"`` for zeros and ones,
            or ``"continuous-bernoulli"`` for values from 0 to 1.
        hidden: Sizes of the hidden layers, from the data's side; none makes the decoder linear and, with a Gaussian of
            one scale, the model probabilistic PCA.
        activation: ``"tanh"``, ``"relu"``, ``"elu"``, ``"silu"`` or ``"softplus"``.
        channels: Of convolutions, for images: each halves them.
        image_shape: (H, W), (C, H, W) or (H, W, C), where rows are images.
        prior_scale: s, a number or one for each latent coordinate.
        noise_scale: sigma of ``"gaussian-fixed"``, in the units of the rows.

    Raises:
        PairError: An option is out of range.
    """

    prior_scale: Tensor

    def __init__(
        self,
        data_dim: int,
        latent_dim: int = 2,
        likelihood: str = "gaussian",
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        channels: Sequence[int] = (),
        image_shape: Sequence[int] | None = None,
        prior_scale: float | Sequence[float] = 1.0,
        noise_scale: float | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(latent_dim, int) or isinstance(latent_dim, bool) or not 1 <= latent_dim <= data_dim:
            raise PairError(
                f"latent_dim={latent_dim} with {data_dim} features: a variational autoencoder needs 1 <= latent_dim <= "
                f"{data_dim}"
            )
        self.data_dim, self.latent_dim = data_dim, latent_dim
        self.one_unit = image_shape is not None
        self.register_buffer("prior_scale", _prior_scale(prior_scale, latent_dim))
        self.likelihood = make_likelihood(likelihood, data_dim, noise_scale)
        self.decoder = decoder_network(
            latent_dim,
            data_dim,
            planes=self.likelihood.planes,
            hidden=hidden,
            activation=activation,
            channels=channels,
            image_shape=image_shape,
        )

    @property
    def learning_rate(self) -> float:
        """Adam's first rate; linear maps take a larger one, less the more features add up in them."""
        return 0.25 / math.sqrt(self.data_dim) if self._linear() is not None else 2e-3

    @property
    def decay(self) -> Literal["exponential", "cosine"]:
        """How that rate falls."""
        return "exponential" if self._linear() is not None else "cosine"

    @property
    def tolerance(self) -> float:
        """Nats a row that a further round of training is worth: a network goes on gaining next to nothing for long."""
        return 1e-3 if self._linear() is not None else 0.1

    @property
    def validation(self) -> float | None:
        """Part of the rows to hold out without a budget: a network gains on the rest until it has them by heart."""
        return None if self._linear() is not None else 0.1

    def forward(self, x: Tensor) -> None:
        """The generative story of a batch of rows, shape (rows, D), NaN where missing."""
        if not self.training:
            # In training the rows are those that the start has seen, and a look at values would end every graph.
            self.likelihood.check(x)
        with data_plate(x):
            z = pyro.sample("z", Normal(torch.zeros_like(self.prior_scale), self.prior_scale).to_event(1))
            observe("x", self.decode(z), x)

    def decode(self, z: Tensor) -> TorchDistribution:
        """p(x | z), one density an entry, shape (..., D), for latent coordinates of shape (..., d)."""
        distribution: TorchDistribution = self.likelihood(self.decoder(z / self.prior_scale))
        return distribution

    @torch.no_grad()
    def start(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Start from data: its place and units, and random weights.

        Args:
            x: Rows, shape (rows, D), NaN where missing.
            generator: Source of the weights.

        Raises:
            DataError: The rows are outside the likelihood's support.
        """
        self.likelihood.check(x)
        self.likelihood.start(x, one_unit=self.one_unit)
        initialize(self.decoder, generator)
        self.started.fill_(True)

    def as_ppca(self) -> PPCA:
        """The probabilistic PCA that this model is where its decoder is linear, with all its exact answers.

        Raises:
            PairError: The decoder has hidden layers, or noise or prior are not probabilistic PCA's.
        """
        linear, noise = self._linear(), self.likelihood
        if linear is None or not isinstance(noise, (FixedGaussian, LearnedGaussian)):
            raise PairError(
                "this variational autoencoder is no probabilistic PCA: that takes hidden=[], no channels, and the "
                "likelihood gaussian or gaussian-fixed"
            )
        if bool((self.prior_scale != 1).any()):
            raise PairError("this variational autoencoder's prior is not N(0, I): as_ppca() needs prior_scale=1")
        ppca = PPCA(self.data_dim, self.latent_dim).to(linear.weight.device, linear.weight.dtype)
        with torch.no_grad():
            ppca.origin.copy_(noise.origin)
            ppca.unit.copy_(noise.unit)
            ppca.relative_loadings.copy_(linear.weight)
            ppca.relative_mean.copy_(linear.bias)
            ppca.relative_noise_scale = noise.noise_scale / ppca.unit.square().mean().sqrt()
        ppca.started.fill_(True)
        return ppca

    def _linear(self) -> nn.Linear | None:
        """The decoder's one layer, where it has no more."""
        layers = list(self.decoder.children())
        return layers[0] if len(layers) == 1 and isinstance(layers[0], nn.Linear) else None


def _prior_scale(given: float | Sequence[float], latent_dim: int) -> Tensor:
    scales: list[Any] = list(given) if isinstance(given, (list, tuple)) else [given] * latent_dim
    numbers = all(isinstance(s, (int, float)) and not isinstance(s, bool) and 0 < s < math.inf for s in scales)
    if not numbers or len(scales) != latent_dim:
        raise PairError(
            f"prior_scale={given} for {latent_dim} latent coordinates: expected a positive number, or {latent_dim} of "
            "them"
        )
    return torch.tensor([float(s) for s in scales])
