"""A whole step in one graph: loss, gradients, the optimizer and averaging, written together and compiled as one."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.proxy import GraphAppendingTracer

from pyro_lvm.compiled.averaging import PolynomialAverage
from pyro_lvm.compiled.optimizers import Binding, Plan
from pyro_lvm.compiled.tracing import Traced
from pyro_lvm.errors import PyroLvmError

Step = Callable[..., Sequence[Tensor]]


class Uncompilable(PyroLvmError):
    """A traced step can't be compiled; the message says why."""


class DamagedCache(Uncompilable):
    """Inductor's cache holds half a file, as a compiler leaves it that was interrupted."""


def lasting_inputs(traced: Traced, binding: Binding, average: PolynomialAverage | None) -> list[Tensor]:
    """The lasting inputs of :func:`write_step`, in its order, as aliases of shape (1,) where they have none.

    Torch 2.13 drops what a compiled graph does in place to a zero-dimensional CPU tensor of some types.
    """
    momenta = [slot[name] for slot in binding.slots for name in slot]
    tensors = [*traced.trained, *momenta, binding.steps, binding.rates, *_others(traced)]
    if average is not None:
        tensors += [*average.averages, average.count]
    return [t.detach().view(1) if t.dim() == 0 else t.detach() for t in tensors]


def _others(traced: Traced) -> list[Tensor]:
    trained = {id(p) for p in traced.trained}
    others = [t for t in traced.lifted if id(t) not in trained]
    known = trained | {id(t) for t in others}
    return others + [t for t in traced.written if id(t) not in known]


def write_step(
    traced: Traced, plan: Plan, slots: Sequence[dict[str, Tensor]], average: PolynomialAverage | None
) -> fx.GraphModule:
    """Write the graph of a whole step."""
    graph = fx.Graph()
    tracer = GraphAppendingTracer(graph)

    def take(name: str, like: Tensor) -> Any:
        proxy = fx.Proxy(graph.placeholder(name), tracer)
        return proxy, like.dim() == 0

    def whole(taken: Any) -> Any:
        proxy, scalar = taken
        return proxy.view(()) if scalar else proxy

    others = _others(traced)
    p = [take(f"parameter_{i}", t) for i, t in enumerate(traced.trained)]
    m = [{name: take(f"{name}_{i}", t) for name, t in slot.items()} for i, slot in enumerate(slots)]
    steps = fx.Proxy(graph.placeholder("steps"), tracer)
    rates = fx.Proxy(graph.placeholder("rates"), tracer)
    o = [take(f"other_{i}", t) for i, t in enumerate(others)]
    averages = [take(f"average_{i}", t) for i, t in enumerate(average.averages)] if average else []
    count = fx.Proxy(graph.placeholder("count"), tracer) if average else None
    old = [node for node in traced.graph.graph.nodes if node.op == "placeholder"]
    batch = old[: len(old) - len(traced.lifted)]
    mapping = {node: graph.placeholder(f"batch_{i}") for i, node in enumerate(batch)}

    parameters = [whole(t) for t in p]
    momenta = [{name: whole(t) for name, t in slot.items()} for slot in m]
    rest = [whole(t) for t in o]
    lasting = {id(t): proxy for t, proxy in zip([*traced.trained, *others], [*parameters, *rest], strict=True)}
    for node, tensor in zip(old[len(batch) :], traced.lifted, strict=True):
        mapping[node] = lasting[id(tensor)].node
    copied = graph.graph_copy(traced.graph.graph, mapping)
    assert isinstance(copied, (list, tuple))
    loss, *values = [fx.Proxy(node, tracer) for node in copied]
    gradients, news = values[: len(parameters)], values[len(parameters) :]
    dtypes = [t.dtype for t in traced.trained]
    plan.apply(parameters, gradients, momenta, steps, rates, dtypes)
    for tensor, new in zip(traced.written, news, strict=True):
        lasting[id(tensor)].copy_(new)
    if average is not None:
        place = {id(t): proxy for t, proxy in zip(traced.trained, parameters, strict=True)}
        average.write(
            [place[id(t)] for t in average.parameters],
            [whole(t) for t in averages],
            count,
            [t.dtype for t in average.parameters],
        )
    graph.output((loss.node,))
    graph.lint()
    return fx.GraphModule({}, graph)


