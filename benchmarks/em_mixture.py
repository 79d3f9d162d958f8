"""A step of EM for a mixture of PPCAs against one of GaussianMixture (full): 60000 x 784, K = 10, d = 10.

    python benchmarks/em_mixture.py [--rows 60000] [--features 784] [--mixtures 10] [--latent 10] [--repeats 2]

Both take an E-step and an M-step, from the same kind of random parameters; ours also with 30% of entries missing.
"""

import argparse

import numpy as np
import torch
from em_timing import alternate, machine
from sklearn.mixture import GaussianMixture

from pyro_lvm.em.expectation import expect
from pyro_lvm.em.maximization import maximise
from pyro_lvm.em.parameters import NoiseModel, Parameters
from pyro_lvm.em.rows import MemoryRows, block_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--features", type=int, default=784)
    parser.add_argument("--mixtures", type=int, default=10)
    parser.add_argument("--latent", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    count, width, dim = options.mixtures, options.features, options.latent
    rng = np.random.default_rng(0)
    x = rng.normal(size=(options.rows, width))
    holes = np.where(rng.random(x.shape) < 0.3, np.nan, x)
    parameters = Parameters(
        torch.full((count,), 1 / count).double(),
        torch.from_numpy(0.1 * rng.normal(size=(count, width))),
        torch.from_numpy(0.1 * rng.normal(size=(count, width, dim))),
        torch.ones(count, width).double(),
    )
    noise = NoiseModel(isotropic=True, floor=torch.full((width,), 1e-4).double())
    size = block_rows(torch.device("cpu"), width, count, dim)
    rows, missing = (MemoryRows(torch.from_numpy(data), size) for data in (x, holes))

    peer = GaussianMixture(count, reg_covar=1e-3)
    responsibilities = rng.dirichlet(np.ones(count), size=options.rows)
    peer._initialize(x, responsibilities)

    def peer_step() -> None:
        _, log_responsibilities = peer._e_step(x)
        peer._m_step(x, log_responsibilities)

    runs = {
        "pyro_lvm": lambda: maximise(expect(rows, parameters), parameters, noise),
        "pyro_lvm, 30% missing": lambda: maximise(expect(missing, parameters), parameters, noise),
        "GaussianMixture full": peer_step,
    }
    seconds = alternate(runs, options.repeats)
    print(machine())
    print(f"{options.rows} x {width}, K = {count}, d = {dim}; seconds of one step of EM")
    for name, value in seconds.items():
        print(f"{name:22s} {value:8.2f} s {value / seconds['pyro_lvm']:7.1f}")


if __name__ == "__main__":
    main()
