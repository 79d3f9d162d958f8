"""One training from start to finish: steps, averaging, records, and when rounds have converged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor

from pyro_lvm import checkpoint
from pyro_lvm.batches import Batches
from pyro_lvm.compiled import SVI, PolynomialAverage
from pyro_lvm.elbo import elbo_draws
from pyro_lvm.errors import PairError, TrainingError
from pyro_lvm.history import History
from pyro_lvm.importance import ImportanceWeightedELBO
from pyro_lvm.pair import Pair
from pyro_lvm.plate import feeding
from pyro_lvm.progress import Reporter
from pyro_lvm.svi import FusedOptim
from pyro_lvm.tempering import TemperedELBO

# Without a budget, rounds of twice the last one's length: all rounds together cost at most twice the one that was
# needed, and each tells how much a longer one still gains.
_FIRST_ROUND = 2_000
# A round gains at least about this part of what the one before it gained, however well that one went.
_LEAST_RATIO = 0.25
# Rounds are compared on at most this many rows, with as many draws a row as bring the entries looked at up to the
# second number: the comparison has to be surer than the tolerance.
_MAX_JUDGED_ROWS = 10_000
_JUDGED_ENTRIES = 2_000_000
_JUDGED_DRAWS = (4, 64)
# The learning rate falls to this part of its start; what is left of the gradient's noise then is below what counts.
_FINAL_LR = 1e-3
_RECORDS_PER_SCHEDULE = 100
_CHECKS_PER_SCHEDULE = 20

Decay = Literal["exponential", "cosine"]
"""How the learning rate falls over a schedule."""
DECAYS: dict[str, Callable[[float], float]] = {
    "exponential": lambda share: _FINAL_LR**share,
    "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
}
"""Of the first rate, what is left after a share of the schedule."""

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


@dataclass
class _Schedule:
    """One fall of the learning rate: how long it is and how far it has come."""

    steps: int
    first: int
    lr: float
    watched: bool
    bounded: bool
    t: int = 0
    window: list[float] = field(default_factory=list)


class Trainer:
    """The state of one training: what is stepped, averaged, recorded and compared.

    Between any two steps it can be stored (:meth:`checkpoint`) and, in a trainer of the same pair, data and options,
    restored (:meth:`resume`), so that what follows is the same bit for bit.
    """

    def __init__(
        self,
        *,
        pair: Pair,
        batches: Batches,
        validation: Tensor | None,
        lr: float,
        decay: Decay,
        make_elbo: Callable[[], ELBO],
        make_optim: Callable[[], FusedOptim],
        averaging: bool,
        patience: int,
        callbacks: Sequence[Callback],
        after_step: Callable[[Trainer], None],
        compile: bool | Literal["auto"] = "auto",
        schedules: int = 1,
    ) -> None:
        self.pair = pair
        self.batches = batches
        self.validation = validation
        self.lr = lr
        self.decay = decay
        self.elbo = make_elbo()
        self.make_optim = make_optim
        self.averaging = averaging
        self.callbacks = callbacks
        self.after_step = after_step
        self.compile = compile
        # Budgets that will follow each other, all by the same steps.
        self.schedules = schedules
        self.history = History()
        self.step = 0
        self.average: PolynomialAverage | None = None
        self.svi: SVI | None = None
        self.trained: list[Tensor] = []
        self.optim = make_optim()
        self.schedule: _Schedule | None = None
        self.watch = _Watch(patience)
        # Of rounds without a budget: length of the next, and the best so far.
        self.length = _FIRST_ROUND
        self.last_gain = math.inf
        self.best = torch.empty(0)
        self.best_state: dict[str, Tensor] = {}

    def prepare(self, train: str) -> None:
        """Find the parameters of what is to be trained."""
        with self._feeding():
            used = self.pair.materialize(self.batches.sample[: self.batches.batch_size])
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
        judged = (self.validation if self.validation is not None else self.batches.sample)[:_MAX_JUDGED_ROWS]
        if not self.best_state:
            self.best_state, self.best = self._snapshot(), self._judge(judged)
        while self.step < max_steps or self.schedule is not None:
            stopped = self.run_schedule(min(self.length, max_steps - self.step), reporter, early_stopping=False)
            if stopped != "budget":
                return stopped
            after = self._judge(judged)
            # Draw by draw under the same noise, so that most of the noise cancels; what is left of it must not be taken
            # for gain or loss.
            gains = after - self.best
            gain, error = float(gains.mean()), float(gains.std() / math.sqrt(len(gains)))
            if gain < -max(tolerance, 2 * error) or not math.isfinite(gain):
                self._restore(self.best_state)
                if self.validation is not None:
                    return "early stopping"
                # What the rounds before it have gained still tells what the next will: the last gain stands.
                self.lr /= 3
            else:
                expected = gain * max(_LEAST_RATIO, min(1.0, gain / self.last_gain))
                if self.last_gain < math.inf and expected < max(tolerance, error):
                    return "converged"
                self.best_state, self.best, self.last_gain = self._snapshot(), after, max(gain, tolerance)
                self.length *= 2
        return "not converged"

    def run_schedule(self, steps: int, reporter: Reporter, *, early_stopping: bool = True) -> str:
        """One fall of the learning rate over ``steps`` steps, averaging along the way; goes on with one under way."""
        if self.schedule is None:
            watched = early_stopping and self.validation is not None
            # Without a budget, another round follows the first unless the limit of steps comes before.
            self._begin(_Schedule(steps, self.step, self.lr, watched, early_stopping or steps < self.length))
        s = self.schedule
        assert s is not None
        svi = self._svi(s)
        record_every = max(1, s.steps // _RECORDS_PER_SCHEDULE)
        check_every = max(1, s.steps // _CHECKS_PER_SCHEDULE)
        good = self._snapshot()
        stopped = "budget"
        with self._feeding():
            while s.t < s.steps:
                lr = s.lr * DECAYS[self.decay](s.t / s.steps)
                self.optim.set_lr(lr)
                if isinstance(self.elbo, TemperedELBO):
                    self.elbo.set_step(self.step, self.pair.device)
                with self._validating(s):
                    loss = svi.step(self.batches.next())
                if not math.isfinite(loss):
                    self._restore(good)
                    raise TrainingError(
                        f"the loss became {loss} at step {self.step + 1} (learning rate {lr:.3g}): the last good state "
                        "is kept; try a smaller lr, clip_norm, or look for a scale that goes to zero"
                    )
                self.step += 1
                s.t += 1
                s.window.append(-loss)
                if s.t % record_every == 0 or s.t == s.steps:
                    if self._is_finite():
                        good = self._snapshot()
                    if self._record(s, lr, reporter):
                        stopped = "callback"
                        break
                due = s.t % check_every == 0 or s.t == s.steps
                if s.watched and due and not self._warming_up() and self._patience_ran_out():
                    stopped = "early stopping"
                    break
                self.after_step(self)
        self.adopt_average()
        if not self._is_finite():
            self._restore(good)
            raise TrainingError(
                f"the parameters are no longer finite at step {self.step}: the last good state is kept; try a "
                "smaller lr"
            )
        self.schedule = None
        if s.watched and self.watch.state is not None:
            self._restore(self.watch.state)
        elif self.validation is not None:
            self.history.annotate(validation_elbo=float(self._judge(self.validation).mean()))
        return stopped

    def _begin(self, schedule: _Schedule) -> None:
        self.schedule = schedule
        self.optim = self.make_optim()
        self.optim.join(self.trained)
        self.average = PolynomialAverage(self.trained) if self.averaging else None
        self.watch.reset()

    def _svi(self, s: _Schedule) -> SVI:
        if self.svi is None:
            chosen = {id(p) for p in self.trained}
            # The loss a row, so that a clipped gradient or a printed loss means the same for any number of rows.
            scale = 1.0 / self.batches.num_rows
            self.svi = SVI(
                poutine.scale(self.pair.run_model, scale),
                poutine.scale(self.pair.run_guide, scale),
                self.optim,
                self.elbo,
                trainable=lambda tensor: id(tensor) in chosen,
                compile=self.compile,
                ready=True,
            )
        # The same steps, on the momenta and averages of this schedule.
        self.svi.optim, self.svi.average = self.optim, self.average
        # What is planned depends on the schedule alone, never on where in it a training was taken up again.
        self.svi.planned_steps = s.steps * self.schedules if s.bounded else max(s.steps, 3 * _FIRST_ROUND)
        return self.svi

    def _validating(self, s: _Schedule) -> AbstractContextManager[None]:
        # What Pyro checks at every step the first one has shown, and a loss that is not finite is noticed by the loop.
        if self.svi is not None and self.svi.explain().mode != "eager":
            return nullcontext()
        validating: AbstractContextManager[None] = pyro.validation_enabled(
            pyro.settings.get("validate_poutine") and s.t == 0
        )
        return validating

    def _record(self, s: _Schedule, lr: float, reporter: Reporter) -> bool:
        """Add a record to the history; True when a callback wants to stop."""
        elbo = float(np.mean(s.window))
        s.window.clear()
        epoch = self.step / max(1, self.batches.num_rows // self.batches.batch_size)
        self.history.add(step=self.step, epoch=epoch, lr=lr, elbo=elbo)
        reporter.update(self.step, s.first + s.steps, f"ELBO {elbo:.4f} nats/row")
        state = TrainingState(self.pair, self.step, s.first + s.steps, elbo, lr)
        for callback in self.callbacks:
            callback(state)
        return state.stopping

    def _patience_ran_out(self) -> bool:
        assert self.validation is not None
        with self._average_in_place():
            value = float(self._judge(self.validation).mean())
            self.history.annotate(validation_elbo=value)
            return self.watch.see(value, self._snapshot())

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the rest of this training depends on, as tensors and plain JSON."""
        s = self.schedule
        assert s is not None
        tensors, generators = checkpoint.random_state()
        tensors = {f"random.{name}": t for name, t in tensors.items()}
        tensors |= {f"pair.{name}": t for name, t in self.pair.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{i}": t for i, t in enumerate(self.average.averages)}
        tensors |= {f"batches.{name}": t for name, t in self.batches.state().items()}
        tensors |= {f"best.{name}": t for name, t in self.best_state.items()}
        tensors |= {f"watch.{name}": t for name, t in (self.watch.state or {}).items()}
        tensors["judged"] = self.best
        optim = self.optim.get_state()
        for i, slots in optim["state"].items():
            tensors |= {f"optim.{i}.{slot}": value for slot, value in slots.items() if isinstance(value, Tensor)}
        scalars = {
            "random": generators,
            "schedule": vars(s),
            "rounds": {"length": self.length, "last_gain": self.last_gain, "lr": self.lr},
            "watch": {"best": self.watch.best, "since": self.watch.since},
            "step": self.step,
            "history": self.history.records,
        }
        return tensors, scalars

    def resume(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        """Take up what :meth:`checkpoint` gave, after :meth:`prepare`."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

        device = self.pair.device
        self._restore(part("pair."))
        self._begin(_Schedule(**scalars["schedule"]))
        if self.average is not None:
            for i, average in enumerate(self.average.averages):
                average.copy_(tensors[f"average.{i}"])
            self.average.count.fill_(scalars["schedule"]["t"])
        self.batches.restore(part("batches."))
        self.best_state = {name: t.to(device) for name, t in part("best.").items()}
        self.best = tensors["judged"]
        self.watch.best, self.watch.since = scalars["watch"]["best"], scalars["watch"]["since"]
        self.watch.state = {name: t.to(device) for name, t in part("watch.").items()} or None
        state = self.optim.get_state()
        for name, value in part("optim.").items():
            index, slot = name.split(".", 1)
            state["state"].setdefault(int(index), {})[slot] = value
        self.optim.set_state(state)
        self.step = scalars["step"]
        self.history = History(scalars["history"])
        rounds = scalars["rounds"]
        self.length, self.last_gain, self.lr = rounds["length"], rounds["last_gain"], rounds["lr"]
        checkpoint.set_random_state(part("random."), scalars["random"])

    def _feeding(self) -> AbstractContextManager[None]:
        return feeding(self.batches.num_rows, complete=self.batches.complete)

    def adopt_average(self) -> None:
        """Let the parameters be their average."""
        if self.average is not None:
            with torch.no_grad():
                for parameter, average in zip(self.trained, self.average.averages, strict=True):
                    parameter.copy_(average)

    def _judge(self, x: Tensor) -> Tensor:
        """Mean bound of the rows for each of a few draws, the same noise every time it is asked.

        It is the ELBO, or the importance-weighted bound where that is trained, which gains while the ELBO may lose.
        """
        importance = self.elbo.num_particles if isinstance(self.elbo, ImportanceWeightedELBO) else 1
        fewest, most = _JUDGED_DRAWS
        draws = min(most, max(fewest, _JUDGED_ENTRIES // max(1, x.numel() * importance)))
        with self.pair.evaluating():
            return elbo_draws(self.pair, x, draws, num_rows=self.batches.num_rows, importance=importance)

    def _snapshot(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.pair.state_dict().items()}

    def _warming_up(self) -> bool:
        # Until then the ELBO may fall while all is well.
        return isinstance(self.elbo, TemperedELBO) and self.step < self.elbo.warmup_steps

    def _is_finite(self) -> bool:
        return all(bool(torch.isfinite(p).all()) for p in self.trained)

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
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
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
