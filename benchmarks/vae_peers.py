"""The same variational autoencoder trained in other ways, for `vae_hand_written.py`: seconds for one epoch of rows."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.distributions import Bernoulli, Normal
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

Networks = Callable[[], tuple[nn.Module, nn.Module]]
"""Makes an encoder, from rows to means and log scales, and a decoder, from latents to logits."""


class _Example(nn.Module):
    """The design of Pyro's own VAE example: two modules registered by ``pyro.module``, a plate of the batch."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.latent_dim = encoder, decoder, latent_dim

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            loc = x.new_zeros(len(x), self.latent_dim)
            z = pyro.sample("z", Normal(loc, torch.ones_like(loc)).to_event(1))
            pyro.sample("x", Bernoulli(logits=self.decoder(z), validate_args=False).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", Normal(loc, log_scale.exp()).to_event(1))


def pyro_example(networks: Networks, rows: Tensor, latent_dim: int, batch_size: int) -> Callable[[], float]:
    """Eager SVI over a shuffled DataLoader, as the example has it."""
    pyro.clear_param_store()
    vae = _Example(*networks(), latent_dim)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())

    def run() -> float:
        loader = torch.utils.data.DataLoader(rows, batch_size, shuffle=True)
        began = time.perf_counter()
        for x in loader:
            svi.step(x)
        return time.perf_counter() - began

    return run


def pythae(networks: Networks, rows: Tensor, latent_dim: int, batch_size: int) -> Callable[[], float]:
    """pythae's trainer, its model around the same networks; raises ImportError where it is not installed."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.disable(logging.INFO)

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Any:
            loc, log_scale = self.network(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=2 * log_scale)

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))

    encoder, decoder = networks()
    config = VAEConfig(input_dim=(rows.shape[1],), latent_dim=latent_dim, reconstruction_loss="bce")
    model = VAE(config, encoder=Encoder(encoder), decoder=Decoder(decoder))

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder:
            training = BaseTrainerConfig(
                output_dir=folder, per_device_train_batch_size=batch_size, learning_rate=1e-3, no_cuda=True
            )
            trainer = BaseTrainer(model, BaseDataset(rows, torch.ones(len(rows))), training_config=training)
            trainer.prepare_training()
            began = time.perf_counter()
            trainer.train_step(epoch=1)
            return time.perf_counter() - began

    return run
