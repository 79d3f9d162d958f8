"""Draws of a model's latents and observations in bounded memory, conditioned on nothing but what is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from pyro import poutine
from pyro.infer import infer_discrete
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_lvm.checking.sites import is_deterministic, samples
from pyro_lvm.elbo import FIRST_ENUMERATED, draw_rows, row_frame
from pyro_lvm.errors import DataError, PairError, PyroLvmError
from pyro_lvm.evidence.placing import Unconditioned
from pyro_lvm.evidence.weights import chunk_limit, row_blocks
from pyro_lvm.pair import Pair, holes_refused, refuse_holes
from pyro_lvm.plate import feeding
from pyro_lvm.progress import Reporter
from pyro_lvm.seeding import derived_seed, seeded

Replication = Literal["posterior", "mixed", "prior"]
"""Where the latents of a replicate come from.

``posterior``: every latent from the guide: the same rows, seen once more. ``mixed``: what all rows share from the
guide, each row's own latents from their prior: new rows of the same population. ``prior``: everything from the prior.
(Gelman, Meng & Stern 1996, "Posterior predictive assessment of model fitness", Statistica Sinica 6; Marshall &
Spiegelhalter 2007, Bayesian Analysis 2.)
"""

# Rows that show what sites a model has: as many as the first of these that is no other plate's size.
_PROBE_ROWS = (16, 13, 11)


@dataclass(frozen=True)
class Draws:
    """Draws for all rows at once, on the CPU.

    Attributes:
        observed: Draws of what the model observes, by site, shape (draws, rows, ...); complete, whatever is missing.
        latents: Each row's own latents, by site, shape (draws, rows, ...).
        shared: What all rows share, by site, shape (draws, ...).
        log_weights: log p(x, z) - log q(z | x) of each row, nats, shape (draws, rows), float64; None where the latents
            don't come from the guide, or rows share some.
    """

    observed: Mapping[str, Tensor]
    latents: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]
    log_weights: Tensor | None


@dataclass(frozen=True)
class Sites:
    """What a model draws.

    Attributes:
        observed: Sites that are observed for each row.
        shared: Latents that all rows share.
        whole_rows: Of the observed sites, those that hold the rows as they are given.
    """

    observed: tuple[str, ...]
    shared: tuple[str, ...]
    whole_rows: tuple[str, ...]

    def choose(self, site: str | None) -> str:
        """The observed site of this name, or the only one.

        Raises:
            PairError: There is none of this name, or there are several and none is named.
        """
        if site is not None and site in self.observed:
            return site
        if site is not None or len(self.observed) != 1:
            given = "no site" if site is None else f"site='{site}'"
            raise PairError(f"{given} was chosen: expected one that the model observes, of {', '.join(self.observed)}")
        return self.observed[0]


def replicate(
    pair: Pair,
    x: Tensor,
    num_draws: int,
    *,
    replication: Replication,
    seed: int = 0,
    progress: bool = False,
    sites: Sites | None = None,
) -> Iterator[Draws]:
    """Draw latents and observations for rows, as many draws at a time as are small enough.

    Nothing that the model observes is held: a site that is observed is drawn. Plates take all the rows that they are
    given. A discrete latent that the guide leaves to enumeration is drawn from its exact conditional distribution.

    Args:
        pair: Any pair.
        x: Rows as the pair sees them, shape (rows, ...), NaN where missing. Under ``mixed`` and ``prior`` the model is
            given them for their number and shape alone.
        num_draws: Draws in all.
        replication: Where the latents come from.
        seed: Of the draws; the caller's random state is left as it was.
        progress: Show how far it is.
        sites: What :func:`find_sites` finds for such rows, if that is known.

    Yields:
        Draws for all rows, ``num_draws`` in all.

    Raises:
        DataError: There are no rows, or ``num_draws`` isn't positive.
        PairError: The model observes nothing for each row or reads the rows that it is to draw; the guide lacks a
            latent of the model, or can't take missing entries.
    """
    if num_draws < 1:
        raise DataError(f"num_draws={num_draws}: expected a whole number from 1 up")
    if replication not in get_args(Replication):
        raise DataError(f"replication={replication!r}: expected one of {', '.join(get_args(Replication))}")
    sites = sites or find_sites(pair, x)
    if replication == "posterior" or (replication == "mixed" and sites.shared):
        refuse_holes(pair, x)
    # What rows share is to be drawn anew for each draw, and an autoguide's plates have a size of their own.
    alone = bool(sites.shared) or (replication == "posterior" and isinstance(pair.guide, AutoGuide))
    copies = 1 if alone else max(1, chunk_limit(x, pair.device) // len(x))
    done = 0
    with Reporter(f"{replication} replicates", enabled=progress) as reporter:
        while done < num_draws:
            count = min(copies, num_draws - done)
            try:
                draws = _draw(pair, x, count, replication, sites, derived_seed(seed, done))
            except PyroLvmError:
                raise
            except ValueError as error:
                if replication == "prior" or not _only_holes_stop(pair, x):
                    raise
                raise holes_refused(pair, int(x.isnan().sum())) from error
            yield draws
            done += count
            reporter.update(done, num_draws, "draws")


def find_sites(pair: Pair, x: Tensor) -> Sites:
    """What the model draws for rows like these.

    Raises:
        DataError: There are no rows.
        PairError: The model observes nothing for each row, or its draws of a row depend on the row.
    """
    some = probe_rows(pair, x)
    with pair.evaluating(), poutine.block(), feeding(None):
        with seeded(0):
            trace: Any = poutine.trace(pair.run_model).get_trace(some)
        found = samples(trace)
        observed = [name for name, site in found.items() if _is_data(site) and _frame(site, len(some)) is not None]
        if not observed:
            raise PairError(
                "the model observes no site inside a vectorized plate over its rows: there is nothing to draw; observe "
                "the rows inside `with data_plate(x):`"
            )
        shared = [n for n, site in found.items() if not site["is_observed"] and _frame(site, len(some)) is None]
        whole = [name for name in observed if _holds(found[name], some)]
        drawn = [_free_draw(pair, rows, observed) for rows in (some, some.roll(1, 0))]
    for name in whole:
        if not torch.allclose(drawn[0][name], drawn[1][name], rtol=0, atol=0, equal_nan=True):
            raise PairError(
                f"the model's draws of '{name}' depend on the rows that it is to draw: what it makes of their values "
                "before it observes them is no replicate; take x for its shape alone"
            )
    return Sites(tuple(observed), tuple(shared), tuple(whole))


def probe_rows(pair: Pair, x: Tensor) -> Tensor:
    """The first few rows, on the pair's device: where it can be, as many as no plate has but the one over rows.

    Raises:
        DataError: There are no rows.
    """
    if len(x) == 0:
        raise DataError("there are no rows: expected one at least")
    for count in _PROBE_ROWS:
        some = x[:count].to(pair.device)
        with pair.evaluating(), poutine.block(), feeding(None), seeded(0):
            trace: Any = poutine.trace(pair.run_model).get_trace(some)
        plates = (frame for site in samples(trace).values() for frame in site["cond_indep_stack"] if frame.vectorized)
        if len({frame.name for frame in plates if frame.size == len(some)}) < 2:
            return some
    return x[: _PROBE_ROWS[0]].to(pair.device)


def observed_rows(pair: Pair, x: Tensor, site: str | None = None) -> Tensor:
    """What the model observes at a site, shape (rows, ...), NaN where missing, on the CPU.

    Raises:
        PairError: The model has no such site.
    """
    sites = find_sites(pair, x)
    name = sites.choose(site)
    parts = []
    with pair.evaluating(), poutine.block(), feeding(None), seeded(0):
        for block, _ in row_blocks(pair, x):
            trace: Any = poutine.trace(pair.run_model).get_trace(block)
            value = rows_first(trace.nodes[name], len(block))
            if name in sites.whole_rows:
                value = block.reshape(value.shape)
            parts.append(value.cpu())
    return torch.cat(parts)


def _draw(pair: Pair, x: Tensor, copies: int, replication: Replication, sites: Sites, seed: int) -> Draws:
    shared: Any = poutine.Trace()
    parts = []
    # Blocks hold one draw each where the rows don't fit at once; what is shared is the first block's.
    with pair.evaluating(), seeded(seed), poutine.block(), feeding(None):
        for block, _ in row_blocks(pair, x, None if copies == 1 else len(x)):
            rows = block.repeat(copies, *(1,) * (block.dim() - 1))
            with poutine.replay(trace=shared):
                latents, log_weights = _latents(pair, rows, len(x), replication, sites)
                drawing = Unconditioned()(poutine.replay(pair.run_model, trace=latents))
                model: Any = poutine.trace(drawing).get_trace(rows)
            if sites.shared and not shared.nodes:
                shared = shared_part(model if replication == "prior" else latents, len(rows))
            parts.append(_split(model, sites, copies, len(block), log_weights))
    first = parts[0]
    return Draws(
        {name: torch.cat([p.observed[name] for p in parts], 1) for name in first.observed},
        {name: torch.cat([p.latents[name] for p in parts], 1) for name in first.latents},
        first.shared,
        None
        if first.log_weights is None
        else torch.cat([p.log_weights for p in parts if p.log_weights is not None], 1),
    )


def _only_holes_stop(pair: Pair, x: Tensor) -> bool:
    """Whether a guide that says nothing of missing entries, and failed on some, runs on the same rows filled."""
    if not x.is_floating_point() or not bool(x.isnan().any()):
        return False
    with pair.evaluating(), poutine.block(), feeding(None), seeded(0):
        try:
            pair.run_guide(x[: _PROBE_ROWS[0]].nan_to_num().to(pair.device))
        except ValueError:
            return False
    return True


def _latents(
    pair: Pair, rows: Tensor, total_rows: int, replication: Replication, sites: Sites
) -> tuple[Any, Tensor | None]:
    """A trace of the latents that the model is to take over, and the log-weights of the draw."""
    if replication == "posterior":
        draw = draw_rows(pair, rows, total_rows)
        log_weights = None if sites.shared else draw.log_joint - draw.log_guide
        if not draw.summed_out:
            own = {name for name, site in samples(draw.model).items() if not site["is_observed"]}
            if own - set(draw.guide.nodes):
                raise PairError(
                    f"the guide doesn't draw the model's latent '{sorted(own - set(draw.guide.nodes))[0]}': its "
                    "posterior is not known; draw it in the guide, inside the same plate"
                )
            return draw.guide, log_weights
        drawing = infer_discrete(poutine.replay(pair.run_model, trace=draw.guide), first_available_dim=FIRST_ENUMERATED)
        return poutine.trace(drawing).get_trace(rows), log_weights
    if replication == "mixed" and sites.shared:
        return shared_part(poutine.trace(pair.run_guide).get_trace(rows), len(rows)), None
    return poutine.Trace(), None


def shared_part(trace: Any, num_rows: int) -> Any:
    """A trace of what all rows share, of a trace over ``num_rows`` rows."""
    kept: Any = poutine.Trace()
    for name, site in samples(trace).items():
        if _frame(site, num_rows) is None and not site["is_observed"]:
            kept.add_node(name, **site)
    return kept


def _split(model: Any, sites: Sites, copies: int, num_rows: int, log_weights: Tensor | None) -> Draws:
    def rows_of(site: Any) -> Tensor:
        value = rows_first(site, copies * num_rows)
        return value.reshape(copies, num_rows, *value.shape[1:]).cpu()

    found = samples(model)
    latents, shared = {}, {}
    for name, site in found.items():
        if name in sites.observed or site["is_observed"] or _is_fixed(site):
            continue
        if _frame(site, copies * num_rows) is None:
            shared[name] = site["value"][None].cpu()
        else:
            latents[name] = rows_of(site)
    return Draws(
        {name: rows_of(found[name]) for name in sites.observed},
        latents,
        shared,
        None if log_weights is None else log_weights.reshape(copies, num_rows).cpu(),
    )


def _free_draw(pair: Pair, rows: Tensor, observed: list[str]) -> dict[str, Tensor]:
    with seeded(0):
        trace: Any = poutine.trace(Unconditioned()(pair.run_model)).get_trace(rows)
    return {name: trace.nodes[name]["value"] for name in observed}


def _is_data(site: Any) -> bool:
    """Whether a site is observed, and no deterministic or factor in the dress of one."""
    return bool(site["is_observed"]) and not _is_fixed(site)


def _is_fixed(site: Any) -> bool:
    return is_deterministic(site) or math.prod(site["fn"].event_shape) == 0


def _frame(site: Any, num_rows: int) -> Any:
    return row_frame(site["cond_indep_stack"], num_rows)


def rows_first(site: Any, num_rows: int) -> Tensor:
    """A site's value with its rows along the first dimension."""
    value: Tensor = site["value"]
    return value.movedim(_frame(site, num_rows).dim - site["fn"].event_dim, 0)


def _holds(site: Any, rows: Tensor) -> bool:
    """Whether a site's values are the rows' own, but for what fills their holes."""
    value = rows_first(site, len(rows))
    if value.numel() != rows.numel():
        return False
    given = rows.reshape(value.shape)
    missing = given.isnan() if given.is_floating_point() else torch.zeros_like(given, dtype=torch.bool)
    return bool(((value == given) | missing).all())
