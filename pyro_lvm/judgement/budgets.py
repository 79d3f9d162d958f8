"""How much is spent on a judgement."""

from __future__ import annotations

from dataclasses import dataclass

from pyro_lvm.evidence.density import Start


@dataclass(frozen=True)
class Budget:
    """How much is spent on a judgement.

    Attributes:
        rows: Of training, and held out.
        particles: Of the importance-weighted bound, a row.
        temperatures: Of annealing.
        chains: Of its, a row.
        start: Where they begin: from the guide few temperatures go far, and from the prior nothing depends on it.
        gap_draws: Of each ELBO of the gap, a row.
        weight_draws: Whose weights are looked at, a row.
        simulations: Rows that the guide's calibration is looked at on.
    """

    rows: int
    particles: int
    temperatures: int
    chains: int
    start: Start
    gap_draws: int
    weight_draws: int
    simulations: int


BUDGETS = {
    "quick": Budget(50, 1000, 100, 8, "guide", 128, 1000, 500),
    "full": Budget(100, 5000, 1000, 16, "prior", 256, 4000, 4000),
}
