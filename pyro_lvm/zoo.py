"""The pairs that come with the package: which guides go with which model."""

from functools import partial

from pyro_lvm.catalogue import PairSpec
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.models import PPCA

ppca = PairSpec(
    summary="probabilistic PCA: linear loadings, isotropic noise, an exact posterior to be graded against",
    model=PPCA,
    guides={
        "full": partial(LinearGaussian, covariance="full"),
        "diagonal": partial(LinearGaussian, covariance="diagonal"),
    },
)
