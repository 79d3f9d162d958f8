"""Every pair that comes with the package keeps the contract, at its start, with rows that are complete and not."""

import math

import torch
from torch import Tensor

from pyro_lvm.guides import LinearGaussian, MixtureOfExperts, ProductOfExperts, SharedLoadings
from pyro_lvm.models import PPCA, BayesianPCA, FactorAnalysis, MixturePPCA
from pyro_lvm.pair import Half, Pair
from pyro_lvm.testing import PairContract


def rows(missing: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 2, generator=generator) @ torch.randn(2, 5, generator=generator)
    x = x + 0.3 * torch.randn(120, 5, generator=generator)
    return x.masked_fill(torch.rand(120, 5, generator=generator) < missing, math.nan)


def started(model: Half, guide: Half) -> tuple[Half, Half]:
    Pair(model, guide).start(rows(), torch.Generator().manual_seed(0))
    return model, guide


class Complete:
    def make_rows(self) -> Tensor:
        return rows()


class Holes:
    def make_rows(self) -> Tensor:
        return rows(0.3)


class TestPPCA(Complete, PairContract):
    num_rows = 500

    def make_pair(self) -> tuple[Half, Half]:
        return started(PPCA(5, 2), LinearGaussian(5, 2))


class TestPPCAWithHoles(Holes, PairContract):
    num_rows = 500

    def make_pair(self) -> tuple[Half, Half]:
        return started(PPCA(5, 2), ProductOfExperts(5, 2))


class TestFactorAnalysis(Complete, PairContract):
    def make_pair(self) -> tuple[Half, Half]:
        return started(FactorAnalysis(5, 2), LinearGaussian(5, 2))


class TestFactorAnalysisWithHoles(Holes, PairContract):
    num_rows = 500

    def make_pair(self) -> tuple[Half, Half]:
        return started(FactorAnalysis(5, 2), ProductOfExperts(5, 2))


class TestMixture(Complete, PairContract):
    num_rows = 500

    def make_pair(self) -> tuple[Half, Half]:
        return started(MixturePPCA(5, 2, 3), MixtureOfExperts(5, 2, 3))


class TestMixtureByScore(Holes, PairContract):
    def make_pair(self) -> tuple[Half, Half]:
        return started(MixturePPCA(5, 2, 3), MixtureOfExperts(5, 2, 3, "score"))


class TestMixtureWithBaseline(Holes, PairContract):
    num_rows = 500

    def make_pair(self) -> tuple[Half, Half]:
        return started(MixturePPCA(5, 2, 3), MixtureOfExperts(5, 2, 3, "baseline"))


class TestMixtureByNetwork(Holes, PairContract):
    def make_pair(self) -> tuple[Half, Half]:
        return started(MixturePPCA(5, 2, 3), MixtureOfExperts(5, 2, 3, assignment="network"))


class TestBayesianPCA(Holes, PairContract):
    num_rows = 500

    def make_pair(self) -> tuple[Half, Half]:
        return started(BayesianPCA(5, 4), SharedLoadings(5, 4))
