"""The evidence of a model for rows, exactly where it is known and bounded where it isn't, in nats a row.

Beside it, what an ELBO is made of: reconstruction, the KL of each latent, and which latent dimensions are used.
"""

from pyro_lvm.evidence.bounds import bounds, elbo, exact, iwae
from pyro_lvm.evidence.estimate import Estimate
from pyro_lvm.evidence.terms import Terms, elbo_terms
from pyro_lvm.evidence.units import LatentUnits, collapse

__all__ = ["Estimate", "LatentUnits", "Terms", "bounds", "collapse", "elbo", "elbo_terms", "exact", "iwae"]
