"""Gradients: whether the ELBO can be differentiated, and reaches every parameter that it depends on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from pyro.infer import TraceTailAdaptive_ELBO
from torch import Tensor

from pyro_lvm.checking.findings import Finding, Severity
from pyro_lvm.checking.running import Runner, first_line, named_site
from pyro_lvm.checking.view import View

# The ELBO under the same noise is the same number: a change of more than rounding is the parameter's doing.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class _Parameter:
    """A tensor that may be trained: its name, and whether Pyro sees it and the pair owns it."""

    name: str
    tensor: Tensor
    seen: bool
    owned: bool


def _parameters(view: View) -> list[_Parameter]:
    runner = view.runner
    found: dict[int, _Parameter] = {}
    seen = view.joint.parameters
    for name, tensor in runner.pair.named_parameters():
        found[id(tensor)] = _Parameter(_readable(name.removeprefix("store.")), tensor, id(tensor) in seen, True)
    for tensor_id, (name, tensor) in seen.items():
        found.setdefault(tensor_id, _Parameter(_readable(name), tensor, True, True))
    for owner, module in runner.modules.items():
        for name, tensor in module.named_parameters():
            found.setdefault(id(tensor), _Parameter(f"{owner}.{name}", tensor, False, False))
    return [p for p in found.values() if p.tensor.requires_grad and p.tensor.is_leaf]


def _readable(name: str) -> str:
    return name.replace("$$$", ".")


def check_gradients(view: View, draws: int) -> Iterator[Finding]:
    """Whether each parameter that the ELBO depends on receives a finite gradient.

    Args:
        view: The pair's traces.
        draws: Times that the gradient is computed, each with its own noise.
    """
    runner, x = view.runner, view.x
    parameters = _parameters(view)
    missing = {id(p.tensor) for p in parameters}
    broken: dict[int, str] = {}
    for seed in range(draws):
        gradients, outcome = runner.gradients(x, [p.tensor for p in parameters], seed=seed)
        if isinstance(outcome, Exception):
            yield elbo_raises(runner, outcome)
            return
        # The tail-adaptive objective has a gradient and no value, for which it says infinity.
        if not math.isfinite(outcome) and not issubclass(runner.elbo_class, TraceTailAdaptive_ELBO):
            yield Finding(
                "log-prob-not-finite",
                "error",
                None,
                f"the loss is {outcome}: look for a scale that goes to zero, or a sum of infinities",
            )
            return
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                missing.discard(id(parameter.tensor))
                if not bool(torch.isfinite(gradient).all()):
                    broken[id(parameter.tensor)] = "NaN" if bool(gradient.isnan().any()) else "infinite"
    yield from _not_finite([p for p in parameters if id(p.tensor) in broken], broken)
    silent = [p for p in parameters if id(p.tensor) in missing or not p.seen]
    if silent:
        yield from _sort_silent(view, silent, missing)


def elbo_raises(runner: Runner, error: Exception) -> Finding:
    """The finding that the ELBO can't be computed."""
    return Finding(
        "elbo-raises",
        "error",
        named_site(error),
        f"{runner.elbo_class.__name__} raises {first_line(error)}: the traces are sound one by one, so look at what "
        "this ELBO adds to them (enumerated or vectorized dimensions on the left, the gradient)",
    )


def _not_finite(parameters: list[_Parameter], broken: dict[int, str]) -> Iterator[Finding]:
    if parameters:
        first = parameters[0]
        yield _about(
            "gradient-not-finite",
            "error",
            parameters,
            f"its gradient is {broken[id(first.tensor)]} while the loss is finite: a NaN that is masked after it was "
            "made, or a square root or logarithm at 0; fill before masking, and keep away from 0",
        )


def _sort_silent(view: View, silent: list[_Parameter], missing: set[int]) -> Iterator[Finding]:
    """Tell the parameters that the ELBO depends on, though no gradient arrives, from those that change nothing."""
    runner, x = view.runner, view.x
    before, error = runner.loss(x)
    if error is not None:
        return
    detached, unregistered, unused = [], [], []
    for parameter in silent:
        reached = id(parameter.tensor) not in missing
        matters = reached or not math.isclose(
            before, runner.perturbed_loss(x, parameter.tensor), rel_tol=_ROUNDING, abs_tol=_ROUNDING
        )
        if matters and not parameter.seen:
            unregistered.append(parameter)
        elif matters:
            detached.append(parameter)
        elif parameter.owned:
            unused.append(parameter)
    if detached:
        yield _about(
            "gradient-absent",
            "error",
            detached,
            "the ELBO depends on it, but no gradient reaches it, so it would never be trained: look for .detach(), "
            ".data, .item(), numpy, or torch.no_grad() on the way",
        )
    if unregistered:
        yield _about(
            "parameter-not-registered",
            "error",
            unregistered,
            "the ELBO depends on it, but Pyro never sees it, so it would never be trained or saved: call "
            "pyro.module(name, module) in the half that runs it, or make the half a PyroModule that owns it",
        )
    if unused:
        yield _about("parameter-unused", "warning", unused, "it changes nothing: use it or remove it")


def _about(code: str, severity: Severity, parameters: list[_Parameter], message: str) -> Finding:
    first, others = parameters[0].name, [p.name for p in parameters[1:]]
    also = (
        f" (also {', '.join(others[:3])}{f' and {len(others) - 3} more' if len(others) > 3 else ''})" if others else ""
    )
    return Finding(code, severity, first, f"parameter '{first}'{also}: {message}")
