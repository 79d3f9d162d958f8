"""A step's C++ kernels in few runs of the compiler: all of them in one file, and its questions asked ahead.

Inductor gives each kernel a file of its own, with a header that takes the compiler two seconds to read; so as not to
read it for each, it precompiles it first, for seven seconds and 150 MB in the temporary folder. A small model has half
a dozen kernels of a few lines between its matrix products: together they are compiled in little more time than reading
the header takes. No setting says so. Hence the one place where something of PyTorch's is replaced, for one thread and
one compilation. Tried with torch 2.13; where another version fails at it, Inductor goes its own way.
"""

from __future__ import annotations

import contextvars
import functools
import importlib.util
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

from torch._inductor import config
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.codecache import CppPythonBindingsCodeCache, LambdaFuture
from torch._inductor.cpu_vec_isa import pick_vec_isa

Kernel = Callable[..., None]

_LOCK = threading.Lock()
_DECLARATION = re.compile(r'(extern "C"\s+void\s+)kernel\(')


class _Library(CppPythonBindingsCodeCache):
    """Kernels in one library, each by a Python module of its own that Inductor's template for one kernel makes."""

    cache: dict[str, Any] = {}  # noqa: RUF012 - declared so by Inductor, which keeps one for each kind of library
    entry_function = "kernel_0"


class _Together:
    """The kernels of one graph, compiled when the first of them is asked for.

    Args:
        alone: Inductor's own way with a kernel: its arguments' types and its source.
    """

    def __init__(self, alone: Callable[[list[str], str], Any]) -> None:
        self._alone = alone
        self._sources: list[tuple[list[str], str]] = []
        self._kernels: list[Kernel] = []

    def add(self, argument_types: list[str], source: str) -> LambdaFuture:
        index = len(self._sources)
        self._sources.append((argument_types, source))
        return LambdaFuture(lambda: self._all()[index])

    def _all(self) -> list[Kernel]:
        if not self._kernels:
            try:
                self._kernels = self._compile()
            except ImportError:  # a damaged file, which whoever compiles removes
                raise
            except Exception:  # noqa: BLE001 - whatever is otherwise in another version
                futures = [self._alone(types, source) for types, source in self._sources]
                self._kernels = [future.result() for future in futures]
        return self._kernels

    def _compile(self) -> list[Kernel]:
        names = [f"kernel_{index}" for index in range(len(self._sources))]
        parts = []
        for name, (_, source) in zip(names, self._sources, strict=True):
            renamed, count = _DECLARATION.subn(rf"\g<1>{name}(", source)
            if count != 1:
                raise ValueError(f"{name} is declared {count} times")
            parts.append(renamed)
        # Namespaces keep the modules apart; what a template includes must be read before they open.
        parts += ["#include <Python.h>", "#include <sstream>", "#include <cstdlib>", "#include <cerrno>"]
        for name, (types, _) in zip(names, self._sources, strict=True):
            arguments = ", ".join(f"parse_arg<{t.replace('const ', '')}>(args, {n})" for n, t in enumerate(types))
            module = _Library.suffix_template.format(
                arg_len=len(types),
                call_entry_func=f"{name}({arguments}); Py_RETURN_NONE;",
                entry_func=name,
                extra_parse_arg="",
            )
            parts.append(f"namespace of_{name} {{\n{module}\n}}")
        first = _Library.load_async("\n".join(parts))()
        return [getattr(_module(first, name), name) for name in names]


def _module(first: Any, name: str) -> Any:
    if name == _Library.entry_function:
        return first
    spec = importlib.util.spec_from_file_location(f"{first.key}.{name}", first.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def compiled_together() -> Iterator[Callable[[], None]]:
    """Within the context this thread's CPU kernels are compiled as one file a graph.

    Yields:
        What waits until it is known which of the processor's extensions the compiler can use. Inductor has it compile
        a program for some of them, a second in all; that goes on beside what comes before the kernels.
    """
    own, thread = AsyncCompile.cpp_pybinding, threading.get_ident()
    graphs: dict[int, tuple[AsyncCompile, _Together]] = {}

    def cpp_pybinding(self: AsyncCompile, argtypes: list[str], source_code: str) -> Any:
        if threading.get_ident() != thread:
            return own(self, argtypes, source_code)
        # The instance is kept, so that no other takes its place under the same id.
        if id(self) not in graphs:
            graphs[id(self)] = self, _Together(functools.partial(own, self))
        return graphs[id(self)][1].add(argtypes, source_code)

    def ask() -> None:
        # Inductor asks once more, and meets the same error where it is its own.
        with suppress(Exception):
            pick_vec_isa()

    # With one thread Inductor would not wait for kernels that come later.
    threads = max(2, config.compile_threads or 1)
    with _LOCK, mock.patch.object(AsyncCompile, "cpp_pybinding", cpp_pybinding), config.patch(compile_threads=threads):
        # Settings are of a context: the thread's are this one's.
        asking = threading.Thread(target=contextvars.copy_context().run, args=(ask,), daemon=True)
        asking.start()
        try:
            yield asking.join
        finally:
            asking.join()
