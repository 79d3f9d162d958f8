"""The optimizer's step as operations of a graph, on the very tensors that the torch optimizer holds.

Momenta, step counts and rates stay where ``torch.optim`` (or Pyro's ``ClippedAdam``) keeps them, so that ``get_state``
and ``save`` give what eager Pyro would, and a run can go on in either mode at any step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.optim.clipped_adam import ClippedAdam
from torch import Tensor

from pyro_lvm.svi import FusedOptim

# What the graphs of this module understand, by optimizer; another option than these leaves the optimizer outside.
_OPTIONS: dict[type, tuple[str, ...]] = {
    torch.optim.Adam: ("betas", "eps", "weight_decay"),
    torch.optim.AdamW: ("betas", "eps", "weight_decay"),
    ClippedAdam: ("betas", "eps", "weight_decay", "clip_norm", "centered_variance"),
    torch.optim.SGD: ("momentum", "dampening", "weight_decay", "nesterov"),
}
# What makes AdamW of Adam, and is told by the class here.
_DECOUPLED = "decoupled_weight_decay"
_NEUTRAL = ("lr", "lrd", "params", "initial_lr", "fused", "foreach", "differentiable", "capturable", _DECOUPLED)


class OptimizerOutside(Exception):
    """The optimizer can't be part of the graph, for now or ever; the message says why."""

    def __init__(self, message: str, *, for_now: bool = False) -> None:
        super().__init__(message)
        self.for_now = for_now


@dataclass(frozen=True)
class Rule:
    """How one parameter is updated: all that is written into the graph as numbers.

    Attributes:
        kind: Class of the torch optimizer.
        options: Its options by name.
        rate: Place of its learning rate among the rates.
        clip_norm, clip_value: Pyro's clipping of this parameter's gradient alone.
        step_from: Index of the parameter whose step count it shares.
    """

    kind: type
    options: tuple[tuple[str, Any], ...]
    rate: int
    clip_norm: float | None
    clip_value: float | None
    step_from: int


@dataclass(frozen=True)
class Plan:
    """An optimizer's step over all parameters; two optimizers with equal plans share a compiled graph.

    Attributes:
        rules: One a parameter.
        whole_clip_norm: Largest norm of the whole gradient.
    """

    rules: tuple[Rule, ...]
    whole_clip_norm: float | None

    def apply(
        self,
        parameters: Sequence[Any],
        gradients: Sequence[Any],
        slots: Sequence[dict[str, Any]],
        steps: Any,
        rates: Any,
        dtypes: Sequence[torch.dtype],
    ) -> None:
        """Update everything in place; takes tensors, or proxies of them where a graph is written.

        Args:
            parameters: What is updated.
            gradients: Of the loss, one each.
            slots: Momenta by name, one dictionary each.
            steps: Step counts before this step, shape (parameters,).
            rates: Learning rates, shape (rates,), float64.
            dtypes: Of the parameters.
        """
        steps.copy_(steps + 1)
        counts: dict[tuple[Any, ...], tuple[Any, Any]] = {}
        if self.whole_clip_norm is not None:
            norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
            factor = (self.whole_clip_norm / (norm + 1e-6)).clamp(max=1.0)
            gradients = [g * factor.to(d) for g, d in zip(gradients, dtypes, strict=True)]
        for rule, p, g, slot, dtype in zip(self.rules, parameters, gradients, slots, dtypes, strict=True):
            if rule.clip_norm is not None:
                g = g * (rule.clip_norm / (torch.linalg.vector_norm(g) + 1e-6)).clamp(max=1.0)
            if rule.clip_value is not None:
                g = g.clamp(-rule.clip_value, rule.clip_value)
            options = dict(rule.options)
            rate = rates[rule.rate]
            if rule.kind is torch.optim.SGD:
                _sgd(p, g, slot, rate, options, dtype)
                continue
            beta1, beta2 = options["betas"]
            key = (rule.step_from, beta1, beta2)
            if key not in counts:
                # In float64, as the eager optimizers have it: a power of a float32 drifts over thousands of steps.
                count = (steps[rule.step_from]).to(torch.float64)
                counts[key] = 1 - _power(beta1, count), (1 - _power(beta2, count)).sqrt()
            update = _clipped_adam if rule.kind is ClippedAdam else _adam
            update(p, g, slot, rate, counts[key], rule.kind is torch.optim.AdamW, options, dtype)


