"""Gradient estimators side by side: bias, variance, signal-to-noise and cost of each."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyro
import scipy.stats
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pyro_lvm.checking import quick_check
from pyro_lvm.data import as_rows
from pyro_lvm.errors import DataError, PairError, TrainingError
from pyro_lvm.gradients.estimators import ESTIMATORS, GradientEstimator, admitted
from pyro_lvm.gradients.moments import Moments
from pyro_lvm.gradients.reference import Gradient, Reference, exact_gradient
from pyro_lvm.pair import Half, Pair, refuse_holes
from pyro_lvm.progress import Reporter
from pyro_lvm.seeding import seeded

# A long run has this many times the draws of the comparison: its own error then is small beside theirs.
_REFERENCE_DRAWS = 8
# Of a long run, the first that a pair admits; all are unbiased, the first vary least.
_REFERENCES = ("enumeration", "reparameterization", "mixed+average", "score+average")
# What rounding in float32 may put between an entry and its reference, in units of its precision and of the size of the
# whole gradient: a small entry is the difference of large ones.
_ROUNDING = 64.0
# Draws' worth of variance that an entry borrows from the mean of its parameter. One that moves only in rare draws, none
# of which came, looks surer than it is.
_BORROWED = 5
# A gradient this unlikely to be unbiased is called biased.
_BIASED = 1e-3
_CHECKED_ROWS = 64
ALL, MODEL, GUIDE = "all", "model", "guide"
"""What rows that take all parameters together, all of the model or all of the guide, are called."""


@dataclass(frozen=True)
class Measured:
    """What the draws of one estimator came to.

    Attributes:
        estimator: Its name, with ``:DRAWS`` where that was given.
        reference: What it is compared with.
        mean: Mean of the draws, by the parameters' names, float64.
        variance: Of a single draw.
        milliseconds: Median time of a step: a draw, its gradient, and its baseline's learning.
    """

    estimator: str
    reference: Reference
    mean: Gradient
    variance: Gradient
    milliseconds: float

    @property
    def noise(self) -> float:
        """Standard deviation of a draw of the whole gradient: the root of the variance summed over entries."""
        return math.sqrt(sum(float(v.sum()) for v in self.variance.values()))


@dataclass(frozen=True)
class GradientComparison:
    """Gradient estimators of one pair, compared at one point; printing shows a table.

    Gradients are of the bound a row, uphill, with respect to the unconstrained parameters that an optimizer moves.

    Attributes:
        measured: One for each estimator.
        halves: Which half of the pair each parameter belongs to, by its name: ``"model"`` or ``"guide"``.
        draws: Draws of each.
        num_rows: Rows N that the bound is of.
        batch_size: Rows B of a draw.
        seed: Of everything random.
    """

    measured: tuple[Measured, ...]
    halves: Mapping[str, str]
    draws: int
    num_rows: int
    batch_size: int
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """A row for each estimator and parameter, and for those of the model, of the guide, and all together.

        Columns:

        - ``estimator``, ``bound``, ``parameter``, ``size`` (number of entries)
        - ``signal``: norm of the reference, nats a row per unit of the parameter
        - ``bias``: norm of what the mean of the draws is off the reference
        - ``standard_error``: what that norm is expected to be (root mean square) if there is no bias
        - ``max_z``: largest distance of an entry from its reference, in standard errors, an entry's variance moderated
          by its parameter's (Smyth 2004)
        - ``p_value``: of ``max_z``, by Student's t and Bonferroni's correction for the number of entries
        - ``variance``: of a single draw, summed over entries
        - ``signal_to_noise``: signal over the root of the variance
        - ``milliseconds``: a step; ``milliseconds_to_signal``: steps to average until the noise is no larger than the
          signal, in time
        """
        return pd.DataFrame([record for m in self.measured for record in self._records(m)])

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        references = {m.reference.bound: m.reference for m in self.measured}
        records = [
            {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in row.items()
            }
            for m in self.measured
            for row in self._records(m)
        ]
        return {
            "draws": self.draws,
            "num_rows": self.num_rows,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "references": [
                {"bound": r.bound, "how": r.how, "exact": r.exact, "norm": r.norm, "relative_error": r.relative_error}
                for r in references.values()
            ],
            "estimates": records,
        }

    def biased(self) -> list[str]:
        """The estimators whose draws speak against their being unbiased (p below 0.001)."""
        frame = self.to_frame()
        frame = frame[(frame["parameter"] == ALL) & (frame["p_value"] < _BIASED)]
        return list(frame["estimator"])

    def table(self) -> Table:
        """The estimators as a table: bias of all parameters together, signal over noise of the model's and the guide's.

        Bias stands with what it is expected to be where there is none, and p says how likely one as large is then.
        """
        rows = "all rows" if self.batch_size == self.num_rows else f"{self.batch_size} rows"
        title = f"gradient of the bound a row: {self.draws} draws of {rows}, N = {self.num_rows}"
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
        headings = ("estimator", "bias", "p", "s/n\nmodel", "s/n\nguide", "ms\na step", "ms to\ns/n = 1")
        for heading in headings:
            table.add_column(heading, justify="left" if heading == "estimator" else "right", no_wrap=True)
        frame = self.to_frame().set_index(["estimator", "parameter"])
        for m in self.measured:
            whole, in_model, in_guide = (
                frame.loc[(m.estimator, half)] if (m.estimator, half) in frame.index else None
                for half in (ALL, MODEL, GUIDE)
            )
            table.add_row(
                m.estimator,
                f"{_cell(whole, 'bias', '.2g')} ± {_cell(whole, 'standard_error', '.2g')}",
                _cell(whole, "p_value", ".2g"),
                _cell(in_model, "signal_to_noise", ".2g"),
                _cell(in_guide, "signal_to_noise", ".2g"),
                f"{m.milliseconds:.3g}",
                _cell(in_guide, "milliseconds_to_signal", ".2g"),
            )
        notes = {}
        for m in self.measured:
            r = m.reference
            error = "" if r.exact else f", itself {r.relative_error:.1%} off"
            notes[r.bound] = f"{r.bound}: norm {r.norm:.4g} by {r.how}{error}"
        if self.biased():
            notes["biased"] = f"biased (p < {_BIASED:g}): {', '.join(self.biased())}"
        table.caption = "\n".join(notes.values())
        table.caption_justify = "left"
        return table

    def __rich__(self) -> Table:
        return self.table()

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=140, no_color=True).print(self.table())
        return text.getvalue().rstrip()

    def _records(self, m: Measured) -> Iterator[dict[str, Any]]:
        parts = {name: self._sums(m, name) for name in m.mean}
        for half in (MODEL, GUIDE):
            own = [parts[name] for name in m.mean if self.halves[name] == half]
            if own:
                parts[half] = _together(own)
        parts[ALL] = _together([parts[name] for name in m.mean])
        for name, part in parts.items():
            noise = math.sqrt(part["variance"])
            p_value = 2 * part["size"] * scipy.stats.t.sf(part["max_z"], self.draws - 1)
            ratio = part["signal"] / noise if noise > 0 else math.inf
            yield {
                "estimator": m.estimator,
                "bound": m.reference.bound,
                "parameter": name,
                **part,
                "p_value": min(1.0, float(p_value)),
                "signal_to_noise": ratio,
                "milliseconds": m.milliseconds,
                "milliseconds_to_signal": m.milliseconds / ratio**2 if ratio > 0 else math.inf,
            }

    def _sums(self, m: Measured, name: str) -> dict[str, Any]:
        reference, error = m.reference.gradient[name], m.reference.error[name]
        away = m.mean[name] - reference
        variance = m.variance[name]
        square = variance / self.draws + error.square()
        own = self.draws - 1
        moderated = (own * variance + _BORROWED * variance.mean()) / (own + _BORROWED)
        allowed = _ROUNDING * torch.finfo(torch.float32).eps * math.hypot(m.reference.norm, m.noise)
        z = away.abs() / (moderated / self.draws + error.square() + allowed**2).sqrt()
        # An entry that is the same zero in every draw has no error to be measured in.
        z = torch.where(away == 0, 0.0, z)
        return {
            "size": away.numel(),
            "signal": float(reference.norm()),
            "bias": float(away.norm()),
            "standard_error": float(square.sum().sqrt()),
            "max_z": float(z.max()) if z.numel() else 0.0,
            "variance": float(variance.sum()),
        }


def _cell(row: Any, column: str, form: str) -> str:
    return "" if row is None else format(row[column], form)


def _together(parts: list[dict[str, Any]]) -> dict[str, Any]:
    norms = {key: math.hypot(*(p[key] for p in parts)) for key in ("signal", "bias", "standard_error")}
    return {
        "size": sum(p["size"] for p in parts),
        **norms,
        "max_z": max(p["max_z"] for p in parts),
        "variance": sum(p["variance"] for p in parts),
    }


def compare(
    model: Half,
    guide: Half,
    data: Any,
    estimators: Sequence[str] | None = None,
    draws: int = 200,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool = True,
    pair: Pair | None = None,
) -> GradientComparison:
    """Compare gradient estimators of a pair, as it is: nothing is trained but baselines.

    Each is drawn many times at the pair's present parameters and held against a reference: of the ELBO the closed form
    where the pair has one (:func:`pyro_lvm.gradients.exact_gradient`), else a long run of the best unbiased estimator;
    of an importance-weighted bound a long run of its own. Draws of different estimators start from the same random
    numbers and alternate, so that times are taken side by side.

    Args:
        model: ``model(x)``; see :class:`pyro_lvm.Pair`.
        guide: ``guide(x)``.
        data: Rows: a tensor (rows, ...), an array, a table or a :class:`pyro_lvm.data.Dataset`; NaN where missing.
        estimators: Names of :data:`pyro_lvm.gradients.ESTIMATORS`, each with ``:DRAWS`` for so many draws a row; None
            for those of the ELBO that the pair admits.
        draws: Draws of each, 2 at least.
        batch_size: Rows of a draw, chosen at random each time, so that the variance has the batch's in it as training
            does; None for all rows, and the variance of the draws alone.
        seed: Of everything random. The caller's random state is left as it was.
        progress: Show how far it is.
        pair: The :class:`pyro_lvm.Pair` that ``model`` and ``guide`` are of, where there is one already.

    Returns:
        The comparison.

    Raises:
        DataError: The data cannot be used.
        PairError: An unknown estimator, or one that the pair doesn't admit; a broken pair; a gradient that is
            not finite.
        TrainingError: ``draws`` or ``batch_size`` is out of range.

    Example:
        >>> from pyro_lvm import data
        >>> from pyro_lvm.guides import LinearGaussian
        >>> from pyro_lvm.models import PPCA
        >>> result = compare(PPCA(64, 2), LinearGaussian(64, 2), data.load("digits"), ["score"], draws=10)
        >>> result.measured[0].reference.how
        'closed form'
    """
    x = data if isinstance(data, Tensor) else as_rows(data).rows
    if x.dim() < 1 or len(x) < 1:
        raise DataError(f"the data has shape {tuple(x.shape)}: expected at least 1 row")
    if draws < 2:
        raise TrainingError(f"draws={draws}: expected 2 or more, as a variance is to be estimated")
    if batch_size is not None and not 1 <= batch_size <= len(x):
        raise TrainingError(f"batch_size={batch_size} of {len(x)} rows: expected from 1 to all of them")
    if estimators is not None and not estimators:
        raise PairError(f"no estimator was given: expected some of {', '.join(ESTIMATORS)}")
    pair = pair if pair is not None else Pair(model, guide)
    with seeded(seed), Reporter("comparing gradients", enabled=progress) as reporter, _as_it_is(pair):
        x = x.to(pair.device)
        refuse_holes(pair, x)
        quick_check(pair, x[:_CHECKED_ROWS], num_rows=len(x), elbo=pair.elbo)
        used = pair.materialize(x[:_CHECKED_ROWS])
        parameters = {name: p for name, p in pair.named_parameters() if p.requires_grad}
        if not parameters:
            raise PairError("the pair has no parameters: there is no gradient to estimate")
        run = _Run(pair, x, parameters, len(x) if batch_size is None else batch_size, seed, reporter)
        names = list(dict.fromkeys(admitted(pair, x) if estimators is None else estimators))
        made = [run.estimator(name) for name in names]
        references = run.references(made, draws)
        moments, times = run.draw(made, draws, "measuring")
    measured = tuple(
        Measured(e.reference, references[e.bound], m.mean, m.variance, 1e3 * float(np.median(t)))
        for e, m, t in zip(made, moments, times, strict=True)
    )
    # What both halves use is the model's: the guide reads it.
    halves = {name: MODEL if id(p) in used["model"] else GUIDE for name, p in parameters.items()}
    return GradientComparison(measured, halves, draws, len(x), run.batch_size, seed)


class _Run:
    """What the parts of a comparison share."""

    def __init__(
        self, pair: Pair, x: Tensor, parameters: dict[str, Tensor], batch_size: int, seed: int, reporter: Reporter
    ) -> None:
        self.pair = pair
        self.x = x
        self.parameters = parameters
        self.batch_size = batch_size
        self.seed = seed
        self.reporter = reporter

    def estimator(self, name: str) -> GradientEstimator:
        """An estimator whose baseline has settled, and whose pair Pyro has checked."""
        with seeded(self.seed):
            made = GradientEstimator(name, self.pair, self.batch(), num_rows=len(self.x))
            for step in range(made.spec.warm_up):
                self.reporter.update(step, made.spec.warm_up, f"{name}: warming up")
                with pyro.validation_enabled(pyro.settings.get("validate_poutine") and step == 0):
                    self.gradient(made, self.batch())
        return made

    def batch(self) -> Tensor:
        """Rows of a draw."""
        if self.batch_size == len(self.x):
            return self.x
        return self.x[torch.randperm(len(self.x))[: self.batch_size].to(self.x.device)]

    def gradient(self, estimator: GradientEstimator, batch: Tensor) -> tuple[Gradient, float]:
        """One draw, uphill, and the seconds it took."""
        _wait(batch.device)
        began = time.perf_counter()
        estimator.backward(batch)
        _wait(batch.device)
        seconds = time.perf_counter() - began
        gradient = {}
        for name, p in self.parameters.items():
            gradient[name] = torch.zeros_like(p, dtype=torch.float64) if p.grad is None else -p.grad.double()
            p.grad = None
        return gradient, seconds

    def draw(
        self, estimators: Sequence[GradientEstimator], draws: int, what: str
    ) -> tuple[list[Moments], list[list[float]]]:
        """Draws of each estimator in turn, with the same random numbers."""
        moments = [Moments(self.parameters) for _ in estimators]
        times: list[list[float]] = [[] for _ in estimators]
        # By what they are for, so that a reference's draws are not the ones it is compared with.
        stream = np.random.SeedSequence([self.seed, *what.encode()])
        for number, seed in enumerate(map(int, stream.generate_state(draws))):
            self.reporter.update(number, draws, what)
            for estimator, m, t in zip(estimators, moments, times, strict=True):
                with seeded(seed), pyro.validation_enabled(False):
                    gradient, seconds = self.gradient(estimator, self.batch())
                broken = next((name for name, g in gradient.items() if not bool(g.isfinite().all())), None)
                if broken is not None:
                    raise PairError(
                        f"the estimator '{estimator.reference}' gave a gradient of '{broken}' that is not finite at "
                        f"draw {number + 1}: check the pair (check_pair), or compare at other parameters"
                    )
                m.add(gradient)
                t.append(seconds)
        return moments, times

    def references(self, estimators: Sequence[GradientEstimator], draws: int) -> dict[str, Reference]:
        """One for each bound."""
        found: dict[str, Reference] = {}
        for estimator in estimators:
            bound = estimator.bound
            if bound in found:
                continue
            exact = exact_gradient(self.pair, self.x) if bound == "ELBO" else None
            if exact is not None:
                zeros = {name: torch.zeros_like(g) for name, g in exact.items()}
                found[bound] = Reference(bound, "closed form", exact, zeros, exact=True)
                continue
            name = estimator.reference
            if bound == "ELBO":
                possible = admitted(self.pair, self.x)
                name = next(name for name in _REFERENCES if name in possible)
            whole = _Run(self.pair, self.x, self.parameters, len(self.x), self.seed, self.reporter)
            count = _REFERENCE_DRAWS * draws
            (moments,), _ = whole.draw([whole.estimator(name)], count, f"reference by {name}")
            how = f"a long run of {name}, {count} draws"
            found[bound] = Reference(bound, how, moments.mean, moments.standard_error, exact=False)
        return found


@contextmanager
def _as_it_is(pair: Pair) -> Iterator[None]:
    """Leave gradients and buffers as they were."""
    buffers = [(b, b.detach().clone()) for module in pair.modules().values() for b in module.buffers()]
    gradients = {id(p): (p, p.grad) for _, p in pair.named_parameters()}
    for p, _ in gradients.values():
        p.grad = None
    try:
        yield
    finally:
        for _, p in pair.named_parameters():
            p.grad = gradients[id(p)][1] if id(p) in gradients else None
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
