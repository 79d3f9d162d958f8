"""What a model observes of each row, and whether its rows can be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_lvm.checking.sites import innermost, is_deterministic, is_factor, samples
from pyro_lvm.elbo import row_frame
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.evidence.placing import Unconditioned, quiet
from pyro_lvm.pair import Pair
from pyro_lvm.plate import feeding
from pyro_lvm.seeding import seeded

# Rows that show what sites a model has: as many as the first of these that is no other plate's size.
PROBE_ROWS = (16, 13, 11)


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
        observed = [name for name, site in found.items() if _is_data(site) and frame_of(site, len(some)) is not None]
        if not observed:
            raise PairError(
                "the model observes no site inside a vectorized plate over its rows: there is nothing to draw; observe "
                "the rows inside `with data_plate(x):`"
            )
        shared = [n for n, site in found.items() if not site["is_observed"] and frame_of(site, len(some)) is None]
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
    for count in PROBE_ROWS:
        some = x[:count].to(pair.device)
        with pair.evaluating(), poutine.block(), feeding(None), seeded(0):
            trace: Any = poutine.trace(pair.run_model).get_trace(some)
        plates = (frame for site in samples(trace).values() for frame in site["cond_indep_stack"] if frame.vectorized)
        if len({frame.name for frame in plates if frame.size == len(some)}) < 2:
            return some
    return x[: PROBE_ROWS[0]].to(pair.device)


def simulable(pair: Pair, x: Tensor) -> str:
    """The site that holds the rows of a model that can be simulated.

    Args:
        pair: Any pair.
        x: Rows, shape (rows, ...): a few show what sites there are.

    Raises:
        DataError: There are no rows.
        PairError: It can't be: a factor, no draws, more than the rows observed, draws that depend on the rows, or
            latents that rows share.
    """
    some = probe_rows(pair, x)
    with seeded(0), quiet(pair, some):
        trace: Any = poutine.trace(pair.run_model).get_trace(some)
    found = samples(trace)
    for name, site in found.items():
        if is_factor(site):
            raise PairError(
                f"the model can't be simulated: the site '{name}' is a factor, a density without draws; observe a "
                "distribution instead"
            )
    try:
        sites = find_sites(pair, some)
    except NotImplementedError as error:
        name = next((name for name, site in found.items() if not _can_sample(site)), "x")
        kind = type(innermost(found[name]["fn"])).__name__ if name in found else "a distribution"
        raise PairError(
            f"the model can't be simulated: the site '{name}' has the distribution {kind}, which has no draws; give it "
            "a sample()"
        ) from error
    if sites.shared:
        raise PairError(
            f"rows share the latents {', '.join(sites.shared)}, whose posterior the guide knows for the training rows "
            "alone: what is asked of simulated rows needs latents that are a row's own"
        )
    for name, site in found.items():
        if site["is_observed"] and not is_deterministic(site) and name not in sites.whole_rows:
            raise PairError(
                f"the model can't be simulated: the site '{name}' doesn't hold the rows as they are given, so that "
                "draws of it make no rows; observe the rows themselves, in one site"
            )
    if len(sites.whole_rows) != 1:
        raise PairError(
            f"the model can't be simulated: it observes the rows {len(sites.whole_rows)} times, at "
            f"{', '.join(sites.whole_rows)}; observe them in one site"
        )
    return sites.whole_rows[0]


def _can_sample(site: Any) -> bool:
    try:
        site["fn"].sample()
    except NotImplementedError:
        return False
    return True


def _free_draw(pair: Pair, rows: Tensor, observed: list[str]) -> dict[str, Tensor]:
    with seeded(0):
        trace: Any = poutine.trace(Unconditioned()(pair.run_model)).get_trace(rows)
    return {name: trace.nodes[name]["value"] for name in observed}


def _is_data(site: Any) -> bool:
    """Whether a site is observed, and no deterministic or factor in the dress of one."""
    return bool(site["is_observed"]) and not is_fixed(site)


def is_fixed(site: Any) -> bool:
    """Whether a site is a deterministic or a factor, neither of which is drawn."""
    return is_deterministic(site) or is_factor(site)


def frame_of(site: Any, num_rows: int) -> Any:
    """The frame of the plate over rows that a site is in; None where it is in none."""
    return row_frame(site["cond_indep_stack"], num_rows)


def rows_first(site: Any, num_rows: int) -> Tensor:
    """A site's value with its rows along the first dimension."""
    value: Tensor = site["value"]
    return value.movedim(frame_of(site, num_rows).dim - site["fn"].event_dim, 0)


def _holds(site: Any, rows: Tensor) -> bool:
    """Whether a site's values are the rows' own, but for what fills their holes."""
    value = rows_first(site, len(rows))
    if value.numel() != rows.numel():
        return False
    given = rows.reshape(value.shape)
    missing = given.isnan() if given.is_floating_point() else torch.zeros_like(given, dtype=torch.bool)
    return bool(((value == given) | missing).all())
