"""When compiling pays, judged by the size of the graph alone, so that the same run always takes the same way.

A clock would judge better on a strange machine, but a run that was resumed could then go on in the other mode, and not
be the same bit for bit.
"""

from __future__ import annotations

# Seconds, measured on two x86-64 cores over the pairs of `benchmarks/svi_speed.py`: what compiling costs, the same on
# top of every operation, and what a compiled step spares of a traced and of an eager one.
_COMPILE = 2.5
_COMPILE_AN_OPERATION = 0.01
_SPARED_OF_TRACED = 1e-4
_SPARED_OF_TRACED_AN_OPERATION = 3e-6
# Steps below which even tracing, about a second the first time, costs more than it spares.
_WORTH_TRACING = 1_500


def break_even(num_operations: int) -> int:
    """Traced steps that cost as much more than compiled ones as compiling does.

    Args:
        num_operations: Tensor operations of the loss and its gradients.

    Returns:
        Steps.
    """
    cost = _COMPILE + _COMPILE_AN_OPERATION * num_operations
    return round(cost / (_SPARED_OF_TRACED + _SPARED_OF_TRACED_AN_OPERATION * num_operations))


def should_trace(planned: int | None) -> bool:
    """Whether to trace at all, for so many steps planned; None where that is not known."""
    return planned is None or planned >= _WORTH_TRACING


def should_compile(num_operations: int, taken: int, planned: int | None) -> bool:
    """Whether to compile now.

    With a plan: where it pays, at once. Without one: once as much has been lost by waiting as compiling costs, which is
    at most twice what the best choice in hindsight would have cost.

    Args:
        num_operations: Tensor operations of the loss and its gradients.
        taken: Steps taken by this graph.
        planned: Steps in all, if that is known.
    """
    enough = break_even(num_operations)
    return taken >= enough if planned is None else planned >= enough
