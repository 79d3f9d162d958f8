"""A pair judged: every check that it can take, one after the other."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from pyro_lvm.calibration import calibrate, realism
from pyro_lvm.checking.running import attempt
from pyro_lvm.errors import DataError
from pyro_lvm.grading import Grade, grade
from pyro_lvm.judgement.blaming import blame
from pyro_lvm.judgement.budgets import BUDGETS, Budget
from pyro_lvm.judgement.gathering import contract, gaps, reason, terms, usable_rows, what_is_known
from pyro_lvm.judgement.losses import evidence_verdict, gap_verdicts, model_verdict, posterior_verdict
from pyro_lvm.judgement.signs import (
    calibration_verdict,
    contract_verdict,
    latents_verdict,
    realism_verdict,
    weights_verdict,
)
from pyro_lvm.judgement.verdicts import Judgement, Verdict
from pyro_lvm.pair import HasMaximumLikelihood, Pair, acceptable
from pyro_lvm.predictive import row_weights
from pyro_lvm.seeding import derived_seed, seeded, some_rows

Found = TypeVar("Found")


def judge(
    pair: Pair,
    x: Any,
    held_out: Any = None,
    *,
    budget: Literal["quick", "full"] = "quick",
    num_rows: int | None = None,
    log_jacobian: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Judgement:
    """Say how wrong a pair's posterior is, and whose fault that is: encoder, family or model.

    Every check that the pair can take is made; what one can't do for this pair is said in its line. A pair that breaks
    its contract is looked at no further.

    Args:
        pair: Any pair, trained.
        x: Rows that it was trained on: a tensor (rows, ...), an array, a table or a :class:`pyro_lvm.data.Dataset`; NaN
            where missing. Rows with holes are left out where the guide says that it can't take them.
        held_out: Others like them, on which it is then judged; None for none.
        budget: ``"quick"``, or ``"full"`` for smaller errors and fainter faults.
        num_rows: As many rows of each at random, for what is looked at row by row; None for 50 or 100.
        log_jacobian: What is to be taken from log p(x) of each row, for other units than the pair's, as
            :meth:`pyro_lvm.data.Scaling.row_log_jacobian` gives it: rows to nats, shape (rows,).
        seed: Of the choice of rows and of all that is drawn; the caller's random state is left as it was.
        progress: Show each verdict's level, and its seconds, as it comes.

    Returns:
        The verdicts.

    Raises:
        DataError: Rows can't be used, or have other shapes; ``budget`` or ``num_rows`` is none.
        PairError: All rows have holes, which the guide can't take.
    """
    settings = BUDGETS.get(budget)
    if settings is None:
        raise DataError(f"budget={budget!r}: expected one of {', '.join(BUDGETS)}")
    if num_rows is not None and num_rows < 1:
        raise DataError(f"num_rows={num_rows}: expected a whole number from 1 up")
    count = settings.rows if num_rows is None else num_rows
    given, training = usable_rows(pair, x)
    _, judged = (given, training) if held_out is None else usable_rows(pair, held_out)
    if judged.shape[1:] != training.shape[1:]:
        raise DataError(
            f"held-out rows have shape {tuple(judged.shape[1:])}, the training rows {tuple(training.shape[1:])}: "
            "expected the same"
        )
    random = np.random.default_rng(derived_seed(seed))
    rows, many = some_rows(judged, count, random), some_rows(judged, settings.simulations, random)
    own = None if held_out is None else some_rows(training, count, random)
    with seeded(seed):
        return _judge(pair, given, rows, many, own, budget, settings, log_jacobian, seed, progress)


def _judge(
    pair: Pair,
    given: Tensor,
    rows: Tensor,
    many: Tensor,
    own: Tensor | None,
    budget: str,
    settings: Budget,
    log_jacobian: Callable[[Tensor], Tensor] | None,
    seed: int,
    progress: bool,
) -> Judgement:
    """All checks: of the rows, of many for what is cheap, and of the pair's own where the others were held out."""
    record = _Record(progress)

    def finished(**details: Any) -> Judgement:
        verdicts = tuple(record.verdicts)
        which = "training" if own is None else "held-out"
        return Judgement(verdicts, blame(verdicts), which, len(rows), budget, **details)

    sound = record.take(
        ["contract"],
        lambda: contract(pair, given[acceptable(pair, given)]),
        lambda found: [contract_verdict(found)],
    )
    if sound is None or not sound.ok:
        return finished()
    graded: Grade | None
    graded, ungraded = attempt(lambda: grade(pair, many, train_rows=given, seed=seed))
    known = record.take(
        ["evidence"],
        lambda: what_is_known(pair, rows, settings, seed, progress),
        lambda found: [evidence_verdict(found, _shift(rows, log_jacobian))],
    )
    outcome = attempt(lambda: gaps(pair, rows, own, known, settings, seed, progress))
    training_gap, held_out_gap = outcome[0] or (None, None)
    judged_gap = training_gap if held_out_gap is None else held_out_gap
    record.take(
        ["posterior"],
        lambda: (known, graded, judged_gap),
        lambda found: [posterior_verdict(*found)],
    )
    record.note(["family", "encoder", "overfitting"], outcome, lambda found: gap_verdicts(known, *found))
    if ungraded is not None and isinstance(pair.model, HasMaximumLikelihood):
        record.add([Verdict("model", "unknown", reason(ungraded))])
    elif graded is not None and graded.gap is not None:
        record.add([model_verdict(graded.gap)])
    weights = record.take(
        ["weights"],
        lambda: row_weights(pair, rows, settings.weight_draws, seed=seed, progress=progress),
        lambda found: [weights_verdict(found)],
    )
    record.take(
        ["latents"],
        lambda: terms(pair, many, len(given), seed),
        lambda found: [latents_verdict(found)],
    )
    calibration = record.take(
        ["calibration"],
        lambda: calibrate(pair, many, settings.simulations, seed=seed, progress=progress),
        lambda found: [calibration_verdict(found)],
    )
    real = record.take(
        ["realism"],
        lambda: realism(pair, many, simulations=settings.simulations, seed=seed, progress=progress),
        lambda found: [realism_verdict(found)],
    )
    return finished(
        training=training_gap, held_out=held_out_gap, weights=weights, calibration=calibration, realism=real
    )


