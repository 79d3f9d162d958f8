"""Exact algebra of the linear-Gaussian latent-variable model, the yardstick that everything else is graded against.

The model, with x of ``data_dim`` D and z of ``latent_dim`` d::

    z ~ N(0, I)        x | z ~ N(W z + mu, Psi)        Psi = diag(noise_variance)

Isotropic Psi is probabilistic PCA, diagonal Psi factor analysis. A NaN in x is a missing entry; it is integrated out.
Pure functions on tensors: inputs of any float type, results in float64 on the device of ``x`` (on the CPU where that
device has no float64), differentiable in the parameters. Nothing of size D x D is built, and rows go through in chunks.

Sources: Tipping & Bishop 1999, "Probabilistic principal component analysis", J. R. Statist. Soc. B 61(3); Bishop 2006,
"Pattern recognition and machine learning", section 12.2; Ghahramani & Hinton 1996, "The EM algorithm for mixtures of
factor analyzers", CRG-TR-96-1.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence

from pyro_lvm.errors import DataError
from pyro_lvm.patterns import missing_patterns, unpacked
from pyro_lvm.spectrum import check_no_infinity, principal_axes, spectrum

# Numbers in one temporary tensor (32 MB in float64).
_CHUNK = 2**22
# Rounding in M = I + A^T A costs log det M about float64's epsilon times trace(M) nats; beyond this, M is not formed.
_GRAM_TRACE_LIMIT = 1e5
# num_rows * data_dim * min(num_rows, data_dim) up to which maximum likelihood affords a singular value decomposition.
_SVD_WORK = 2e8


class PPCAParameters(NamedTuple):
    """Maximum likelihood parameters of probabilistic PCA, in float64.

    Attributes:
        loadings: W, (data_dim, latent_dim); orthogonal columns in order of explained variance, the entry of largest
            magnitude in each positive.
        mean: mu, (data_dim,).
        noise_variance: sigma^2, a scalar tensor.
        eigenvalues: (min(num_rows, data_dim),), of the 1/N covariance in descending order, 0 beyond its rank.
    """

    loadings: Tensor
    mean: Tensor
    noise_variance: Tensor
    eigenvalues: Tensor


def log_evidence(x: Tensor, loadings: Tensor, mean: Tensor, noise_variance: Tensor | float) -> Tensor:
    """Exact log p(x_observed) of each row, in nats.

    With o the observed entries of a row, M = I + W_o^T Psi_o^-1 W_o, r = x_o - mu_o and m the posterior mean of z::

        log p(x_o) = -1/2 [ |o| log 2 pi + log det Psi_o + log det M + (r - W_o m)^T Psi_o^-1 (r - W_o m) + m^T m ]

    The two squares add up to r^T (W_o W_o^T + Psi_o)^-1 r without the Woodbury identity's cancellation when the noise
    is tiny: m minimises their sum, so that an error in m enters only squared.

    Args:
        x: (num_rows, data_dim); NaN = missing.
        loadings: W, (data_dim, latent_dim).
        mean: mu, (data_dim,).
        noise_variance: the diagonal of Psi, (data_dim,), or one value for all entries.

    Returns:
        (num_rows,) in nats; 0 for a row with nothing observed.

    Raises:
        DataError: shapes don't fit, x holds an infinity, or the parameters aren't finite with positive noise.

    Source: Bishop 2006, equation 12.43; Ghahramani & Hinton 1996.

    >>> x = torch.tensor([[0.0, 0.0], [0.0, math.nan]])
    >>> log_evidence(x, torch.ones(2, 1), torch.zeros(2), 1.0)
    tensor([-2.3872, -1.2655], dtype=torch.float64)
    """
    x, weights, centre, noise = _checked(x, loadings, mean, noise_variance)
    per_entry = math.log(2 * math.pi) + noise.log()
    evidence = weights.new_empty(len(x))
    for chunk in _chunks(x, *missing_patterns(x, _rows(x.shape[1])), weights, centre, noise.sqrt()):
        log_det = -2 * chunk.factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)[chunk.pattern]
        squares = chunk.misfit.square().sum(-1) + chunk.loc.square().sum(-1)
        evidence[chunk.rows] = -0.5 * (chunk.observed @ per_entry + log_det + squares)
    return evidence


def posterior(x: Tensor, loadings: Tensor, mean: Tensor, noise_variance: Tensor | float) -> MultivariateNormal:
    """Exact posterior p(z | x_observed) of each row.

    With o the observed entries of a row and M = I + W_o^T Psi_o^-1 W_o::

        p(z | x_o) = N( M^-1 W_o^T Psi_o^-1 (x_o - mu_o),  M^-1 )

    Rows with the same missing entries share one factorization; if all rows have the same, they share its memory too.

    Args:
        x: (num_rows, data_dim); NaN = missing.
        loadings: W, (data_dim, latent_dim).
        mean: mu, (data_dim,).
        noise_variance: the diagonal of Psi, (data_dim,), or one value for all entries.

    Returns:
        A normal of batch shape (num_rows,) and event shape (latent_dim,); N(0, I) for a row with nothing observed.

    Raises:
        DataError: shapes don't fit, x holds an infinity, or the parameters aren't finite with positive noise.

    Source: Bishop 2006, equation 12.42; Ghahramani & Hinton 1996.

    >>> z = posterior(torch.tensor([[3.0, 3.0], [3.0, math.nan]]), torch.ones(2, 1), torch.zeros(2), 1.0)
    >>> z.mean.flatten(), z.variance.flatten()
    (tensor([2.0000, 1.5000], dtype=torch.float64), tensor([0.3333, 0.5000], dtype=torch.float64))
    """
    x, weights, centre, noise = _checked(x, loadings, mean, noise_variance)
    latent_dim = weights.shape[1]
    packed, pattern_of = missing_patterns(x, _rows(x.shape[1]))
    loc = weights.new_empty(len(x), latent_dim)
    scale_tril = weights.new_empty(1 if len(packed) == 1 else len(x), latent_dim, latent_dim)
    for chunk in _chunks(x, packed, pattern_of, weights, centre, noise.sqrt()):
        loc[chunk.rows] = chunk.loc
        if len(packed) == 1:
            scale_tril = chunk.factors
        else:
            scale_tril[chunk.rows] = chunk.factors[chunk.pattern]
    # The factor is valid by construction; a check would expand the shared one to every row.
    return MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)


def gaussian_kl(q: Distribution, p: Distribution) -> Tensor:
    """KL(q || p) of each row, in nats, by ``torch.distributions.kl_divergence`` in float64.

    Args:
        q: ``MultivariateNormal`` or ``Independent(Normal, 1)``; batch shape (num_rows,), event shape (latent_dim,).
        p: the same, of either kind. One of the two may have batch shape (): it then meets every row of the other.

    Returns:
        (num_rows,) in nats.

    Raises:
        DataError: another kind of distribution, or shapes that don't fit.

    >>> standard = Independent(Normal(torch.zeros(1, 2), 1.0), 1)
    >>> gaussian_kl(standard, MultivariateNormal(torch.ones(1, 2), torch.eye(2)))
    tensor([1.], dtype=torch.float64)
    """
    rows = q.batch_shape or p.batch_shape
    fits = len(rows) == 1 and q.event_shape == p.event_shape and {q.batch_shape, p.batch_shape} <= {rows, torch.Size()}
    if not fits or len(q.event_shape) != 1:
        shapes = [f"{tuple(given.batch_shape)} and {tuple(given.event_shape)}" for given in (q, p)]
        raise DataError(
            f"q has batch and event shape {shapes[0]}, p {shapes[1]}; expected (num_rows,) and (latent_dim,) for both: "
            "pass distributions over the same rows and latents"
        )
    step = _rows(q.event_shape[0] ** 2)
    parts = [slice(start, start + step) for start in range(0, max(1, rows[0]), step)]
    return torch.cat([kl_divergence(_take(q, rows[0], part), _take(p, rows[0], part)) for part in parts])


def maximum_likelihood(x: Tensor, latent_dim: int) -> PPCAParameters:
    """Maximum likelihood probabilistic PCA in closed form.

    With eigenvalues lambda_1 >= lambda_2 >= ... and eigenvectors U of the 1/N covariance of x, and d = ``latent_dim``::

        sigma^2 = sum_{j > d} lambda_j / (D - d)        W = U_d (Lambda_d - sigma^2 I)^{1/2}        mu = mean of x

    Singular values below max(N, D) epsilon times the largest count as 0. Large problems work on the smaller Gram matrix
    instead, where that holds for the eigenvalues, their squares.

    Args:
        x: (num_rows, data_dim), complete; ``data_dim`` may exceed ``num_rows``.
        latent_dim: d, from 1 to one below the rank of the centred data.

    Returns:
        The parameters and the eigenvalues.

    Raises:
        DataError: fewer than 2 rows, missing or infinite entries, or no finite maximum: from d = rank on, the noise
            variance is 0 and the likelihood infinite.

    Source: Tipping & Bishop 1999, section 3.2; Bishop 2006, equations 12.45 and 12.46.

    >>> fitted = maximum_likelihood(torch.tensor([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]]), latent_dim=1)
    >>> fitted.eigenvalues, fitted.noise_variance
    (tensor([4., 1.], dtype=torch.float64), tensor(1., dtype=torch.float64))
    """
    x = _checked_shape(x).detach()
    num_rows, data_dim = x.shape
    if num_rows < 2 or latent_dim < 1:
        raise DataError(
            f"x has {num_rows} rows and latent_dim is {latent_dim}; expected 2 rows and latent_dim 1 at least"
        )
    by_svd = num_rows * data_dim * min(num_rows, data_dim) <= _SVD_WORK
    mean, eigenvalues, axes = principal_axes(x, latent_dim, by_svd=by_svd, chunk=_CHUNK)
    return _of_spectrum(eigenvalues, axes, mean, latent_dim)


def maximum_likelihood_of_covariance(
    covariance: Tensor, mean: Tensor, num_rows: int, latent_dim: int
) -> PPCAParameters:
    """Maximum likelihood probabilistic PCA in closed form, from the 1/N covariance of data that are no longer at hand.

    Args:
        covariance: (data_dim, data_dim), float64.
        mean: mu, (data_dim,).
        num_rows: N; the rank that rounding leaves certain depends on it.
        latent_dim: d, from 1 to one below the rank of the covariance.

    Returns:
        The parameters and the eigenvalues, as :func:`maximum_likelihood`'s.

    Raises:
        DataError: from d = rank on, the noise variance is 0 and the likelihood infinite.

    Source: Tipping & Bishop 1999, section 3.2; Bishop 2006, equations 12.45 and 12.46.

    >>> fitted = maximum_likelihood_of_covariance(torch.diag(torch.tensor([4.0, 1.0]).double()), torch.zeros(2), 4, 1)
    >>> fitted.loadings.flatten(), fitted.noise_variance
    (tensor([1.7321, 0.0000], dtype=torch.float64), tensor(1., dtype=torch.float64))
    """
    eigenvalues, axes = spectrum(covariance, num_rows, latent_dim)
    return _of_spectrum(eigenvalues[:num_rows], axes, mean, latent_dim)


def principal_angle(loadings_a: Tensor, loadings_b: Tensor) -> float:
    """Largest principal angle between the column spaces of two loading matrices, in degrees.

    The angle whose sine is || P_a - P_b ||, P the orthogonal projections: 0 for equal spaces, 90 where a direction of
    one is orthogonal to the other, which is always so where their dimensions differ (a column has collapsed).

    Args:
        loadings_a: (data_dim, any number of columns).
        loadings_b: (data_dim, any number of columns).

    Returns:
        Degrees, from 0 to 90.

    Raises:
        DataError: not finite matrices with the same number of rows.

    Source: ``scipy.linalg.subspace_angles``.

    >>> round(principal_angle(torch.tensor([[1.0], [0.0]]), torch.tensor([[1.0], [1.0]])), 6)
    45.0
    """
    a, b = (loadings.detach().cpu().double().numpy() for loadings in (loadings_a, loadings_b))
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError(
            f"loadings have shapes {a.shape} and {b.shape}; expected two finite matrices with as many rows: compare "
            "converged loadings of the same data"
        )
    bases = scipy.linalg.orth(a), scipy.linalg.orth(b)
    if bases[0].shape != bases[1].shape:
        return 90.0
    return math.degrees(scipy.linalg.subspace_angles(*bases).max(initial=0.0))


class _Chunk(NamedTuple):
    rows: Tensor  # (b,), positions in x
    observed: Tensor  # (b, data_dim), 1.0 or 0.0
    misfit: Tensor  # (b, data_dim), (x - mu - W loc) / sqrt(psi), 0 where missing
    loc: Tensor  # (b, latent_dim), posterior means
    factors: Tensor  # (num_patterns, latent_dim, latent_dim), lower triangular L with L L^T = M^-1
    pattern: Tensor  # (b,), which of the factors is the row's


def _rows(width: int) -> int:
    """How many rows of this width make one chunk."""
    return max(1, _CHUNK // max(1, width))


def _supported(tensor: Tensor) -> Tensor:
    """The tensor on a device that has float64."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor


