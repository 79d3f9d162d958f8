"""Exact maximum likelihood by EM: scikit-learn estimators on PyTorch, with missing entries and full posteriors."""

from pyro_lvm.em.expectation import Statistics, sum_statistics
from pyro_lvm.em.factor_analysis import FactorAnalysis
from pyro_lvm.em.mixture import MixturePPCA
from pyro_lvm.em.mixture_inference import MixturePosterior
from pyro_lvm.em.ppca import PPCA
from pyro_lvm.em.rotation import varimax
from pyro_lvm.em.selection import SelectionCurve, select
from pyro_lvm.em.single import Posterior

__all__ = [
    "PPCA",
    "FactorAnalysis",
    "MixturePPCA",
    "MixturePosterior",
    "Posterior",
    "SelectionCurve",
    "Statistics",
    "select",
    "sum_statistics",
    "varimax",
]
