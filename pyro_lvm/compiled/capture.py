"""Running Pyro's own ``loss_and_grads`` without a Python number in it, so that it can be traced.

Pyro's ELBOs turn tensors into Python numbers (``item``), look at values (``warn_if_nan``, the masks of ``Dice``) and
call ``backward``. A :class:`torch.overrides.TorchFunctionMode` answers these few calls otherwise. It is of this thread
and this block alone: nothing of Pyro or torch is replaced, and a person's own ELBO, a subclass or a loss function runs
as it stands. Calls that a model or a guide makes itself are let through, and fail to trace if they read a value.

Tried with Pyro 1.9.1 and 1.9.2; verification against eager Pyro guards what another version may change.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_lvm.errors import PyroLvmError

_READS_VALUES = (Tensor.numpy, Tensor.tolist, Tensor.__array__)


class Untraceable(PyroLvmError):
    """A step can't be had as a graph; the message says why."""


class ValueFree(TorchFunctionMode):
    """Within the mode Pyro's losses stay tensors and ``backward`` only notes what it was called on.

    Attributes:
        surrogates: What ``backward`` was called on; the sum's gradient is the step's.
        changed: Tensors that were changed in place, with their values before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.surrogates: list[Tensor] = []
        self.changed: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.backward:
            self.surrogates.append(args[0])
            return None
        answer = _IN_PYRO.get(func)
        if answer is not None:
            caller = sys._getframe(1)
            if caller.f_globals.get("__name__", "").startswith(("pyro.infer", "pyro.util", "torch.distributions")):
                return answer(caller, *args, **kwargs)
        if func in _READS_VALUES:
            raise Untraceable(f"the model or the guide reads values out of a tensor (Tensor.{func.__name__})")
        if _changes_in_place(func) and args and isinstance(args[0], Tensor) and id(args[0]) not in self.changed:
            self.changed[id(args[0])] = (args[0], args[0].detach().clone())
        return func(*args, **kwargs)


def _item(caller: FrameType, tensor: Tensor) -> Any:
    return tensor.detach() if caller.f_globals["__name__"].startswith("pyro") else tensor.item()


def _truth(caller: FrameType, tensor: Tensor) -> bool:
    # `warn_if_nan` may not look; whoever trains looks at the loss.
    return False if caller.f_code.co_name == "warn_if_nan" else bool(tensor)


def _all(caller: FrameType, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    # `Dice` asks whether a mask hides nothing. Saying no is always right: it then selects by the mask.
    return False if caller.f_code.co_name == "compute_expectation" else tensor.all(*args, **kwargs)


def _masked_select(caller: FrameType, tensor: Tensor, mask: Tensor) -> Tensor:
    # What `Dice` selects it multiplies and sums: zeros in place of what is left out give the same, in a known shape.
    return torch.where(mask, tensor, torch.zeros((), dtype=tensor.dtype, device=tensor.device))


def _valid(caller: FrameType, tensor: Tensor) -> bool:
    # A distribution made before validation was switched off still validates.
    return True


_IN_PYRO: dict[Any, Callable[..., Any]] = {
    Tensor.item: _item,
    Tensor.__bool__: _truth,
    Tensor.all: _all,
    Tensor.masked_select: _masked_select,
    torch._is_all_true: _valid,
}


def _changes_in_place(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    if name in ("__setitem__", "__set__", "__iadd__", "__isub__", "__imul__", "__itruediv__"):
        return name != "__set__"
    return name.endswith("_") and not name.endswith("__") and name not in ("requires_grad_", "retain_grad_")
