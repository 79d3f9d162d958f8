"""Steps a second of SVI, ours beside Pyro's own ways and PyTorch written by hand: alternating runs, medians, ratios.

    python benchmarks/svi_speed.py [--rows ppca-small,vae-128] [--columns pyro,ours] [--threads 2] [--repeats 7]

`ceiling` is the loss written by hand with its gradients and Adam in one graph, by `torch.compile`: the best that
Inductor gives for this step. `numpyro` is a jitted `svi.update` of the same pair, where NumPyro is installed.
Compile times start from an empty cache, unless TORCHINDUCTOR_CACHE_DIR names another.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", tempfile.mkdtemp())

import pyro
import svi_pairs
import torch
from pyro.infer import JitTrace_ELBO, JitTraceEnum_ELBO, Trace_ELBO
from svi_numpyro import numpyro_step
from torch import Tensor

from pyro_lvm.compiled import SVI

LR = 1e-4
Step = Callable[[], Any]


def plain(row: svi_pairs.Row) -> Step:
    svi = pyro.infer.SVI(row.model, row.guide, pyro.optim.Adam({"lr": LR}), row.elbo())
    return lambda: svi.step(row.batch)


def jit(row: svi_pairs.Row) -> Step:
    elbo = JitTrace_ELBO if row.elbo is Trace_ELBO else JitTraceEnum_ELBO
    svi = pyro.infer.SVI(row.model, row.guide, pyro.optim.Adam({"lr": LR}), elbo(ignore_jit_warnings=True))
    return lambda: svi.step(row.batch)


def compiled_elbo(row: svi_pairs.Row) -> Step:
    """What a person would try first: `torch.compile` around Pyro's differentiable loss."""
    elbo = row.elbo()
    loss = torch.compile(lambda x: elbo.differentiable_loss(row.model, row.guide, x))
    pyro.infer.SVI(row.model, row.guide, pyro.optim.Adam({"lr": LR}), row.elbo()).step(row.batch)
    params = list(pyro.get_param_store()._params.values())
    optimizer = torch.optim.Adam(params, LR, fused=True)

    def step() -> float:
        optimizer.zero_grad()
        value = loss(row.batch)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def by_hand(row: svi_pairs.Row, compiled: bool = False) -> Step:
    params = {name: value.clone().requires_grad_() for name, value in row.start.items()}
    loss = torch.compile(row.by_hand, options={"fallback_random": True}) if compiled else row.by_hand
    optimizer = torch.optim.Adam(params.values(), LR, fused=True)

    def step() -> float:
        optimizer.zero_grad()
        value = loss(params, row.batch)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def ceiling(row: svi_pairs.Row) -> Step:
    params = {name: value.clone() for name, value in row.start.items()}
    means = {name: torch.zeros_like(value) for name, value in params.items()}
    squares = {name: torch.zeros_like(value) for name, value in params.items()}
    count = torch.zeros(1, dtype=torch.float64)

    def whole(
        params: dict[str, Tensor], means: dict[str, Tensor], squares: dict[str, Tensor], count: Tensor, x: Tensor
    ) -> Tensor:
        grads, loss = torch.func.grad_and_value(row.by_hand, argnums=0)(params, x)
        count.add_(1)
        first, second = 1 - 0.9 ** count[0], (1 - 0.999 ** count[0]).sqrt()
        for name, p in params.items():
            g = grads[name]
            m = means[name] * 0.9 + g * 0.1
            v = squares[name] * 0.999 + g * g * 0.001
            p.copy_(p - (LR / first).to(p.dtype) * m / (v.sqrt() / second.to(p.dtype) + 1e-8))
            means[name].copy_(m)
            squares[name].copy_(v)
        return loss

    step = torch.compile(whole, fullgraph=True, options={"fallback_random": True})

    def take() -> float:
        with torch.no_grad():
            return step(params, means, squares, count, row.batch).item()

    return take


def ours(row: svi_pairs.Row, compile: Any = True) -> Step:
    svi = SVI(row.model, row.guide, pyro.optim.Adam({"lr": LR}), row.elbo(), compile=compile)

    def step() -> float:
        return svi.step(row.batch)

    step.svi = svi  # type: ignore[attr-defined]
    return step


