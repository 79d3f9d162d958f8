"""Generative models, one file each."""

from pyro_lvm.models.bayesian_pca import BayesianPCA
from pyro_lvm.models.factor_analysis import FactorAnalysis
from pyro_lvm.models.mixture_ppca import MixturePPCA
from pyro_lvm.models.ppca import PPCA
from pyro_lvm.models.vae import VAE

__all__ = ["PPCA", "VAE", "BayesianPCA", "FactorAnalysis", "MixturePPCA"]
