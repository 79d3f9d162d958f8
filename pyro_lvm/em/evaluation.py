"""What a fitted model says of rows: evidence, posterior, and what their missing entries may be."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyro_lvm import linear_gaussian
from pyro_lvm.em.parameters import Parameters
from pyro_lvm.errors import DataError

# Numbers in one temporary (32 MB in float64).
_CHUNK = 2**22


def joint_log_evidence(x: Tensor, parameters: Parameters) -> Tensor:
    """log pi_k + log p(x_observed | t = k) of each row and component, in nats, (num_rows, num_components).

    Args:
        x: (num_rows, data_dim), NaN where missing.
        parameters: of the model, in the units of x.
    """
    components = zip(parameters.loadings, parameters.means, parameters.noise_variance, strict=True)
    evidence = [linear_gaussian.log_evidence(x, *component) for component in components]
    return torch.stack(evidence, dim=1) + parameters.weights.log()


def responsibilities(x: Tensor, parameters: Parameters) -> Tensor:
    """q(t = k) of each row, (num_rows, num_components).

    Args:
        x: (num_rows, data_dim), NaN where missing.
        parameters: of the model, in the units of x.

    Raises:
        DataError: a row is so far from all components that its density is 0 in float64.
    """
    if len(parameters.weights) == 1:
        return parameters.weights.expand(len(x), 1)
    joint = joint_log_evidence(x, parameters)
    lost = joint.isinf().all(1)
    if bool(lost.any()):
        raise DataError(
            f"X has {int(lost.sum())} rows with entries of up to {x[lost].nan_to_num(0.0).abs().max():.1e}, too far "
            "from every component for any to be the likelier: expected rows like those of the fit, in the same units"
        )
    return joint.softmax(1)


def posterior_means(x: Tensor, parameters: Parameters) -> Tensor:
    """E[z | x_observed, t = k] of each row and component, (num_rows, num_components, latent_dim).

    Args:
        x: (num_rows, data_dim), NaN where missing.
        parameters: of the model, in the units of x.
    """
    return torch.cat([_posterior(part, parameters)[0] for part in _parts(x, parameters)])


def posterior(x: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """Mean and covariance of z given x_observed and t = k, of each row and component.

    Args:
        x: (num_rows, data_dim), NaN where missing.
        parameters: of the model, in the units of x.

    Returns:
        (num_rows, num_components, latent_dim) and (num_rows, num_components, latent_dim, latent_dim); the second shares
        its memory between rows where all have the same missing entries.
    """
    means, factors = _posterior(x, parameters)
    return means, factors @ factors.mT


def impute(x: Tensor, parameters: Parameters) -> Tensor:
    """Fill missing entries with their mean given the observed ones; these stay as they are.

    ::

        E[x_m | x_o] = sum_k q(t = k) (W_km E[z | x_o, t = k] + mu_km)

    Args:
        x: (num_rows, data_dim), NaN where missing.
        parameters: of the model, in the units of x.

    Returns:
        (num_rows, data_dim).
    """
    parts = []
    for part in _parts(x, parameters):
        shares = responsibilities(part, parameters)
        means = posterior_means(part, parameters)
        fitted = torch.einsum("nk,nkd,kjd->nj", shares, means, parameters.loadings) + shares @ parameters.means
        parts.append(torch.where(part.isnan(), fitted, part))
    return torch.cat(parts)


def draw_missing(x: Tensor, parameters: Parameters, draws: int, random_state: np.random.RandomState) -> Tensor:
    """Fill missing entries with draws from their joint distribution given the observed ones; these stay as they are.

    ::

        t ~ q(t)        z ~ q(z | t)        x_m ~ N(W_tm z + mu_tm, Psi_tm)

    Args:
        x: (num_rows, data_dim), NaN where missing.
        parameters: of the model, in the units of x.
        draws: how many.
        random_state: draws them.

    Returns:
        (draws, num_rows, data_dim).
    """
    filled = [
        torch.stack([_draw(part, *given, parameters, random_state) for _ in range(draws)])
        for part in _parts(x, parameters)
        for given in [(responsibilities(part, parameters), *_posterior(part, parameters))]
    ]
    return torch.cat(filled, dim=1)


def _parts(x: Tensor, parameters: Parameters) -> tuple[Tensor, ...]:
    """Rows that can be handled together: the posterior covariances of all rows need not be in memory at once."""
    num_components, data_dim, latent_dim = parameters.loadings.shape
    parts: tuple[Tensor, ...] = x.split(max(1, _CHUNK // max(data_dim, num_components * latent_dim**2)))
    return parts


def _posterior(x: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """Means, and factors L of the covariances L L^T."""
    components = zip(parameters.loadings, parameters.means, parameters.noise_variance, strict=True)
    normals = [linear_gaussian.posterior(x, *component) for component in components]
    # Only the factor that all rows share is stored as one.
    factors = [normal._unbroadcasted_scale_tril for normal in normals]
    return torch.stack([normal.loc for normal in normals], dim=1), torch.stack(factors, dim=1)


def _draw(
    x: Tensor,
    shares: Tensor,
    means: Tensor,
    factors: Tensor,
    parameters: Parameters,
    random_state: np.random.RandomState,
) -> Tensor:
    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(random_state.standard_normal(shape)).to(means)

    uniform = torch.from_numpy(random_state.random_sample((len(x), 1))).to(means)
    # Rounding can leave the last cumulative share just below 1.
    component = (uniform > shares.cumsum(1)).sum(1).clamp(max=shares.shape[1] - 1)
    rows = torch.arange(len(x), device=x.device)
    factor = factors.expand(len(x), *factors.shape[1:])[rows, component]
    z = means[rows, component] + (factor @ normal(len(x), means.shape[-1], 1)).squeeze(-1)
    drawn = parameters.means[component] + normal(*x.shape) * parameters.noise_variance[component].sqrt()
    for k in range(len(parameters.weights)):
        own = component == k
        drawn[own] += z[own] @ parameters.loadings[k].mT
    return torch.where(x.isnan(), drawn, x)
