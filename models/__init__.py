"""Generative models, one file each."""

from pyro_lvm.models.ppca import PPCA

__all__ = ["PPCA"]
