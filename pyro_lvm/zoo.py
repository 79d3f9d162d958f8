"""The pairs that come with the package: which guides go with which model."""

from functools import partial

from pyro_lvm import em
from pyro_lvm.catalogue import PairSpec
from pyro_lvm.guides import (
    GaussianEncoder,
    LinearGaussian,
    MaskedGaussianEncoder,
    MixtureOfExperts,
    ProductOfExperts,
    SharedLoadings,
)
from pyro_lvm.models import PPCA, VAE, BayesianPCA, FactorAnalysis, MixturePPCA

ppca = PairSpec(
    summary="probabilistic PCA: linear loadings, isotropic noise, an exact posterior to be graded against",
    model=PPCA,
    guides={
        "full": partial(LinearGaussian, covariance="full"),
        "diagonal": partial(LinearGaussian, covariance="diagonal"),
        "experts": ProductOfExperts,
    },
    estimator=em.PPCA,
)

factor_analysis = PairSpec(
    summary="factor analysis: linear loadings, noise of each feature's own variance, an exact posterior",
    model=FactorAnalysis,
    guides={"experts": ProductOfExperts, "full": partial(LinearGaussian, covariance="full")},
    estimator=em.FactorAnalysis,
)

mixture_ppca = PairSpec(
    summary="mixture of probabilistic PCAs: several local linear maps, a discrete latent, an exact posterior",
    model=MixturePPCA,
    guides={"experts": MixtureOfExperts, "network": partial(MixtureOfExperts, assignment="network")},
    estimator=em.MixturePPCA,
)

bayesian_pca = PairSpec(
    summary="Bayesian PCA: latent loadings whose superfluous columns are switched off (automatic relevance)",
    model=BayesianPCA,
    guides={"shared": SharedLoadings},
)

vae = PairSpec(
    summary="variational autoencoder: a network for the linear map, for images and tables; no exact posterior",
    model=VAE,
    guides={
        "diagonal": partial(GaussianEncoder, covariance="diagonal"),
        "full": partial(GaussianEncoder, covariance="full"),
        "masked": MaskedGaussianEncoder,
    },
)
