"""The ELBO of each row by Monte Carlo, from Pyro's own traces of any pair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_lvm.errors import PairError
from pyro_lvm.pair import Pair
from pyro_lvm.plate import feeding
from pyro_lvm.seeding import derived_seed, seeded

# Rows times features that one chunk may hold: 32 MiB in float32 for each tensor that a model makes of it.
_CHUNK_ENTRIES = 2**23
# The rows have dimension -1; values that are summed over go to the left of it.
FIRST_ENUMERATED = -2
"""Dimension from which on values go that are summed over."""


def row_elbo(pair: Pair, x: Tensor, num_particles: int = 1, *, num_rows: int | None = None, seed: int = 0) -> Tensor:
    r"""Monte Carlo estimate of each row's ELBO.

    .. math:: \frac{1}{S} \sum_{s=1}^{S} \log p(x_n, z_n^s) - \log q(z_n^s \mid x_n), \qquad z_n^s \sim q(z_n \mid x_n)

    The noise depends on the seed and the rows alone, so that the same rows under two sets of parameters are compared
    under the same noise. Where all rows share a latent, each row carries 1/N of its terms. A discrete latent that the
    guide leaves to enumeration is summed out, as :class:`pyro.infer.TraceEnum_ELBO` does; one that the guide draws is
    drawn.

    Args:
        pair: Any pair whose rows are independent given what they share.
        x: Rows, shape (rows, ...), on the pair's device.
        num_particles: Draws S a row.
        num_rows: Rows N of the data set that shares its latents, where ``x`` is others or a part of them.
        seed: Of the draws; the caller's random state is left as it was.

    Returns:
        Nats a row, shape (rows,), float64.

    Raises:
        PairError: A latent to be summed out is outside the plate over rows, or a plate is inside that.
    """
    total_rows = len(x) if num_rows is None else num_rows
    chunk_rows = max(1, _CHUNK_ENTRIES // max(1, x[:1].numel()))
    with seeded(seed), torch.no_grad(), poutine.block():
        return torch.cat([_chunk_elbo(pair, chunk, num_particles, total_rows) for chunk in x.split(chunk_rows)])


def elbo_draws(
    pair: Pair, x: Tensor, num_draws: int, *, num_rows: int | None = None, seed: int = 0, importance: int = 1
) -> Tensor:
    """The rows' mean ELBO for each of several independent draws, in nats a row, shape (num_draws,), float64.

    Their mean estimates the rows' ELBO and their spread its Monte Carlo error, for these rows. With ``importance``
    above 1 it is the importance-weighted bound of so many draws each
    (:class:`pyro_lvm.importance.ImportanceWeightedELBO`).
    """
    seeds = [derived_seed(seed, draw) for draw in range(num_draws * importance)]
    draws = [row_elbo(pair, x, num_rows=num_rows, seed=one) for one in seeds]
    weighted = torch.stack(draws).unflatten(0, (num_draws, importance)).logsumexp(1) - math.log(importance)
    means: Tensor = weighted.mean(1)
    return means


@dataclass(frozen=True)
class RowDraw:
    """One draw of each row's latents from the guide, and what both halves say of it.

    Attributes:
        log_joint: log p(x, z) of each row, nats, shape (rows,), float64.
        log_guide: log q(z | x) of each row, likewise.
        model: Trace of the model at the draw.
        guide: Trace of the guide.
        summed_out: Names of the latents that ``log_joint`` has summed out, which the guide does not draw.
    """

    log_joint: Tensor
    log_guide: Tensor
    model: Any
    guide: Any
    summed_out: list[str]


def draw_rows(pair: Pair, x: Tensor, total_rows: int, *, held: Mapping[str, Tensor] | None = None) -> RowDraw:
    """Draw each row's latents from the guide once, inside ``feeding(None)``: no plate may scale by another N.

    Args:
        pair: Any pair whose rows are independent given what they share.
        x: Rows, shape (rows, ...).
        total_rows: Rows N that share what is shared.
        held: Latents that are given, by site, instead of drawn.

    Raises:
        PairError: A latent to be summed out is outside the plate over rows, or a plate is inside that.
    """
    run_guide, run_model = (
        half if held is None else poutine.condition(half, data=dict(held)) for half in (pair.run_guide, pair.run_model)
    )
    guide = poutine.trace(run_guide).get_trace(x)
    model = poutine.trace(poutine.replay(run_model, trace=guide)).get_trace(x)
    summed = _summed_out(model, guide)
    if summed:
        summing = poutine.enum(poutine.replay(run_model, trace=guide), first_available_dim=FIRST_ENUMERATED)
        model = poutine.trace(summing).get_trace(x)
        log_joint = _summed_log_prob(model, len(x), total_rows, summed=_summed_out(model, guide))
    else:
        log_joint = _row_log_prob(model, len(x), total_rows)
    return RowDraw(log_joint, _row_log_prob(guide, len(x), total_rows), model, guide, summed)


def _chunk_elbo(pair: Pair, x: Tensor, num_particles: int, total_rows: int) -> Tensor:
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    # Each chunk is its own data set here: the scale N/B would multiply every row's terms.
    with feeding(None):
        for _ in range(num_particles):
            draw = draw_rows(pair, x, total_rows)
            total += draw.log_joint - draw.log_guide
    return total / num_particles


def _summed_out(model: Any, guide: Any) -> list[str]:
    """The model's latents that the guide leaves to enumeration."""
    return [
        name
        for name, site in model.nodes.items()
        if site["type"] == "sample"
        and not site["is_observed"]
        and name not in guide
        and site["infer"].get("enumerate") == "parallel"
    ]


