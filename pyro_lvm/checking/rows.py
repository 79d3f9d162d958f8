"""Rows: batches of any size, rows with holes, and whether each row's answer is its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_lvm.checking.densities import check_overwritten, check_raised, check_shapes, missing_entries
from pyro_lvm.checking.findings import Finding, Severity
from pyro_lvm.checking.running import ROLES, Role, Run, Runner, attempt
from pyro_lvm.checking.sites import by_row, latents, log_prob, observed, samples
from pyro_lvm.checking.state import perturb
from pyro_lvm.checking.view import View

# A row's log-probability of the same values moves by rounding alone, unless something else entered it.
_ROUNDING = 1e-5
# Large enough to move every layer away from a start at zero, small enough to keep densities finite.
_PERTURBATION = 0.3


def holds_prototype(guide: Any) -> bool:
    """Whether a guide makes its parameters for one batch of rows, as Pyro's automatic guides do."""
    return hasattr(guide, "prototype_trace")


def check_smaller_batch(run: Run, code: str) -> Iterator[Finding]:
    """Whether a batch of another size runs as well and has the right shapes.

    Args:
        run: On the smaller batch, of a pair that is sound on a larger one.
        code: Of the finding.
    """
    found: list[Finding] = [f for role in ROLES for f in check_raised(run, role)]
    first = next(iter(found or check_shapes(run)), None)
    if first is not None:
        yield Finding(
            code,
            "error",
            first.site,
            f"with {run.num_rows} row{'s' if run.num_rows > 1 else ''}, {first.message}; a size is written out, or "
            "squeeze() drops a dimension (give it the dimension to drop)",
        )


def check_single_row(view: View) -> Iterator[Finding]:
    """Whether a single row can be asked about, in evaluation mode: batch statistics need more in training."""
    if view.joint_small is None or view.drawn:
        return
    with view.runner.mode(training=False):
        run = view.runner.run(view.x[:1])
        yield from check_smaller_batch(run, "single-row-fails")


def check_missing(view: View, x: Tensor) -> Iterator[Finding]:
    """Whether rows with holes are taken, where there are some or the guide says that it takes them.

    Args:
        view: The pair's traces on complete rows, if there are enough.
        x: All rows that were given.
    """
    guide = view.runner.pair.guide
    accepts = getattr(guide, "accepts_missing", None)
    if not x.is_floating_point():
        return
    holes = torch.isnan(x)
    if bool(holes.any()):
        if accepts is False:
            yield Finding(
                "missing-entries",
                "error",
                None,
                f"the data has {int(holes.sum())} missing entries, which the guide {type(guide).__name__} says it "
                "cannot take: use a guide that accepts missing entries, or drop those rows",
            )
            return
        rows = x[holes.reshape(len(x), -1).any(1)][: len(view.x)]
    elif accepts is True:
        rows = view.x.clone()
        rows.reshape(len(rows), -1)[::2, 0] = torch.nan
    else:
        return
    # As many rows as before: a guide may be made for one batch.
    rows = torch.cat([rows, view.x])[: len(view.x)]
    # With validation on, a distribution raises before it can be told which site it is.
    run = view.runner.run(rows, validate=False)
    if run.overwritten:
        yield from check_overwritten(run)
        return
    for role in reversed(ROLES):
        if role in run.errors:
            yield missing_entries(None)
            return
        for name, site in samples(run.traces[role]).items():
            value, error = attempt(log_prob, site)
            if error is not None or not bool(torch.isfinite(value).all()):
                yield missing_entries(name)
                return
    tensors = [t for _, t in view.joint.parameters.values() if t.requires_grad and t.is_leaf]
    gradients, outcome = view.runner.gradients(rows, tensors)
    if isinstance(outcome, Exception) or not all(bool(torch.isfinite(g).all()) for g in gradients if g is not None):
        yield missing_entries(next(iter(observed(run.traces["model"])), None))


