"""The evidence of a model for rows, exactly where it is known and bounded where it isn't, in nats a row.

Beside it, what an ELBO is made of: reconstruction, the KL of each latent, and which latent dimensions are used; and
what it lacks: what the guide's family can't say, and what its encoder misses.
"""

from pyro_lvm.evidence.annealing import ais, reverse_ais
from pyro_lvm.evidence.bounds import bounds, elbo, exact, iwae
from pyro_lvm.evidence.estimate import Estimate
from pyro_lvm.evidence.gap import Gap, advice, take_apart
from pyro_lvm.evidence.sandwich import Sandwich, sandwich, simulate
from pyro_lvm.evidence.terms import Terms, elbo_terms
from pyro_lvm.evidence.units import LatentUnits, collapse

__all__ = [
    "Estimate",
    "Gap",
    "LatentUnits",
    "Sandwich",
    "Terms",
    "advice",
    "ais",
    "bounds",
    "collapse",
    "elbo",
    "elbo_terms",
    "exact",
    "iwae",
    "reverse_ais",
    "sandwich",
    "simulate",
    "take_apart",
]
