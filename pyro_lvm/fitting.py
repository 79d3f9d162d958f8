"""Training a pair: ``fit``."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor

from pyro_lvm import checkpoint as checkpoints
from pyro_lvm.batches import make_batches
from pyro_lvm.checking import quick_check
from pyro_lvm.checking.running import quiet
from pyro_lvm.data import GreyRows, RowStream, as_rows
from pyro_lvm.errors import DataError, TrainingError
from pyro_lvm.history import History
from pyro_lvm.pair import Half, Pair, refuse_holes
from pyro_lvm.progress import Reporter
from pyro_lvm.seeding import seeded
from pyro_lvm.svi import FusedOptim
from pyro_lvm.tempering import TemperedELBO
from pyro_lvm.training import DECAYS, Callback, Decay, Trainer

_DEFAULT_LR = 0.01
_DEFAULT_TOLERANCE = 1e-3
# Multiplications a step below which a second thread costs more than it brings, and much more where cores are shared.
_ONE_THREAD_WORK = 20_000_000


@dataclass
class FitResult:
    """A trained pair and how it came to be.

    Attributes:
        pair: The trained pair.
        history: One record for every hundredth of a schedule.
        stopped: Why training ended: ``converged``, ``budget``, ``early stopping``, ``not converged`` (the limit of
            steps came first), ``interrupted``, ``callback``, or ``closed form``.
        steps: Steps taken.
        seconds: Time taken.
        num_rows: Rows trained on.
        device: Where.
        validation: The rows held out, or None; their place in the data is :attr:`validation_rows`.
    """

    pair: Pair
    history: History
    stopped: str
    steps: int
    seconds: float
    num_rows: int
    device: str
    validation_rows: np.ndarray[Any, np.dtype[np.int64]] | None = None

    @property
    def converged(self) -> bool:
        """Whether training stopped by its own measure of convergence, or needed none."""
        return self.stopped in ("converged", "closed form")

    def __str__(self) -> str:
        """One line."""
        last = self.history.records[-1]["elbo"] if len(self.history) else None
        elbo = "" if last is None else f", ELBO {last:.4f} nats a row at the end"
        rows = f"{self.steps:,} steps on {self.num_rows:,} rows"
        return f"{self.stopped}: {rows}, {self.seconds:.1f} s on {self.device}{elbo}"

    def __repr__(self) -> str:
        return f"FitResult({self})"


def fit(
    model: Half,
    guide: Half,
    data: Any,
    *,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int = 256,
    lr: float | None = None,
    decay: Decay | None = None,
    elbo: ELBO | type[ELBO] | None = None,
    particles: int = 1,
    train: Literal["both", "guide", "model"] = "both",
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    optimizer_options: dict[str, Any] | None = None,
    clip_norm: float | None = None,
    averaging: bool = True,
    validation: float | Tensor | None = None,
    patience: int = 5,
    tolerance: float | None = None,
    max_steps: int = 200_000,
    start: bool = True,
    device: str | torch.device = "auto",
    seed: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 60.0,
    resume: bool = False,
    compile: bool | Literal["auto"] = "auto",
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    pair: Pair | None = None,
) -> FitResult:
    r"""Train a pair by stochastic variational inference: ``pyro.infer.SVI`` on the ELBO a row.

    Adam's rate falls as lr * 0.001^(t/T) over T steps, or along a cosine, and the parameters are averaged with weight
    9 / (t + 8) (polynomial-decay averaging; Shamir and Zhang 2013). With a budget (``steps`` or ``epochs``) T is the
    budget. Without one, rounds of 2000, 4000, 8000, ... steps follow each other until the next, judging by the gains of
    the last two, would gain less than ``tolerance`` nats a row; a round that lost is taken back and the rate divided by
    three.

    Args:
        model: ``model(x)``; see :class:`pyro_lvm.Pair`.
        guide: ``guide(x)``.
        data: Rows: a tensor (rows, ...), an array, a table, a :class:`pyro_lvm.data.Dataset`, or a
            :class:`pyro_lvm.data.RowStream` of a file that need not fit in memory, or :class:`pyro_lvm.data.GreyRows`
            to be binarized anew in each batch; NaN where missing.
        steps: Budget in gradient steps.
        epochs: Budget in passes over the rows, instead of ``steps``.
        batch_size: Rows a step; all of them where there are fewer.
        lr: First learning rate; None for the model's ``learning_rate``, else 0.01.
        decay: How the rate falls: ``"exponential"``, or ``"cosine"``, which keeps it up for longer, as networks want
            it; None for the model's ``decay``, else exponential.
        elbo: A Pyro ELBO, or a class of one; None for what the pair asks for (:attr:`pyro_lvm.Pair.elbo`), else
            ``Trace_ELBO``.
        particles: Draws a row and step, for an ELBO that is not given as an object.
        train: ``"both"``, or one half alone: ``"guide"`` is the variational E-step, ``"model"`` the M-step.
        optimizer: A ``torch.optim`` class; one object of it steps all parameters.
        optimizer_options: Its other arguments.
        clip_norm: Largest norm of the gradient of the loss a row.
        averaging: Whether to average the parameters.
        validation: Held-out rows, or the fraction to hold out at random; training stops early once their ELBO has
            worsened, and the best parameters are kept. None for no rows; without a budget for the fraction that the
            model names as its ``validation``, since one that can learn rows by heart never converges on them.
        patience: Checks without gain on the validation rows that end a budget early; twenty are made.
        tolerance: Nats a row that a further round would have to gain, where there is no budget; None for the model's
            ``tolerance``, else 0.001.
        max_steps: Limit where there is no budget.
        start: Give what is trained and has not been started a start from data (:meth:`pyro_lvm.Pair.start`).
        device: ``"auto"`` takes CUDA where there is one.
        seed: Of batches, noise and starts. The caller's random state is left as it was.
        checkpoint: File to store the training in, so that it can be resumed after whatever ended it.
        checkpoint_every: Seconds between two checkpoints; 0 for one after each step.
        resume: Go on from ``checkpoint``: the same parameters and history, bit for bit, as if nothing had happened. The
            pair, the data and the options must be the same.
        compile: Whether steps are traced and compiled (:class:`pyro_lvm.compiled.SVI`): ``"auto"`` where it pays for so
            many steps, True always, False never. The numbers are the same up to rounding; a training may be resumed
            in another mode.
        callbacks: Called with a :class:`TrainingState` for each record of the history.
        progress: Show how far it is, with the current ELBO.
        pair: The :class:`pyro_lvm.Pair` that ``model`` and ``guide`` are of, where there is one already.

    Returns:
        The trained pair and its history. Ctrl-C ends training and keeps what was learned.

    Raises:
        DataError: The data cannot be used.
        PairError: The pair cannot be used with the data.
        TrainingError: Options contradict each other or the checkpoint's, or the loss is not finite (the pair then holds
            its last good state).
        ArtifactError: The checkpoint can't be read or written.

    Example:
        >>> from pyro_lvm import data, fit
        >>> from pyro_lvm.guides import LinearGaussian
        >>> from pyro_lvm.models import PPCA
        >>> result = fit(PPCA(64, 2), LinearGaussian(64, 2), data.load("digits"), steps=20)
        >>> result.stopped
        'budget'
    """
    if tolerance is None:
        tolerance = float(getattr(pair.model if pair is not None else model, "tolerance", _DEFAULT_TOLERANCE))
    _check_options(steps, epochs, batch_size, lr, particles, train, tolerance, max_steps, patience, compile)
    if resume and checkpoint is None:
        raise TrainingError("resume needs the checkpoint to resume from: give checkpoint=PATH")
    if decay is not None and decay not in DECAYS:
        raise TrainingError(f"decay={decay!r}: expected one of {', '.join(DECAYS)}")
    target = choose_device(device)
    rows = data if isinstance(data, (RowStream, GreyRows)) else _to_tensor(data)
    if validation is None and not isinstance(rows, RowStream):
        validation = default_validation(pair.model if pair is not None else model, steps, epochs)
    train_rows, validation_rows, held_out = hold_out(rows, validation, seed)
    pair = pair if pair is not None else Pair(model, guide)
    elbo = elbo if elbo is not None else pair.elbo
    batches = make_batches(train_rows, batch_size, target)
    refuse_holes(pair, batches.sample)
    refuse_holes(pair, validation_rows)
    fingerprint = {
        "pair": [repr(pair), pair.config],
        "rows": [batches.num_rows, *batches.sample.shape[1:]],
        "sample": hashlib.sha256(batches.sample.cpu().contiguous().numpy().tobytes()).hexdigest(),
        "elbo": None if elbo is None else (elbo if isinstance(elbo, type) else type(elbo)).__name__,
        "tempering": elbo.options() if isinstance(elbo, TemperedELBO) else None,
        "steps": steps,
        "epochs": epochs,
        "batch_size": batches.batch_size,
        "lr": lr,
        "decay": decay,
        "particles": particles,
        "train": train,
        "optimizer": [getattr(optimizer, "__name__", str(optimizer)), str(optimizer_options), clip_norm],
        "averaging": averaging,
        "validation": list(validation.shape) if isinstance(validation, Tensor) else validation,
        "patience": patience,
        "tolerance": tolerance,
        "max_steps": max_steps,
        "seed": seed,
        "device": target.type,
    }
    trainer = Trainer(
        pair=pair,
        batches=batches,
        validation=None if validation_rows is None else validation_rows.to(target),
        lr=lr if lr is not None else float(getattr(pair.model, "learning_rate", _DEFAULT_LR)),
        decay=decay if decay is not None else getattr(pair.model, "decay", "exponential"),
        make_elbo=lambda: fresh_elbo(elbo, particles),
        make_optim=lambda: FusedOptim(optimizer, dict(optimizer_options or {}), clip_norm),
        averaging=averaging,
        patience=patience,
        callbacks=callbacks,
        after_step=_checkpointer(checkpoint, checkpoint_every, fingerprint),
        compile=compile,
    )
    began = time.perf_counter()
    if epochs is not None:
        steps = max(1, round(epochs * max(1, batches.num_rows // batches.batch_size)))
    if isinstance(elbo, TemperedELBO):
        _check_tempering(elbo, steps)
    with seeded(seed), Reporter("fitting", enabled=progress) as reporter:
        # On the CPU first: parameters that appear when the pair first runs must do so before it moves to its device.
        pair.to("cpu")
        here = batches.sample.cpu()
        if start:
            pair.start(here, torch.Generator().manual_seed(seed), train=train)
        # A broken pair is refused in a fraction of a second, with what is wrong, instead of training to nothing.
        quick_check(pair, here[: batches.batch_size], num_rows=batches.num_rows, elbo=elbo)
        pair.materialize(here[: batches.batch_size])
        pair.to(target)
        trainer.prepare(train)
        if resume and checkpoint is not None:
            _resume(trainer, checkpoint, fingerprint)
        try:
            with quiet("pyro.infer.elbo"), few_threads(pair, batches.batch_size):
                stopped = (
                    trainer.run_schedule(steps, reporter)
                    if steps is not None
                    else trainer.run_until_converged(tolerance, max_steps, reporter)
                )
        except KeyboardInterrupt:
            trainer.adopt_average()
            stopped = "interrupted"
    return FitResult(
        pair=pair,
        history=trainer.history,
        stopped=stopped,
        steps=trainer.step,
        seconds=time.perf_counter() - began,
        num_rows=batches.num_rows,
        device=str(target),
        validation_rows=held_out,
    )


def _checkpointer(path: str | Path | None, every: float, fingerprint: dict[str, Any]) -> Callable[[Trainer], None]:
    last = time.monotonic()

    def after_step(trainer: Trainer) -> None:
        nonlocal last
        if path is None or time.monotonic() - last < every:
            return
        tensors, scalars = trainer.checkpoint()
        checkpoints.write(path, tensors, {"fingerprint": fingerprint, **scalars})
        last = time.monotonic()

    return after_step


def _resume(trainer: Trainer, path: str | Path, fingerprint: dict[str, Any]) -> None:
    tensors, scalars = checkpoints.read(path)
    # Through JSON, as the stored one went.
    expected = json.loads(json.dumps(fingerprint))
    differing = [name for name in expected if expected[name] != scalars.get("fingerprint", {}).get(name)]
    if differing:
        raise TrainingError(
            f"the checkpoint '{path}' is of another training (its {', '.join(differing)} differ): resume with the same "
            "pair, data and options, or start without resuming"
        )
    trainer.resume(tensors, scalars)


def _check_options(
    steps: int | None,
    epochs: float | None,
    batch_size: int,
    lr: float | None,
    particles: int,
    train: str,
    tolerance: float,
    max_steps: int,
    patience: int,
    compile: bool | str,
) -> None:
    if steps is not None and epochs is not None:
        raise TrainingError(f"steps={steps} and epochs={epochs}: give one budget or none, not both")
    if compile not in (True, False, "auto"):
        raise TrainingError(f"compile={compile!r}: expected 'auto', True or False")
    if train not in ("both", "guide", "model"):
        raise TrainingError(f"train={train!r}: expected 'both', 'guide' or 'model'")
    for name, value in (
        ("steps", steps),
        ("epochs", epochs),
        ("batch_size", batch_size),
        ("lr", lr),
        ("particles", particles),
        ("tolerance", tolerance),
        ("max_steps", max_steps),
        ("patience", patience),
    ):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise TrainingError(f"{name}={value}: expected a positive number")


def _check_tempering(elbo: TemperedELBO, steps: int | None) -> None:
    if steps is None:
        raise TrainingError(
            "a tempered ELBO needs a budget: convergence is judged by the ELBO, which is not what it trains; give "
            "steps or epochs"
        )
    if elbo.warmup_steps > steps:
        warnings.warn(
            f"the warm-up of {elbo.warmup_steps} steps outlasts training, {steps} steps: the KL terms never get their "
            f"whole weight, and the guide stays too narrow; train longer, or warm up for fewer than {steps}",
            stacklevel=3,
        )


def choose_device(device: str | torch.device) -> torch.device:
    """The device of a name; ``"auto"`` takes CUDA where there is one.

    Raises:
        TrainingError: It is not to be had.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(
            f"device {str(device)!r} is not to be had here ({str(error).splitlines()[0]}): use 'auto', 'cpu' or 'cuda'"
        ) from error
    return chosen


