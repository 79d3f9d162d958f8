"""Everything that running a pair may change, remembered and put back."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_lvm.pair import Pair


def find_modules(half: Any) -> dict[str, nn.Module]:
    """The modules that a half of a pair may run, by the names that its author gave them.

    A module or a method leads to its owner; a function to what it closes over, its globals, and the same for the
    functions of its file that it calls.

    Args:
        half: A model or a guide.
    """
    found: dict[str, nn.Module] = {}
    visited: set[int] = set()
    pending: list[tuple[str, Any]] = [("", half)]
    home = getattr(half, "__module__", None)
    while pending:
        name, thing = pending.pop()
        if id(thing) in visited:
            continue
        visited.add(id(thing))
        if isinstance(thing, nn.Module):
            found.setdefault(name, thing)
        elif isinstance(thing, functools.partial):
            pending += [(name, thing.func), *((name, value) for value in thing.args), *thing.keywords.items()]
        elif isinstance(thing, types.MethodType):
            pending += [(name, thing.__self__), (name, thing.__func__)]
        elif isinstance(thing, types.FunctionType):
            pending += [(n, v) for n, v in _names_used(thing).items() if _may_hold_modules(v, home)]
        elif thing is half or name == "":
            pending += list(getattr(thing, "__dict__", {}).items())
    return found


def _names_used(function: types.FunctionType) -> dict[str, Any]:
    try:
        names = inspect.getclosurevars(inspect.unwrap(function))
    except (ValueError, TypeError):  # a name that is closed over before it is given a value
        return {}
    return {**names.globals, **names.nonlocals}


def _may_hold_modules(thing: Any, home: str | None) -> bool:
    if isinstance(thing, types.FunctionType):
        return thing.__module__ == home
    return isinstance(thing, (nn.Module, functools.partial, types.MethodType))


class Snapshot:
    """The state of a pair and of the modules that it runs: tensors, gradients, plain attributes and parameter stores.

    Args:
        modules: Whatever modules the pair runs.
        pair: The pair, for the parameters that ``pyro.param`` made; None where it isn't built yet.
    """

    def __init__(self, modules: Iterable[nn.Module], pair: Pair | None = None) -> None:
        self._pair = pair
        self._modules: dict[int, tuple[nn.Module, dict[str, Any], dict[str, Any]]] = {}
        self._tensors: dict[int, tuple[Tensor, Tensor, Tensor, Tensor | None, bool]] = {}
        for root in modules:
            for module in root.modules():
                if id(module) not in self._modules:
                    attributes = dict(module.__dict__)
                    contents = {k: _copy(v) for k, v in attributes.items() if isinstance(v, (dict, list, set))}
                    self._modules[id(module)] = (module, attributes, contents)
                    for holder in (attributes, attributes["_parameters"], attributes["_buffers"]):
                        self._keep(holder.values())
        if pair is not None:
            self._store = {kind: dict(held) for kind, held in pair._store.items()}
            self._pending = dict(pair._pending)
            self._keep(self._store["params"].values())

    def _keep(self, values: Iterable[Any]) -> None:
        for tensor in values:
            if isinstance(tensor, Tensor) and not nn.parameter.is_lazy(tensor):
                grad = tensor.grad if tensor.is_leaf else None
                self._tensors[id(tensor)] = (
                    tensor,
                    tensor.data,
                    tensor.detach().clone(),
                    grad,
                    tensor.requires_grad,
                )

    def changed_attributes(self) -> list[str]:
        """Names of the modules' plain attributes that are no longer what they were."""
        names = []
        for module, attributes, _ in self._modules.values():
            for name, value in module.__dict__.items():
                if not name.startswith("_") and name != "training" and value is not attributes.get(name):
                    names.append(name)
        return names

    def restore(self) -> None:
        """Put everything back as it was."""
        for module, attributes, contents in self._modules.values():
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for name, content in contents.items():
                _refill(attributes[name], content)
        with torch.no_grad():
            for tensor, data, value, grad, requires_grad in self._tensors.values():
                if tensor.is_leaf:
                    tensor.data = data
                    tensor.grad = grad
                    tensor.requires_grad_(requires_grad)
                # A plain attribute may hold a tensor on a graph, which can't be written to and isn't trained.
                tensor.data.copy_(value)
        if self._pair is not None:
            for kind, held in self._store.items():
                _refill(self._pair._store[kind], held)
            _refill(self._pair._pending, self._pending)


def _copy(container: Any) -> Any:
    return type(container)(container) if type(container) in (dict, list, set) else container.copy()


def _refill(container: Any, content: Any) -> None:
    if isinstance(container, list):
        container[:] = content
    else:
        container.clear()
        container.update(content)


@contextmanager
def untouched_randomness() -> Iterator[None]:
    """Within the context random numbers may be drawn and seeded; afterwards every generator is as it was."""
    state = pyro.util.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        pyro.util.set_rng_state(state)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def perturb(tensors: Iterable[Tensor], scale: float, seed: int = 0) -> None:
    """Add noise to parameters in place, relative to the size of each: what holds only at the start shows no more.

    Args:
        tensors: Parameters, unconstrained.
        scale: Standard deviation of the noise, in units of the parameter's root mean square (of 1, where that is less).
        seed: Of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in tensors:
            if tensor.is_floating_point() and tensor.numel() > 0:
                noise = torch.randn(tensor.shape, generator=generator).to(tensor)
                tensor.data.add_(scale * tensor.square().mean().sqrt().clamp(min=1.0) * noise)
