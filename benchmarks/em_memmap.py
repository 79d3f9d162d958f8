"""Fits to a file that needn't fit in memory: 10^6 x 100, time and the most memory that was resident.

    python benchmarks/em_memmap.py [--rows 1000000] [--features 100] [--latent 10] [--folder FOLDER]

PPCA and factor analysis take one pass where no entry is missing; with 10% missing, each step of EM is a pass.
"""

import argparse
import pathlib
import resource
import tempfile
import time
import warnings

import numpy as np
from em_timing import machine
from sklearn.exceptions import ConvergenceWarning

from pyro_lvm.em import PPCA, FactorAnalysis, MixturePPCA

STEPS = 5
ROWS_AT_ONCE = 10_000


def resident() -> float:
    """The most memory that was resident so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(path: pathlib.Path, rows: int, features: int, latent: int, missing: float) -> None:
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(latent, features))
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=(rows, features))
    for start in range(0, rows, ROWS_AT_ONCE):
        part = file[start : start + ROWS_AT_ONCE]
        part[:] = rng.normal(size=(len(part), latent)) @ loadings + rng.normal(size=part.shape)
        part[rng.random(part.shape) < missing] = np.nan
    file.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=100)
    parser.add_argument("--latent", type=int, default=10)
    parser.add_argument("--folder", type=pathlib.Path, default=None)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(machine())
    print(f"{options.rows} x {options.features}: {options.rows * options.features * 8 / 2**20:.0f} MB in the file")
    print(f"{'':34s} {'seconds':>8s} {'resident MB':>12s}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        complete, holes = (pathlib.Path(folder) / name for name in ("complete.npy", "holes.npy"))
        write(complete, options.rows, options.features, options.latent, 0.0)
        write(holes, options.rows, options.features, options.latent, 0.1)
        # What writing left mapped counts as resident; a fresh start would be a fresh process.
        print(f"{'before':34s} {'':8s} {resident():12.0f}")
        few = {"max_iter": STEPS, "n_init": 1, "random_state": 0}
        for name, path, model in [
            ("PPCA, one pass", complete, PPCA(options.latent)),
            ("FactorAnalysis, one pass", complete, FactorAnalysis(options.latent, random_state=0)),
            (f"PPCA, 10% missing, {STEPS} steps", holes, PPCA(options.latent, **few)),
            (f"MixturePPCA(5), {STEPS} steps", complete, MixturePPCA(5, options.latent, **few)),
        ]:
            start = time.perf_counter()
            model.fit(np.load(path, mmap_mode="r"))
            print(f"{name:34s} {time.perf_counter() - start:8.1f} {resident():12.0f}", flush=True)


if __name__ == "__main__":
    main()
