"""What the verdicts are made of, each figure from the function that exists for it."""

from __future__ import annotations

import warnings
from typing import Any

from pyro.infer import TraceEnum_ELBO
from torch import Tensor

from pyro_lvm import evidence
from pyro_lvm.checking import CheckResult, check_pair
from pyro_lvm.checking.check import cast_rows, rows_of
from pyro_lvm.checking.running import attempt, first_line
from pyro_lvm.errors import PairError, PyroLvmError
from pyro_lvm.evidence import Estimate, Gap, Terms
from pyro_lvm.judgement.budgets import Budget
from pyro_lvm.judgement.losses import Known
from pyro_lvm.pair import HasLogEvidence, Pair, acceptable, refuse_holes


def usable_rows(pair: Pair, x: Any) -> tuple[Tensor, Tensor]:
    """All rows, in the precision of the pair, and those that its guide can take."""
    rows = cast_rows(rows_of(x), pair)
    accepted = rows[acceptable(pair, rows)]
    if not len(accepted):
        refuse_holes(pair, rows)
    return rows, accepted


def contract(pair: Pair, x: Tensor) -> CheckResult:
    """What the contract check finds."""
    found = check_pair(pair.model, pair.guide, x, pair=pair)
    if "enumeration-without-traceenum" in {finding.code for finding in found}:
        # It doesn't say which ELBO it was trained with: with the one that it needs.
        found = check_pair(pair.model, pair.guide, x, pair=pair, elbo=TraceEnum_ELBO)
    return found


def what_is_known(pair: Pair, rows: Tensor, settings: Budget, seed: int, progress: bool) -> Known:
    """What is known of log p(x); what isn't is left out, but for the bound that needs nothing but the pair."""
    elbo, iwae = evidence.bounds(pair, rows, settings.particles, seed=seed, progress=progress)
    said = said_of_own = None
    if isinstance(pair.model, HasLogEvidence):
        said = evidence.exact(pair, rows)
    path: dict[str, Any] = {"start": settings.start, "seed": seed, "progress": progress}
    lengths = settings.temperatures, settings.chains
    annealed, error = attempt(lambda: evidence.ais(pair, rows, *lengths, **path))
    if error is not None and settings.start == "guide":
        # It may have no draws of a row to start from.
        path["start"] = "prior"
        annealed, error = attempt(lambda: evidence.ais(pair, rows, *lengths, **path))
    both = None
    if error is None:
        both, error = attempt(lambda: evidence.sandwich(pair, rows, *lengths, **path))
    if said is not None and both is not None:
        said_of_own = evidence.exact(pair, evidence.simulate(pair, rows, seed=seed)[0])
    return Known(elbo, iwae, said, said_of_own, annealed, both, "" if error is None else reason(error))


def gaps(
    pair: Pair, rows: Tensor, own: Tensor | None, known: Known | None, settings: Budget, seed: int, progress: bool
) -> tuple[Gap, Gap | None]:
    """The gap of training rows, and of held-out ones; the former's evidence is bounded from below by less work."""
    if known is None:
        raise PairError("the evidence isn't known, from which the gap would be measured")

    def gap(x: Tensor, bound: Estimate) -> Gap:
        return evidence.take_apart(pair, x, evidence=bound, draws=settings.gap_draws, seed=seed, progress=progress)

    judged = gap(rows, known.best)
    if own is None:
        return judged, None
    if known.is_exact:
        bound = evidence.exact(pair, own)
    else:
        bound = evidence.iwae(pair, own, settings.particles, seed=seed, progress=progress)
    return gap(own, bound), judged


def terms(pair: Pair, rows: Tensor, total: int, seed: int) -> Terms:
    with warnings.catch_warnings():
        # What has collapsed is said in the verdict.
        warnings.simplefilter("ignore", UserWarning)
        return evidence.elbo_terms(pair, rows, 1, num_rows=total, seed=seed)


def reason(error: Exception) -> str:
    """Why something couldn't be found out, in one line."""
    return str(error) if isinstance(error, PyroLvmError) else f"this check raised {first_line(error)}"
