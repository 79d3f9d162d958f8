"""The Kullback-Leibler divergence that neither torch nor Pyro has, though it is the commonest of latent variables."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal
from torch.distributions.kl import register_kl


def normal_from_independent_normals(q: MultivariateNormal, p: Any) -> Tensor:
    r"""KL(q || p) in nats, for q = N(m, L L^T) and p a product of N(a_j, s_j^2), of their batch shape.

    .. math:: \frac{1}{2} \sum_j \left[ \frac{(L L^\top)_{jj} + (m_j - a_j)^2}{s_j^2} - 1 + \log s_j^2 \right]
        - \sum_j \log L_{jj}

    Pyro has that of the two in the other order. Without this one, ``TraceMeanField_ELBO`` would say nothing and draw.

    Raises:
        NotImplementedError: p is no product of normals over the last dimension, for which this is no formula.
    """
    if not isinstance(p.base_dist, Normal) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    variance = p.base_dist.variance
    square = q.scale_tril.square().sum(-1) + (q.loc - p.base_dist.loc).square()
    log_det = q.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    divergence: Tensor = 0.5 * (square / variance - 1 + variance.log()).sum(-1) - log_det
    return divergence


register_kl(MultivariateNormal, Independent)(normal_from_independent_normals)
