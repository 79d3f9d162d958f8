"""An E-step with missing entries against a loop over rows in NumPy: 10000 x 200, 30% missing, d = 10.

    python benchmarks/em_missing.py [--rows 10000] [--features 200] [--latent 10] [--missing 0.3] [--repeats 3]

The loop solves each row's d x d system for the posterior and its evidence; the second one also adds up the statistics
of the M-step, as ours does.
"""

import argparse
import math

import numpy as np
import torch
from em_timing import alternate, machine

from pyro_lvm.em.expectation import expect
from pyro_lvm.em.parameters import Parameters
from pyro_lvm.em.rows import MemoryRows, block_rows


def loop(
    x: np.ndarray, loadings: np.ndarray, mean: np.ndarray, noise_variance: float, statistics: bool
) -> tuple[float, np.ndarray]:
    """Log-evidence of all rows, and the cross moments of features and latents (0 without statistics)."""
    data_dim, latent_dim = loadings.shape
    evidence = 0.0
    observed_sum = np.zeros((data_dim, latent_dim + 1, latent_dim + 1))
    cross = np.zeros((data_dim, latent_dim + 1))
    for row in x:
        seen = ~np.isnan(row)
        own, residual = loadings[seen], row[seen] - mean[seen]
        precision = np.eye(latent_dim) + own.T @ own / noise_variance
        covariance = np.linalg.inv(precision)
        loc = covariance @ (own.T @ residual) / noise_variance
        square = residual @ residual / noise_variance - loc @ precision @ loc
        log_det = np.linalg.slogdet(precision)[1] + seen.sum() * math.log(2 * math.pi * noise_variance)
        evidence -= 0.5 * (log_det + square)
        if statistics:
            extended = np.append(loc, 1.0)
            second = np.outer(extended, extended)
            second[:-1, :-1] += covariance
            observed_sum[seen] += second
            cross[seen] += np.outer(row[seen], extended)
    return evidence, cross


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--latent", type=int, default=10)
    parser.add_argument("--missing", type=float, default=0.3)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(options.features, options.latent))
    x = rng.normal(size=(options.rows, options.latent)) @ loadings.T
    x += rng.normal(size=x.shape)
    x[rng.random(x.shape) < options.missing] = np.nan
    mean = np.zeros(options.features)
    parameters = Parameters(
        torch.ones(1).double(),
        torch.from_numpy(mean)[None],
        torch.from_numpy(loadings)[None],
        torch.ones(1, options.features).double(),
    )
    size = block_rows(torch.device("cpu"), options.features, 1, options.latent)
    rows = MemoryRows(torch.from_numpy(x), size)
    runs = {
        "pyro_lvm E-step": lambda: expect(rows, parameters),
        "loop, posterior": lambda: loop(x, loadings, mean, 1.0, False),
        "loop, E-step": lambda: loop(x, loadings, mean, 1.0, True),
    }
    seconds = alternate(runs, options.repeats)
    ours, theirs = expect(rows, parameters), loop(x, loadings, mean, 1.0, True)
    print(machine())
    print(f"{options.rows} x {options.features}, {options.missing:.0%} missing, d = {options.latent}")
    for name, value in seconds.items():
        print(f"{name:18s} {value:8.4f} s {value / seconds['pyro_lvm E-step']:7.1f}")
    gap = abs(float(ours.log_evidence) - theirs[0]) / options.rows
    apart = np.abs(ours.cross[0].numpy() - theirs[1]).max()
    print(f"largest difference: evidence {gap:.1e} nats a row, cross moments {apart:.1e}")


if __name__ == "__main__":
    main()