def _power(base: float, exponent: Any) -> Any:
    # Inductor keeps an exponential that is used again, but would take the power anew for every few entries.
    return (exponent * math.log(base)).exp() if base > 0 else 0.0 * exponent


def _adam(
    p: Any, g: Any, slot: Any, rate: Any, corrections: Any, decoupled: bool, options: dict[str, Any], dtype: torch.dtype
) -> None:
    (beta1, beta2), decay = options["betas"], options["weight_decay"]
    correction1, root_correction2 = corrections
    value = p
    if decay and decoupled:
        value = value * (1 - rate * decay).to(dtype)
    elif decay:
        g = g + decay * p
    mean = slot["exp_avg"] + (g - slot["exp_avg"]) * (1 - beta1)
    square = slot["exp_avg_sq"] * beta2 + g * g * (1 - beta2)
    denominator = square.sqrt() / root_correction2.to(dtype) + options["eps"]
    p.copy_(value - (rate / correction1).to(dtype) * (mean / denominator))
    slot["exp_avg"].copy_(mean)
    slot["exp_avg_sq"].copy_(square)


def _clipped_adam(
    p: Any, g: Any, slot: Any, rate: Any, corrections: Any, decoupled: bool, options: dict[str, Any], dtype: torch.dtype
) -> None:
    (beta1, beta2), clip = options["betas"], options["clip_norm"]
    correction1, root_correction2 = corrections
    g = g.clamp(-clip, clip)
    if options["weight_decay"]:
        g = g + options["weight_decay"] * p
    mean = slot["exp_avg"] * beta1 + g * (1 - beta1)
    deviation = g - mean if options["centered_variance"] else g
    square = slot["exp_avg_sq"] * beta2 + deviation * deviation * (1 - beta2)
    step_size = (rate * root_correction2 / correction1).to(dtype)
    p.copy_(p - step_size * (mean / (square.sqrt() + options["eps"])))
    slot["exp_avg"].copy_(mean)
    slot["exp_avg_sq"].copy_(square)


def _sgd(p: Any, g: Any, slot: Any, rate: Any, options: dict[str, Any], dtype: torch.dtype) -> None:
    if options["weight_decay"]:
        g = g + options["weight_decay"] * p
    if options["momentum"]:
        momentum = slot["momentum_buffer"] * options["momentum"] + g * (1 - options["dampening"])
        slot["momentum_buffer"].copy_(momentum)
        g = g + options["momentum"] * momentum if options["nesterov"] else momentum
    p.copy_(p - rate.to(dtype) * g)


