"""Seconds until a pair is within 1e-3 nats a row of the exact maximum of the evidence: plain Pyro's steps and ours.

    python benchmarks/svi_evidence.py [--seconds 120] [--plain 4000] [--rows TEXT ...]

The same ``fit`` with the same seed, its budget doubled until the gap is small enough; what counts is the shortest
budget that does, with all that comes with it: tracing, comparing, compiling. Plain Pyro takes the same steps to the
same place; where they are more than ``--plain``, so many are timed and the rest reckoned from them (a ~ says so).
"""

import argparse
import time

import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

from pyro_lvm import fit, grade
from pyro_lvm.guides import LinearGaussian, MixtureOfExperts
from pyro_lvm.models import PPCA, MixturePPCA

TARGET = 1e-3


def digits() -> torch.Tensor:
    return torch.from_numpy(load_digits().data).float() / 16


def wide() -> torch.Tensor:
    """5,000 rows of 784 features on 16 directions whose variances fall by a fifth each."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(784, 16, generator=generator)).Q * 0.8 ** torch.arange(16) * 5
    z = torch.randn(5000, 16, generator=generator)
    return z @ directions.T + 0.3 * torch.randn(5000, 784, generator=generator)


def clusters() -> torch.Tensor:
    """4,000 rows of 64 features in ten clusters, each along four directions of its own."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(10, (4000,), generator=generator)
    means = 2 * torch.randn(10, 64, generator=generator)
    directions = torch.randn(10, 64, 4, generator=generator)
    z = torch.randn(4000, 4, 1, generator=generator)
    return means[kinds] + (directions[kinds] @ z).squeeze(-1) + 0.5 * torch.randn(4000, 64, generator=generator)


ROWS = {
    "PPCA 64/8, digits, B=256": (digits, lambda: (PPCA(64, 8), LinearGaussian(64, 8)), 256),
    "PPCA 784/16, B=1024": (wide, lambda: (PPCA(784, 16), LinearGaussian(784, 16)), 1024),
    "mixture K=10, D=64, B=256": (clusters, lambda: (MixturePPCA(64, 4, 10), MixtureOfExperts(64, 4, 10)), 256),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="longest training to try (default: 120)")
    parser.add_argument("--plain", type=int, default=4000, help="steps of plain Pyro to time at most (default: 4000)")
    parser.add_argument("--rows", nargs="*", help="pairs whose names contain one of these texts; else all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title=f"seconds to within {TARGET:g} nats a row of the exact maximum")
    for heading in ("pair", "steps", "gap", "plain Pyro", "ours", "ratio"):
        table.add_column(heading, justify="left" if heading == "pair" else "right")
    for name, (make_rows, make_pair, batch_size) in ROWS.items():
        if options.rows and not any(text in name for text in options.rows):
            continue
        x = make_rows()
        steps, gap, seconds = 250, float("inf"), 0.0
        while gap > TARGET and seconds < options.seconds:
            steps *= 2
            result, seconds = timed(make_pair(), x, steps, batch_size, compile="auto")
            gap = grade(result.pair, x).gap
        taken = min(steps, options.plain)
        plain = timed(make_pair(), x, taken, batch_size, compile=False)[1] * steps / taken
        reckoned = "~" if taken < steps else ""
        table.add_row(
            name, f"{steps:,}", f"{gap:.1e}", f"{reckoned}{plain:.1f}", f"{seconds:.1f}", f"{plain / seconds:.1f}"
        )
    Console().print(table)


def timed(pair, x, steps, batch_size, compile):
    began = time.perf_counter()
    result = fit(*pair, x, steps=steps, batch_size=batch_size, compile=compile, progress=False, seed=0)
    return result, time.perf_counter() - began


if __name__ == "__main__":
    main()
