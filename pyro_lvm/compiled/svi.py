"""SVI at the speed of a hand-written compiled step, for anyone's model and guide."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pyro
import torch
from pyro.infer import ELBO, TraceEnum_ELBO
from pyro.infer.util import torch_item
from pyro.poutine import runtime
from torch import Tensor

from pyro_lvm import svi
from pyro_lvm.compiled.averaging import PolynomialAverage
from pyro_lvm.compiled.capture import Untraceable
from pyro_lvm.compiled.entry import Entry, key_of
from pyro_lvm.compiled.optimizers import Binding, OptimizerOutside
from pyro_lvm.compiled.policy import break_even, should_compile, should_trace
from pyro_lvm.compiled.preserving import preserved
from pyro_lvm.compiled.program import DamagedCache, Uncompilable, compile_step, refuse_shared_memory, write_step
from pyro_lvm.compiled.report import Report
from pyro_lvm.compiled.tracing import trace
from pyro_lvm.compiled.verification import Disagreement, verify_compiled, verify_traced
from pyro_lvm.errors import TrainingError

# Steps of one graph between two comparisons with eager Pyro, each of which costs about one eager step more.
_VERIFY_EVERY = 5_000
_VERIFY_FIRST = 100
_SEED = 20_000
# Graphs kept at a time, and graphs of one shape that may differ by a Python value before it is taken to be different
# at every step.
_MOST_ENTRIES = 16
_MOST_VALUES = 8
_LOOK_EVERY = 100


class SVI(svi.SVI):
    r"""A drop-in for :class:`pyro.infer.SVI` whose steps are traced to tensor operations and compiled as one graph.

    Model, guide and ELBO are anyone's. The first step is Pyro's own; then the handlers run once more to trace the loss
    and every gradient, which are compared with eager Pyro's under the same noise; the optimizer's step joins the graph,
    and Inductor compiles it where it pays. Draws come from PyTorch's generator in Pyro's order: the same seed gives the
    same losses, up to rounding. Whatever can't be had as a graph falls back to eager Pyro with one warning that says
    why, everything being as if nothing had been tried.

    Args:
        model, guide, optim, loss, loss_and_grads: As for :class:`pyro.infer.SVI`.
        trainable: Says of an unconstrained parameter whether it is trained; None trains all.
        compile: ``"auto"`` compiles where it pays, True at once, False never traces.
        planned_steps: Steps that will be taken, where that is known: ``"auto"`` then decides at once; else once as much
            time has been lost by not compiling as compiling takes.
        average: Averages to keep up with every step.
        ready: True promises that model and guide have run and that all parameters exist, so that the first step need
            not be Pyro's own; a training that is taken up again then goes on as if it had not stopped.
        autocast: A lower precision, as ``torch.bfloat16``, for the matrix products of model and guide; parameters and
            optimizer keep theirs. (TF32 is PyTorch's own setting: ``torch.set_float32_matmul_precision("high")``.)

    Example:
        >>> import pyro, torch
        >>> from pyro.distributions import Normal
        >>> from pyro_lvm.compiled import SVI
        >>> def model(x):
        ...     loc = pyro.param("loc", torch.tensor(0.0))
        ...     with pyro.plate("rows", len(x)):
        ...         pyro.sample("x", Normal(loc, 1.0), obs=x)
        >>> def guide(x):
        ...     pass
        >>> svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
        >>> losses = [svi.step(torch.ones(5)) for _ in range(3)]
        >>> svi.explain().mode
        'traced'
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: pyro.optim.PyroOptim,
        loss: Any,
        loss_and_grads: Callable[..., Any] | None = None,
        *,
        trainable: Callable[[Tensor], bool] | None = None,
        compile: bool | Literal["auto"] = "auto",
        planned_steps: int | None = None,
        average: PolynomialAverage | None = None,
        ready: bool = False,
        autocast: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        if loss_and_grads is not None:
            kwargs["loss_and_grads"] = loss_and_grads
        super().__init__(model, guide, optim, loss, trainable, **kwargs)
        if compile not in (True, False, "auto"):
            raise TrainingError(f"compile={compile!r}: expected 'auto', True or False")
        self.compile = compile
        self.planned_steps = planned_steps
        self.average = average
        self._entries: dict[tuple[Any, ...], list[Entry]] = {}
        self._report = Report()
        # What the last step was for and the compiled step that took it, if it was compiled.
        self._last: tuple[Any, Entry] | None = None
        self._eager = compile is False
        self._steps = 0
        self._ready = ready
        self._autocast = autocast
        if autocast is not None:
            self.loss_and_grads = self._in_precision(self.loss_and_grads, autocast)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """One gradient step.

        Returns:
            The loss, minus the ELBO in nats.
        """
        loss = self.step_tensor(*args, **kwargs)
        return loss.item() if isinstance(loss, Tensor) else loss

    def step_tensor(self, *args: Any, **kwargs: Any) -> Any:
        """One gradient step whose loss is not waited for.

        Returns:
            The loss as a tensor without dimensions; a number where the step was eager.
        """
        if self._ready and not self._steps:
            self._look_at_plates(args, kwargs)
        self._steps += 1
        self._last = None
        # The first step makes parameters, and a handler around this call is not a part of the model.
        if self._eager or not self._ready or runtime._PYRO_STACK or not self._may_trace():
            self._ready = True
            return self._eager_step(args, kwargs)
        key, batch = key_of(args, kwargs)
        entry = self._find(key)
        if entry is None:
            entry = self._make(key, args, kwargs, batch)
        elif entry.steps % _VERIFY_EVERY == _VERIFY_FIRST:
            entry = self._verify_again(entry, key, args, kwargs, batch)
        if entry is None:
            return self._eager_step(args, kwargs)
        if entry.compiled is None and not entry.stays_traced and self._pays(entry):
            self._compile(entry, batch)
        entry.steps += 1
        if entry.compiled is not None and (self._is_bound(entry) or self._bind(entry, batch)):
            loss = entry.run_compiled(batch)
            self._last = key, entry
            self._note("compiled")
        else:
            loss = entry.run_traced(batch, self.optim, self.trainable)
            if self.average is not None:
                self.average.update()
            self._note("traced")
        return loss

    def run(self, num_steps: int, *args: Any, batch_size: int | None = None, **kwargs: Any) -> Tensor:
        """Many steps, without waiting for the loss of each.

        Args:
            num_steps: How many.
            *args: The model's and the guide's arguments.
            batch_size: Rows a step: each takes as many rows of every tensor among ``args``, at random without
                replacement within an epoch, drawn on their device; None takes all rows every time.
            **kwargs: Further arguments, as they are.

        Returns:
            The losses, shape (num_steps,).

        Raises:
            TrainingError: The loss is not finite, which is looked at every hundred steps.
        """
        planned = self.planned_steps
        self.planned_steps = max(num_steps, planned or 0)
        losses: list[Any] = []
        batches = _batches(args, batch_size)
        try:
            while len(losses) < num_steps:
                losses.append(self.step_tensor(*next(batches), **kwargs))
                losses += self._repeat(min(_LOOK_EVERY, num_steps - len(losses)), batches, kwargs)
                self._refuse_not_finite(losses[-1])
        finally:
            self.planned_steps = planned
        # Stacked where they are: a device is waited for once.
        tensors = [loss if isinstance(loss, Tensor) else torch.as_tensor(loss) for loss in losses]
        return torch.stack([t.to(tensors[-1].device) for t in tensors]).cpu() if tensors else torch.empty(0)

    def _repeat(self, most: int, batches: Iterator[tuple[Any, ...]], kwargs: dict[str, Any]) -> list[Any]:
        """Take steps like the last one: between compiled ones no code runs that could change what they rely on."""
        losses: list[Any] = []
        last = self._last
        while len(losses) < most:
            arguments = next(batches)
            key, batch = key_of(arguments, kwargs) if last is not None else (None, [])
            if last is None or key != last[0] or last[1].steps % _VERIFY_EVERY == _VERIFY_FIRST:
                losses.append(self.step_tensor(*arguments, **kwargs))
                last = self._last
                continue
            last[1].steps += 1
            self._steps += 1
            losses.append(last[1].run_compiled(batch))
            self._note("compiled")
        return losses

    def explain(self) -> Report:
        """What has happened so far: how steps were taken, what it cost, and why anything is not compiled."""
        return self._report

    # ------------------------------------------------------------------ the steps' ways

    @staticmethod
    def _in_precision(loss_and_grads: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
        def run(model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
            device = next((a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), "cpu")
            # Weights change at every step: what was cast once may not be used again.
            with torch.autocast(device, dtype, cache_enabled=False):
                return loss_and_grads(model, guide, *args, **kwargs)

        return run

    def _look_at_plates(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # An ELBO that must know how deep plates nest runs the pair for it in its first step. The draws of that run are
        # no part of a training: one that is taken up again, with a fresh ELBO, would go on with other noise.
        elbo = getattr(self.loss, "__self__", None)
        if (
            isinstance(elbo, ELBO)
            and elbo.max_plate_nesting == float("inf")
            and (elbo.vectorize_particles or isinstance(elbo, TraceEnum_ELBO))
        ):
            with preserved():
                elbo._guess_max_plate_nesting(self.model, self.guide, args, kwargs)

    def _eager_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        loss = super().step(*args, **kwargs)
        if self.average is not None:
            self.average.update()
        self._note("eager")
        return loss

    def _note(self, mode: str) -> None:
        self._report.mode = mode
        self._report.steps[mode] += 1

    def _refuse_not_finite(self, loss: Any) -> None:
        value = float(torch_item(loss))
        if value != value or value in (float("inf"), float("-inf")):
            raise TrainingError(
                f"the loss is {value} at step {self._steps}: try a smaller learning rate, or look for a scale that "
                "goes to zero"
            )

    def _fall_back(self, reason: str) -> None:
        self._eager = True
        self._entries.clear()
        self._report.reasons.append(f"eager Pyro: {reason}")
        warnings.warn(f"SVI goes on as eager Pyro, which is slower but right: {reason}", stacklevel=5)

    # ------------------------------------------------------------------ graphs

    def _find(self, key: tuple[Any, ...]) -> Entry | None:
        for entry in self._entries.get(key, ()):
            if entry.changed() is None:
                return entry
        return None

    def _make(
        self, key: tuple[Any, ...], args: tuple[Any, ...], kwargs: dict[str, Any], batch: list[Tensor]
    ) -> Entry | None:
        known = self._entries.setdefault(key, [])
        if known:
            change = known[-1].changed()
            self._report.reasons.append(f"traced again: {change} changed")
            if len(known) >= _MOST_VALUES:
                self._fall_back(f"{change} is different at every step: pass it as a tensor")
                return None
        elif len(self._entries) > _MOST_ENTRIES:
            self._entries.pop(next(iter(self._entries)))
        began = time.perf_counter()
        try:
            traced = trace(self.loss_and_grads, self.model, self.guide, args, kwargs, self.trainable)
            verify_traced(
                traced, self.loss_and_grads, self.model, self.guide, args, kwargs, batch, _SEED, self._autocast
            )
        except (Untraceable, Disagreement) as error:
            self._fall_back(str(error))
            return None
        finally:
            self._report.trace_seconds += time.perf_counter() - began
        roots = [self.model, self.guide, *(a for a in (*args, *kwargs.values()) if not isinstance(a, Tensor))]
        entry = Entry(traced, roots)
        known.append(entry)
        self._report.traced += 1
        self._report.verified += 1
        self._report.operations = traced.num_operations
        return entry

    def _verify_again(
        self, entry: Entry, key: tuple[Any, ...], args: tuple[Any, ...], kwargs: dict[str, Any], batch: list[Tensor]
    ) -> Entry | None:
        began = time.perf_counter()
        seed = _SEED + entry.steps
        try:
            verify_traced(
                entry.traced, self.loss_and_grads, self.model, self.guide, args, kwargs, batch, seed, self._autocast
            )
        except Disagreement as error:
            warnings.warn(
                f"a traced step no longer agreed with eager Pyro ({error}) and is traced again: something that the "
                "model or the guide reads was replaced; the steps since the last comparison did not see it",
                stacklevel=4,
            )
            self._entries[key].remove(entry)
            return self._make(key, args, kwargs, batch)
        finally:
            self._report.trace_seconds += time.perf_counter() - began
        self._report.verified += 1
        return entry

    def _may_trace(self) -> bool:
        return self.compile is True or should_trace(self.planned_steps)

    def _pays(self, entry: Entry) -> bool:
        operations = entry.traced.num_operations
        self._report.break_even = break_even(operations)
        if self.compile is True:
            return True
        return should_compile(operations, entry.steps, self.planned_steps)

    def _compile(self, entry: Entry, batch: list[Tensor]) -> None:
        began = time.perf_counter()
        try:
            binding = Binding(self.optim, entry.traced.trained)
            entry.bind(binding, self.average)
            refuse_shared_memory(entry.traced, entry.lasting, batch)
            graph = write_step(entry.traced, binding.plan, binding.slots, self.average)
            with preserved():
                try:
                    compiled = compile_step(graph, [*entry.lasting, *batch])
                except DamagedCache as error:
                    self._report.reasons.append(f"compiled again: {error}")
                    compiled = compile_step(graph, [*entry.lasting, *batch])
                num_parameters = len(entry.traced.trained)
                num_momenta = sum(map(len, binding.slots))
                momenta = slice(num_parameters, num_parameters + num_momenta)
                verify_compiled(compiled, graph, entry.lasting, batch, momenta, num_parameters, _SEED, self._autocast)
        except OptimizerOutside as error:
            if not error.for_now:
                self._stay_traced(entry, str(error))
        except (Uncompilable, Disagreement) as error:
            self._stay_traced(entry, str(error))
            warnings.warn(f"SVI's steps are traced but not compiled, which is slower but right: {error}", stacklevel=4)
        else:
            entry.compiled = compiled
            self._report.compiled += 1
            self._capture(entry, batch)
        self._report.compile_seconds += time.perf_counter() - began

    def _capture(self, entry: Entry, batch: list[Tensor]) -> None:
        entry.capture(batch)
        if entry.stays_launched:
            self._report.reasons.append(f"compiled, but not captured as a CUDA graph: {entry.stays_launched}")

    def _stay_traced(self, entry: Entry, reason: str) -> None:
        entry.stays_traced = reason
        if f"traced, not compiled: {reason}" not in self._report.reasons:
            self._report.reasons.append(f"traced, not compiled: {reason}")

    def _is_bound(self, entry: Entry) -> bool:
        binding = entry.binding
        return binding is not None and binding.optim is self.optim and entry.average is self.average and binding.holds()

    def _bind(self, entry: Entry, batch: list[Tensor]) -> bool:
        """The optimizer or its state was replaced: the same graph goes on with the new tensors, if it may."""
        before = entry.binding
        assert before is not None
        try:
            binding = Binding(self.optim, entry.traced.trained)
        except OptimizerOutside as error:
            if not error.for_now:
                self._stay_traced(entry, str(error))
                entry.compiled = None
            return False
        same = binding.plan == before.plan and _alike(entry.average, self.average)
        entry.bind(binding, self.average)
        if not same:
            entry.compiled = None
            self._report.reasons.append("compiled again: the optimizer's options changed")
            self._compile(entry, batch)
        elif entry.captured is None and not entry.stays_launched:
            self._capture(entry, batch)
        return entry.compiled is not None


def _batches(args: tuple[Any, ...], batch_size: int | None) -> Iterator[tuple[Any, ...]]:
    rows = next((len(a) for a in args if isinstance(a, Tensor)), 0)
    if batch_size is None or batch_size >= rows:
        while True:
            yield args
    device = next(a.device for a in args if isinstance(a, Tensor))
    while True:
        for chosen in torch.randperm(rows, device=device)[: rows - rows % batch_size].split(batch_size):
            yield tuple(a.index_select(0, chosen) if isinstance(a, Tensor) else a for a in args)


def _alike(one: PolynomialAverage | None, other: PolynomialAverage | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.eta == other.eta and all(p is q for p, q in zip(one.parameters, other.parameters, strict=True))