def _checked_shape(x: Tensor) -> Tensor:
    if x.ndim != 2:
        raise DataError(f"x has shape {tuple(x.shape)}; expected (num_rows, data_dim): pass one row per observation")
    return _supported(x)


def _checked_data(x: Tensor) -> Tensor:
    x = _checked_shape(x)
    check_no_infinity(x, _CHUNK)
    return x


def _checked(
    x: Tensor, loadings: Tensor, mean: Tensor, noise_variance: Tensor | float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The arguments on one device with float64, the parameters in float64 and the noise variance as (data_dim,)."""
    x = _checked_data(x)
    data_dim = x.shape[1]
    given = {"loadings": loadings, "mean": mean, "noise_variance": torch.as_tensor(noise_variance)}
    shapes = {name: tuple(value.shape) for name, value in given.items()}
    latent_dim = loadings.shape[-1] if loadings.ndim == 2 else 0
    noise_fits = shapes["noise_variance"] in ((), (data_dim,))
    if latent_dim < 1 or shapes["loadings"][0] != data_dim or shapes["mean"] != (data_dim,) or not noise_fits:
        raise DataError(
            f"x has {data_dim} columns and the shapes are {shapes}; expected loadings ({data_dim}, latent_dim), mean "
            f"({data_dim},), noise_variance () or ({data_dim},): pass the parameters of this data"
        )
    weights, centre, noise = (_supported(value).to(x.device).double() for value in given.values())
    for name, value in zip(given, (weights, centre, noise), strict=True):
        if not value.isfinite().all():
            raise DataError(f"{name} holds NaN or infinite entries; expected finite numbers: has the fit diverged?")
    if not (noise > 0).all():
        raise DataError(f"noise_variance is {noise.min().item():g} at its least; expected > 0: fit it with a floor")
    return x, weights, centre, noise.expand(data_dim)


def _chunks(
    x: Tensor, packed: NDArray[np.uint8], pattern_of: NDArray[np.intp], weights: Tensor, centre: Tensor, scale: Tensor
) -> Iterator[_Chunk]:
    """Every row's posterior; rows come sorted by pattern, so that only chunk ends factor a pattern again."""
    data_dim, latent_dim = weights.shape
    whitened = weights / scale.unsqueeze(-1)
    order = np.argsort(pattern_of, kind="stable")
    step = _rows(max(data_dim, latent_dim**2))
    for places in (order[start : start + step] for start in range(0, len(order), step)):
        present, local = np.unique(pattern_of[places], return_inverse=True)
        rows, pattern = (torch.from_numpy(index).to(x.device) for index in (places, local))
        masks = unpacked(packed[present], data_dim).to(weights)
        factors = _covariance_factors(masks, whitened)
        own = factors[pattern] if len(factors) > 1 else factors[0]
        observed = masks[pattern]
        # Filled first: a NaN that is only multiplied or masked away later still makes NaN gradients.
        residual = observed * (x[rows].double().nan_to_num(0.0) - centre) / scale
        loc, misfit = torch.zeros_like(residual[:, :1]).expand(-1, latent_dim), residual
        # Normal equations lose the square of the condition number; solving for what is left recovers it, in one more
        # pass down to noise variances of 1e-18 of the signal's, in two below.
        for _ in range(3):
            gradient = misfit @ whitened - loc
            loc = loc + (gradient.unsqueeze(-2) @ own @ own.mT).squeeze(-2)
            misfit = residual - observed * (loc @ whitened.mT)
        yield _Chunk(rows, observed, misfit, loc, factors, pattern)


def _covariance_factors(masks: Tensor, whitened: Tensor) -> Tensor:
    """Lower triangular L with L L^T = (I + A^T A)^-1, A the observed rows of ``whitened``, for each mask.

    With J the reversal of order and C C^T = J (I + A^T A) J, C lower triangular, L is (J C^-1 J)^T: no full matrix is
    inverted. C^T comes from the QR decomposition of [A J; I] where A^T A would be too inaccurate.
    """
    latent_dim = whitened.shape[1]
    reverse = whitened.flip(-1)
    eye = torch.eye(latent_dim).to(whitened)
    lower = whitened.new_empty(len(masks), latent_dim, latent_dim)
    # Few patterns don't repay the outer products either.
    by_qr = (masks @ whitened.square().sum(-1) > _GRAM_TRACE_LIMIT) | (len(masks) <= latent_dim)
    for part in by_qr.nonzero().squeeze(-1).split(_rows(len(whitened) * latent_dim + latent_dim**2)):
        stacked = torch.cat([masks[part].unsqueeze(-1) * reverse, eye.expand(len(part), -1, -1)], dim=1)
        lower[part] = torch.linalg.qr(stacked).R.mT
    by_gram = (~by_qr).nonzero().squeeze(-1)
    gram = eye.flatten().expand(len(by_gram), -1)
    for mask, block in zip(*(t.split(_rows(latent_dim**2)) for t in (masks[by_gram].mT, reverse)), strict=True):
        gram = gram + mask.mT @ (block.unsqueeze(-1) * block.unsqueeze(-2)).flatten(1)
    lower[by_gram] = torch.linalg.cholesky(gram.unflatten(-1, (latent_dim, latent_dim)))
    inverse: Tensor = torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False)
    factors = inverse.flip(-2, -1).mT
    return factors * factors.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def _take(normal: Distribution, num_rows: int, part: slice) -> MultivariateNormal:
    """Some rows of a normal, in float64."""
    if isinstance(normal, MultivariateNormal):
        scale_tril = _supported(normal.scale_tril.expand(num_rows, -1, -1)[part]).double()
    elif isinstance(normal, Independent) and isinstance(normal.base_dist, Normal):
        scale_tril = _supported(normal.stddev.expand(num_rows, -1)[part]).double().diag_embed()
    else:
        raise DataError(
            f"the KL of {type(normal).__name__} was asked for; expected MultivariateNormal or Independent(Normal, 1): "
            "estimate that of other kinds by sampling"
        )
    loc = _supported(normal.mean.expand(num_rows, -1)[part]).double()
    return MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)


def _of_spectrum(eigenvalues: Tensor, axes: Tensor, mean: Tensor, latent_dim: int) -> PPCAParameters:
    rank = int((eigenvalues > 0).sum())
    if latent_dim >= rank:
        advice = f"choose latent_dim <= {rank - 1}" if rank > 1 else "give data that vary in at least two directions"
        raise DataError(
            f"latent_dim is {latent_dim} and the centred data have rank {rank}; expected latent_dim < rank, as "
            f"the noise variance is 0 and the likelihood infinite from there on: {advice}"
        )
    noise_variance = eigenvalues[latent_dim:].sum() / (len(mean) - latent_dim)
    # Where all eigenvalues tie, rounding can put one below their average.
    loadings = axes * (eigenvalues[:latent_dim] - noise_variance).clamp(min=0).sqrt()
    largest = loadings.gather(0, loadings.abs().argmax(0, keepdim=True))
    return PPCAParameters(loadings * torch.where(largest < 0, -1, 1), mean, noise_variance, eigenvalues)
