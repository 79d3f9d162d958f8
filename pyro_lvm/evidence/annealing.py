"""Annealed importance sampling: a lower bound on log p(x) for any rows, an upper one from an exact posterior draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import get_args

import torch
from torch import Tensor

from pyro_lvm.errors import DataError
from pyro_lvm.evidence.density import LatentDensity, Point, Start
from pyro_lvm.evidence.estimate import Estimate
from pyro_lvm.evidence.hmc import Steps, move, tune
from pyro_lvm.evidence.weights import Rows, WeightSums, chunk_limit, refuse_undefined, row_blocks
from pyro_lvm.pair import Pair
from pyro_lvm.progress import Reporter
from pyro_lvm.seeding import seeded

# Grosse et al. 2015: the path is slowest at both its ends.
_STEEPNESS = 4.0
# Of the chains that find the steps.
_PILOT_CHAINS, _PILOT_TEMPERATURES = 8, 100
# Moves at the posterior itself that part the chains of one exact draw.
_PARTING = 10


def ais(
    pair: Pair,
    rows: Rows,
    temperatures: int = 1000,
    chains: int = 16,
    *,
    leapfrogs: int = 5,
    start: Start = "prior",
    seed: int = 0,
    chunk_rows: int | None = None,
    progress: bool = False,
) -> Estimate:
    r"""Annealed importance sampling: a lower bound on log p(x) that owes nothing to how good the guide is.

    Each chain goes from a draw of s(z) to the posterior in small steps, by Hamiltonian moves, and gathers its weight:

    .. math:: \log w = \sum_{t=1}^{T} (\beta_t - \beta_{t-1}) \log \frac{p(x, z_{t-1})}{s(z_{t-1})}, \qquad
        \log \frac{1}{C} \sum_c w_c \;\le\; \log p(x) \quad\text{in expectation}

    with :math:`z_t` moved from :math:`z_{t-1}` at :math:`s(z)^{1-\beta_t} p(x, z)^{\beta_t}`. The moves' steps are
    found beforehand by chains that are not counted. The bound rises to log p(x) with temperatures and chains.

    Args:
        pair: Any pair with continuous latents of a row's own; discrete ones are summed out.
        rows: Rows as the pair sees them, shape (rows, ...), NaN where missing; or batches of them.
        temperatures: T.
        chains: C, a row.
        leapfrogs: Gradients a move.
        start: s: ``"prior"``, or ``"guide"``, from where the way is shorter unless the guide is bad.
        seed: Of the draws; the caller's random state is left as it was.
        chunk_rows: Rows times chains held at once; None chooses by the size of a row.
        progress: Show how far it is.

    Returns:
        The bound, a number a row, with effective sample sizes of the chains and the moves' acceptance.

    Raises:
        DataError: There are no rows, or a count isn't positive.
        PairError: A latent is shared by rows, or can't be moved; the guide can't take the rows where it is needed; or a
            density is NaN or infinite.

    Source: Neal 2001, "Annealed importance sampling", Statistics and Computing 11; Wu, Burda, Salakhutdinov & Grosse
    2017, "On the quantitative analysis of decoder-based generative models", ICLR.
    """

    return _annealed(
        pair, rows, temperatures, chains, leapfrogs, start, None, seed=seed, chunk_rows=chunk_rows, progress=progress
    )


def reverse_ais(
    pair: Pair,
    rows: Tensor,
    latents: Mapping[str, Tensor],
    temperatures: int = 1000,
    chains: int = 16,
    *,
    leapfrogs: int = 5,
    start: Start = "prior",
    seed: int = 0,
    chunk_rows: int | None = None,
    progress: bool = False,
) -> Estimate:
    r"""The chains of :func:`ais` backwards, from exact posterior draws: an upper bound on log p(x).

    .. math:: -\log \frac{1}{C} \sum_c \frac{1}{w_c} \;\ge\; \log p(x) \quad\text{in expectation}

    A row that the model itself made comes with an exact draw of its posterior, the latents that it was made from
    (:func:`pyro_lvm.evidence.sandwich`). From anything else, such as draws of a guide, this is no bound.

    Args:
        pair, temperatures, chains, leapfrogs, start, seed, chunk_rows, progress: As for :func:`ais`.
        rows: Rows, shape (rows, ...), NaN where missing.
        latents: An exact posterior draw of each row's continuous latents, by site, as the model draws them for
            ``rows``; a row's chains all begin there, and part by moves at the posterior.

    Returns:
        The bound, a number a row.

    Raises:
        DataError, PairError: As for :func:`ais`; or a latent is not given.

    Source: Grosse, Ghahramani & Adams 2015, "Sandwiching the marginal likelihood using bidirectional Monte Carlo".
    """
    whole = LatentDensity(pair, rows.to(pair.device))
    missing = [place.name for place in whole.places if place.name not in latents]
    if missing:
        raise DataError(f"no draw of the latent '{missing[0]}' is given: expected one of each continuous latent")
    coordinates = whole.coordinates({name: value.to(pair.device) for name, value in latents.items()})

    return _annealed(
        pair,
        rows,
        temperatures,
        chains,
        leapfrogs,
        start,
        coordinates,
        seed=seed,
        chunk_rows=chunk_rows,
        progress=progress,
    )


def schedule(temperatures: int) -> list[float]:
    r"""Inverse temperatures from 0 to 1, by a sigmoid: :math:`\beta_t \propto \sigma(4(2t/T - 1)) - \sigma(-4)`.

    >>> [round(beta, 2) for beta in schedule(4)]
    [0.0, 0.1, 0.5, 0.9, 1.0]
    """
    places = torch.linspace(-_STEEPNESS, _STEEPNESS, temperatures + 1, dtype=torch.float64).sigmoid()
    betas: list[float] = ((places - places[0]) / (places[-1] - places[0])).tolist()
    return betas


def _annealed(
    pair: Pair,
    rows: Rows,
    temperatures: int,
    chains: int,
    leapfrogs: int,
    start: Start,
    posterior: Tensor | None,
    *,
    seed: int,
    chunk_rows: int | None,
    progress: bool,
) -> Estimate:
    """Forwards from draws of s, or backwards from those of the posterior, shape (rows, dim)."""
    counts = {"temperatures": temperatures, "chains": chains, "leapfrogs": leapfrogs, "chunk_rows": chunk_rows}
    for name, given in counts.items():
        if given is not None and given < 1:
            raise DataError(f"{name}={given}: expected a whole number from 1 up")
    if start not in get_args(Start):
        raise DataError(f"start={start!r}: expected one of {', '.join(get_args(Start))}")
    betas, pilot = schedule(temperatures), schedule(min(temperatures, _PILOT_TEMPERATURES))
    finished: list[WeightSums] = []
    acceptances: list[Tensor] = []
    done = 0
    title = "annealing" if posterior is None else "annealing back"
    with Reporter(title, enabled=progress) as reporter, seeded(seed):
        for x, known_rows in row_blocks(pair, rows, _block_rows(rows, pair, chains, chunk_rows)):
            report = _reporting(reporter, done, len(x), known_rows)
            steps = tune(LatentDensity(pair, x, _PILOT_CHAINS, start), pilot, leapfrogs)
            density = LatentDensity(pair, x, chains, start, evaluations=temperatures * leapfrogs)
            if posterior is None:
                point = density.evaluate(density.draw())
                refuse_undefined(density.by_chain(point.log_joint - point.log_start), done)
                log_weights, acceptance = _anneal(density, point, betas, steps, leapfrogs, report)
            else:
                point = density.evaluate(posterior[done : done + len(x)].repeat(chains, 1))
                refuse_undefined(density.by_chain(point.log_start - point.log_joint), done)
                for _ in range(_PARTING):
                    point, _ = move(density, point, 1.0, steps.at(1.0, chains), leapfrogs)
                log_weights, acceptance = _anneal(density, point, betas[::-1], steps, leapfrogs, report)
            sums = WeightSums(len(x), x.device)
            refuse_undefined(log_weights, done)
            sums.add(log_weights)
            # No chain found a place where the row is possible.
            refuse_undefined(sums.log_mean.abs()[None], done)
            finished.append(sums)
            acceptances.append(acceptance)
            done += len(x)
    if not done:
        raise DataError("there are no rows: expected one at least")
    bound, errors, sizes = (
        torch.cat([getattr(s, name) for s in finished]).cpu()
        for name in ("log_mean", "log_mean_error", "effective_sample_size")
    )
    kind = "ais" if posterior is None else "reverse"
    return Estimate(
        kind, bound if posterior is None else -bound, errors, chains, sizes, acceptances=torch.cat(acceptances).cpu()
    )


def _anneal(
    density: LatentDensity,
    point: Point,
    betas: list[float],
    steps: Steps,
    leapfrogs: int,
    report: Callable[[float], None],
) -> tuple[Tensor, Tensor]:
    """Log-weights of each chain, shape (chains, rows), and each row's share of moves accepted, (rows,)."""
    log_weights = torch.zeros_like(point.log_joint)
    accepted = torch.zeros_like(log_weights)
    last = len(betas) - 1
    for number, (now, then) in enumerate(pairwise(betas), 1):
        log_weights = log_weights + (then - now) * (point.log_joint - point.log_start)
        if number < last:
            place = number / last if betas[0] < betas[-1] else 1 - number / last
            own = steps.at(place, density.chains)
            point, probability = move(density, point, then, own, leapfrogs)
            accepted += probability
        report(number / last)
    return density.by_chain(log_weights), density.by_chain(accepted).mean(0) / max(1, last - 1)


def _block_rows(rows: Rows, pair: Pair, chains: int, chunk_rows: int | None) -> int | None:
    if isinstance(rows, Tensor) and len(rows):
        return max(1, (chunk_rows or chunk_limit(rows, pair.device)) // chains)
    return None if chunk_rows is None else max(1, chunk_rows // chains)


def _reporting(reporter: Reporter, done: int, block: int, known: int | None) -> Callable[[float], None]:
    def report(share: float) -> None:
        so_far = done + int(block * share)
        reporter.update(so_far, known or done + block, "rows")

    return report
