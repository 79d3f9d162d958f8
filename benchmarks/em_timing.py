"""Timing side by side: alternating runs in one process, so that a busy machine slows all of them alike."""

import platform
import statistics
import time
from collections.abc import Callable

import sklearn
import torch


def machine() -> str:
    """One line on what the figures were measured with."""
    return (
        f"torch {torch.__version__} ({torch.get_num_threads()} threads), scikit-learn {sklearn.__version__}, "
        f"{platform.machine()}"
    )


def alternate(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each run, taken in turns.

    Args:
        runs: what to time, by name.
        repeats: how often each; one more that isn't counted goes before.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
