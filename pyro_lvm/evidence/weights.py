"""Importance weights of any pair's rows, streamed over particles in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_lvm.elbo import RowDraw, draw_rows, row_frame
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.pair import Pair, refuse_holes
from pyro_lvm.plate import feeding
from pyro_lvm.progress import Reporter
from pyro_lvm.seeding import seeded

Rows = Tensor | Iterable[Tensor]
"""Rows, shape (rows, ...), or batches of them."""

# Entries of x, and rows times particles, that one chunk may hold: on a CPU what stays near its caches is fastest.
_CPU_ENTRIES, _CPU_COPIES = 2**20, 2**14
_GPU_ENTRIES, _GPU_COPIES = 2**26, 2**18


class WeightSums:
    r"""Running sums over particles of each row's log-weights, float64.

    Kept relative to the largest log-weight so far, :math:`m = \max_k \log w_k`: neither sums nor squares overflow.

    Args:
        num_rows: Number of rows.
        device: Where they are.
    """

    def __init__(self, num_rows: int, device: torch.device | str = "cpu") -> None:
        def zeros() -> Tensor:
            return torch.zeros(num_rows, dtype=torch.float64, device=device)

        self.count = 0
        self._largest = zeros() - math.inf
        self._sum, self._sum_of_squares = zeros(), zeros()
        self._mean, self._squared_deviations = zeros(), zeros()

    def add(self, log_weights: Tensor) -> None:
        """Take in more particles, shape (particles, rows)."""
        new = log_weights.double()
        largest = torch.maximum(self._largest, new.amax(0))
        # Where every weight is 0 so far, there is nothing to be relative to.
        base = torch.where(largest.isfinite(), largest, 0.0)
        kept = (self._largest - base).exp()
        relative = (new - base).exp()
        self._sum = self._sum * kept + relative.sum(0)
        self._sum_of_squares = self._sum_of_squares * kept.square() + relative.square().sum(0)
        self._largest = largest
        # Chan, Golub and LeVeque 1983: means and squared deviations of two samples together.
        count, mean = len(new), new.mean(0)
        total, apart = self.count + count, mean - self._mean
        self._squared_deviations += (new - mean).square().sum(0) + apart.square() * (self.count * count / total)
        self._mean += apart * (count / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """Mean of the log-weights: the ELBO, shape (rows,)."""
        return self._mean

    @property
    def mean_error(self) -> Tensor:
        """Its standard error."""
        if self.count < 2:
            return torch.full_like(self._mean, math.nan)
        return (self._squared_deviations / (self.count * (self.count - 1))).sqrt()

    @property
    def log_mean(self) -> Tensor:
        """Log of the mean weight: the importance-weighted bound, shape (rows,)."""
        base = torch.where(self._largest.isfinite(), self._largest, 0.0)
        return base + self._sum.log() - math.log(self.count)

    @property
    def log_mean_error(self) -> Tensor:
        """Its standard error by the delta method: the relative standard error of the mean weight."""
        if self.count < 2:
            return torch.full_like(self._mean, math.nan)
        spread = (self.count / self.effective_sample_size - 1).clamp(min=0)
        return (spread / (self.count - 1)).sqrt()

    @property
    def effective_sample_size(self) -> Tensor:
        """(sum of weights)^2 / sum of squared weights, from 1 to the number of particles (Kong 1992)."""
        return self._sum.square() / self._sum_of_squares


def weigh_rows(
    pair: Pair,
    rows: Rows,
    num_particles: int,
    *,
    title: str,
    num_rows: int | None = None,
    seed: int = 0,
    chunk_rows: int | None = None,
    progress: bool = False,
    share: bool = False,
) -> tuple[list[WeightSums], bool]:
    """Draw every row's latents many times and sum up their weights p(x, z) / q(z | x).

    Particles are drawn by giving the pair its rows several times over, which every pair with independent rows can take,
    however it is written.

    Args:
        pair: Any pair whose rows are independent.
        rows: Rows as the pair sees them.
        num_particles: Draws a row.
        title: For the progress.
        num_rows: Rows N that share latents; None for as many as are given at once.
        seed: Of the draws.
        chunk_rows: Rows times particles that are drawn at once; None chooses by their size.
        progress: Show how far it is.
        share: Whether rows may share latents: each row then carries 1/N of what all share.

    Returns:
        The sums, a block of rows after the other, and whether rows share latents.

    Raises:
        DataError: There are no rows, or a count isn't positive.
        PairError: The guide can't take missing entries, a site lies outside the plate over rows, or a weight is NaN or
            infinite.
    """
    for name, given in (("particles", num_particles), ("chunk_rows", chunk_rows)):
        if given is not None and given < 1:
            raise DataError(f"{name}={given}: expected a whole number from 1 up")
    finished: list[WeightSums] = []
    shared = False
    done = 0
    with (
        Reporter(title, enabled=progress) as reporter,
        pair.evaluating(),
        seeded(seed),
        poutine.block(),
    ):
        for x, known_rows in row_blocks(pair, rows, chunk_rows):
            refuse_holes(pair, x)
            sums = WeightSums(len(x), x.device)
            # An autoguide's plates have a size of their own, and what rows share is to be drawn anew for each particle.
            limit = len(x) if shared or isinstance(pair.guide, AutoGuide) else chunk_rows or chunk_limit(x)
            total_rows = num_rows or known_rows or len(x)
            while sums.count < num_particles:
                copies = min(max(1, limit // len(x)), num_particles - sums.count)
                draw = _draw(pair, x, copies, total_rows)
                outside = _outside(draw, copies * len(x))
                if outside is not None and not share:
                    raise PairError(
                        f"the site '{outside}' lies outside the plate over rows: importance weights are a row's own "
                        "where all its sites are; use elbo, which spreads what rows share over them"
                    )
                shared |= outside is not None
                if shared and copies > 1:
                    limit = len(x)
                    continue
                log_weights = (draw.log_joint - draw.log_guide).reshape(copies, len(x))
                refuse_undefined(log_weights, done)
                sums.add(log_weights)
                so_far = done + int(len(x) * sums.count / num_particles)
                reporter.update(so_far, known_rows or so_far, f"rows, {float(sums.log_mean.mean()):.3f} nats a row")
            done += len(x)
            finished.append(sums)
    if not done:
        raise DataError("there are no rows: expected one at least")
    return finished, shared


def row_blocks(pair: Pair, rows: Rows, chunk_rows: int | None = None) -> Iterator[tuple[Tensor, int | None]]:
    """Rows in blocks on the pair's device, and how many there are in all, where that is known."""
    known = len(rows) if isinstance(rows, Tensor) else None
    for batch in [rows] if isinstance(rows, Tensor) else rows:
        size = len(batch) if isinstance(pair.guide, AutoGuide) else chunk_rows or chunk_limit(batch, pair.device)
        for block in batch.split(max(1, size)) if len(batch) else ():
            yield block.to(pair.device), known


