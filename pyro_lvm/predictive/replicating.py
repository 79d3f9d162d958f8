"""Draws of a model's latents and observations in bounded memory, conditioned on nothing but what is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from pyro import poutine
from pyro.infer import infer_discrete
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_lvm.checking.sites import samples
from pyro_lvm.elbo import FIRST_ENUMERATED, draw_rows
from pyro_lvm.errors import DataError, PairError, PyroLvmError
from pyro_lvm.evidence.observing import PROBE_ROWS, Sites, find_sites, frame_of, is_fixed, rows_first
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
            pair.run_guide(x[: PROBE_ROWS[0]].nan_to_num().to(pair.device))
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
        if frame_of(site, num_rows) is None and not site["is_observed"]:
            kept.add_node(name, **site)
    return kept


def _split(model: Any, sites: Sites, copies: int, num_rows: int, log_weights: Tensor | None) -> Draws:
    def rows_of(site: Any) -> Tensor:
        value = rows_first(site, copies * num_rows)
        return value.reshape(copies, num_rows, *value.shape[1:]).cpu()

    found = samples(model)
    latents, shared = {}, {}
    for name, site in found.items():
        if name in sites.observed or site["is_observed"] or is_fixed(site):
            continue
        if frame_of(site, copies * num_rows) is None:
            shared[name] = site["value"][None].cpu()
        else:
            latents[name] = rows_of(site)
    return Draws(
        {name: rows_of(found[name]) for name in sites.observed},
        latents,
        shared,
        None if log_weights is None else log_weights.reshape(copies, num_rows).cpu(),
    )
