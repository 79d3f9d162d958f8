"""Noticing that something a trace has written down is no longer true.

A graph holds Python's numbers as they were, and reads the very tensors that the code had then. What the model and the
guide can see by name is looked up here once, and compared at every step: attributes and parameters of modules, what
functions closed over, globals that they name. What can't be seen so is left to the verification now and then.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

_PLAIN = (bool, int, float, str, type(None))
# Beyond these nothing that a model of this world reads was ever found.
_MOST_OBJECTS = 2_000
_MOST_ENTRIES = 64


class Watch:
    """What a model and a guide can see, as it is now.

    Args:
        roots: The model and the guide.
        modules: Modules that are known to run.
    """

    def __init__(self, roots: Iterable[Any], modules: Iterable[nn.Module] = ()) -> None:
        self._entries: list[tuple[dict[Any, Any], Any, Any]] = []
        self._cells: list[tuple[types.CellType, str, Any]] = []
        self._seen: dict[int, Any] = {}
        self._names: set[str] = set()
        self._objects: list[Any] = []
        self._noted: set[tuple[int, Any]] = set()
        self._queue = [*roots, *modules]
        self._walk()
        # An attribute matters once some code that was found names it; that code may be found through another.
        before = -1
        while before != len(self._names):
            before = len(self._names)
            for thing in list(self._objects):
                self._look_at_attributes(thing)
            self._walk()
        # The comparison needs none of what finding took.
        del self._seen, self._objects, self._noted, self._queue

    def changed(self) -> str | None:
        """The name of something that is no longer what it was; None if all is."""
        for holder, key, value in self._entries:
            now = holder.get(key, self)
            if now is not value and (isinstance(value, Tensor) or isinstance(now, Tensor) or now != value):
                return str(key)
        for cell, name, value in self._cells:
            now = cell.cell_contents
            if now is not value and (isinstance(value, Tensor) or isinstance(now, Tensor) or now != value):
                return name
        return None

    def _walk(self) -> None:
        while self._queue and len(self._seen) < _MOST_OBJECTS:
            thing = self._queue.pop()
            if id(thing) in self._seen or isinstance(thing, (Tensor, type, types.ModuleType, *_PLAIN)):
                continue
            self._seen[id(thing)] = thing
            if isinstance(thing, functools.partial):
                self._queue += [thing.func, *thing.args, *thing.keywords.values()]
            elif isinstance(thing, types.MethodType):
                self._queue += [thing.__func__, thing.__self__]
            elif isinstance(thing, types.FunctionType):
                self._look_at_function(thing)
            elif isinstance(thing, nn.Module):
                self._look_at_module(thing)
            elif isinstance(thing, dict):
                self._look_at_dictionary(thing)
            elif isinstance(thing, (list, tuple)):
                self._queue += thing[:_MOST_ENTRIES]
            elif hasattr(thing, "__dict__"):
                self._objects.append(thing)
                self._look_at_attributes(thing)
                self._look_at_methods(thing)

    def _note(self, holder: dict[Any, Any], key: Any) -> None:
        value = holder[key]
        if isinstance(value, (Tensor, *_PLAIN)):
            if (id(holder), key) not in self._noted:
                self._noted.add((id(holder), key))
                self._entries.append((holder, key, value))
        else:
            self._queue.append(value)

    def _look_at_function(self, function: types.FunctionType) -> None:
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            self._queue.append(wrapped)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            try:
                value = cell.cell_contents
            except ValueError:  # not filled yet
                continue
            if isinstance(value, (Tensor, *_PLAIN)):
                self._cells.append((cell, name, value))
            else:
                self._queue.append(value)
        if _foreign(function.__module__):
            return
        self._queue += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        for name in _names(function.__code__):
            self._names.add(name)
            if name in function.__globals__:
                self._note(function.__globals__, name)

    def _look_at_module(self, module: nn.Module) -> None:
        for part in module.modules():
            self._seen[id(part)] = part
            for table in (part._parameters, part._buffers):
                for name in table:
                    self._note(table, name)
            own = not _foreign(type(part).__module__)
            if own:
                self._objects.append(part)
                self._look_at_methods(part)
                self._look_at_attributes(part)
            for name, value in list(vars(part).items()):
                if name == "training" or (not own and not name.startswith("_") and isinstance(value, _PLAIN)):
                    self._note(vars(part), name)

    def _look_at_dictionary(self, table: dict[Any, Any]) -> None:
        for key in list(table)[:_MOST_ENTRIES]:
            self._note(table, key)

    def _look_at_methods(self, thing: Any) -> None:
        for kind in type(thing).__mro__:
            if _foreign(kind.__module__):
                continue
            for value in vars(kind).values():
                function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
                if isinstance(function, types.FunctionType):
                    self._queue.append(function)

    def _look_at_attributes(self, thing: Any) -> None:
        handler = isinstance(thing, Messenger)
        for name, value in list(vars(thing).items()):
            # A handler's own settings (the scale of `poutine.scale`) are read by code of Pyro's.
            if name in self._names or (handler and isinstance(value, (Tensor, *_PLAIN))):
                self._note(vars(thing), name)


def _foreign(module: str | None) -> bool:
    return (module or "builtins").partition(".")[0] in (
        "torch",
        "pyro",
        "builtins",
        "contextlib",
        "functools",
        "typing",
    )


def _names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names
