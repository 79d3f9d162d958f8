"""Amortized guides, one file each."""

from pyro_lvm.guides.encoder import GaussianEncoder, MaskedGaussianEncoder
from pyro_lvm.guides.linear_gaussian import LinearGaussian
from pyro_lvm.guides.mixture import MixtureOfExperts
from pyro_lvm.guides.product_of_experts import ProductOfExperts
from pyro_lvm.guides.shared_loadings import SharedLoadings

__all__ = [
    "GaussianEncoder",
    "LinearGaussian",
    "MaskedGaussianEncoder",
    "MixtureOfExperts",
    "ProductOfExperts",
    "SharedLoadings",
]
