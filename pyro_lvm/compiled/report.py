"""What a compiled SVI did: traced, compiled, fell back, why, how often, and what it cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Report:
    """An account of a compiled SVI, kept up as it goes.

    Attributes:
        mode: How the last step was taken: ``eager``, ``traced`` or ``compiled``.
        steps: Steps by mode.
        operations: Tensor operations of the last graph of loss and gradients.
        traced: Graphs made.
        compiled: Graphs compiled.
        verified: Comparisons with eager Pyro that agreed.
        trace_seconds: Time that tracing and comparing took.
        compile_seconds: Time that compiling took.
        reasons: Why a graph was made again, was not compiled, or is not used.
        break_even: Steps after which compiling has paid, as estimated.
    """

    mode: str = "eager"
    steps: Counter[str] = field(default_factory=Counter)
    operations: int = 0
    traced: int = 0
    compiled: int = 0
    verified: int = 0
    trace_seconds: float = 0.0
    compile_seconds: float = 0.0
    break_even: int = 0
    reasons: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        taken = ", ".join(f"{count} {mode}" for mode, count in self.steps.items()) or "none"
        lines = [
            f"mode: {self.mode} (steps: {taken})",
            f"traced {self.traced} times in {self.trace_seconds:.2f} s, {self.operations} operations a step; "
            f"agreed with eager Pyro {self.verified} times",
            f"compiled {self.compiled} times in {self.compile_seconds:.2f} s"
            + (f"; estimated to pay after {self.break_even} steps" if self.break_even else ""),
        ]
        return "\n".join([*lines, *(f"- {reason}" for reason in self.reasons)])
