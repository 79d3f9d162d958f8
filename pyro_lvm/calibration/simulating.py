"""Rows that a model makes of latents that it draws, and the guide's draws for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.infer import infer_discrete
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_lvm.checking.sites import samples
from pyro_lvm.elbo import FIRST_ENUMERATED, by_row, row_frame
from pyro_lvm.errors import DataError, PairError, PyroLvmError
from pyro_lvm.evidence.observing import probe_rows, rows_first, simulable
from pyro_lvm.evidence.placing import Unconditioned, quiet
from pyro_lvm.evidence.weights import chunk_limit
from pyro_lvm.pair import Pair, refuse_holes
from pyro_lvm.seeding import derived_seed, seeded

# Rows that are simulated at once, at most: with their draws they have to be in memory together.
_BLOCK_ROWS = 2000
# Rows and draws that show how far apart a pair's draws of a row are.
_SPREAD_ROWS, _SPREAD_DRAWS = 200, 16


@dataclass(frozen=True)
class Latents:
    """One draw of each row's latents, and what both halves of the pair say of it.

    Attributes:
        values: The model's latents by site, the rows first, shape (rows, ...).
        log_joint: log p(x, z), nats, shape (rows,), float64.
        log_likelihood: log p(x | z), likewise.
        log_guide: log q(z | x) of what the guide draws, likewise; None where it draws something beside the model's
            latents.
    """

    values: Mapping[str, Tensor]
    log_joint: Tensor
    log_likelihood: Tensor
    log_guide: Tensor | None


@dataclass(frozen=True)
class Block:
    """Rows that the model made.

    Attributes:
        rows: As the pair sees them, shape (rows, ...), on the pair's device.
        truth: The latents that they were made from.
        seed: Of what is drawn for them.
    """

    rows: Tensor
    truth: Latents
    seed: int


class Simulator:
    """A pair whose rows can be simulated, and its guide run on them.

    Args:
        pair: Any pair whose latents are a row's own.
        like: Rows, shape (rows, ...), of which shape, type and device matter, and where entries are missing.

    Attributes:
        discrete: The latents, of those that the model draws, whose values are discrete.
        summed_out: Those that the guide leaves to enumeration: they are drawn from their exact conditional.
        has_guide_density: Whether the guide's density of the model's latents can be had.

    Raises:
        DataError: There are no rows.
        PairError: A site can't be simulated, or isn't a row's own; the guide lacks a latent, is not amortized, or can't
            take missing entries.
    """

    def __init__(self, pair: Pair, like: Tensor) -> None:
        self.pair, self._like = pair, like.to(pair.device)
        with _running():
            some = probe_rows(pair, self._like)
            self._site = simulable(pair, some)
        if isinstance(pair.guide, AutoGuide):
            raise PairError(
                f"the guide {type(pair.guide).__name__} has a posterior of its own for each training row, and none for "
                "rows that the model simulates: calibration needs a guide that reads the row"
            )
        refuse_holes(pair, like)
        with _running(), seeded(0), quiet(pair, some):
            model: Any = poutine.trace(Unconditioned()(pair.run_model)).get_trace(some)
            guide: Any = poutine.trace(pair.run_guide).get_trace(some)
            latents = {
                name: site for name, site in samples(model).items() if name != self._site and not site["is_observed"]
            }
            self.discrete = tuple(name for name, site in latents.items() if site["fn"].support.is_discrete)
        drawn = list(samples(guide))
        for name, site in samples(guide).items():
            if row_frame(site["cond_indep_stack"], len(some)) is None:
                raise PairError(f"the guide's site '{name}' lies outside the plate over rows: expected a row's own")
        absent = [name for name in latents if name not in drawn]
        forgotten = [name for name in absent if latents[name]["infer"].get("enumerate") != "parallel"]
        if forgotten:
            raise PairError(
                f"the guide doesn't draw the model's latent '{forgotten[0]}': its posterior is not known; draw it in "
                "the guide, inside the same plate"
            )
        if not latents:
            raise PairError("the model draws no latent for a row: there is no posterior to be calibrated")
        self.summed_out = tuple(absent)
        self._drawn = tuple(name for name in latents if name in drawn)
        self.has_guide_density = bool(drawn) and all(name in latents for name in drawn)
        if self.has_guide_density:
            own = {name: latents[name]["value"] for name in self._drawn}
            with _running(), seeded(0), quiet(pair, some):
                self.has_guide_density = _has_density(poutine.condition(pair.run_guide, data=own), some)

    def blocks(self, simulations: int, seed: int) -> Iterator[Block]:
        """Simulate rows, as many at a time as leave room for draws of each."""
        # A row has its own seed's block whatever the machine, so that a seed gives the same rows everywhere.
        size = max(1, min(simulations, _BLOCK_ROWS, chunk_limit(self._like, torch.device("cpu"))))
        for number, first in enumerate(range(0, simulations, size)):
            count = min(size, simulations - first)
            with _running(), seeded(derived_seed(seed, number, 0)):
                places = torch.randint(len(self._like), (count,)).to(self._like.device)
                block = self._simulate(self._like[places], derived_seed(seed, number, 1))
            yield block

    def draws(self, block: Block, count: int) -> Iterator[tuple[Latents, Tensor]]:
        """The guide's draws for a block's rows, as many at a time as are small enough, and the rows so many times."""
        copies = max(1, chunk_limit(block.rows) // len(block.rows))
        for number, first in enumerate(range(0, count, copies)):
            rows = block.rows.repeat(min(copies, count - first), *(1,) * (block.rows.dim() - 1))
            with _running(), seeded(derived_seed(block.seed, 1, number)):
                latents = self._draw(rows)
            yield latents, rows

    def spread(self, block: Block) -> dict[str, Tensor]:
        """Standard deviation of the guide's draws of a row, of each continuous latent, by site, shape (...)."""
        rows = block.rows[:_SPREAD_ROWS]
        own = Block(rows, block.truth, derived_seed(block.seed, 0))
        parts = [latents.values for latents, _ in self.draws(own, _SPREAD_DRAWS)]
        return {
            name: torch.cat([part[name].unflatten(0, (-1, len(rows))) for part in parts]).var(0).mean(0).sqrt()
            for name in parts[0]
            if name not in self.discrete
        }

    # ------------------------------------------------------------------ behind these

    def _simulate(self, like: Tensor, seed: int) -> Block:
        with quiet(self.pair, like):
            trace: Any = poutine.trace(Unconditioned()(self.pair.run_model)).get_trace(like)
        rows = rows_first(trace.nodes[self._site], len(like)).reshape(like.shape).to(like.dtype)
        if like.is_floating_point():
            if bool(rows.isnan().any()):
                raise PairError(
                    f"the model draws NaN at the site '{self._site}': expected numbers; look at its parameters, and "
                    "whether the training diverged"
                )
            rows = rows.masked_fill(like.isnan(), math.nan)
        latents = {name: trace.nodes[name]["value"] for name in (*self._drawn, *self.summed_out)}
        with quiet(self.pair, rows):
            guide: Any = None
            if self.has_guide_density:
                own = {name: latents[name] for name in self._drawn}
                guide = poutine.trace(poutine.condition(self.pair.run_guide, data=own)).get_trace(rows)
            model: Any = poutine.trace(poutine.condition(self.pair.run_model, data=latents)).get_trace(rows)
            return Block(rows, self._latents(model, guide, len(rows), "the latents that a row was made from"), seed)

    def _draw(self, rows: Tensor) -> Latents:
        with quiet(self.pair, rows):
            guide: Any = poutine.trace(self.pair.run_guide).get_trace(rows)
            model: Any = poutine.trace(poutine.replay(self.pair.run_model, trace=guide)).get_trace(rows)
            if self.summed_out:
                drawing = infer_discrete(
                    poutine.replay(self.pair.run_model, trace=guide), first_available_dim=FIRST_ENUMERATED
                )
                exact: Any = poutine.trace(drawing).get_trace(rows)
                values = {name: exact.nodes[name]["value"] for name in (*self._drawn, *self.summed_out)}
                model = poutine.trace(poutine.condition(self.pair.run_model, data=values)).get_trace(rows)
            return self._latents(model, guide if self.has_guide_density else None, len(rows), "a draw of the guide")

    def _latents(self, model: Any, guide: Any, num_rows: int, which: str) -> Latents:
        for half, trace in (("model", model), ("guide", guide)):
            if trace is not None:
                trace.compute_log_prob()
                _refuse_undefined(trace, half, which)
        names = {*self._drawn, *self.summed_out}
        return Latents(
            {name: rows_first(site, num_rows) for name, site in samples(model).items() if name in names},
            _log_density(model, num_rows, {*names, self._site}),
            _log_density(model, num_rows, {self._site}),
            None if guide is None else _log_density(guide, num_rows, names),
        )


