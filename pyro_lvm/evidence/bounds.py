"""The evidence of rows and lower bounds on it, for any pair."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_lvm.errors import PairError
from pyro_lvm.evidence.estimate import Estimate
from pyro_lvm.evidence.weights import Rows, weigh_rows
from pyro_lvm.pair import HasLogEvidence, Pair

# Rows that a model's closed form is asked for at a time.
_BLOCK_ROWS = 8192


def elbo(
    pair: Pair,
    rows: Rows,
    draws: int = 16,
    *,
    num_rows: int | None = None,
    seed: int = 0,
    chunk_rows: int | None = None,
    progress: bool = False,
) -> Estimate:
    r"""The ELBO of each row by Monte Carlo: a lower bound on log p(x), in expectation.

    .. math:: \frac{1}{S} \sum_{s=1}^{S} \log p(x_n, z_n^s) - \log q(z_n^s \mid x_n), \qquad z_n^s \sim q(z_n \mid x_n)

    Args:
        pair: Any pair; a discrete latent that the guide leaves to enumeration is summed out.
        rows: Rows as the pair sees them, shape (rows, ...), NaN where missing; or batches of them.
        draws: S, draws a row.
        num_rows: Rows N of the data set, for latents that all rows share: each row carries 1/N of their terms. None for
            as many as ``rows`` has; to be given with batches.
        seed: Of the draws; the caller's random state is left as it was.
        chunk_rows: Rows times draws held at once; None chooses by the size of a row.
        progress: Show how far it is.

    Returns:
        The bound, a number a row.

    Raises:
        DataError: There are no rows, or a count isn't positive.
        PairError: The guide can't take missing entries, or a density is NaN or infinite.
    """
    sums, shared = weigh_rows(
        pair,
        rows,
        draws,
        title="ELBO",
        num_rows=num_rows,
        seed=seed,
        chunk_rows=chunk_rows,
        progress=progress,
        share=True,
    )
    per_row, errors = (torch.cat([getattr(s, name) for s in sums]).cpu() for name in ("mean", "mean_error"))
    return Estimate("elbo", per_row, errors, draws, shared_latents=shared)


def iwae(
    pair: Pair, rows: Rows, k: int = 5000, *, seed: int = 0, chunk_rows: int | None = None, progress: bool = False
) -> Estimate:
    r"""The importance-weighted bound of each row: the ELBO at k = 1, log p(x) as k grows.

    .. math:: \log \frac{1}{K} \sum_{k=1}^{K} \frac{p(x_n, z_n^k)}{q(z_n^k \mid x_n)} \;\le\; \log p(x_n)
        \quad \text{in expectation}

    Particles are streamed: memory is that of ``chunk_rows`` rows, whatever k is. The bound lies below log p(x) by about
    half its squared error; an effective sample size of a few particles says that the guide misses where the posterior
    is, and that bound and error are worth little.

    Args:
        pair: Any pair whose latents are a row's own.
        rows: Rows as the pair sees them, shape (rows, ...), NaN where missing; or batches of them.
        k: K, draws a row.
        seed: Of the draws; the caller's random state is left as it was.
        chunk_rows: Rows times draws held at once; None chooses by the size of a row.
        progress: Show how far it is.

    Returns:
        The bound, a number a row, with effective sample sizes.

    Raises:
        DataError: There are no rows, or a count isn't positive.
        PairError: The guide can't take missing entries, a site lies outside the plate over rows, or a density is NaN or
            infinite.

    Source: Burda, Grosse & Salakhutdinov 2016, "Importance weighted autoencoders", ICLR.
    """
    return bounds(pair, rows, k, seed=seed, chunk_rows=chunk_rows, progress=progress)[1]


def bounds(
    pair: Pair, rows: Rows, k: int = 5000, *, seed: int = 0, chunk_rows: int | None = None, progress: bool = False
) -> tuple[Estimate, Estimate]:
    """:func:`elbo` and :func:`iwae` from the same draws, at the cost of one; arguments and errors as for the latter."""
    sums, _ = weigh_rows(
        pair, rows, k, title=f"evidence, {k} particles", seed=seed, chunk_rows=chunk_rows, progress=progress
    )
    names = ("mean", "mean_error", "log_mean", "log_mean_error", "effective_sample_size")
    mean, mean_error, log_mean, log_mean_error, sizes = (
        torch.cat([getattr(s, name) for s in sums]).cpu() for name in names
    )
    return Estimate("elbo", mean, mean_error, k), Estimate("iwae", log_mean, log_mean_error, k, sizes)


def exact(pair: Pair, rows: Rows) -> Estimate:
    """Exact log p(x) of each row, from a model that knows it.

    Args:
        pair: A pair whose model has ``log_evidence(x)``.
        rows: Rows as the pair sees them, shape (rows, ...), NaN where missing; or batches of them.

    Returns:
        The evidence, a number a row, without Monte Carlo error.

    Raises:
        PairError: The model has no ``log_evidence``.
    """
    model = pair.model
    if not isinstance(model, HasLogEvidence):
        name = getattr(model, "__qualname__", type(model).__name__)
        raise PairError(f"the model {name} has no log_evidence(x): its evidence is to be estimated; use iwae")
    batches = [rows] if isinstance(rows, Tensor) else rows
    with pair.evaluating():
        parts = [model.log_evidence(part.to(pair.device)) for batch in batches for part in batch.split(_BLOCK_ROWS)]
    per_row = torch.cat(parts).double().cpu()
    return Estimate("exact", per_row, torch.zeros_like(per_row), 0)