class Binding:
    """One optimizer's live tensors and numbers, as a graph takes them.

    Args:
        optim: Any ``PyroOptim`` (schedulers included) or :class:`pyro_lvm.svi.FusedOptim`.
        parameters: The unconstrained parameters, all of which it has stepped before.

    Attributes:
        plan: What is written into the graph.
        slots: Momenta of each parameter.
        steps: Step counts, shape (parameters,).
        rates: Learning rates, shape (rates,), float64.
        watched: ``(dictionary, key, value)``: while each dictionary still holds that very value, the binding holds.

    Raises:
        OptimizerOutside: Not (yet) possible.
    """

    def __init__(self, optim: pyro.optim.PyroOptim, parameters: Sequence[Tensor]) -> None:
        self.optim = optim
        self.watched: list[tuple[dict[Any, Any], Any, Any]] = []
        self._groups: list[dict[str, Any]] = []
        self._decayed: list[dict[str, Any]] = []
        self._counted: list[dict[str, Any]] = []
        rules, self.slots, counts = [], [], []
        places: dict[int, int] = {}
        for parameter in parameters:
            optimizer, group = _find(optim, parameter)
            state = optimizer.state.get(parameter) or {}
            kind = type(optimizer)
            names = _slot_names(kind, group)
            if any(not isinstance(state.get(name), Tensor) for name in names):
                raise OptimizerOutside("the optimizer has not stepped every parameter yet", for_now=True)
            self.slots.append({name: state[name] for name in names})
            counts.append(float(state["step"]) if "step" in state else 0.0)
            if id(group) not in places:
                places[id(group)] = len(self._groups)
                self._groups.append(group)
                self.watched += [(group, name, group[name]) for name in _OPTIONS[kind]]
                if kind is ClippedAdam and group["lrd"] != 1.0:
                    self._decayed.append(group)
            if kind is ClippedAdam:
                self._counted.append(state)
            self.watched.append((vars(optimizer), "state", optimizer.state))
            self.watched.append((vars(optimizer), "param_groups", optimizer.param_groups))
            self.watched += [(state, name, state[name]) for name in names]
            clip = _clipping(optim, parameter)
            rules.append(
                Rule(
                    kind,
                    tuple((name, group[name]) for name in _OPTIONS[kind]),
                    places[id(group)],
                    clip.get("clip_norm"),
                    clip.get("clip_value"),
                    counts.index(counts[-1]),
                )
            )
        whole = None
        if isinstance(optim, FusedOptim):
            whole = optim.clip_norm
            self.watched += [(vars(optim), name, getattr(optim, name)) for name in ("clip_norm", "optimizer")]
        self.plan = Plan(tuple(rules), whole)
        device = parameters[0].device
        exact = torch.get_default_dtype() is torch.float64
        self.steps = torch.tensor(counts, dtype=torch.float64 if exact else torch.float32, device=device)
        self._count = counts[0]
        self._share_counts(optim, parameters)
        self.rates = torch.zeros(len(self._groups), dtype=torch.float64, device=device)
        self._rates = [math.nan] * len(self._groups)
        self._host_rates = self.rates.numpy() if device.type == "cpu" else None

    def _share_counts(self, optim: pyro.optim.PyroOptim, parameters: Sequence[Tensor]) -> None:
        # A zero-dimensional view of the shared counts *is* the optimizer's own: whoever steps, both have stepped.
        for i, parameter in enumerate(parameters):
            optimizer, _ = _find(optim, parameter)
            state = optimizer.state.get(parameter) or {}
            if isinstance(state.get("step"), Tensor):
                state["step"] = self.steps[i]
                self.watched.append((state, "step", state["step"]))

    def holds(self) -> bool:
        """Whether the optimizer still has these tensors and options."""
        for holder, key, value in self.watched:
            now = holder.get(key, self)
            if now is not value and (isinstance(value, (Tensor, dict, list)) or now != value):
                return False
        return True

    def advance(self) -> None:
        """Bring what Python owns up to the step that is about to be taken: rates, and counts that are plain numbers."""
        for group in self._decayed:
            group["lr"] *= group["lrd"]
        for i, group in enumerate(self._groups):
            rate = group["lr"]
            if rate is not self._rates[i]:
                self._rates[i] = rate
                if self._host_rates is not None:
                    self._host_rates[i] = rate
                else:
                    self.rates[i] = rate
        if self._counted:
            if self._counted[0]["step"] != self._count:
                # Eager steps have been taken in between.
                self.steps.copy_(torch.tensor([state["step"] for state in self._counted], dtype=self.steps.dtype))
                self._count = self._counted[0]["step"]
            self._count += 1
            for state in self._counted:
                state["step"] += 1


def _find(optim: pyro.optim.PyroOptim, parameter: Tensor) -> tuple[torch.optim.Optimizer, dict[str, Any]]:
    optimizer: Any = optim.optimizer if isinstance(optim, FusedOptim) else optim.optim_objs.get(parameter)
    optimizer = getattr(optimizer, "optimizer", optimizer)  # of a scheduler
    if type(optimizer) not in _OPTIONS:
        if optimizer is None:
            raise OptimizerOutside("the optimizer has not stepped every parameter yet", for_now=True)
        raise OptimizerOutside(f"no graph for the optimizer {type(optimizer).__name__}")
    for group in optimizer.param_groups:
        if any(parameter is p for p in group["params"]):
            for name, value in group.items():
                known = (*_OPTIONS[type(optimizer)], *_NEUTRAL)
                if (name not in known or (name == _DECOUPLED and type(optimizer) is torch.optim.Adam)) and value:
                    raise OptimizerOutside(f"no graph for {type(optimizer).__name__} with {name}={value!r}")
            return optimizer, group
    raise OptimizerOutside("the optimizer has not stepped every parameter yet", for_now=True)


def _slot_names(kind: type, group: dict[str, Any]) -> tuple[str, ...]:
    if kind is torch.optim.SGD:
        return ("momentum_buffer",) if group["momentum"] else ()
    return ("exp_avg", "exp_avg_sq")


def _clipping(optim: pyro.optim.PyroOptim, parameter: Tensor) -> dict[str, Any]:
    return (
        {}
        if isinstance(optim, FusedOptim)
        else dict(
            optim._get_grad_clip_args(parameter) or {}  # type: ignore[arg-type]
        )
    )
