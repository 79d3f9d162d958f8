"""Principal axes: the spectrum of the 1/N covariance of complete rows, by whichever matrix is small enough."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_lvm.errors import DataError

# Rows whose mean is near enough to the mean of all for sums of squares about it to lose nothing.
_SAMPLE = 256
# Squared distance of the mean from 0, relative to the total variance, up to which sums about 0 lose a digit at most.
_SMALL_OFFSET = 10.0


class PrincipalAxes(NamedTuple):
    """The mean of rows and the spectrum of their 1/N covariance, in float64.

    Attributes:
        mean: (data_dim,).
        eigenvalues: (min(num_rows, data_dim),) in descending order, 0 beyond the rank that rounding leaves certain.
        axes: (data_dim, num_axes), the leading eigenvectors.
    """

    mean: Tensor
    eigenvalues: Tensor
    axes: Tensor


def principal_axes(x: Tensor, num_axes: int, *, by_svd: bool, chunk: int) -> PrincipalAxes:
    """Find the principal axes of complete rows.

    Args:
        x: (num_rows, data_dim), at least 1 row; ``data_dim`` may exceed ``num_rows``.
        num_axes: how many axes to return.
        by_svd: decompose the rows themselves, which is accurate for tiny singular values too, and not the smaller of
            their two Gram matrices, which is fast and accurate for the squares.
        chunk: how many numbers of x to look at together.

    Returns:
        Mean, eigenvalues and axes.

    Raises:
        DataError: x has infinite or missing entries.
    """
    # The mean is kept in two parts: at an offset of 1e8, a single float64 is good to 1e-8 only.
    some = x[:: max(1, len(x) // _SAMPLE)].double()
    rough = some.mean(0)
    if rough.square().sum() <= _SMALL_OFFSET * some.var(0, correction=0).sum():
        rough = torch.zeros_like(rough)
    if by_svd:
        correction, eigenvalues, axes = _by_svd(x, rough, num_axes, chunk)
    else:
        by_gram = _by_kernel if x.shape[1] > x.shape[0] else _by_covariance
        correction, eigenvalues, axes = by_gram(x, rough, num_axes, chunk)
    return PrincipalAxes(rough + correction, eigenvalues, axes)


def spectrum(gram: Tensor, other_dim: int, num_axes: int) -> tuple[Tensor, Tensor]:
    """Decompose A^T A.

    Args:
        gram: A^T A, (size, size), float64.
        other_dim: the number of rows of A.
        num_axes: how many eigenvectors to return.

    Returns:
        Eigenvalues in descending order, 0 from max(size, other_dim) epsilon times the largest down, (size,); and the
        leading eigenvectors, (size, num_axes).
    """
    if gram.device.type == "cpu":
        # NumPy's LAPACK is the faster one of the two.
        values, vectors = map(torch.from_numpy, np.linalg.eigh(gram.numpy()))
    else:
        values, vectors = torch.linalg.eigh(gram)
    values = values.flip(0)
    tolerance = max(len(gram), other_dim) * torch.finfo(torch.float64).eps * values[0]
    return torch.where(values > tolerance, values, 0.0), vectors[:, -num_axes:].flip(1)


def gram_matrix(x: Tensor) -> Tensor:
    """Multiply out x^T x, in half the operations where NumPy can: it knows that the result is symmetric.

    Args:
        x: (num_rows, size), float64.

    Returns:
        (size, size).
    """
    if x.device.type != "cpu":
        return x.mT @ x
    array = x.numpy()
    return torch.from_numpy(array.T @ array)


def check_no_infinity(x: Tensor, chunk: int) -> None:
    """Check that data hold no infinity.

    Args:
        x: (num_rows, data_dim), NaN for missing.
        chunk: how many numbers to look at together.

    Raises:
        DataError: they do.
    """
    if any(bool(part.isinf().any()) for part in _parts(x, chunk)):
        raise DataError("x holds infinite entries; expected finite numbers, or NaN where missing: clean or mark them")


def _parts(x: Tensor, chunk: int) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = x.split(max(1, chunk // max(1, x.shape[1])))
    return parts


def _complete(correction: Tensor, x: Tensor, chunk: int) -> Tensor:
    """The second part of the mean, which NaN and infinities of x would have reached."""
    if not correction.isfinite().all():
        check_no_infinity(x, chunk)
        missing = sum(int(part.isnan().sum()) for part in _parts(x, chunk))
        raise DataError(f"x has {missing} missing entries; expected complete rows: fit by EM, or fill the entries in")
    return correction


def _by_svd(x: Tensor, rough: Tensor, num_axes: int, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    centred = x.double() - rough
    correction = _complete(centred.mean(0), x, chunk)
    _, singular, axes = torch.linalg.svd(centred - correction, full_matrices=False)
    tolerance = max(x.shape) * torch.finfo(torch.float64).eps * singular[0]
    eigenvalues = torch.where(singular > tolerance, singular.square() / len(x), 0.0)
    return correction, eigenvalues, axes[:num_axes].mT


def _by_covariance(x: Tensor, rough: Tensor, num_axes: int, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    gram, total = rough.new_zeros(x.shape[1], x.shape[1]), torch.zeros_like(rough)
    # The copy that centring takes is worth it only where sums about 0 would lose digits.
    as_they_are = not bool(rough.any())
    # One product of rows that need no copy is faster than many.
    parts = (x,) if as_they_are and x.dtype == torch.float64 else _parts(x, chunk)
    # One buffer: memory that is new to the process for each part would cost as much as the product.
    buffer = None if as_they_are else rough.new_empty(parts[0].shape)
    for part in parts:
        centred = part.double() if buffer is None else torch.sub(part, rough, out=buffer[: len(part)])
        gram += gram_matrix(centred)
        total += centred.new_ones(len(centred)) @ centred
    correction = _complete(total / len(x), x, chunk)
    eigenvalues, axes = spectrum(gram / len(x) - torch.outer(correction, correction), len(x), num_axes)
    return correction, eigenvalues, axes


def _by_kernel(x: Tensor, rough: Tensor, num_axes: int, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    columns = list(zip(_parts(x.mT, chunk), rough.split(_parts(x.mT, chunk)[0].shape[0]), strict=True))
    kernel = rough.new_zeros(len(x), len(x))
    corrections = []
    for part, centre in columns:
        centred = part.double() - centre[:, None]
        kernel += gram_matrix(centred)
        corrections.append(centred.mean(1))
    correction = _complete(torch.cat(corrections), x, chunk)
    means = kernel.mean(0)
    kernel = (kernel - means - means[:, None] + means.mean()) / len(x)
    eigenvalues, vectors = spectrum(kernel, x.shape[1], num_axes)
    axes = [
        ((part.double() - centre[:, None]) - own[:, None]) @ vectors
        for (part, centre), own in zip(columns, corrections, strict=True)
    ]
    return correction, eigenvalues, (whole := torch.cat(axes)) / whole.norm(dim=0)
