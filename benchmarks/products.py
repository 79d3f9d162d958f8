"""Products of single-precision matrices by MKL and by oneDNN, as the layers of a network take them: GFLOP/s.

    python benchmarks/products.py [--threads 2] [--seconds 0.1]

Of a layer with x (B, k) and a weight (n, k): x W^T forwards, g W for the input's gradient, g^T x for the weight's. The
rule of :mod:`pyro_lvm.compiled.products` stands beside: on some processors MKL is the faster one, and the rule says no.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from pyro_lvm.compiled.products import onednn_is_faster, product

LAYERS = [(1024, 784, 400), (128, 784, 400), (1024, 400, 20), (128, 400, 20), (1024, 784, 16), (128, 784, 200)]
LAYERS += [(128, 200, 200), (128, 200, 50), (256, 128, 128), (4096, 64, 32), (8192, 784, 4), (256, 64, 8)]


def seconds_of(multiply: Callable[[Tensor, Tensor], Tensor], left: Tensor, right: Tensor, seconds: float) -> float:
    multiply(left, right)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        began = time.perf_counter()
        multiply(left, right)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.1, help="of each product")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    processor = torch.cpu.get_capabilities().get("cpu_name")
    print(f"torch {torch.__version__}, {options.threads} threads, {processor}: oneDNN is faster: {onednn_is_faster()}")
    for batch, wide, narrow in LAYERS:
        x, weight, g = torch.randn(batch, wide), torch.randn(narrow, wide), torch.randn(batch, narrow)
        line = f"{f'{batch} x {wide} x {narrow}':>18}"
        for kind, left, right in (("x W^T", x, weight.t()), ("g W", g, weight), ("g^T x", g.t(), x)):
            mkl, onednn = (seconds_of(by, left, right, options.seconds) for by in (torch.mm, product))
            giga = 2e-9 * batch * wide * narrow
            line += f" | {kind} {giga / mkl:5.0f} {giga / onednn:5.0f} ({mkl / onednn:.2f})"
        print(line, flush=True)


if __name__ == "__main__":
    main()
