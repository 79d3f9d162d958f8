"""Amortized guides, one file each."""

from pyro_lvm.guides.linear_gaussian import LinearGaussian

__all__ = ["LinearGaussian"]
