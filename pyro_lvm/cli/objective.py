"""What a pair is trained by, from the options of ``pyro-lvm fit``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pyro_lvm.errors import PyroLvmError

if TYPE_CHECKING:
    from pyro.infer import ELBO


BoundArg = Annotated[
    str, typer.Option(help="elbo, or iwae: the importance-weighted bound of --particles draws.", show_default=True)
]
BetaArg = Annotated[float, typer.Option(help="Weight of the KL terms: 1 for the ELBO.")]
WarmupArg = Annotated[int, typer.Option(help="Steps over which the weight of the KL terms rises from 0.")]
FreeBitsArg = Annotated[float, typer.Option(help="Nats a latent coordinate and row that cost nothing.")]
ClipArg = Annotated[float | None, typer.Option(help="Largest norm of the gradient of the loss a row.")]
DecayArg = Annotated[
    str | None, typer.Option(help="How the rate falls: exponential or cosine; the pair has a default.")
]
PatienceArg = Annotated[int, typer.Option(help="Checks without gain on held-out rows that end training, of 20.")]

OBJECTIVE_OPTIONS = ("bound", "beta", "warmup", "free_bits", "clip_norm", "patience", "decay")
"""Names of the parameters that take these."""


def objective(bound: str, particles: int, beta: float, warmup: int, free_bits: float) -> ELBO | None:
    """The ELBO of the options; None for the pair's own.

    Raises:
        PyroLvmError: They contradict each other.
    """
    from pyro_lvm.importance import ImportanceWeightedELBO
    from pyro_lvm.tempering import TemperedELBO

    tempered = (beta, warmup, free_bits) != (1.0, 0, 0.0)
    if bound not in ("elbo", "iwae"):
        raise PyroLvmError(f"--bound {bound}: expected elbo or iwae")
    if bound == "iwae":
        if tempered:
            raise PyroLvmError(
                "--bound iwae has no KL terms to weight: leave out --beta, --warmup and --free-bits, or --bound"
            )
        if particles < 2:
            raise PyroLvmError("--bound iwae with one particle is the ELBO: add --particles 5, or more")
        return ImportanceWeightedELBO(particles, vectorize_particles=True, max_plate_nesting=1)
    return TemperedELBO(beta, warmup, free_bits, particles) if tempered else None
