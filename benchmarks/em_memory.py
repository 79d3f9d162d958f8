"""Memory and time of fits beyond the data: a file of 10^6 x 100 read from disk, and a mixture of 60000 x 784 in memory.

    python benchmarks/em_memory.py [--rows 1000000] [--features 100] [--latent 10] [--folder FOLDER]

Each fit is a process of its own. What is counted is the most anonymous memory that was resident (RssAnon of Linux),
less what was before the fit: the page cache of a file that is mapped is given back whenever anyone needs it. PPCA and
factor analysis take one pass where no entry is missing; with 10% missing, each step of EM is a pass.
"""

import argparse
import multiprocessing
import pathlib
import tempfile
import threading
import time
import warnings

import numpy as np
from em_timing import machine

from pyro_lvm.em import PPCA, FactorAnalysis, MixturePPCA

STEPS = 5
ROWS_AT_ONCE = 10_000
WIDE = (60_000, 784)


def resident() -> float:
    """Anonymous memory that is resident, in MB."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def write(path: pathlib.Path, shape: tuple[int, int], latent: int, missing: float) -> None:
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(latent, shape[1]))
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=shape)
    for start in range(0, len(file), ROWS_AT_ONCE):
        part = file[start : start + ROWS_AT_ONCE]
        part[:] = rng.normal(size=(len(part), latent)) @ loadings + rng.normal(size=part.shape)
        part[rng.random(part.shape) < missing] = np.nan
    file.flush()


def measure(path: pathlib.Path, kind: str, latent: int, mapped: bool, queue: multiprocessing.Queue) -> None:
    """Fit, and put seconds and MB into the queue."""
    warnings.simplefilter("ignore")
    few = {"max_iter": STEPS, "n_init": 1, "random_state": 0, "device": "cpu"}
    models = {
        "PPCA": PPCA(latent, **few),
        "FactorAnalysis": FactorAnalysis(latent, **few),
        "MixturePPCA(5)": MixturePPCA(5, latent, **few),
        "MixturePPCA(10)": MixturePPCA(10, latent, **few),
    }
    models[kind].fit(np.load(path, mmap_mode="r")[:1000])  # what the first use loads isn't the data's
    x = np.load(path, mmap_mode="r" if mapped else None)
    before, peak, done = resident(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    models[kind].fit(x)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    queue.put((seconds, peak - before))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=100)
    parser.add_argument("--latent", type=int, default=10)
    parser.add_argument("--folder", type=pathlib.Path, default=None)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print(machine())
    print(f"{'':52s} {'seconds':>8s} {'MB beyond':>10s}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        long = (options.rows, options.features)
        for kind, shape, missing, mapped in [
            ("PPCA", long, 0.0, True),
            ("FactorAnalysis", long, 0.0, True),
            ("MixturePPCA(5)", long, 0.0, True),
            ("PPCA", long, 0.1, True),
            ("MixturePPCA(10)", WIDE, 0.0, False),
            ("MixturePPCA(10)", WIDE, 0.3, False),
        ]:
            path = pathlib.Path(folder) / f"{shape[1]}_{missing}.npy"
            if not path.exists():
                for other in pathlib.Path(folder).iterdir():
                    other.unlink()
                write(path, shape, options.latent, missing)
            queue = context.Queue()
            process = context.Process(target=measure, args=(path, kind, options.latent, mapped, queue))
            process.start()
            seconds, megabytes = queue.get()
            process.join()
            what = f"{kind}, {shape[0]} x {shape[1]}" + (f", {missing:.0%} missing" if missing else "")
            what += ", from a file" if mapped else ", in memory"
            print(f"{what:52s} {seconds:8.1f} {megabytes:10.0f}", flush=True)


if __name__ == "__main__":
    main()
