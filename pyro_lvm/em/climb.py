"""EM until the evidence no longer rises: accelerated, and monotone because a step that loses evidence isn't taken."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable

import torch

from pyro_lvm.em.acceleration import Accelerator
from pyro_lvm.em.expectation import Statistics, expect
from pyro_lvm.em.maximization import maximise
from pyro_lvm.em.parameters import NoiseModel, Parameters, from_vector, to_vector
from pyro_lvm.em.rows import Rows
from pyro_lvm.progress import report

# A single accelerated step may gain little by chance, this many together don't.
_WINDOW = 5
# Of the log-evidence: what it is rounded to.
_ROUNDING = 1e-14
# Of many starts that may give up early, one of four goes on, three at least.
_ONE_OF, _LEAST = 4, 3
# Where a start is near enough.
_START_TOLERANCE = 1e-6
# Steps after which starts can be told from each other (Biernacki, Celeux & Govaert 2003).
_TRIAL_STEPS = 20

Report = Callable[[int, float], None]
Repair = Callable[[Parameters, Statistics], Parameters | None]


@dataclasses.dataclass(frozen=True)
class Climb:
    """Where EM went.

    Attributes:
        parameters: where it ended.
        statistics: the E-step there.
        path: log-evidence in nats per row (with something observed) at the start and after each step; from the last
            repair on, where a component was revived.
        converged: whether the evidence has stopped rising.
    """

    parameters: Parameters
    statistics: Statistics
    path: tuple[float, ...]
    converged: bool


def climb(
    rows: Rows,
    start: Parameters,
    noise: NoiseModel,
    *,
    max_steps: int,
    tol: float,
    report: Report,
    repair: Repair | None = None,
) -> Climb:
    """Run accelerated EM.

    Args:
        rows: the rows.
        start: the parameters to begin with.
        noise: the noise variances that are allowed.
        max_steps: how many steps to take at most; each takes one E-step, or two where an extrapolation is refused.
        tol: EM has converged when five steps together gain less than this, in nats a row, and five more after the
            extrapolation has been restarted don't gain more either.
        report: is told the number of steps and the nats per row.
        repair: gives other parameters, once in a while, where a component has collapsed.

    Returns:
        The end and the path.

    Source: Dempster, Laird & Rubin 1977, J. R. Statist. Soc. B 39; for the acceleration see :mod:`.acceleration`.
    """
    accelerator = Accelerator()
    parameters, statistics = start, expect(rows, start)
    path = [_per_row(statistics)]
    since, confirming = 0, False
    for step in range(max_steps):
        repaired = repair(parameters, statistics) if repair is not None else None
        if repaired is not None:
            parameters, statistics = repaired, expect(rows, repaired)
            path, since, confirming = [_per_row(statistics)], 0, False
            accelerator = Accelerator()
        image = maximise(statistics, parameters, noise)
        taken = _step(rows, parameters, image, path[-1], noise, accelerator)
        if taken is None:
            return Climb(parameters, statistics, tuple(path), True)
        parameters, statistics = taken
        path.append(_per_row(statistics))
        report(step + 1, path[-1])
        since += 1
        if since >= _WINDOW and path[-1] - path[-1 - _WINDOW] <= tol + _ROUNDING * abs(path[-1]):
            if confirming:
                return Climb(parameters, statistics, tuple(path), True)
            # Extrapolation can stall where EM wouldn't.
            confirming, since = True, 0
            accelerator = Accelerator()
        elif since >= _WINDOW:
            confirming = False
    return Climb(parameters, statistics, tuple(path), False)


def climb_from_best(
    rows: Rows,
    starts: Iterable[Parameters],
    noise: NoiseModel,
    *,
    max_steps: int,
    tol: float,
    report: Report,
    make_repair: Callable[[], Repair] | None = None,
    first_steps: int | None = None,
    trial_steps: int = _TRIAL_STEPS,
) -> Climb:
    """Run EM from several starts for a few steps each, and from the most likely of them to the end.

    Args:
        rows: the rows.
        starts: at least one.
        noise: the noise variances that are allowed.
        max_steps: of the whole climb that is returned.
        tol: as :func:`climb`'s.
        report: as :func:`climb`'s.
        make_repair: makes :func:`climb`'s ``repair``, a new one whenever a climb begins or goes on.
        first_steps: after so many of these steps all but a quarter of the starts, three at least, give up; None where
            the first steps don't tell.
        trial_steps: the few steps.

    Returns:
        The best climb, its first steps included.

    Sources: Biernacki, Celeux & Govaert 2003, Computational Statistics & Data Analysis 41, for the short runs; for
    giving up early Jamieson & Talwalkar 2016, "Non-stochastic best arm identification", AISTATS.
    """

    def climb_from(start: Parameters, steps: int) -> Climb:
        repair = None if make_repair is None else make_repair()
        return climb(rows, start, noise, max_steps=steps, tol=tol, report=report, repair=repair)

    def further(so_far: Climb, steps: int) -> Climb:
        if so_far.converged or steps <= 0:
            return so_far
        end = climb_from(so_far.parameters, steps)
        # A repair begins the path anew.
        joined = so_far.path + end.path[1:] if end.path[0] == so_far.path[-1] else end.path
        return dataclasses.replace(end, path=joined)

    candidates = list(starts)
    if len(candidates) == 1:
        return climb_from(candidates[0], max_steps)
    whole = min(trial_steps, max_steps)
    kept = _kept(len(candidates))
    if first_steps is None or first_steps >= whole or len(candidates) <= kept:
        trials = [climb_from(start, whole) for start in candidates]
    else:
        trials = [climb_from(start, first_steps) for start in candidates]
        trials = sorted(trials, key=lambda trial: trial.path[-1])[-kept:]
        trials = [further(trial, whole - first_steps) for trial in trials]
    best = max(trials, key=lambda trial: trial.path[-1])
    return further(best, max_steps - whole)


def _kept(num_starts: int) -> int:
    """How many of so many starts don't give up early."""
    return min(num_starts, max(_LEAST, num_starts // _ONE_OF))


def best_start(
    rows: Rows,
    starts: Iterable[Parameters],
    noise: NoiseModel,
    *,
    steps: int = _TRIAL_STEPS,
    first_steps: int | None = None,
    make_repair: Callable[[], Repair] | None = None,
) -> Parameters:
    """Of several starts the likeliest after a few steps of EM, with these taken: for a search that begins once.

    The maxima that single starts lead to differ by more than what a further search makes up.

    Args:
        rows: the rows, or some of them.
        starts: at least one.
        noise: the noise variances that are allowed.
        steps: the few steps.
        first_steps: as :func:`climb_from_best`'s.
        make_repair: as :func:`climb_from_best`'s.
    """
    candidates = list(starts)
    taken = itertools.count(1)
    most = len(candidates) * steps
    if first_steps is not None:
        most -= (len(candidates) - _kept(len(candidates))) * (steps - first_steps)

    def show(step: int, evidence: float) -> None:
        report(min(next(taken), most), most, "looking for a start")

    found = climb_from_best(
        rows,
        candidates,
        noise,
        max_steps=steps,
        tol=_START_TOLERANCE,
        report=show,
        make_repair=make_repair,
        first_steps=first_steps,
        trial_steps=steps,
    )
    return found.parameters


def _step(
    rows: Rows,
    parameters: Parameters,
    image: Parameters,
    evidence: float,
    noise: NoiseModel,
    accelerator: Accelerator,
) -> tuple[Parameters, Statistics] | None:
    """The extrapolation if it gains evidence, else EM's own step; None if rounding is all that is left of that."""
    proposal = accelerator.propose(to_vector(parameters, noise), to_vector(image, noise))
    if proposal is not None:
        candidate = from_vector(proposal, image, noise)
        try:
            statistics = expect(rows, candidate)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            # An extrapolation too far for float64.
            statistics = None
        if statistics is not None and _per_row(statistics) >= evidence:
            accelerator.accepted()
            return candidate, statistics
        accelerator.refused()
    statistics = expect(rows, image)
    return (image, statistics) if _per_row(statistics) >= evidence else None


def _per_row(statistics: Statistics) -> float:
    return float(statistics.log_evidence / statistics.num_rows)