def chunk_limit(x: Tensor, device: torch.device | None = None) -> int:
    """How many rows like those of ``x`` are to be drawn at once."""
    on_cpu = (device or x.device).type == "cpu"
    entries, copies = (_CPU_ENTRIES, _CPU_COPIES) if on_cpu else (_GPU_ENTRIES, _GPU_COPIES)
    return max(1, min(copies, entries // max(1, x[:1].numel())))


def _draw(pair: Pair, x: Tensor, copies: int, total_rows: int) -> RowDraw:
    complete = not (x.is_floating_point() and bool(x.isnan().any()))
    # Each chunk is its own data set here: the scale N/B would multiply every row's terms.
    with feeding(None, complete=complete):
        return draw_rows(pair, x.repeat(copies, *(1,) * (x.dim() - 1)), total_rows)


def _outside(draw: RowDraw, num_rows: int) -> str | None:
    """The name of a site that lies outside the plate over rows."""
    for trace in (draw.guide, draw.model):
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or type(site["fn"]).__name__ == "_Subsample":
                continue
            if row_frame(site["cond_indep_stack"], num_rows) is None:
                return str(name)
    return None


def refuse_undefined(log_weights: Tensor, first_row: int) -> None:
    """Refuse log-weights, shape (particles, rows), that are NaN or plus infinity; the first row has a number.

    Raises:
        PairError: There are some.
    """
    undefined = log_weights.isnan() | (log_weights == math.inf)
    if bool(undefined.any()):
        row = first_row + int(undefined.any(0).nonzero()[0])
        raise PairError(
            f"the log-weight of row {row} is NaN or infinite: expected finite densities of the row and of its draws; "
            "look at the row, and whether the training diverged"
        )
