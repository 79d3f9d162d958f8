"""log p(x) - ELBO taken apart: what the guide's family can't say of a row, and what its encoder misses beyond that."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_lvm.errors import DataError
from pyro_lvm.evidence.annealing import ais
from pyro_lvm.evidence.bounds import exact
from pyro_lvm.evidence.climbing import CHECK_DRAWS, climb
from pyro_lvm.evidence.estimate import Estimate
from pyro_lvm.evidence.families import Family, GaussianFamily, GuideFamily, Parameters
from pyro_lvm.evidence.weights import WeightSums, chunk_limit, row_blocks
from pyro_lvm.pair import HasLogEvidence, Pair
from pyro_lvm.progress import Reporter
from pyro_lvm.seeding import seeded
from pyro_lvm.wording import plus_minus

# Draws of the ELBO held at once, of each row.
_DRAWS_AT_ONCE = 32
# Chunks of copies that one block of rows may take.
_CHUNKS = 4
# Nats a row up to which nothing is worth mending: a Gaussian posterior shifted by 0.14 of its standard deviation, or
# too narrow by 7%, hardly to be seen in anything.
GOOD_NATS = 0.01
# Standard errors of what is certain.
CERTAIN_ERRORS = 3.0
# What is to be done about each.
LESS_BY_HEART = "stop earlier, drop out, or train the guide alone on draws from the model"
BETTER_ENCODER = "a bigger encoder, or longer training of the guide"
CORRELATED_FAMILY = "a guide with a full covariance"
RICHER_FAMILY = "a richer family, such as a flow or a mixture, or a model whose posterior is simpler"


@dataclass(frozen=True)
class Gap:
    r"""What separates the ELBO of rows from their evidence, in nats.

    .. math:: \log p(x_n) - \mathrm{ELBO}_n = \underbrace{\log p(x_n) - \max_{q \in \mathcal{Q}}
        \mathrm{ELBO}_n(q)}_{\text{approximation}} + \underbrace{\max_{q \in \mathcal{Q}} \mathrm{ELBO}_n(q) -
        \mathrm{ELBO}_n}_{\text{amortization}}

    with :math:`\mathcal{Q}` the guide's family. Their sum is KL(q || posterior).

    Attributes:
        evidence: log p(x), exact or by a lower bound, which makes the approximation gap one as well.
        elbo: Of the guide.
        best: ELBO of the family's best member for each row.
        full: ELBO of the best Gaussian with all correlations; None where the family is as rich.
        amortization_errors: Monte Carlo standard error of each row's amortization gap, whose two sides have the same
            noise, shape (rows,).
        finished: Part of the rows whose optimization ended because nothing was left to gain.
    """

    evidence: Estimate
    elbo: Estimate
    best: Estimate
    full: Estimate | None
    amortization_errors: Tensor
    finished: float

    @property
    def approximation(self) -> Tensor:
        """What the family lacks, shape (rows,)."""
        return self.evidence.per_row - self.best.per_row

    @property
    def amortization(self) -> Tensor:
        """What the guide misses of the family's best, shape (rows,)."""
        return self.best.per_row - self.elbo.per_row

    @property
    def total(self) -> Tensor:
        """KL(q || posterior), shape (rows,)."""
        return self.evidence.per_row - self.elbo.per_row

    @property
    def gained_by_full(self) -> float | None:
        """What a Gaussian with all correlations would gain on the family's best, nats a row."""
        return None if self.full is None else self.full.mean - self.best.mean

    @property
    def correlations_suffice(self) -> bool:
        """Whether they give most of what the family lacks."""
        gained = self.gained_by_full
        return gained is not None and gained > 0.5 * max(0.0, float(self.approximation.mean()))

    @property
    def approximation_standard_error(self) -> float:
        """Monte Carlo standard error of the mean approximation gap of these rows."""
        return math.hypot(self.evidence.particle_standard_error, self.best.particle_standard_error)

    @property
    def amortization_standard_error(self) -> float:
        """Monte Carlo standard error of the mean amortization gap of these rows."""
        return float(self.amortization_errors.square().sum().sqrt()) / len(self.amortization_errors)

    def __str__(self) -> str:
        """One line."""
        lacks = plus_minus(float(self.approximation.mean()), self.approximation_standard_error)
        misses = plus_minus(float(self.amortization.mean()), self.amortization_standard_error)
        return (
            f"log p(x) - ELBO = {float(self.total.mean()):.4g} nats a row over {self.elbo.num_rows:,} rows: the family "
            f"lacks {lacks}, the encoder misses {misses}"
        )

    def __repr__(self) -> str:
        return f"Gap({self})"

    def shifted(self, by: Tensor) -> Gap:
        """The same in other units: every estimate of a row higher by a number of its own, shape (rows,)."""

        def moved(one: Estimate) -> Estimate:
            return replace(one, per_row=one.per_row + by)

        full = None if self.full is None else moved(self.full)
        return replace(self, evidence=moved(self.evidence), elbo=moved(self.elbo), best=moved(self.best), full=full)

    def to_json(self) -> dict[str, Any]:
        """Means over the rows as plain JSON."""
        estimates = {"evidence": self.evidence, "elbo": self.elbo, "best": self.best, "full": self.full}
        return {
            **{name: None if one is None else one.to_json() for name, one in estimates.items()},
            "approximation": float(self.approximation.mean()),
            "approximation_standard_error": self.approximation_standard_error,
            "amortization": float(self.amortization.mean()),
            "amortization_standard_error": self.amortization_standard_error,
            "gained_by_full": self.gained_by_full,
            "finished": self.finished,
        }