def _to_tensor(data: Any) -> Tensor:
    if isinstance(data, Tensor):
        # As it is, whatever its shape: a pair of one's own may want images, sequences or counts.
        if data.dim() < 1 or len(data) < 2:
            raise DataError(f"the data has shape {tuple(data.shape)}: expected at least 2 rows")
        if data.is_floating_point() and bool(torch.isinf(data).any()):
            raise DataError(f"the data has {int(torch.isinf(data).sum())} infinite entries: remove or replace them")
        return data.float() if data.is_floating_point() else data
    return as_rows(data).rows


def default_validation(model: Any, steps: int | None, epochs: float | None) -> float | None:
    """The fraction that :func:`fit` holds out where it is not told: the model's ``validation``, without a budget.

    Args:
        model: A model.
        steps, epochs: The budget.
    """
    return getattr(model, "validation", None) if steps is None and epochs is None else None


def hold_out(
    rows: Any, validation: float | Tensor | None, seed: int
) -> tuple[Any, Tensor | None, np.ndarray[Any, np.dtype[np.int64]] | None]:
    """Part rows into those to train on and those to validate on.

    Args:
        rows: All rows.
        validation: The fraction to hold out at random, or the rows to validate on, or None.
        seed: Of the choice.

    Returns:
        The training rows, the validation rows or None, and the latter's places in ``rows`` or None.

    Raises:
        DataError: The validation rows' shape isn't the training rows'.
        TrainingError: The fraction leaves too few rows on one side.
    """
    if validation is None:
        return rows, None, None
    if isinstance(rows, RowStream) and not isinstance(validation, Tensor):
        raise TrainingError(f"validation={validation} of a stream: give the validation rows themselves, as a tensor")
    if isinstance(validation, Tensor):
        if not isinstance(rows, RowStream) and validation.shape[1:] != rows.shape[1:]:
            raise DataError(
                f"validation rows have shape {tuple(validation.shape[1:])}, the training rows "
                f"{tuple(rows.shape[1:])}: expected the same"
            )
        return rows, validation, None
    count = round(validation * len(rows)) if 0 < validation < 1 else 0
    if not (count > 0 and len(rows) - count >= 2):
        raise TrainingError(
            f"validation={validation} of {len(rows)} rows: expected a fraction between 0 and 1 that leaves at least "
            "one row to validate on and two to train on"
        )
    order = np.random.default_rng(seed).permutation(len(rows))
    held_out = np.sort(order[:count])
    kept = np.sort(order[count:])
    validation_rows = rows[torch.from_numpy(held_out)]
    if isinstance(validation_rows, GreyRows):
        # Looked at again and again: always the same draw.
        validation_rows = validation_rows.fixed
    return rows[torch.from_numpy(kept)], validation_rows, held_out


def fresh_elbo(elbo: ELBO | type[ELBO] | None, particles: int) -> ELBO:
    """An ELBO that has seen no pair: the one that is given, one of the class, or ``Trace_ELBO``.

    Args:
        elbo: What was asked for.
        particles: Draws a row and step, where it is no object.
    """
    if elbo is None:
        return Trace_ELBO(num_particles=particles)
    if isinstance(elbo, type):
        return elbo(num_particles=particles)
    # An ELBO object remembers the plates of the first pair that it saw.
    return copy.copy(elbo)


@contextmanager
def few_threads(pair: Pair, batch_size: int) -> Iterator[None]:
    """Within the context, one thread steps a pair that is too small for a second one.

    Args:
        pair: The pair, where it is trained.
        batch_size: Rows a step.
    """
    before = torch.get_num_threads()
    work = batch_size * sum(p.numel() for _, p in pair.named_parameters())
    if pair.device.type == "cpu" and work < _ONE_THREAD_WORK:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
