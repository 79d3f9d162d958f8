"""The M-step: each feature's regression on the latents, with the latents' own scale as an expanded parameter.

The model is expanded by a mean nu and covariance S of the latents, z ~ N(nu, S), which EM may fit too because the
expanded model is the plain one with loadings W S^(1/2) and mean mu + W nu. That corrects what the E-step got wrong
about the latents' scale within one step, where plain EM takes many, and is as monotone.

Sources: Tipping & Bishop 1999a, section 3.3, and 1999b, appendix C; Rubin & Thayer 1982; for the expansion, Liu, Rubin
& Wu 1998, "Parameter expansion to accelerate EM: the PX-EM algorithm", Biometrika 85.
"""

import torch
from torch import Tensor

from pyro_lvm.em.expectation import Statistics
from pyro_lvm.em.parameters import NoiseModel, Parameters


def maximise(statistics: Statistics, noise: NoiseModel) -> Parameters:
    r"""Maximise the expected complete-data log-likelihood.

    With z~ = (z, 1), A_j and b_j the sums of E[z~ z~^T] and x_j E[z~] over the n_j rows that observe feature j::

        (w_j, mu_j) = A_j^-1 b_j        psi_j = (sum of x_j^2 - b_j^T A_j^-1 b_j) / n_j        pi_k = n_k / n

    Isotropic noise is the sum of the numerators over the sum of the n_j. Where the floor binds, it is the maximum.

    Args:
        statistics: from the E-step.
        noise: the noise variances that are allowed.

    Returns:
        The parameters.
    """
    regression = _solve(statistics.latent_observed, statistics.cross)
    residual = statistics.squares - (statistics.cross * regression).sum(-1)
    counts = statistics.counts_observed.expand_as(residual)
    if noise.isotropic:
        variances = (residual.sum(-1, keepdim=True) / counts.sum(-1, keepdim=True)).expand_as(residual)
    else:
        variances = residual / counts
    loadings, means = regression[..., :-1], regression[..., -1]

    rows = statistics.counts
    centre = statistics.latent[:, :-1, -1] / rows.unsqueeze(-1)
    second = statistics.latent[:, :-1, :-1] / rows[:, None, None]
    root = _square_root(second - centre.unsqueeze(-1) * centre.unsqueeze(-2))
    means = means + (loadings @ centre.unsqueeze(-1)).squeeze(-1)
    return Parameters(rows / rows.sum(), means, loadings @ root, noise.clamped(variances))


def _solve(latent_observed: Tensor, cross: Tensor) -> Tensor:
    """A_j^-1 b_j for each component and feature."""
    factors = torch.linalg.cholesky(latent_observed)
    if factors.shape[1] == 1:
        return torch.cholesky_solve(cross.mT, factors[:, 0]).mT
    return torch.cholesky_solve(cross.unsqueeze(-1), factors).squeeze(-1)


def _square_root(covariance: Tensor) -> Tensor:
    # Symmetric, as it then tends to the identity and leaves the latents' rotation alone.
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors * values.clamp(min=0).sqrt().unsqueeze(-2) @ vectors.mT
    return root
