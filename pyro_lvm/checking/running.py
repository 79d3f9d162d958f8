"""Running a pair without leaving a mark: traces of both halves, whatever they raise, and the loss."""

from __future__ import annotations

import copy
import logging
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
from torch import Tensor, nn

from pyro_lvm.checking.state import Snapshot, find_modules, perturb
from pyro_lvm.pair import Pair, ParamCapture
from pyro_lvm.plate import feeding

Role = Literal["model", "guide"]
ROLES: tuple[Role, Role] = ("model", "guide")


@dataclass
class Run:
    """Both halves run once on the same rows.

    Attributes:
        num_rows: Rows B of the batch.
        traces: By role, as far as it came before it raised.
        errors: What a half raised, by role.
        overwritten: The halves that changed the rows in place.
        parameters: The unconstrained tensors that were used, by identity, with their names in Pyro.
    """

    num_rows: int
    traces: dict[Role, Any]
    errors: dict[Role, Exception] = field(default_factory=dict)
    overwritten: list[Role] = field(default_factory=list)
    parameters: dict[int, tuple[str, Tensor]] = field(default_factory=dict)


class Runner:
    """Runs a pair, and puts its state back after every run.

    Args:
        pair: The pair.
        num_rows: Rows N of the whole data set.
        elbo: A Pyro ELBO or a class of one; None for ``Trace_ELBO``.
    """

    def __init__(self, pair: Pair, num_rows: int, elbo: ELBO | type[ELBO] | None) -> None:
        self.pair = pair
        self.num_rows = num_rows
        self.elbo = elbo
        self.modules: dict[str, nn.Module] = {}
        for role, half in zip(ROLES, (pair.model, pair.guide), strict=True):
            for name, module in find_modules(half).items():
                if all(module is not other for other in self.modules.values()):
                    self.modules[name or role] = module
        # Once parameters that are made on first use exist, this is what every run starts from.
        self.kept = Snapshot(self.modules.values(), pair)

    @property
    def elbo_class(self) -> type[ELBO]:
        """The class of the ELBO in use."""
        if self.elbo is None:
            return Trace_ELBO
        return self.elbo if isinstance(self.elbo, type) else type(self.elbo)

    def keep(self) -> None:
        """Let every run from now on start from the state as it is."""
        self.kept = Snapshot(self.modules.values(), self.pair)

    def make_elbo(self) -> Any:
        """A fresh ELBO object: one that ran remembers the plates of the pair that it saw."""
        elbo: Any = Trace_ELBO() if self.elbo is None else self.elbo
        elbo = elbo() if isinstance(elbo, type) else copy.copy(elbo)
        for eager in (TraceEnum_ELBO, TraceMeanField_ELBO, Trace_ELBO):
            # Compiling takes seconds, and the compiled loss is the same.
            if type(elbo).__name__ == f"Jit{eager.__name__}":
                return eager(num_particles=elbo.num_particles, vectorize_particles=elbo.vectorize_particles)
        return elbo

    @contextmanager
    def mode(self, training: bool) -> Iterator[None]:
        """Within the context every module is in training or in evaluation mode."""
        before = self.kept
        try:
            for module in (m for root in self.modules.values() for m in root.modules()):
                module.training = training
            self.keep()
            yield
        finally:
            self.kept = before
            before.restore()

    @contextmanager
    def _alone(self, seed: int, *, validate: bool | None = None) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(quiet("pyro.infer.elbo"))
            stack.enter_context(poutine.block())
            stack.enter_context(feeding(self.num_rows))
            if validate is not None:
                stack.enter_context(pyro.validation_enabled(validate))
            pyro.set_rng_seed(seed)
            yield

    def run(
        self,
        x: Tensor,
        *,
        seed: int = 0,
        validate: bool | None = None,
        joint: bool = True,
        replay: Run | None = None,
        uncondition: bool = False,
        roles: tuple[Role, ...] = ("guide", "model"),
        restore: bool = True,
    ) -> Run:
        """Run both halves and trace them.

        Args:
            x: Rows, shape (rows, ...).
            seed: Of the draws.
            validate: Turn Pyro's validation on or off; None leaves it as the caller has it.
            joint: Run the model on what the guide draws, as training does; else on draws of its own, which shows
                what it is whatever the guide.
            replay: A run whose draws both halves take over.
            uncondition: Let the model draw what it observes.
            roles: The halves to run.
            restore: Put the state back afterwards.
        """
        traces: dict[Role, Any] = {role: poutine.Trace() for role in ROLES}
        result = Run(len(x), traces)
        halves: dict[Role, Callable[..., Any]] = {"guide": self.pair.run_guide, "model": self.pair.run_model}
        with self._alone(seed, validate=validate), torch.no_grad(), ParamCapture() as captured:
            for role in roles:
                with ExitStack() as stack:
                    tracer = stack.enter_context(poutine.trace())
                    # A trace of the model knows its own draws too, but can't be replayed where x is drawn as well.
                    source = replay.traces["guide" if uncondition else role] if replay is not None else None
                    if source is None and role == "model" and joint:
                        source = result.traces["guide"]
                    if source is not None:
                        stack.enter_context(poutine.replay(trace=source))
                    if uncondition and role == "model":
                        stack.enter_context(poutine.uncondition())
                    rows = x.clone()
                    with _closing_plates():
                        _, error = attempt(halves[role], rows)
                    if not torch.equal(_without_nan(rows), _without_nan(x)) or bool((rows.isnan() != x.isnan()).any()):
                        result.overwritten.append(role)
                    if error is not None:
                        result.errors[role] = error
                result.traces[role] = tracer.trace
        result.parameters = {i: (captured.names[i], t) for i, t in captured.tensors.items()}
        if restore:
            self.kept.restore()
        return result

    def loss(self, x: Tensor, *, seed: int = 0, restore: bool = True) -> tuple[float, Exception | None]:
        """The loss of the ELBO in use, NaN where it raises, and what it raised."""
        with self._alone(seed):
            value, error = attempt(lambda: self.make_elbo().loss(self.pair.run_model, self.pair.run_guide, x.clone()))
        if restore:
            self.kept.restore()
        return (math.nan if error is not None else _as_float(value)), error

    def gradients(self, x: Tensor, tensors: list[Tensor], *, seed: int = 0) -> tuple[list[Tensor | None], Any]:
        """The gradient of the loss for each tensor, None where none arrives; and what computing it raised."""
        for tensor in tensors:
            tensor.grad = None
        with self._alone(seed):
            value, error = attempt(
                lambda: self.make_elbo().loss_and_grads(self.pair.run_model, self.pair.run_guide, x.clone())
            )
        found = [tensor.grad for tensor in tensors]
        self.kept.restore()
        return found, error if error is not None else _as_float(value)

    def materialize(self, x: Tensor) -> None:
        """Make the parameters that are made on first use, and give them the values that wait for them."""
        with self._alone(0):
            self.pair.materialize(x)

    def perturbed_loss(self, x: Tensor, tensor: Tensor, *, seed: int = 0) -> float:
        """The loss with noise added to one parameter."""
        perturb([tensor], 0.5)
        value, _ = self.loss(x, seed=seed)
        return value


