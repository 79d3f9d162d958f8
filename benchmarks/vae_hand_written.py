"""A VAE pair beside a hand-written PyTorch VAE of the same architecture, batches and steps: likelihood and seconds.

    python benchmarks/vae_hand_written.py [--data-root DIR] [--steps 3000] [--seeds 3]

With ``--data-root`` the rows are MNIST's, else the digits that come with scikit-learn, binarized once. The two take
turns, seed by seed, each with noise of its own.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_lvm import data, fit
from pyro_lvm.batches import RowBatches
from pyro_lvm.elbo import row_elbo
from pyro_lvm.guides import GaussianEncoder
from pyro_lvm.models import VAE

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data-root", type=Path)
parser.add_argument("--steps", type=int, default=3000)
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--batch-size", type=int, default=128)
parser.add_argument("--latent-dim", type=int, default=20)
options = parser.parse_args()

grey = data.load("digits") if options.data_root is None else data.load("mnist", root=options.data_root)
rows = data.binarize(grey.rows)
rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
test, train = rows[: len(rows) // 10], rows[len(rows) // 10 :]
D, K, H = rows.shape[1], options.latent_dim, 200


class HandWritten(nn.Module):
    """What one writes without a library: two networks, the KL in closed form, binary cross-entropy."""

    def __init__(self, mean: torch.Tensor) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(D, H), nn.Tanh(), nn.Linear(H, H), nn.Tanh(), nn.Linear(H, 2 * K))
        self.decoder = nn.Sequential(nn.Linear(K, H), nn.Tanh(), nn.Linear(H, H), nn.Tanh(), nn.Linear(H, D))
        for parameter in self.parameters():
            nn.init.xavier_uniform_(parameter) if parameter.dim() == 2 else nn.init.zeros_(parameter)
        self.register_buffer("mean", mean)
        with torch.no_grad():
            self.decoder[-1].bias.copy_(((mean * len(train) + 1) / (len(train) + 2)).logit())

    def elbo(self, x: torch.Tensor) -> torch.Tensor:
        loc, log_scale = self.encoder(x - self.mean).chunk(2, -1)
        z = loc + log_scale.exp() * torch.randn_like(loc)
        kl = 0.5 * (loc.square() + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(1)
        return -binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(1) - kl


def train_by_hand(seed: int) -> tuple[HandWritten, float]:
    torch.manual_seed(seed)
    model = HandWritten(train.mean(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    batches = RowBatches(train, options.batch_size)
    began = time.perf_counter()
    for _ in range(options.steps):
        optimizer.zero_grad()
        (-model.elbo(batches.next()).mean()).backward()
        optimizer.step()
        schedule.step()
    return model, time.perf_counter() - began


def train_the_pair(seed: int):
    shape = grey.image_shape
    result = fit(
        VAE(D, K, "bernoulli", image_shape=shape),
        GaussianEncoder(D, K, image_shape=shape),
        train,
        steps=options.steps,
        lr=1e-3,
        batch_size=options.batch_size,
        averaging=False,
        seed=seed,
        progress=False,
    )
    return result.pair, result.seconds


by_hand, ours, ratios = [], [], []
for seed in range(options.seeds):
    hand, hand_seconds = train_by_hand(seed)
    with torch.no_grad():
        torch.manual_seed(0)
        by_hand.append(float(torch.stack([hand.elbo(test) for _ in range(50)]).mean()))
    pair, seconds = train_the_pair(seed)
    with pair.evaluating():
        ours.append(float(row_elbo(pair, test, 50).mean()))
    ratios.append(hand_seconds / seconds)
    print(f"seed {seed}: test ELBO by hand {by_hand[-1]:.3f}, the pair {ours[-1]:.3f} nats a row; ", end="")
    print(f"{1e3 * hand_seconds / options.steps:.2f} and {1e3 * seconds / options.steps:.2f} ms a step", flush=True)
difference = np.subtract(ours, by_hand)
error = difference.std(ddof=1) / len(difference) ** 0.5 if len(difference) > 1 else float("nan")
print(f"difference {difference.mean():+.3f} +- {error:.3f} nats a row; ", end="")
print(f"by hand takes {np.median(ratios):.2f} times as long")
print("(the pair's seconds have its checks, its tracing and compiling in them)")
