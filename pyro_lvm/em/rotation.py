"""Loadings in a form of their own: a rotation that the likelihood doesn't see, an order, and signs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

_SWEEPS = 200
# In radians.
_SMALLEST_ANGLE = 1e-9


def canonical(loadings: Tensor, scale: Tensor) -> Tensor:
    """Rotate loadings so that their columns are orthogonal once each row is divided by its scale.

    With the noise's standard deviation for a scale, the posterior precision I + W^T Psi^-1 W is diagonal: the latents
    are independent given a row.

    Args:
        loadings: W, (data_dim, latent_dim).
        scale: (data_dim,), positive.

    Returns:
        (data_dim, latent_dim), with W W^T as before; in no particular order.

    Source: Lawley & Maxwell 1971, "Factor analysis as a statistical method".
    """
    _, _, rotation = torch.linalg.svd(loadings / scale.unsqueeze(1), full_matrices=False)
    rotated: Tensor = loadings @ rotation.mT
    return rotated


def ordered(loadings: Tensor, unit: Tensor) -> Tensor:
    """Order columns by the variance that they explain, the most first, and make the largest entry of each positive.

    Args:
        loadings: W, (data_dim, latent_dim).
        unit: what counts as 1 in each feature, (data_dim,).

    Returns:
        (data_dim, latent_dim).
    """
    relative = loadings / unit.unsqueeze(1)
    order = relative.square().sum(0).argsort(descending=True, stable=True)
    relative = relative[:, order]
    largest = relative.gather(0, relative.abs().argmax(0, keepdim=True))
    return loadings[:, order] * torch.where(largest < 0, -1.0, 1.0)


def varimax(loadings: Tensor) -> Tensor:
    """Rotate loadings so that each column has few large entries: Kaiser's varimax, which maximises over rotations R::

        sum over columns of the variance of the squared entries of W R

    Pairs of columns are rotated to their own maximum until none moves; rows aren't normalized.

    Args:
        loadings: W, (data_dim, latent_dim).

    Returns:
        W R, (data_dim, latent_dim).

    Source: Kaiser 1958, "The varimax criterion for analytic rotation in factor analysis", Psychometrika 23.

    >>> mixed = torch.tensor([[2.0, 2.0], [1.0, -1.0]]).double()
    >>> varimax(mixed).abs().round(decimals=4)
    tensor([[2.8284, 0.0000],
            [0.0000, 1.4142]], dtype=torch.float64)
    """
    columns = loadings.mT.cpu().numpy().copy()
    num_rows = columns.shape[1]
    for _ in range(_SWEEPS):
        largest = 0.0
        for p, q in itertools.combinations(range(len(columns)), 2):
            u, v = columns[p] ** 2 - columns[q] ** 2, 2 * columns[p] * columns[q]
            sine = 2 * (u @ v - u.sum() * v.sum() / num_rows)
            cosine = u @ u - v @ v - (u.sum() ** 2 - v.sum() ** 2) / num_rows
            angle = math.atan2(sine, cosine) / 4
            turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
            columns[[p, q]] = turn @ columns[[p, q]]
            largest = max(largest, abs(angle))
        if largest < _SMALLEST_ANGLE:
            break
    return torch.from_numpy(columns.T.copy()).to(loadings)
