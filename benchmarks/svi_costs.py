"""What the speed of a step of SVI costs, and how it grows; see `svi_speed.py` for the columns.

    python benchmarks/svi_costs.py [first] [growth] [--threads 1]

`first`: each way in a process of its own, with an empty cache: seconds to the first and to the tenth step, peak memory.
`growth`: microseconds a step as the batch, the features and the parameters grow.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable

import pyro
import svi_pairs
import svi_speed
import torch

PARTS = ("first", "growth")
FIRST = ("pyro", "jit", "compiled-elbo", "hand-compiled", "ceiling", "numpyro", "ours")
FIRST_ROWS = ("ppca-small", "vae-128", "mixture")
GROWING: dict[str, dict[str, Callable[[], svi_pairs.Row]]] = {
    "PPCA 64/8, batch": {str(n): (lambda n=n: svi_pairs.ppca(64, 8, n)) for n in (64, 256, 1024, 4096)},
    "PPCA d=8, B=256, features": {str(n): (lambda n=n: svi_pairs.ppca(n, 8, 256)) for n in (16, 256, 1024)},
    "VAE 64-h-8, B=128, parameters": {
        f"{2 * 64 * h + 3 * 8 * h + 2 * h + 64 + 16:,}": (lambda h=h: svi_pairs.vae(128, (64, h, 8)))
        for h in (25, 100, 400)
    },
}


def build(column: str, row: svi_pairs.Row) -> svi_speed.Step:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    torch._dynamo.reset()
    return svi_speed.COLUMNS[column](row)


def alone(row: str, column: str) -> None:
    """In a process of its own: prints seconds and MiB as JSON."""
    pair = svi_pairs.ROWS[row]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    step = build(column, pair)
    step()
    first = time.perf_counter() - began
    for _ in range(9):
        step()
    tenth = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({"first": first, "tenth": tenth, "MiB": memory / 1024, "compiler": children / 1024}))


def first(rows: list[str], columns: list[str], threads: int) -> None:
    print("seconds to the first and to the tenth step; MiB beyond what is imported; a compiler's own peak")
    for row in rows:
        for column in columns:
            caches = {"": tempfile.mkdtemp()}
            if column == "ours":
                caches["again, with the cache"] = caches[""]
            for label, cache in caches.items():
                command = [sys.executable, __file__, "--alone", row, column, "--threads", str(threads)]
                # Inductor keeps precompiled headers in the temporary folder, whatever its cache is.
                environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "TMPDIR": cache}
                done = subprocess.run(command, capture_output=True, text=True, env=environment)
                lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
                if not lines:
                    print(f"  {row:12s} {column:14s} fails: {done.stderr.strip().splitlines()[-1][:90]}", flush=True)
                    continue
                m = json.loads(lines[-1])
                print(
                    f"  {row:12s} {column:14s} {m['first']:6.2f} s {m['tenth']:6.2f} s {m['MiB']:6.0f} MiB "
                    f"{m['compiler']:6.0f} MiB  {label}",
                    flush=True,
                )


def growth(columns: tuple[str, ...] = ("pyro", "ceiling", "ours"), repeats: int = 4, seconds: float = 0.15) -> None:
    for name, sizes in GROWING.items():
        print(f"{name}: microseconds a step ({', '.join(columns)}), ours / plain Pyro, ours / ceiling")
        for size, make in sizes.items():
            medians = svi_speed.alternate(svi_speed.start(make, columns), repeats, seconds)
            plain, best, own = (medians[column] * 1e6 for column in columns)
            print(f"  {size:>9s} {plain:9.0f} {best:9.0f} {own:9.0f} {plain / own:8.1f} {best / own:6.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--rows", default=",".join(FIRST_ROWS))
    parser.add_argument("--columns", default=",".join(FIRST))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    if options.alone:
        alone(*options.alone)
        return
    for part in options.parts or PARTS:
        if part == "first":
            first(options.rows.split(","), options.columns.split(","), options.threads)
        else:
            growth()


if __name__ == "__main__":
    main()
