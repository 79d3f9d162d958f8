"""Closed-form PPCA against scikit-learn's PCA solvers, time and evidence: 60000 x 784, d = 50.

    python benchmarks/em_closed_form.py [--rows 60000] [--features 784] [--latent 50] [--repeats 5]

Rows are drawn from a linear-Gaussian model whose spectrum falls like 1 / k. The gap is in nats a row below the maximum.
"""

import argparse

import numpy as np
from em_timing import alternate, machine
from sklearn.decomposition import PCA

from pyro_lvm.em import PPCA


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--features", type=int, default=784)
    parser.add_argument("--latent", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    scales = 1 / np.arange(1, options.features + 1)
    axes = np.linalg.qr(rng.normal(size=(options.features, options.features)))[0]
    x = rng.normal(size=(options.rows, options.features)) @ (scales[:, None] * axes) + 0.5

    models = {"pyro_lvm PPCA": PPCA(options.latent)}
    for solver in ("covariance_eigh", "randomized", "full"):
        models[f"PCA {solver}"] = PCA(options.latent, svd_solver=solver, random_state=0)
    seconds = alternate({name: lambda m=model: m.fit(x) for name, model in models.items()}, options.repeats)
    best = models["pyro_lvm PPCA"].score(x)
    print(machine())
    print(f"{x.shape[0]} x {x.shape[1]}, d = {options.latent}")
    print(f"{'':22s} {'seconds':>9s} {'ratio':>7s} {'gap':>10s}")
    for name, model in models.items():
        ratio = seconds[name] / seconds["pyro_lvm PPCA"]
        print(f"{name:22s} {seconds[name]:9.3f} {ratio:7.2f} {best - model.score(x):10.1e}")


if __name__ == "__main__":
    main()