def _has_density(guide: Callable[[Tensor], Any], some: Tensor) -> bool:
    """Whether a guide that is given its latents has their density: some flows know it of their own draws alone."""
    try:
        trace: Any = poutine.trace(guide).get_trace(some)
        trace.compute_log_prob()
    except (KeyError, NotImplementedError):
        return False
    return True


def _log_density(trace: Any, num_rows: int, names: Collection[str]) -> Tensor:
    """What some of a trace's sites say of each row, nats, shape (rows,), float64."""
    terms = [
        by_row(site, site["log_prob"], num_rows, num_rows) for name, site in samples(trace).items() if name in names
    ]
    if any(own.shape != (num_rows,) for own in terms):
        raise PairError("a site's density is not one number a row: check_pair says what is wrong with the pair")
    return torch.stack(terms).sum(0)


def _refuse_undefined(trace: Any, half: str, which: str) -> None:
    for name, site in samples(trace).items():
        undefined = site["log_prob"].isnan()
        if not bool(undefined.any()):
            continue
        # Some distributions say NaN outside their support, where the density is 0.
        outside = ~site["fn"].support.check(site["value"])
        if bool((undefined & ~outside).any()):
            raise PairError(
                f"the {half}'s density at the site '{name}' is NaN for {which}: expected a number; look at what its "
                "parameters are there, and whether the training diverged"
            )
        site["log_prob"] = torch.where(outside, -math.inf, site["log_prob"])


@contextmanager
def _running() -> Iterator[None]:
    """Says in one line that a pair broke down."""
    try:
        yield
    except PyroLvmError:
        raise
    except (RuntimeError, ValueError, IndexError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise PairError(
            f"the pair breaks down on rows like those that it was given ({type(error).__name__}: {reason}): expected "
            "one that takes any number of rows; check_pair says what is wrong with it"
        ) from error


def check_counts(**counts: tuple[int, int]) -> None:
    """Refuse counts below the least that something can be said from; each is (given, least).

    Raises:
        DataError: One is too small, or no whole number.
    """
    for name, (given, least) in counts.items():
        if isinstance(given, bool) or not isinstance(given, int) or given < least:
            raise DataError(f"{name}={given}: expected a whole number from {least} up")
