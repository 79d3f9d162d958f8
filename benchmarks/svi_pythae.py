"""pythae's own trainer on the VAE of the speed benchmarks; needs ``pip install pythae``.

    python benchmarks/svi_pythae.py [--batch 128] [--rows 20000] [--threads 1]

The same architecture, optimizer, rows and batch; its trainer, its data loader, its losses a batch. Its epoch is timed
beside as many steps of ours, in turns: on minibatches of the same rows, drawn anew in each epoch.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import statistics
import tempfile
import time

import pyro
import svi_pairs
import torch
import torch.nn.functional as F
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn

from pyro_lvm.compiled import SVI


class Encoder(BaseEncoder):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.loc, self.log_variance = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)

    def forward(self, x: Tensor) -> ModelOutput:
        hidden = F.softplus(self.hidden(x))
        return ModelOutput(embedding=self.loc(hidden), log_covariance=self.log_variance(hidden))


class Decoder(BaseDecoder):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(20, 400), nn.Linear(400, 784)

    def forward(self, z: Tensor) -> ModelOutput:
        # Its cross-entropy takes probabilities.
        return ModelOutput(reconstruction=torch.sigmoid(self.out(F.softplus(self.hidden(z)))))


def trainer(rows: Tensor, batch: int, epochs: int) -> BaseTrainer:
    model = VAE(
        VAEConfig(input_dim=(784,), latent_dim=20, reconstruction_loss="bce"), encoder=Encoder(), decoder=Decoder()
    )
    config = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(),
        num_epochs=epochs,
        learning_rate=1e-4,
        per_device_train_batch_size=batch,
        optimizer_cls="Adam",
        no_cuda=True,
    )
    return BaseTrainer(model, BaseDataset(rows, torch.zeros(len(rows))), None, config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable(logging.WARNING)
    row = svi_pairs.vae(options.batch)
    rows = (torch.rand(options.rows, 784) > 0.5).float()
    steps = options.rows // options.batch
    svi = {
        "pyro": pyro.infer.SVI(row.model, row.guide, pyro.optim.Adam({"lr": 1e-4}), pyro.infer.Trace_ELBO()),
        "ours": SVI(row.model, row.guide, pyro.optim.Adam({"lr": 1e-4}), pyro.infer.Trace_ELBO(), compile=True),
    }
    svi["ours"].run(3, rows, batch_size=options.batch)
    times: dict[str, list[float]] = {name: [] for name in ("pythae", *svi)}
    for repeat in range(options.repeats + 1):
        for name in times:
            if name == "pythae":
                peer = trainer(rows, options.batch, 1)
                peer.prepare_training()
                with contextlib.redirect_stderr(io.StringIO()):
                    began = time.perf_counter()
                    peer.train_step(epoch=1)
                seconds = time.perf_counter() - began
                taken = -(-options.rows // options.batch)
            else:
                began = time.perf_counter()
                if name == "ours":
                    svi[name].run(steps, rows, batch_size=options.batch)
                else:
                    for chosen in torch.randperm(len(rows)).split(options.batch)[:steps]:
                        svi[name].step(rows.index_select(0, chosen))
                seconds, taken = time.perf_counter() - began, steps
            if repeat:
                times[name].append(seconds / taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"VAE 784-400-20, B={options.batch}, {options.rows} rows, {options.threads} threads")
    for name, value in medians.items():
        print(f"  {name:8s} {1 / value:8.1f} steps/s {medians['pyro'] / value:6.2f}x pyro")


if __name__ == "__main__":
    main()