class _Record:
    """Verdicts as they come, each told with the seconds that it took."""

    def __init__(self, told: bool) -> None:
        self.verdicts: list[Verdict] = []
        self._told = told
        self._began = time.perf_counter()

    def take(
        self, names: Sequence[str], find: Callable[[], Found], verdicts: Callable[[Found], Sequence[Verdict]]
    ) -> Found | None:
        """Find something out, and add what it says; what can't be found out for this pair is a verdict, too."""
        return self.note(names, attempt(find), verdicts)

    def note(
        self,
        names: Sequence[str],
        outcome: tuple[Found | None, Exception | None],
        verdicts: Callable[[Found], Sequence[Verdict]],
    ) -> Found | None:
        """Add what a finding, or the failure to find it out, says."""
        found, error = outcome
        said = None
        if error is None:
            said, error = attempt(lambda: verdicts(cast(Found, found)))
        if error is not None:
            said = [Verdict(name, "unknown", reason(error)) for name in names]
        self.add(said or [])
        return found

    def add(self, verdicts: Sequence[Verdict]) -> None:
        """Add verdicts, and tell of them."""
        self.verdicts += verdicts
        now = time.perf_counter()
        if self._told:
            said = ", ".join(f"{verdict.name} {verdict.level}" for verdict in verdicts)
            print(f"{said} ({now - self._began:.1f} s)", file=sys.stderr, flush=True)
        self._began = now


def _shift(rows: Tensor, log_jacobian: Callable[[Tensor], Tensor] | None) -> Tensor:
    return torch.zeros(len(rows)) if log_jacobian is None else log_jacobian(rows).cpu()
