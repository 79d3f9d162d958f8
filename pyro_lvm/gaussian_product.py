r"""The product of a standard normal prior and one Gaussian message a feature, in the form that training needs.

.. math:: N(z; 0, I) \prod_{j\ \text{observed}} \exp\bigl(a_j\, u_j^\top z - \tfrac{1}{2} e^{l_j} (u_j^\top z)^2\bigr)

With the loadings of a linear-Gaussian model for u, its noise for l and (x_j - mu_j) / psi_j for a, this is the exact
posterior for every pattern of missing entries. In the parameters' own precision, differentiable, and without a branch
that depends on values, so that a step that uses it can be traced.
"""

from typing import NamedTuple

import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor


class GaussianProduct(NamedTuple):
    r"""A product of Gaussian messages, normalised.

    Attributes:
        loc: Its mean, (rows, ..., latent_dim).
        scale_tril: Lower triangular L with L L^T its covariance, (rows or 1, ..., latent_dim, latent_dim).
        log_normalizer: Logarithm of the integral over z of prior times messages, (rows, ...).
    """

    loc: Tensor
    scale_tril: Tensor
    log_normalizer: Tensor

    def distribution(self) -> MultivariateNormal:
        """The normal distribution, batch shape (rows, ...), event shape (latent_dim,)."""
        return MultivariateNormal(self.loc, scale_tril=self.scale_tril)


def gaussian_product(
    directions: Tensor, log_precisions: Tensor, potentials: Tensor, observed: Tensor | None
) -> GaussianProduct:
    """Multiply the messages of each row's observed features onto the prior N(0, I).

    ::

        precision = I + sum_j exp(l_j) u_j u_j^T        precision mean = sum_j a_j u_j

    Args:
        directions: u, (..., data_dim, latent_dim); the dimensions in front, as of components, are kept.
        log_precisions: l, (..., data_dim).
        potentials: a, (rows, ..., data_dim); 0 where missing.
        observed: Which entries are there, (rows, data_dim); None for all.

    Returns:
        The product for each row; a row with nothing observed has the prior. Rows share one factor where all is
        observed.
    """
    latent_dim = directions.shape[-1]
    weighted = log_precisions.exp().unsqueeze(-1) * directions
    if observed is None:
        gram = (weighted.mT @ directions).unsqueeze(0)
    else:
        outer = (weighted.unsqueeze(-1) * directions.unsqueeze(-2)).flatten(-2)
        gram = torch.einsum("bj,...jo->b...o", observed.to(outer), outer).unflatten(-1, (latent_dim, latent_dim))
    eye = torch.eye(latent_dim, dtype=gram.dtype, device=gram.device)
    # In reversed order, the Cholesky factor of the precision gives a lower triangular one of its inverse. Without the
    # check that costs a wait for the device: what has diverged makes NaN, which training looks for.
    reverse = torch.linalg.cholesky_ex((gram + eye).flip(-2, -1)).L.flip(-2, -1)
    scale_tril = torch.linalg.solve_triangular(reverse.mT, eye.expand_as(reverse), upper=False)
    whitened = torch.einsum("b...j,...jd->b...d", potentials, directions)
    whitened = torch.einsum("b...i,b...ij->b...j", whitened, scale_tril)
    loc = torch.einsum("b...ij,b...j->b...i", scale_tril, whitened)
    log_det = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return GaussianProduct(loc, scale_tril, 0.5 * whitened.square().sum(-1) + log_det)
