"""The latent space of a pair: where rows lie in it, what its points decode to, and how well it keeps neighbours."""

from pyro_lvm.latent.neighbours import Nearest, Neighbourhoods, nearest_rows, neighbourhoods
from pyro_lvm.latent.space import LatentSpace

__all__ = ["LatentSpace", "Nearest", "Neighbourhoods", "nearest_rows", "neighbourhoods"]
