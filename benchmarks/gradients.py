"""Noise and cost of the gradient estimators: PPCA on digits, d = 8, early and late in training, all rows and batches.

    python benchmarks/gradients.py [--draws 200]

The exact gradient is known in closed form. Signal over noise (s/n) is that of a single draw; times are taken in turn.
"""

import argparse
import platform

import torch
from rich.console import Console

from pyro_lvm import Pair, data, fit
from pyro_lvm.gradients import compare
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.models import PPCA

STAGES = (100, 2000)
BATCHES = (None, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    draws = parser.parse_args().draws
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread, {platform.machine()}")
    rows = data.load("digits").rows
    chosen = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:1000]]
    for steps in STAGES:
        torch.manual_seed(0)
        pair = Pair(PPCA(64, 8), LinearGaussian(64, 8))
        fit(pair.model, pair.guide, rows, steps=steps, pair=pair, device="cpu", progress=False)
        for batch_size in BATCHES:
            print(f"\nafter {steps} steps of training")
            found = compare(
                pair.model, pair.guide, chosen, draws=draws, batch_size=batch_size, pair=pair, progress=False
            )
            Console(width=100).print(found)
            biased = found.biased()
            print(
                f"every estimator within its error of the closed form: {'MISSED ' + str(biased) if biased else 'met'}"
            )


if __name__ == "__main__":
    main()
