"""A whole step in one graph: loss, gradients, the optimizer and averaging, written together and compiled as one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
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
}


def compile_step(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Step:
    """Compile a whole step by Inductor.

    Raises:
        Uncompilable: There is no C++ compiler on the machine, or Inductor fails.
    """
    innermost: list[Callable[[list[Tensor]], Sequence[Tensor]]] = []
    try:
        from torch._inductor.compile_fx import compile_fx, compile_fx_inner

        def compile_inner(flat: fx.GraphModule, examples: Sequence[Any], **options: Any) -> Any:
            compiled = compile_fx_inner(flat, examples, **options)
            (results,) = flat.graph.output_node().args
            if len(examples) == len(inputs) and len(results) == 1:  # type: ignore[arg-type]
                innermost.append(compiled)
            return compiled

        # Inductor's cache wants to know that no shape is left open.
        shapes = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)
        with torch.no_grad(), tracing(TracingContext(shapes)), warnings.catch_warnings():
            # Of PyTorch's own code, to PyTorch's own authors.
            warnings.simplefilter("ignore", FutureWarning)
            compiled: Any = compile_fx(graph, list(inputs), inner_compile=compile_inner, config_patches=dict(_OPTIONS))
    except Exception as error:
        text = " ".join(str(error).split())
        raise Uncompilable(f"Inductor failed ({type(error).__name__}: {text[:200]})") from error
    if len(innermost) != 1 or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        whole: Step = compiled
        return whole
    # The same inputs and outputs as the whole: what lies in between is for graphs that change more than their inputs,
    # and takes a tenth of a small model's step.
    (step,) = innermost
    return lambda *tensors: step(list(tensors))
