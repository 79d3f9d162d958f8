"""One training from start to finish: steps, averaging, records, and when rounds have converged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor

from pyro_lvm.elbo import elbo_draws
from pyro_lvm.errors import PairError, TrainingError
from pyro_lvm.history import History
from pyro_lvm.pair import Pair
from pyro_lvm.plate import feeding
from pyro_lvm.progress import Reporter
from pyro_lvm.svi import SVI, FusedOptim

# Without a budget, rounds of twice the last one's length: all rounds together cost at most twice the one that was
# needed, and each tells how much a longer one still gains.
_FIRST_ROUND = 2_000
# A round gains at least about this part of what the one before it gained, however well that one went.
_LEAST_RATIO = 0.25
# Rounds are compared on at most this many rows, with as many draws a row as bring the entries looked at up to the
# second number: the comparison has to be surer than the tolerance.
_MAX_JUDGED_ROWS = 10_000
_JUDGED_ENTRIES = 2_000_000
_JUDGED_DRAWS = (4, 16)
# The learning rate falls to this part of its start; what is left of the gradient's noise then is below what counts.
_FINAL_LR = 1e-3
_RECORDS_PER_SCHEDULE = 100
_CHECKS_PER_SCHEDULE = 20

Callback = Callable[["TrainingState"], None]


@dataclass
class TrainingState:
    """What a callback sees, once for each record of the history.

    Attributes:
        pair: The pair in training, its parameters as the optimizer has them (not averaged).
        step: Steps taken so far.
        total: Steps of the schedule in progress, counted from the start of training.
        elbo: Mean ELBO since the last record, nats a row.
        lr: Current learning rate.
    """

    pair: Pair
    step: int
    total: int
    elbo: float
    lr: float
    stopping: bool = field(default=False, init=False)

    def stop(self) -> None:
        """End training after this record."""
        self.stopping = True


class Trainer:
    """The state of one training: what is stepped, averaged, recorded and compared."""

    def __init__(
        self,
        *,
        pair: Pair,
        x: Tensor,
        validation: Tensor | None,
        complete: bool,
        batch_size: int,
        lr: float,
        make_elbo: Callable[[], ELBO],
        make_optim: Callable[[], FusedOptim],
        averaging: bool,
        patience: int,
        callbacks: Sequence[Callback],
    ) -> None:
        self.pair = pair
        self.x = x
        self.validation = validation
        self.complete = complete
        self.batch_size = batch_size
        self.lr = lr
        self.make_elbo = make_elbo
        self.make_optim = make_optim
        self.averaging = averaging
        self.patience = patience
        self.callbacks = callbacks
        self.history = History()
        self.step = 0
        self.averaged: list[Tensor] = []
        self.trained: list[Tensor] = []

    def prepare(self, train: str, start: bool, generator: torch.Generator) -> None:
        """Start what is to be trained and find its parameters."""
        if start:
            self.pair.start(self.x, generator, train=train)
        with feeding(len(self.x), complete=self.complete):
            used = self.pair.materialize(self.x[: self.batch_size])
        chosen = used["model"] | used["guide"]
        if train != "both":
            chosen = used[train] - used["guide" if train == "model" else "model"]
        self.trained = [p for _, p in self.pair.named_parameters() if id(p) in chosen]
        if not self.trained:
            raise PairError(
                f"there is nothing to train: {'neither half' if train == 'both' else 'the ' + train} has parameters "
                "of its own; make some with pyro.param or as attributes of a PyroModule"
            )

    def run_until_converged(self, tolerance: float, max_steps: int, reporter: Reporter) -> str:
        """Rounds of growing length until one gains too little."""
        judged = self.validation if self.validation is not None else self.x
        judged = judged[:_MAX_JUDGED_ROWS]
        length = _FIRST_ROUND
        best_state, best = self._snapshot(), self._judge(judged)
        last_gain = math.inf
        while self.step < max_steps:
            stopped = self.run_schedule(min(length, max_steps - self.step), reporter, early_stopping=False)
            if stopped != "budget":
                return stopped
            after = self._judge(judged)
            # Draw by draw under the same noise, so that most of the noise cancels; what is left of it must not be taken
            # for gain or loss.
            gains = after - best
            gain, error = float(gains.mean()), float(gains.std() / math.sqrt(len(gains)))
            if gain < -max(tolerance, 2 * error) or not math.isfinite(gain):
                self._restore(best_state)
                if self.validation is not None:
                    return "early stopping"
                self.lr /= 3
                last_gain = math.inf
            else:
                expected = gain * max(_LEAST_RATIO, min(1.0, gain / last_gain))
                if last_gain < math.inf and expected < max(tolerance, error):
                    return "converged"
                best_state, best, last_gain = self._snapshot(), after, max(gain, tolerance)
            length *= 2
        return "not converged"

    def run_schedule(self, steps: int, reporter: Reporter, *, early_stopping: bool = True) -> str:
        """One fall of the learning rate over ``steps`` steps, averaging along the way."""
        optim = self.make_optim()
        chosen = {id(p) for p in self.trained}
        # The loss a row, so that a clipped gradient or a printed loss means the same for any number of rows.
        scale = 1.0 / len(self.x)
        svi = SVI(
            poutine.scale(self.pair.run_model, scale),
            poutine.scale(self.pair.run_guide, scale),
            optim,
            self.make_elbo(),
            trainable=lambda tensor: id(tensor) in chosen,
        )
        live = [p.detach() for p in self.trained]
        self.averaged = [p.clone() for p in live]
        record_every = max(1, steps // _RECORDS_PER_SCHEDULE)
        check_every = max(1, steps // _CHECKS_PER_SCHEDULE)
        watch = _Watch(self.patience) if early_stopping and self.validation is not None else None
        good = self._snapshot()
        window: list[float] = []
        batches = self._batches()
        first = self.step
        stopped = "budget"
        with feeding(len(self.x), complete=self.complete):
            for t in range(steps):
                lr = self.lr * _FINAL_LR ** (t / steps)
                optim.set_lr(lr)
                # What Pyro checks at every step the first one has shown, and a loss that is not finite is noticed here.
                with pyro.validation_enabled(pyro.settings.get("validate_poutine") and t == 0):
                    loss = svi.step(next(batches))
                if not math.isfinite(loss):
                    self._restore(good)
                    raise TrainingError(
                        f"the loss became {loss} at step {self.step + 1} (learning rate {lr:.3g}): the last good state "
                        "is kept; try a smaller lr, clip_norm, or look for a scale that goes to zero"
                    )
                self.step += 1
                torch._foreach_lerp_(self.averaged, live, 9.0 / (t + 9.0))
                window.append(-loss)
                if (t + 1) % record_every == 0 or t + 1 == steps:
                    elbo = float(np.mean(window))
                    window.clear()
                    good = self._snapshot()
                    self.history.add(step=self.step, epoch=self._epoch(), lr=lr, elbo=elbo)
                    reporter.update(self.step, first + steps, f"ELBO {elbo:.4f} nats/row")
                    state = TrainingState(self.pair, self.step, first + steps, elbo, lr)
                    for callback in self.callbacks:
                        callback(state)
                    if state.stopping:
                        stopped = "callback"
                        break
                if watch is not None and self.validation is not None and ((t + 1) % check_every == 0 or t + 1 == steps):
                    with self._average_in_place():
                        value = float(self._judge(self.validation).mean())
                        self.history.annotate(validation_elbo=value)
                        ended = watch.see(value, self._snapshot())
                    if ended:
                        stopped = "early stopping"
                        break
        self.adopt_average()
        if watch is not None and watch.state is not None:
            self._restore(watch.state)
        elif self.validation is not None:
            self.history.annotate(validation_elbo=float(self._judge(self.validation).mean()))
        return stopped

    def adopt_average(self) -> None:
        """Let the parameters be their average."""
        if self.averaging and self.averaged:
            with torch.no_grad():
                for parameter, average in zip(self.trained, self.averaged, strict=True):
                    parameter.copy_(average)

    def _batches(self) -> Iterator[Tensor]:
        """Batches of equal size for ever; an epoch's remainder differs each time, so that all rows count the same."""
        while True:
            order = torch.randperm(len(self.x), device="cpu").to(self.x.device)
            for i in range(0, len(self.x) - self.batch_size + 1, self.batch_size):
                yield self.x.index_select(0, order[i : i + self.batch_size])

    def _epoch(self) -> float:
        return self.step / max(1, len(self.x) // self.batch_size)

    def _judge(self, x: Tensor) -> Tensor:
        """Mean ELBO of the rows for each of a few draws, the same noise every time it is asked."""
        fewest, most = _JUDGED_DRAWS
        draws = min(most, max(fewest, _JUDGED_ENTRIES // max(1, x.numel())))
        with self.pair.evaluating():
            return elbo_draws(self.pair, x, draws)

    def _snapshot(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.pair.state_dict().items()}

    def _restore(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.pair.load_state_dict(state)

    @contextmanager
    def _average_in_place(self) -> Iterator[None]:
        live = [p.detach().clone() for p in self.trained]
        self.adopt_average()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.trained, live, strict=True):
                    parameter.copy_(value)


class _Watch:
    """Early stopping: the best state so far, and how many checks have passed since."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best = -math.inf
        self.state: dict[str, Tensor] | None = None
        self.since = 0

    def see(self, value: float, state: dict[str, Tensor]) -> bool:
        """Take note of a check; True when patience has run out."""
        if value > self.best:
            self.best, self.state, self.since = value, state, 0
        else:
            self.since += 1
        return self.since >= self.patience