def refuse_shared_memory(traced: Traced, lasting: Sequence[Tensor], batch: Sequence[Tensor]) -> None:
    """Refuse tensors that a step changes and that share memory with others: a compiled graph takes them to be apart.

    Raises:
        Uncompilable: Some do.
    """
    unchanged = {id(t) for t in _others(traced)} - {id(t) for t in (*traced.changed, *traced.written)}
    fixed = {t.untyped_storage().data_ptr() for t in _others(traced) if id(t) in unchanged}
    memories = [t.untyped_storage().data_ptr() for t in lasting if t.numel()]
    moving = [m for m in memories if m not in fixed]
    of_trained = {t.untyped_storage().data_ptr() for t in (*traced.trained, *traced.changed, *traced.written)}
    given = {t.untyped_storage().data_ptr() for t in batch}
    if len(set(moving)) < len(moving) or of_trained & (given | fixed):
        raise Uncompilable("parameters or running statistics share memory with other tensors of the step")


_OPTIONS = {
    # Random numbers by PyTorch's own operations: eager Pyro's noise, and faster than Inductor's own on a CPU.
    "fallback_random": True,
    # The processor says itself what it can do; Inductor would compile and run a program for each of its abilities.
    "cpp.vec_isa_ok": True,
    # Whoever calls has looked at shapes and strides already.
    "size_asserts": False,
    # Precompiling the header of kernels takes longer than reading it once, and they are compiled together.
    "cpp_cache_precompile_headers": False,
}


@contextmanager
def _uncollected() -> Iterator[None]:
    # Lowering makes millions of objects that last until it is done: looking for cycles among them takes half a second.
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _kernels_together() -> AbstractContextManager[Callable[[], None]]:
    try:
        from pyro_lvm.compiled.kernels import compiled_together
    except ImportError:  # a PyTorch whose Inductor is otherwise goes its own way
        return nullcontext(lambda: None)
    return compiled_together()


def _damaged_file(error: Exception) -> Path | None:
    """The library in Inductor's cache that can't be loaded, if that is what failed."""
    cause = getattr(error, "inner_exception", error)
    if not isinstance(cause, ImportError) or cause.path is None:
        return None
    with suppress(ImportError):
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        path = Path(cause.path)
        if path.suffix == ".so" and path.is_relative_to(cache_dir()):
            return path
    return None


def compile_step(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Step:
    """Compile a whole step by Inductor.

    Raises:
        DamagedCache: A file of Inductor's cache can't be loaded; it has been removed.
        Uncompilable: There is no C++ compiler on the machine, or Inductor fails.
    """
    innermost: list[Callable[[list[Tensor]], Sequence[Tensor]]] = []
    try:
        from torch._inductor import config

        options = {name: value for name, value in _OPTIONS.items() if hasattr(config, name)}
        with config.patch(options), _uncollected(), _kernels_together() as known, warnings.catch_warnings():
            # Of PyTorch's own code, to PyTorch's own authors.
            warnings.simplefilter("ignore", FutureWarning)
            from torch._inductor.compile_fx import compile_fx, compile_fx_inner

            def compile_inner(flat: fx.GraphModule, examples: Sequence[Any], **settings: Any) -> Any:
                known()
                compiled = compile_fx_inner(flat, examples, **settings)
                (results,) = flat.graph.output_node().args
                if len(examples) == len(inputs) and len(results) == 1:  # type: ignore[arg-type]
                    innermost.append(compiled)
                return compiled

            # No shape is left open: the symbols of open ones have other names in a second compilation, which then finds
            # nothing in Inductor's cache.
            shapes = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)
            examples = [shapes.from_tensor(t, static_shapes=True) for t in inputs]
            with torch.no_grad(), tracing(TracingContext(shapes)):
                compiled: Any = compile_fx(graph, examples, inner_compile=compile_inner)
    except Exception as error:
        damaged = _damaged_file(error)
        if damaged is not None:
            damaged.unlink(missing_ok=True)
            raise DamagedCache(f"Inductor's cache held a damaged file, {damaged}, which was removed") from error
        text = " ".join(str(error).split())
        raise Uncompilable(f"Inductor failed ({type(error).__name__}: {text[:200]})") from error
    if len(innermost) != 1 or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        whole: Step = compiled
        return whole
    # The same inputs and outputs as the whole: what lies in between is for graphs that change more than their inputs,
    # and takes a tenth of a small model's step.
    (step,) = innermost
    return lambda *tensors: step(list(tensors))
