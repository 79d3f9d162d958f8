"""A VAE pair beside a hand-written PyTorch VAE of the same architecture, batches and steps: likelihood and seconds.

    python benchmarks/vae_hand_written.py [--data-root DIR] [--steps 3000] [--seeds 3]

With ``--data-root`` the rows are MNIST's, else the digits that come with scikit-learn, binarized once. The two take
turns, seed by seed, from the same weights, each with noise of its own. Then the milliseconds of a step, beside the
design of Pyro's own example and pythae's trainer where that is installed: in turns, medians of the rounds, ours without
its first quarter, which has checks, tracing and compiling in it.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from vae_peers import pyro_example, pythae

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
parser.add_argument("--rounds", type=int, default=5, help="of step times")
options = parser.parse_args()

grey = data.load("digits") if options.data_root is None else data.load("mnist", root=options.data_root)
rows = data.binarize(grey.rows)
rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
test, train = rows[: len(rows) // 10], rows[len(rows) // 10 :]
D, K, H = rows.shape[1], options.latent_dim, 200
# That a step is timed over.
STEPS = 400


def networks() -> tuple[nn.Module, nn.Module]:
    """An encoder and a decoder, as one writes them."""
    encoder = nn.Sequential(nn.Linear(D, H), nn.Tanh(), nn.Linear(H, H), nn.Tanh(), nn.Linear(H, 2 * K))
    decoder = nn.Sequential(nn.Linear(K, H), nn.Tanh(), nn.Linear(H, H), nn.Tanh(), nn.Linear(H, D))
    for parameter in [*encoder.parameters(), *decoder.parameters()]:
        nn.init.xavier_uniform_(parameter) if parameter.dim() == 2 else nn.init.zeros_(parameter)
    return encoder, decoder


class HandWritten(nn.Module):
    """What one writes without a library: two networks, the KL in closed form, binary cross-entropy."""

    def __init__(self, mean: torch.Tensor) -> None:
        super().__init__()
        self.encoder, self.decoder = networks()
        self.register_buffer("mean", mean)
        with torch.no_grad():
            self.decoder[-1].bias.copy_(((mean * len(train) + 1) / (len(train) + 2)).logit())

    def elbo(self, x: torch.Tensor) -> torch.Tensor:
        loc, log_scale = self.encoder(x - self.mean).chunk(2, -1)
        z = loc + log_scale.exp() * torch.randn_like(loc)
        kl = 0.5 * (loc.square() + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(1)
        return -binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(1) - kl


def train_by_hand(seed: int, steps: int) -> tuple[HandWritten, float]:
    torch.manual_seed(seed)
    model = HandWritten(train.mean(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    batches = RowBatches(train, options.batch_size)
    began = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        (-model.elbo(batches.next()).mean()).backward()
        optimizer.step()
        schedule.step()
    return model, time.perf_counter() - began


def train_the_pair(seed: int, steps: int, compile: bool | str = "auto"):
    """The trained pair, seconds, and milliseconds of a step after the first quarter."""
    shape = grey.image_shape
    times = []
    model, guide = VAE(D, K, "bernoulli", image_shape=shape), GaussianEncoder(D, K, image_shape=shape)
    model.start(train)
    guide.start(train, model)
    # The weights that the other begins from.
    torch.manual_seed(seed)
    hand = HandWritten(train.mean(0))
    model.decoder.load_state_dict(hand.decoder.state_dict())
    guide.encoder.load_state_dict(hand.encoder.state_dict())
    result = fit(
        model,
        guide,
        train,
        steps=steps,
        lr=1e-3,
        batch_size=options.batch_size,
        averaging=False,
        compile=compile,
        seed=seed,
        callbacks=[lambda state: times.append((state.step, time.perf_counter()))],
        progress=False,
    )
    (first, began), (last, ended) = times[len(times) // 4], times[-1]
    return result.pair, result.seconds, 1e3 * (ended - began) / (last - first)


by_hand, ours, ratios = [], [], []
for seed in range(options.seeds):
    hand, hand_seconds = train_by_hand(seed, options.steps)
    with torch.no_grad():
        torch.manual_seed(0)
        by_hand.append(float(torch.stack([hand.elbo(test) for _ in range(50)]).mean()))
    pair, seconds, _ = train_the_pair(seed, options.steps)
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

columns = {
    # As in a training that is long enough for compiling to pay.
    "pair": lambda: train_the_pair(0, STEPS, compile=True)[2],
    "by hand": lambda: 1e3 * train_by_hand(0, STEPS)[1] / STEPS,
}
repeated = train.repeat(-(-STEPS * options.batch_size // len(train)), 1)[: STEPS * options.batch_size]
for name, peer in (("Pyro's example", pyro_example), ("pythae", pythae)):
    try:
        run = peer(networks, repeated, K, options.batch_size)
    except ImportError as error:
        print(f"{name} is left out: {error}")
    else:
        columns[name] = lambda run=run: 1e3 * run() / STEPS
measured = {name: [] for name in columns}
for _ in range(options.rounds):
    for name, column in columns.items():
        measured[name].append(column())
ours_ms = np.median(measured["pair"])
print(f"milliseconds a step over {STEPS} steps on {torch.get_num_threads()} threads, and how many times ours:")
for name, values in measured.items():
    print(f"  {name:15} {np.median(values):6.2f}  {np.median(values) / ours_ms:5.2f}")