@contextmanager
def _closing_plates() -> Iterator[None]:
    """Close the plates that a half entered without ``with`` and left open when it raised."""
    depth, dims = len(_PYRO_STACK), list(_DIM_ALLOCATOR._stack)
    try:
        yield
    finally:
        del _PYRO_STACK[depth:]
        _DIM_ALLOCATOR._stack[:] = dims


@contextmanager
def quiet(logger_name: str) -> Iterator[None]:
    """Within the context a logger reports warnings and errors alone, as not the plates that an ELBO guesses."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def attempt(action: Callable[..., Any], *args: Any) -> tuple[Any, Exception | None]:
    """What an action returns, and what it raised."""
    try:
        return action(*args), None
    except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything
        return None, error


def first_line(error: Exception) -> str:
    """An exception's type and the first line of what it says."""
    text = str(error).strip()
    line = text.splitlines()[0].strip() if text else "no message"
    return f"{type(error).__name__}: {textwrap.shorten(line, 200, placeholder=' ...')}"


def named_site(error: Exception) -> str | None:
    """The site that one of Pyro's own messages names."""
    match = re.search(r"at site '?\"?([\w.$]+)|(?:site|sites) named '([^']+)'|log_prob at site '([^']+)'", str(error))
    return next((name for name in match.groups() if name), None) if match else None


def _without_nan(x: Tensor) -> Tensor:
    return torch.nan_to_num(x) if x.is_floating_point() else x


def _as_float(value: Any) -> float:
    # Reweighted wake-sleep gives a loss for each half.
    if isinstance(value, tuple):
        return float(sum(_as_float(part) for part in value))
    return float(value)
