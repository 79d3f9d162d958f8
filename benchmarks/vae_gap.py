"""A VAE of static binarized MNIST judged without exact answers: bounds from both sides, the gap taken apart, k-hat.

    python examples/vae_mnist.py --data-root DIR --out RUN      # seven minutes on two cores
    python benchmarks/vae_gap.py --run RUN --data-root DIR [--rows 100]

Beside them, what Cremer, Li & Duvenaud (2018) found of VAEs on MNIST: that amortization costs about as much as the
family of q, or more.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from pyro_lvm import evidence, load
from pyro_lvm.predictive import row_weights
from pyro_lvm.seeding import some_rows


def static_rows(root: Path, part: str) -> torch.Tensor:
    packed = np.load(root / "binarized_mnist_packed.npz")[part]
    return torch.from_numpy(np.unpackbits(packed, axis=1)[:, :784]).float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder that examples/vae_mnist.py wrote")
    parser.add_argument("--data-root", type=Path, required=True, help="folder of binarized_mnist_packed.npz")
    parser.add_argument("--rows", type=int, default=100, help="rows of each kind (default: 100)")
    parser.add_argument("--temperatures", type=int, default=1000, help="of annealing (default: 1000)")
    parser.add_argument("--chains", type=int, default=16, help="of annealing, a row (default: 16)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pair = load(options.run).pair
    parts = {
        "training": torch.cat([static_rows(options.data_root, part) for part in ("train", "valid")]),
        "test": static_rows(options.data_root, "test"),
    }
    console = Console()
    began = time.perf_counter()

    def said(what: str) -> None:
        console.print(f"[{time.perf_counter() - began:6.0f} s] {what}")

    annealed = {"temperatures": options.temperatures, "chains": options.chains, "seed": options.seed}
    gaps, shares = {}, {}
    for name, rows in parts.items():
        # The rows are sorted by class.
        x = some_rows(rows, options.rows, np.random.default_rng(options.seed)).to(pair.device)
        bound = evidence.ais(pair, x, **annealed)
        said(f"{name} rows: log p(x) >= {bound.mean:.2f} +- {bound.row_standard_error:.2f}, by annealing")
        gaps[name] = evidence.take_apart(pair, x, evidence=bound, seed=options.seed)
        said(f"{name} rows: taken apart")
        k = row_weights(pair, x, 2000, seed=options.seed).pareto_k
        shares[name] = (float(k.median()), float((k > 0.7).double().mean()))
    x = some_rows(parts["test"], options.rows, np.random.default_rng(options.seed)).to(pair.device)
    both = evidence.sandwich(pair, x, **annealed)
    said("the model's own rows: bounded from both sides")

    table = Table(title=f"nats a row, {options.rows} rows of each")
    for heading in ("", *parts):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, figure in (
        ("log p(x), by annealing, at least", lambda gap: f"{gap.evidence.mean:.2f}"),
        ("ELBO", lambda gap: f"{gap.elbo.mean:.2f}"),
        ("KL(q || posterior), at least", lambda gap: f"{float(gap.total.mean()):.2f}"),
        (
            "of it approximation",
            lambda gap: f"{float(gap.approximation.mean()):.2f} +- {gap.approximation_standard_error:.2f}",
        ),
        (
            "of it amortization",
            lambda gap: f"{float(gap.amortization.mean()):.2f} +- {gap.amortization_standard_error:.2f}",
        ),
        ("a full covariance would gain", lambda gap: "" if gap.full is None else f"{gap.gained_by_full:.2f}"),
        ("optimizations that ended by themselves", lambda gap: f"{gap.finished:.0%}"),
    ):
        table.add_row(name, *(figure(gap) for gap in gaps.values()))
    table.add_row("Pareto k, median", *(f"{median:.2f}" for median, _ in shares.values()))
    table.add_row("rows with k above 0.7", *(f"{share:.0%}" for _, share in shares.values()))
    console.print(table)
    console.print(
        f"sandwich on {options.rows} rows of the model's own: {both.lower.mean:.2f} to {both.upper.mean:.2f}, width "
        f"{both.width:.2f} nats a row"
    )
    console.print(evidence.advice(gaps["training"], gaps["test"]))


if __name__ == "__main__":
    main()
