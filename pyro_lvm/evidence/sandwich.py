"""log p(x) bounded from both sides, on rows that the model itself makes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pyro import poutine
from torch import Tensor

from pyro_lvm.errors import DataError
from pyro_lvm.evidence.annealing import ais, reverse_ais
from pyro_lvm.evidence.density import LatentDensity, Start
from pyro_lvm.evidence.estimate import Estimate
from pyro_lvm.evidence.observing import rows_first, simulable
from pyro_lvm.evidence.placing import Unconditioned, quiet
from pyro_lvm.pair import Pair
from pyro_lvm.seeding import seeded


@dataclass(frozen=True)
class Sandwich:
    """Both bounds on log p(x) of the same rows, in nats.

    Attributes:
        lower: By annealed importance sampling.
        upper: By its chains backwards, from the latents that the rows were made from.
    """

    lower: Estimate
    upper: Estimate

    @property
    def width(self) -> float:
        """Mean of upper minus lower bound, nats a row: what neither can be off by more than, in expectation."""
        return float((self.upper.per_row - self.lower.per_row).mean())

    @property
    def standard_error(self) -> float:
        """Of the width, by its spread over the rows; NaN from one row."""
        widths = self.upper.per_row - self.lower.per_row
        return float(widths.std()) / math.sqrt(len(widths)) if len(widths) > 1 else math.nan

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        error = self.standard_error
        return {
            "lower": self.lower.to_json(),
            "upper": self.upper.to_json(),
            "width": self.width,
            "width_standard_error": error if math.isfinite(error) else None,
        }


def sandwich(
    pair: Pair,
    like: Tensor,
    temperatures: int = 1000,
    chains: int = 16,
    *,
    leapfrogs: int = 5,
    start: Start = "prior",
    seed: int = 0,
    chunk_rows: int | None = None,
    progress: bool = False,
) -> Sandwich:
    """Bound log p(x) from both sides, on rows that the model makes.

    Of these an exact posterior draw is known, what they were made from, and the upper bound needs one. How wide the
    sandwich is says how far :func:`ais` with the same settings is from log p(x) on real rows, as far as these are like
    the model's.

    Args:
        pair: Any pair whose model can be simulated, as for :func:`ais`.
        like: Rows, shape (rows, ...): as many are made, with holes in the same places.
        temperatures, chains, leapfrogs, start, seed, chunk_rows, progress: As for :func:`ais`.

    Returns:
        Both bounds.

    Raises:
        DataError: There are no rows, or a count isn't positive.
        PairError: The model can't be simulated; or as for :func:`ais`.

    Source: Grosse, Ghahramani & Adams 2015, "Sandwiching the marginal likelihood using bidirectional Monte Carlo".
    """
    if len(like) == 0:
        raise DataError("there are no rows: expected one at least")
    rows, latents = simulate(pair, like, seed=seed)
    settings: dict[str, Any] = {
        "leapfrogs": leapfrogs,
        "start": start,
        "seed": seed,
        "chunk_rows": chunk_rows,
        "progress": progress,
    }
    lower = ais(pair, rows, temperatures, chains, **settings)
    return Sandwich(lower, reverse_ais(pair, rows, latents, temperatures, chains, **settings))


def simulate(pair: Pair, like: Tensor, *, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Rows that the model makes, and the continuous latents that each was made from: an exact draw of its posterior.

    Args:
        pair: Any pair whose latents are a row's own.
        like: Rows, shape (rows, ...): as many are made, with holes in the same places.
        seed: Of the draws.

    Returns:
        The rows, of the shape of ``like``, and the latents by site, on the pair's device.

    Raises:
        PairError: The model doesn't observe its rows as one site that can be drawn, whatever they are.
    """
    x = like.to(pair.device)
    places = LatentDensity(pair, x).places
    name = simulable(pair, x)
    with seeded(seed), quiet(pair, x):
        drawn: Any = poutine.trace(Unconditioned()(pair.run_model)).get_trace(x)
    rows = rows_first(drawn.nodes[name], len(x)).reshape(x.shape).to(x.dtype)
    if x.is_floating_point():
        rows = rows.masked_fill(x.isnan(), math.nan)
    return rows, {place.name: drawn.nodes[place.name]["value"] for place in places}