def check_rows(view: View) -> Iterator[Finding]:
    """Whether what is computed for a row depends on that row, and on no other.

    The parameters are moved off their start first: a network that starts at zero hides what it will depend on.
    """
    runner, x = view.runner, view.x
    swapped = x.clone()
    swapped[0] = x[len(x) // 2]
    moved = view.x.roll(1, 0)
    trainable = [t for _, t in view.joint.parameters.values()]
    leak = _leaks(view, trainable, swapped)
    if leak is not None:
        role, name = leak
        with runner.mode(training=False):
            severity: Severity = "error" if _leaks(view, trainable, swapped) is not None else "warning"
        where = (
            "look for statistics over the batch (mean(0), BatchNorm, attention over rows)"
            if severity == "error"
            else "in training mode only, as BatchNorm does it; the ELBO in training isn't that of evaluation"
        )
        yield Finding(
            "rows-not-independent",
            severity,
            name,
            f"in the {role} the log-probability of '{name}' for one row changes when another row of x does: expected "
            f"rows that are independent given what they share; {where}",
        )
    if torch.equal(torch.nan_to_num(x), torch.nan_to_num(moved)):
        return
    yield from _not_amortized(view, trainable, moved)


def _off_start(runner: Runner, tensors: list[Tensor], x: Tensor, **options: Any) -> Run:
    """A run with the parameters moved; the caller puts them back once it has read the traces."""
    perturb(tensors, _PERTURBATION)
    return runner.run(x, restore=False, **options)


def _row_values(view: View, run: Run, role: Role) -> dict[str, Tensor]:
    if role in run.errors:
        return {}
    values = {}
    for name, site in samples(run.traces[role]).items():
        value, error = attempt(by_row, site, view.rows, run.num_rows)
        if error is None and value is not None:
            values[name] = value.detach().clone()
    return values


def _compare(view: View, tensors: list[Tensor], x: Tensor) -> Iterator[tuple[Role, str, Tensor]]:
    """Which rows' log-probabilities of the same draws change when ``x`` takes the place of the rows."""
    runner = view.runner
    base = _off_start(runner, tensors, view.x)
    before = {role: _row_values(view, base, role) for role in ROLES}
    runner.kept.restore()
    again = _off_start(runner, tensors, x, replay=base)
    after = {role: _row_values(view, again, role) for role in ROLES}
    runner.kept.restore()
    for role in ("guide", "model"):
        for name in before[role].keys() & after[role].keys():
            a, b = before[role][name], after[role][name]
            yield role, name, ~torch.isclose(a, b, rtol=_ROUNDING, atol=_ROUNDING, equal_nan=True)


def _leaks(view: View, tensors: list[Tensor], swapped: Tensor) -> tuple[Role, str] | None:
    for role, name, changed in _compare(view, tensors, swapped):
        if bool(changed[1:].any()):
            return role, name
    return None


def _not_amortized(view: View, tensors: list[Tensor], moved: Tensor) -> Iterator[Finding]:
    runner = view.runner
    drawn = latents(view.large.traces["guide"])
    changed = {name: bool(rows.any()) for role, name, rows in _compare(view, tensors, moved) if role == "guide"}
    fixed = [name for name, moves in changed.items() if name in drawn and not moves]
    if not fixed:
        return
    # A latent may follow x through another latent alone: then its draws change, under the same noise.
    values = []
    for x in (view.x, moved):
        run = _off_start(runner, tensors, x, roles=("guide",))
        values.append({n: s["value"].detach().clone() for n, s in samples(run.traces["guide"]).items()})
        runner.kept.restore()
    fixed = [n for n in fixed if all(n in held for held in values) and torch.equal(values[0][n], values[1][n])]
    if fixed and isinstance(runner.pair.guide, AutoGuide):
        yield _automatic(view, runner.pair.guide, fixed[0])
    else:
        for name in fixed:
            yield Finding(
                "not-amortized",
                "warning",
                name,
                f"the guide's distribution of '{name}' is the same whatever the row: it can't tell rows apart; compute "
                "its parameters from x",
            )


def _automatic(view: View, guide: Any, name: str) -> Finding:
    message = (
        f"{type(guide).__name__} has parameters of its own for each row's '{name}' instead of computing them from the "
        "row: it says nothing about rows that it wasn't trained on"
    )
    # Its plate draws row numbers at random, and those of the batch are others.
    loses_track = view.minibatch and guide.create_plates is None
    if loses_track:
        message += ", and on minibatches it gives each row the parameters of another: train on all rows at once"
    return Finding("not-amortized", "error" if loses_track else "warning", name, message)
