"""The M-step: each feature's regression on the latents, with the latents' own scale as an expanded parameter.

The model is expanded by a mean nu and covariance S of the latents, z ~ N(nu, S), which EM may fit too because the
expanded model is the plain one with loadings W S^(1/2) and mean mu + W nu. That corrects what the E-step got wrong
about the latents' scale within one step, where plain EM takes many, and is as monotone.

Sources: Tipping & Bishop 1999a and 1999b; Rubin & Thayer 1982; for the expansion, Liu, Rubin
& Wu 1998, "Parameter expansion to accelerate EM: the PX-EM algorithm", Biometrika 85.
"""

import torch
from torch import Tensor

from pyro_lvm.em.expectation import Statistics
from pyro_lvm.em.parameters import NoiseModel, Parameters

# Rows that observe a feature, by their responsibilities: below this there is nothing to regress it on.
_LEAST_COUNT = 1e-30


def maximise(statistics: Statistics, previous: Parameters, noise: NoiseModel) -> Parameters:
    r"""Maximise the expected complete-data log-likelihood.

    With z~ = (z, 1), A_j and b_j the sums of E[z~ z~^T] and x_j E[z~] over the n_j rows that observe feature j::

        (w_j, mu_j) = A_j^-1 b_j        psi_j = (sum of x_j^2 - b_j^T A_j^-1 b_j) / n_j        pi_k = n_k / n

    Isotropic noise is the sum of the numerators over the sum of the n_j. Where the floor binds, it is the maximum. A
    feature that none of a component's rows observes keeps its parameters there.

    Args:
        statistics: from the E-step.
        previous: the parameters that the E-step was taken under.
        noise: the noise variances that are allowed.

    Returns:
        The parameters.
    """
    before = torch.cat([previous.loadings, previous.means.unsqueeze(-1)], -1)
    observed = (statistics.counts_observed > _LEAST_COUNT).unsqueeze(-1)
    regression = torch.where(observed, _solve(statistics.latent_observed, statistics.cross, observed), before)
    residual = statistics.squares - (statistics.cross * regression).sum(-1)
    counts = statistics.counts_observed.expand_as(residual)
    if noise.isotropic:
        variances = (residual.sum(-1, keepdim=True) / counts.sum(-1, keepdim=True)).expand_as(residual)
    else:
        variances = torch.where(observed.squeeze(-1), residual / counts, previous.noise_variance)
    loadings, means = regression[..., :-1], regression[..., -1]

    rows = statistics.counts
    centre = statistics.latent[:, :-1, -1] / rows.unsqueeze(-1)
    second = statistics.latent[:, :-1, :-1] / rows[:, None, None]
    root = _square_root(second - centre.unsqueeze(-1) * centre.unsqueeze(-2))
    means = means + (loadings @ centre.unsqueeze(-1)).squeeze(-1)
    return Parameters(rows / rows.sum(), means, loadings @ root, noise.clamped(variances))


def _solve(latent_observed: Tensor, cross: Tensor, observed: Tensor) -> Tensor:
    """A_j^-1 b_j for each component and feature; anything where the feature isn't observed."""
    unit = torch.eye(cross.shape[-1]).to(cross)
    factors = torch.linalg.cholesky(torch.where(observed.unsqueeze(-1), latent_observed, unit))
    if factors.shape[1] == 1:
        return torch.cholesky_solve(cross.mT, factors[:, 0]).mT
    return torch.cholesky_solve(cross.unsqueeze(-1), factors).squeeze(-1)


def _square_root(covariance: Tensor) -> Tensor:
    # Symmetric, as it then tends to the identity and leaves the latents' rotation alone.
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors * values.clamp(min=0).sqrt().unsqueeze(-2) @ vectors.mT
    return root
