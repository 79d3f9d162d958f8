"""The ELBO's two terms: how well rows are reconstructed, and what their latents cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from pyro_lvm.checking.sites import samples
from pyro_lvm.elbo import RowDraw, by_row, draw_rows
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.evidence.units import LatentUnits, UnitRecord, warn_of_collapse
from pyro_lvm.evidence.weights import Rows, WeightSums, row_blocks
from pyro_lvm.linear_gaussian import gaussian_kl
from pyro_lvm.pair import Pair, refuse_holes
from pyro_lvm.plate import feeding
from pyro_lvm.seeding import seeded
from pyro_lvm.wording import plus_minus


@dataclass(frozen=True)
class Terms:
    r"""The two terms of each row's ELBO, in nats.

    .. math:: \mathrm{ELBO}_n = E_{q(z \mid x_n)}[\log p(x_n \mid z)] - \mathrm{KL}(q(z \mid x_n) \,\|\, p(z))

    Attributes:
        reconstruction: The first, by Monte Carlo, shape (rows,), float64, on the CPU.
        reconstruction_errors: Its Monte Carlo standard errors, NaN from a single draw.
        kl: The second, of each latent site, likewise; a latent's is given those that it depends on.
        analytic: Whether each site's KL comes from the two distributions, rather than from draws.
        units: What each latent dimension of a row is used for, a site at a time; none for discrete latents.
    """

    reconstruction: Tensor
    reconstruction_errors: Tensor
    kl: Mapping[str, Tensor]
    analytic: Mapping[str, bool]
    units: tuple[LatentUnits, ...]

    @property
    def total_kl(self) -> Tensor:
        """KL of all latents of each row, shape (rows,)."""
        return sum(self.kl.values(), torch.zeros_like(self.reconstruction))

    @property
    def elbo(self) -> Tensor:
        """Reconstruction minus KL, shape (rows,)."""
        return self.reconstruction - self.total_kl

    @property
    def reconstruction_standard_error(self) -> float:
        """Monte Carlo standard error of the mean reconstruction of these rows, where rows share no latents."""
        return float(self.reconstruction_errors.square().sum().sqrt()) / len(self.reconstruction)

    def __str__(self) -> str:
        """One line."""
        reconstruction = plus_minus(float(self.reconstruction.mean()), self.reconstruction_standard_error)
        return (
            f"ELBO {float(self.elbo.mean()):.4g} = reconstruction {reconstruction} - KL "
            f"{float(self.total_kl.mean()):.4g} nats a row over {len(self.reconstruction):,} rows"
        )

    def __repr__(self) -> str:
        return f"Terms({self})"

    def to_json(self) -> dict[str, Any]:
        """Means over the rows as plain JSON."""
        error = self.reconstruction_standard_error
        return {
            "reconstruction": float(self.reconstruction.mean()),
            "reconstruction_standard_error": error if math.isfinite(error) else None,
            "kl": float(self.total_kl.mean()),
            "kl_by_latent": {name: float(value.mean()) for name, value in self.kl.items()},
            "kl_analytic": dict(self.analytic),
            "units": [unit.to_json() for unit in self.units],
        }


def elbo_terms(pair: Pair, rows: Rows, draws: int = 16, *, num_rows: int | None = None, seed: int = 0) -> Terms:
    """Take the ELBO of rows apart, and say which latent dimensions it uses.

    The KL is that of the two distributions where torch or Pyro knows it and the guide draws what the prior depends on
    first; elsewhere it is the mean of log q - log p over the draws.

    Args:
        pair: Any pair.
        rows: Rows as the pair sees them, shape (rows, ...), NaN where missing; or batches of them.
        draws: Draws a row, for what has no closed form.
        num_rows: Rows N of the data set, for latents that all rows share, as in :func:`pyro_lvm.evidence.elbo`.
        seed: Of the draws.

    Returns:
        The terms.

    Raises:
        DataError: There are no rows, or ``draws`` isn't positive.
        PairError: The guide can't take missing entries, or a latent's prior depends on one that is summed out.

    Warns:
        UserWarning: Latent dimensions have collapsed to the prior, which it names.
    """
    if draws < 1:
        raise DataError(f"draws={draws}: expected a whole number from 1 up")
    parts: list[Terms] = []
    records: dict[str, UnitRecord] = {}
    with pair.evaluating(), seeded(seed), poutine.block():
        for x, known_rows in row_blocks(pair, rows):
            refuse_holes(pair, x)
            parts.append(_block_terms(pair, x, draws, num_rows or known_rows or len(x), records))
    if not parts:
        raise DataError("there are no rows: expected one at least")
    first = parts[0]
    terms = Terms(
        torch.cat([p.reconstruction for p in parts]),
        torch.cat([p.reconstruction_errors for p in parts]),
        {name: torch.cat([p.kl[name] for p in parts]) for name in first.kl},
        {name: all(p.analytic[name] for p in parts) for name in first.analytic},
        tuple(record.units(name) for name, record in records.items()),
    )
    warn_of_collapse(terms.units)
    return terms


def _block_terms(pair: Pair, x: Tensor, draws: int, total_rows: int, records: dict[str, UnitRecord]) -> Terms:
    total: Terms | None = None
    reconstruction = WeightSums(len(x), x.device)
    for number in range(draws):
        with feeding(None):
            draw = draw_rows(pair, x, total_rows)
        one = _draw_terms(draw, len(x), total_rows)
        reconstruction.add(one.reconstruction[None])
        for name, q, p, value in _own_latents(draw, len(x)):
            record = records.setdefault(name, UnitRecord())
            record.add(q, p, value, new_rows=number == 0, share=1 / draws)
        total = one if total is None else _plus(total, one)
    assert total is not None
    return replace(
        total,
        reconstruction=reconstruction.mean.cpu(),
        reconstruction_errors=reconstruction.mean_error.cpu(),
        kl={name: (value / draws).cpu() for name, value in total.kl.items()},
    )


def _plus(a: Terms, b: Terms) -> Terms:
    kl = {name: value + b.kl[name] for name, value in a.kl.items()}
    return replace(a, kl=kl, analytic={name: a.analytic[name] and b.analytic[name] for name in kl})


def _draw_terms(draw: RowDraw, num_rows: int, total_rows: int) -> Terms:
    divergences, analytic = {}, {}
    log_priors = torch.zeros_like(draw.log_joint)
    for name, q, p in _latents(draw):
        if draw.summed_out and p["log_prob"].numel() > max(1, q["log_prob"].numel()):
            raise PairError(
                f"the prior of '{name}' depends on '{draw.summed_out[0]}', which is summed out, so that reconstruction "
                f"and KL can't be told apart: draw '{draw.summed_out[0]}' in the guide, or keep to elbo and iwae"
            )
        log_prior = by_row(p, p["log_prob"], num_rows, total_rows)
        log_priors = log_priors + log_prior
        closed = analytic_kl(q["fn"], p["fn"]) if _given_the_same(name, draw) else None
        analytic[name] = closed is not None
        if closed is not None:
            value = by_row(q, scale_and_mask(closed, q["scale"], q["mask"]), num_rows, total_rows)
        else:
            value = by_row(q, q["log_prob"], num_rows, total_rows) - log_prior
        divergences[name] = value.expand(num_rows)
    reconstruction = draw.log_joint - log_priors
    return Terms(reconstruction, torch.full_like(reconstruction, math.nan), divergences, analytic, ())


def _latents(draw: RowDraw) -> Iterator[tuple[str, Any, Any]]:
    """The latents that the guide draws: their names, and their sites in guide and model."""
    for name, site in samples(draw.guide).items():
        if name in draw.model and not draw.model.nodes[name]["is_observed"]:
            yield name, site, draw.model.nodes[name]


def _given_the_same(name: str, draw: RowDraw) -> bool:
    """Whether the prior can only depend on what the guide draws before: else KL(q || p) is not the term's mean."""

    def before(trace: Any) -> set[str]:
        names = [n for n, s in trace.nodes.items() if s["type"] == "sample" and not s["is_observed"]]
        return {n for n in names[: names.index(name)] if type(trace.nodes[n]["fn"]).__name__ != "_Subsample"}

    return before(draw.model) - set(draw.summed_out) <= before(draw.guide)


def _own_latents(draw: RowDraw, num_rows: int) -> Iterator[tuple[str, Distribution, Distribution, Tensor]]:
    """The continuous latents that are a row's own, one vector or number a row."""
    for name, q, p in _latents(draw):
        own = tuple(q["fn"].batch_shape) == (num_rows,) and len(q["fn"].event_shape) <= 1
        if own and not getattr(q["fn"].support, "is_discrete", False):
            yield name, q["fn"], p["fn"], q["value"]


def analytic_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) in nats, of the distributions' batch shape; None where neither torch nor Pyro has a closed form."""
    try:
        return gaussian_kl(q, p)
    except DataError:
        pass
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None