def _summed_log_prob(trace: Any, num_rows: int, total_rows: int, *, summed: list[str]) -> Tensor:
    """Each row's log-probability with discrete latents summed out, whose values lie along dimensions of their own."""
    trace.compute_log_prob()
    rows, shared = torch.zeros(num_rows, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or type(site["fn"]).__name__ == "_Subsample":
            continue
        log_prob = site["log_prob"].double()
        frame = row_frame(site["cond_indep_stack"], num_rows)
        others = [f.name for f in site["cond_indep_stack"] if f.vectorized and f is not frame]
        if frame is not None and frame.dim == -1 and not others:
            rows = rows.to(log_prob.device) + log_prob * (frame.size / (frame.full_size or frame.size))
        elif name in summed or log_prob.dim() > 0:
            where = f"inside plate '{others[0]}'" if others else "outside the plate over rows"
            raise PairError(
                f"the latent '{summed[0]}' is to be summed out and '{name}' is {where}: the rows' ELBO is to be had "
                "where every site that meets it is in the data plate alone; draw it in the guide, or train with steps= "
                "and see the history"
            )
        else:
            shared = shared.to(log_prob.device) + log_prob / total_rows
    # All dimensions but the rows' are values of latents.
    summed_over: Tensor = rows.reshape(-1, num_rows).logsumexp(0)
    return summed_over + shared


def row_frame(stack: Any, num_rows: int) -> Any:
    """The plate over rows: the one called ``data``, else the innermost of the rows' size, else None."""
    over_rows = [frame for frame in stack if frame.vectorized and frame.size == num_rows]
    return max(over_rows, key=lambda frame: (frame.name == "data", frame.dim), default=None)


def by_row(site: Any, terms: Tensor, num_rows: int, total_rows: int) -> Tensor:
    """What a site's terms come to for each row, float64: those of its own, or 1/N of what all rows share.

    Args:
        site: The site, of a trace.
        terms: A number for each of its draws: its log-density, or another, scaled as its plates scale.
        num_rows: Rows of the trace.
        total_rows: Rows N that share what is shared.

    Returns:
        Shape (rows,), or () for what is shared.
    """
    terms = terms.double()
    rows = row_frame(site["cond_indep_stack"], num_rows)
    if rows is None:
        return terms.sum() / total_rows
    shape = torch.broadcast_shapes(terms.shape, (num_rows,) + (1,) * (-rows.dim - 1))
    own: Tensor = terms.expand(shape).movedim(rows.dim, -1).reshape(-1, num_rows).sum(0)
    # A plate that knows the whole data set's size scales each row by N/B.
    scaled: Tensor = own * (rows.size / (rows.full_size or rows.size))
    return scaled


def _row_log_prob(trace: Any, num_rows: int, total_rows: int) -> Tensor:
    trace.compute_log_prob()
    total: Tensor | float = 0.0
    for site in trace.nodes.values():
        if site["type"] != "sample" or type(site["fn"]).__name__ == "_Subsample":
            continue
        total = total + by_row(site, site["log_prob"], num_rows, total_rows)
    if not isinstance(total, Tensor):
        return torch.zeros(num_rows, dtype=torch.float64)
    return total.expand(num_rows)
