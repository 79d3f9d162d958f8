"""The contract check of a pair, from its first run to its return from a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from pyro_lvm.checking.collecting import Collector
from pyro_lvm.checking.densities import (
    check_overwritten,
    check_parameters,
    check_raised,
    check_ranges,
    check_shapes,
    check_values,
)
from pyro_lvm.checking.findings import CheckResult, Finding
from pyro_lvm.checking.gradients import check_gradients
from pyro_lvm.checking.persistence import check_saving, check_uncondition
from pyro_lvm.checking.rows import check_missing, check_rows, check_single_row, check_smaller_batch, holds_prototype
from pyro_lvm.checking.running import ROLES, Runner, attempt, first_line
from pyro_lvm.checking.scale import check_importance_weights, check_scale
from pyro_lvm.checking.state import Snapshot, find_modules, untouched_randomness
from pyro_lvm.checking.structure import check_duplicates, check_plates, check_signature, check_sites, check_varying
from pyro_lvm.checking.supports import check_draws
from pyro_lvm.checking.view import View, choose_batch, find_plates, plates_of_size, small_size
from pyro_lvm.data import as_rows
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.pair import Half, Pair

# Enough rows to tell what follows them; the seeds find a branch taken half of the time nearly always.
_MOST_ROWS = 61
_SEEDS = {True: 8, False: 2}
_GRADIENT_DRAWS = {True: 3, False: 1}


def check_pair(
    model: Half,
    guide: Half,
    x: Any,
    *,
    num_rows: int | None = None,
    elbo: ELBO | type[ELBO] | None = None,
    pair: Pair | None = None,
    thorough: bool = True,
) -> CheckResult:
    """Check that a model and a guide make a sound pair, and say where they don't.

    The pair runs on a few of the rows; its parameters, buffers, gradients and plain attributes, Pyro's parameter store
    and the random state are afterwards what they were. What a half raises becomes a finding.

    Args:
        model: ``model(x)``; see :class:`pyro_lvm.Pair`.
        guide: ``guide(x)``.
        x: Rows: a tensor (rows, ...), an array, a table or a :class:`pyro_lvm.data.Dataset`; NaN where missing. A batch
            as in training, where ``num_rows`` is given.
        num_rows: Rows N of the whole data set; None where it isn't known or ``x`` is all of it.
        elbo: The Pyro ELBO that the pair is to be trained with, or a class of one; None for the one that
            the pair asks for (:attr:`pyro_lvm.Pair.elbo`), else ``Trace_ELBO``.
        pair: The :class:`pyro_lvm.Pair` that the two are of, where there is one already.
        thorough: False leaves out what takes long: several seeds, single rows, dependence on rows, saving and loading.

    Returns:
        The findings, errors first. What the structure makes meaningless isn't looked at until it is mended.

    Raises:
        DataError: ``x`` has no rows, infinite entries, or more than ``num_rows`` rows.

    Example:
        >>> import torch
        >>> from pyro_lvm.guides import LinearGaussian
        >>> from pyro_lvm.models import PPCA
        >>> print(check_pair(PPCA(5, 2), LinearGaussian(5, 2), torch.randn(40, 5)))
        Pair(model=PPCA, guide=LinearGaussian): nothing found
    """
    rows = rows_of(x)
    if num_rows is not None and num_rows < len(rows):
        raise DataError(
            f"num_rows={num_rows}, but {len(rows)} rows were given: expected the number of rows of the whole data set"
        )
    if pair is not None:
        model, guide = pair.model, pair.guide
    modules = [m for half in (model, guide) for m in find_modules(half).values()]
    as_it_was = Snapshot(modules)
    findings = Collector()
    with untouched_randomness():
        if pair is None:
            pair, error = attempt(lambda: Pair(model, guide))
            if error is not None:
                message = str(error) if isinstance(error, PairError) else f"building it raises {first_line(error)}"
                return CheckResult((Finding("not-callable", "error", None, message),), "Pair", complete=False)
        elbo = elbo if elbo is not None else pair.elbo
        for role, half in zip(ROLES, (pair.model, pair.guide), strict=True):
            findings.add(partial(check_signature, role, half))
        if findings.errors:
            as_it_was.restore()
            return CheckResult(tuple(findings), repr(pair), complete=False)
        found = Snapshot(modules, pair)
        try:
            complete = _check(pair, found, rows, num_rows, elbo, findings, thorough=thorough)
        finally:
            found.restore()
            as_it_was.restore()
    return CheckResult(tuple(findings), repr(pair), complete)


def quick_check(
    pair: Pair, x: Any, *, num_rows: int | None = None, elbo: ELBO | type[ELBO] | None = None
) -> CheckResult:
    """The part of the contract check that takes a fraction of a second, to be run before training.

    Args:
        pair: The pair to be trained.
        x: A batch as in training, shape (rows, ...).
        num_rows: Rows N of the whole data set.
        elbo: The ELBO to train with.

    Returns:
        The findings, none of them an error.

    Raises:
        PairError: The first error, in one line.
    """
    result = check_pair(pair.model, pair.guide, x, num_rows=num_rows, elbo=elbo, pair=pair, thorough=False)
    result.raise_for_errors()
    return result


def _check(
    pair: Pair,
    found: Snapshot,
    rows: Tensor,
    num_rows: int | None,
    elbo: ELBO | type[ELBO] | None,
    findings: Collector,
    *,
    thorough: bool,
) -> bool:
    """Carry the check out; returns whether all of it could be."""
    runner = Runner(pair, num_rows if num_rows is not None else len(rows), elbo)
    rows = cast_rows(rows, pair, runner.modules.values())
    if any(True for _ in pair.named_parameters()):
        rows = rows.to(pair.device)
    whole = rows
    if rows.is_floating_point():
        full = rows[~torch.isnan(rows).reshape(len(rows), -1).any(1)]
        whole = full if len(full) >= 4 and not holds_prototype(pair.guide) else rows
    x = whole if holds_prototype(pair.guide) else choose_batch(whole, _MOST_ROWS)
    if pair._pending:
        attempt(lambda: runner.materialize(x))
        runner.keep()
    view = _look(runner, x, len(rows), num_rows, findings, thorough=thorough)
    if findings.errors:
        return False
    findings.add(lambda: check_missing(view, rows), view)
    findings.add(lambda: check_gradients(view, _GRADIENT_DRAWS[thorough]), view)
    later: list[Callable[[], Iterable[Finding]]] = []
    if thorough or (view.minibatch and isinstance(pair.guide, AutoGuide)):
        # An automatic guide on minibatches takes one row for another, and is quickly found out.
        later.append(lambda: check_rows(view))
    if thorough:
        later += [
            lambda: check_ranges(view),
            # Statistics over the batch break on a single row for a reason that has been told.
            lambda: check_single_row(view) if "rows-not-independent" not in findings.codes else (),
            lambda: check_uncondition(view),
            lambda: check_saving(view, found),
        ]
    for part in later:
        findings.add(part, view)
        runner.kept.restore()
    return True


def _look(
    runner: Runner, x: Tensor, given_rows: int, num_rows: int | None, findings: Collector, *, thorough: bool
) -> View:
    """Trace the pair and check all that its traces tell."""
    # Parameters that are made on first use are made here.
    runner.run(x, restore=False)
    runner.keep()
    prototype = holds_prototype(runner.pair.guide)
    few = x[: small_size(len(x))]
    joint = runner.run(x)
    # With validation off a broken pair comes further, and shows more of what is wrong with it.
    large = runner.run(x, joint=False, validate=False)
    small = runner.run(few, joint=False, validate=False, roles=("model",) if prototype else ("guide", "model"))
    joint_small = None if prototype else runner.run(few)
    given, drawn = find_plates(large, small)
    if not given and (small.errors or large.errors):
        given = plates_of_size(large, len(x))
    view = View(runner, x, large, small, joint, joint_small, given_rows, num_rows, given, drawn)
    relaxed = runner.run(x, validate=False) if joint.errors else joint
    others = [runner.run(x, seed=seed) for seed in range(1, _SEEDS[thorough])]
    varying, vary = check_varying([joint, *others])
    at_once: list[Callable[[], Iterable[Finding]]] = [
        lambda: check_overwritten(joint),
        lambda: vary,
        lambda: check_duplicates(large),
        lambda: check_sites(view, varying),
        lambda: check_plates(view),
        lambda: check_shapes(large),
        lambda: check_draws(large),
        lambda: check_parameters(relaxed, holes=bool(torch.isnan(x).any())),
    ]
    for part in at_once:
        findings.add(part, view)
    one_by_one: list[Callable[[], Iterable[Finding]]] = [
        lambda: [f for run in (joint, *others) for f in check_raised(run, "guide")],
        lambda: [f for run in (joint, *others) for f in check_raised(run, "model")],
        lambda: check_shapes(joint),
        lambda: check_smaller_batch(joint_small, "smaller-batch-fails") if joint_small is not None else (),
        lambda: (*check_scale(view), *check_importance_weights(view)),
        lambda: check_values(view),
    ]
    for part in one_by_one:
        if findings.errors:
            break
        findings.add(part, view)
    return view


def rows_of(x: Any) -> Tensor:
    """Rows of whatever holds them, at least one of them and none infinite; a tensor as it is.

    Raises:
        DataError: They are not to be had.
    """
    rows = x if isinstance(x, Tensor) else as_rows(x).rows
    if rows.dim() == 0 or len(rows) == 0:
        raise DataError(f"the data has shape {tuple(rows.shape)}: expected at least one row")
    if rows.is_floating_point() and bool(torch.isinf(rows).any()):
        raise DataError(f"the data has {int(torch.isinf(rows).sum())} infinite entries: remove or replace them")
    return rows


def cast_rows(rows: Tensor, pair: Pair, modules: Iterable[nn.Module] = ()) -> Tensor:
    """Real-valued rows in the precision of the pair's parameters, as they are in training; as they are without any."""
    if not rows.is_floating_point():
        return rows
    parameters: list[Tensor] = [p for module in modules for p in module.parameters()]
    parameters += [*(p for _, p in pair.named_parameters()), *pair._pending.values()]
    if not parameters and rows.dtype is not torch.get_default_dtype():
        # They may be made when it first runs.
        fresh = Pair(pair.model, pair.guide)
        with untouched_randomness():
            error = attempt(lambda: fresh.materialize(rows[:2]))[1]
        parameters = [p for _, p in fresh.named_parameters()]
        if error is None and not parameters:
            return rows
    held = {p.dtype for p in parameters if p.is_floating_point()}
    return rows.to(held.pop() if len(held) == 1 else torch.get_default_dtype())