def ours_run(row: svi_pairs.Row) -> Step:
    """The same by `run`, a hundred steps a call."""
    svi = SVI(row.model, row.guide, pyro.optim.Adam({"lr": LR}), row.elbo(), compile=True)

    def step() -> Tensor:
        return svi.run(100, row.batch)

    step.counts, step.svi = 100, svi  # type: ignore[attr-defined]
    return step


def numpyro(row: svi_pairs.Row) -> Step:
    return numpyro_step(row, LR)


COLUMNS: dict[str, Callable[[svi_pairs.Row], Step]] = {
    "pyro": plain,
    "jit": jit,
    "compiled-elbo": compiled_elbo,
    "hand": by_hand,
    "hand-compiled": lambda row: by_hand(row, compiled=True),
    "ceiling": ceiling,
    "numpyro": numpyro,
    "ours-traced": lambda row: ours(row, "auto"),
    "ours": ours,
    "ours-run": ours_run,
}


@dataclass
class Started:
    """Ways that have taken their first steps, and what each has in Pyro's parameter store."""

    steps: dict[str, Step] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    stores: dict[str, Any] = field(default_factory=dict)


def start(make: Callable[[], svi_pairs.Row], columns: Sequence[str]) -> Started:
    """Build each way on a fresh row of its own and let it take two steps."""
    started = Started()
    # Ours first: its time to compile then has what is loaded once in it.
    for column in sorted(columns, key=lambda c: c != "ours"):
        torch._dynamo.reset() if column not in ("ours", "pyro") else None
        pyro.clear_param_store()
        row = make()
        pyro.set_rng_seed(0)
        began = time.perf_counter()
        try:
            step = COLUMNS[column](row)
            step()
            step()
        except Exception as error:  # noqa: BLE001 - a peer that can't is a result
            print(f"  {column}: fails ({type(error).__name__}: {str(error).splitlines()[0][:80]})")
            continue
        started.first[column] = time.perf_counter() - began
        started.steps[column] = step
        started.stores[column] = pyro.get_param_store().get_state()
    return started


def alternate(started: Started, repeats: int, seconds: float) -> dict[str, float]:
    """The median seconds a step of each way, in turns."""
    store = pyro.get_param_store()
    times: dict[str, list[float]] = {column: [] for column in started.steps}
    for repeat in range(repeats + 1):
        for column, step in started.steps.items():
            store._params, store._constraints = (started.stores[column][key] for key in ("params", "constraints"))
            count, began = 0, time.perf_counter()
            while time.perf_counter() - began < seconds:
                step()
                count += getattr(step, "counts", 1)
            if repeat:  # the first round warms up
                times[column].append((time.perf_counter() - began) / count)
    return {column: statistics.median(values) for column, values in times.items()}


def measure(name: str, columns: list[str], repeats: int, seconds: float) -> None:
    row = svi_pairs.ROWS[name]()
    started = start(svi_pairs.ROWS[name], columns)
    steps, first = started.steps, started.first
    medians = alternate(started, repeats, seconds)
    print(f"{row.name}")
    for column in columns:
        if column not in medians:
            continue
        t = medians[column]
        ratios = "".join(
            f"{medians[peer] / t:8.2f}x {peer}"
            for peer in ("pyro", "ceiling", "numpyro")
            if peer in medians and peer != column
        )
        note = ""
        svi = getattr(steps[column], "svi", None)
        if svi is not None and svi.explain().mode == "compiled":
            report = svi.explain()
            cost = report.trace_seconds + report.compile_seconds
            note = f"  trace {report.trace_seconds:.2f} s, compile {report.compile_seconds:.2f} s"
            if "pyro" in medians:
                note += f", pays after {cost / max(1e-9, medians['pyro'] - t):,.0f} steps of plain Pyro"
        print(
            f"  {column:14s} {1 / t:9.0f} steps/s {t * 1e6:9.0f} us {ratios}  first steps {first[column]:5.1f} s{note}"
        )
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(svi_pairs.ROWS))
    parser.add_argument("--columns", default=",".join(COLUMNS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, pyro {pyro.__version__}, {options.threads} threads")
    for name in options.rows.split(","):
        measure(name, options.columns.split(","), options.repeats, options.seconds)


if __name__ == "__main__":
    main()