def take_apart(
    pair: Pair,
    rows: Tensor,
    *,
    evidence: Estimate | None = None,
    draws: int = 256,
    full: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> Gap:
    """Take each row's gap between evidence and ELBO apart.

    The family is that of the guide's distributions as they come: their parameters are optimized for each row by itself,
    from the guide's own on, until nothing is left to gain.

    Args:
        pair: Any pair whose latents are a row's own.
        rows: Rows as the pair sees them, shape (rows, ...), NaN where missing.
        evidence: log p(x) of these rows; None for the exact one where the model knows it, else by :func:`ais`.
        draws: Draws of each ELBO, a row.
        full: Find out as well what a Gaussian with all correlations would gain.
        seed: Of the draws; the caller's random state is left as it was.
        progress: Show how far it is.

    Returns:
        The gap.

    Raises:
        DataError: There are no rows, ``draws`` is below 2, or ``evidence`` is of another number of rows.
        PairError: A latent is shared by rows or can't be moved, a guide's distribution can't be optimized a row at a
            time, or a density is NaN or infinite.

    Source: Cremer, Li & Duvenaud 2018, "Inference suboptimality in variational autoencoders", ICML.
    """
    if len(rows) == 0:
        raise DataError("there are no rows: expected one at least")
    if draws < 2:
        raise DataError(f"draws={draws}: expected a whole number from 2 up")
    if evidence is not None and evidence.num_rows != len(rows):
        raise DataError(f"the evidence is of {evidence.num_rows} rows and there are {len(rows)}: expected the same")
    parts = []
    ended = 0.0
    done = 0
    size = max(1, _CHUNKS * chunk_limit(rows, pair.device) // CHECK_DRAWS)
    with Reporter("best q of each row", enabled=progress) as reporter, seeded(seed):
        for x, _ in row_blocks(pair, rows, size):

            def report(finished: int, before: int = done) -> None:
                reporter.update(before + finished, len(rows), "rows")

            part, finished = _block(pair, x, draws, full, report)
            parts.append(part)
            ended += finished
            done += len(x)
    if evidence is None:
        known = isinstance(pair.model, HasLogEvidence)
        evidence = exact(pair, rows) if known else ais(pair, rows, seed=seed, progress=progress)
    first = parts[0]

    def whole(name: str) -> Estimate:
        mean, error = (
            torch.cat([getattr(part[name], kind) for part in parts]).cpu() for kind in ("mean", "mean_error")
        )
        return Estimate("elbo", mean, error, draws)

    return Gap(
        evidence,
        whole("elbo"),
        whole("best"),
        whole("full") if "full" in first else None,
        whole("amortization").particle_errors,
        ended / len(rows),
    )


def advice(training: Gap, held_out: Gap | None = None) -> str:
    """One sentence: what is worth doing about the gap.

    Args:
        training: Of rows that the pair was trained on.
        held_out: Of others.
    """
    judged = training if held_out is None else held_out
    approximation, amortization = float(judged.approximation.mean()), float(judged.amortization.mean())
    if held_out is not None:
        lost = amortization - float(training.amortization.mean())
        error = math.hypot(held_out.amortization_standard_error, training.amortization_standard_error)
        if _certain(lost, error) and lost > 0.5 * amortization:
            return (
                f"the encoder overfits: it misses {lost:.2g} nats a row more on held-out rows than on those of its "
                f"training; {LESS_BY_HEART}"
            )
    lacks = _certain(approximation, judged.approximation_standard_error)
    misses = _certain(amortization, judged.amortization_standard_error)
    if not (lacks or misses):
        return "the guide is as good as exact for these rows: what is left to gain is a better model's"
    if misses and (amortization >= approximation or not lacks):
        return f"the encoder misses {amortization:.2g} nats a row that its own family has: {BETTER_ENCODER}"
    lacking = f"the family lacks {approximation:.2g} nats a row"
    if judged.correlations_suffice:
        return f"{lacking}, {judged.gained_by_full:.2g} of which correlations would give: {CORRELATED_FAMILY}"
    return f"{lacking}, which correlations alone hardly give: {RICHER_FAMILY}"


def _certain(loss: float, error: float) -> bool:
    return loss - CERTAIN_ERRORS * error > GOOD_NATS


def _block(
    pair: Pair, x: Tensor, draws: int, full: bool, report: Callable[[int], None]
) -> tuple[dict[str, WeightSums], int]:
    family = GuideFamily(pair, x)
    found = climb(family, len(x), report)
    members: dict[str, tuple[Family, Parameters]] = {
        "elbo": (family, family.begin),
        "best": (family, found.parameters),
    }
    if full and not family.is_richest:
        gaussian = GaussianFamily(pair, x, family, found.parameters)
        members["full"] = gaussian, climb(gaussian, len(x)).parameters
    sums = {name: WeightSums(len(x), x.device) for name in (*members, "amortization")}
    everything = torch.arange(len(x), device=x.device)
    left = draws
    while left:
        count = min(left, _DRAWS_AT_ONCE)
        left -= count
        common = int(torch.randint(2**31, ()))
        drawn = {}
        for name, (own, parameters) in members.items():
            with seeded(common), torch.no_grad():
                drawn[name] = own.elbo(parameters, everything, count)
            sums[name].add(drawn[name])
        sums["amortization"].add(drawn["best"] - drawn["elbo"])
    return sums, int(found.finished.sum())
