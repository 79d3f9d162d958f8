"""From a model, a guide and a loss to one graph of tensor operations: the loss and every gradient.

Pyro's handlers run once, in Python; what is left is what they did to tensors. Everything that the Python code closed
over (parameters, buffers, data) becomes an input, read anew at every step; random numbers are drawn by operations of
the graph, in the order in which eager Pyro draws them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.ops.provenance import detach_provenance
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from pyro_lvm.compiled.capture import Untraceable, ValueFree
from pyro_lvm.compiled.preserving import preserved
from pyro_lvm.compiled.products import route_products
from pyro_lvm.compiled.simplifying import changes_in_place, simplify
from pyro_lvm.compiled.summing import shrink_sums
from pyro_lvm.compiled.viewing import drop_idle_views, drop_whole_indices
from pyro_lvm.pair import ParamCapture

LossAndGrads = Callable[..., Any]

_aten = torch.ops.aten


@dataclass(frozen=True)
class Traced:
    """A step's loss and gradients as a graph.

    Attributes:
        graph: Takes the arguments' tensors, then ``lifted``; gives the loss, a gradient for each of ``trained``, and a
            new value for each of ``written``.
        lifted: What the Python code closed over: parameters, buffers, other tensors.
        trained: Unconstrained parameters that have a gradient.
        parameters: All unconstrained parameters that ran, in the order in which they did.
        written: Tensors of the parameter store that a step replaces (the averages of decaying baselines).
        changed: Those of ``lifted`` that a step changes in place (running statistics).
        modules: Modules that ran.
    """

    graph: fx.GraphModule
    lifted: list[Tensor]
    trained: list[Tensor]
    parameters: list[Tensor]
    written: list[Tensor]
    changed: list[Tensor]
    modules: set[nn.Module]

    @property
    def num_operations(self) -> int:
        """Operations a step."""
        return sum(node.op == "call_function" for node in self.graph.graph.nodes)


def trace(
    loss_and_grads: LossAndGrads,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    trainable: Callable[[Tensor], bool] | None = None,
) -> Traced:
    """Run the handlers once and keep the tensor operations; nothing else is changed by it.

    Args:
        loss_and_grads: What ``SVI.step`` runs, an ELBO's method or a person's function.
        model, guide, args, kwargs: Its arguments. All parameters must exist already.
        trainable: Says of an unconstrained parameter whether it is trained; None trains all.

    Returns:
        The graph and what goes into it.

    Raises:
        Untraceable: A value decides what is done, or a step has effects that a graph can't have.
    """
    flat, spec = pytree.tree_flatten((args, kwargs))
    places = [i for i, leaf in enumerate(flat) if isinstance(leaf, Tensor)]
    store = pyro.get_param_store()
    found: dict[str, Any] = {}

    def run(tensors: list[Tensor]) -> list[Tensor]:
        leaves = list(flat)
        for place, tensor in zip(places, tensors, strict=True):
            leaves[place] = tensor
        run_args, run_kwargs = pytree.tree_unflatten(leaves, spec)
        before = dict(store._params)
        with ValueFree() as mode, ParamCapture() as captured, pyro.validation_enabled(False):
            found["mode"] = mode
            loss = loss_and_grads(model, guide, *run_args, **run_kwargs)
            if not isinstance(loss, Tensor):
                raise Untraceable(f"the loss is no tensor of the parameters: it came out as {loss!r}")
            if not mode.surrogates:
                raise Untraceable("the loss never calls backward(): there is nothing to train")
            if store._params.keys() != before.keys():
                raise Untraceable("the model or the guide makes a new parameter in a later step")
            written = [name for name, tensor in before.items() if store._params[name] is not tensor]
            # Decaying baselines are kept as they come, wrapped.
            found["written"] = [detach_provenance(before[name]) for name in written]
            kept = {id(before[name]) for name in written}
            parameters = [p for p in captured.tensors.values() if id(p) not in kept]
            wanted = [p for p in parameters if p.requires_grad and (trainable is None or trainable(p))]
            surrogate = sum(mode.surrogates[1:], mode.surrogates[0])
            gradients = torch.autograd.grad(surrogate, wanted, allow_unused=True)
        found["parameters"] = parameters
        found["trained"] = [p for p, g in zip(wanted, gradients, strict=True) if g is not None]
        news = [detach_provenance(store._params[name]).detach() for name in written]
        return [loss.detach(), *(g for g in gradients if g is not None), *news]

    # Aliases, so that a tensor that is an argument *and* closed over is not taken for the argument in both places.
    inputs = [flat[place].detach() for place in places]
    for place, tensor in zip(places, inputs, strict=True):
        tensor.requires_grad_(flat[place].requires_grad)
    with preserved() as called:
        try:
            # cuDNN's batch normalization changes its statistics behind the graph's back.
            with torch.backends.cudnn.flags(enabled=False), torch.enable_grad():
                graph = make_fx(run)(inputs)
        except Untraceable:
            raise
        except Exception as error:
            raise Untraceable(_reason(error)) from error
    _undo(found["mode"].changed.values())
    graph, lifted = _lift(graph, len(inputs))
    if not found["trained"]:
        raise Untraceable("no parameter has a gradient")
    return Traced(
        graph,
        lifted,
        found["trained"],
        found["parameters"],
        found["written"],
        _changed(graph, lifted, len(inputs)),
        called,
    )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "trying to get a value out of" in text or "data-dependent" in text:
        return "the model or the guide decides by a tensor's value (if, float(), .item(), int())"
    return f"{type(error).__name__}: {text[:200]}"


def _undo(changed: Any) -> None:
    with torch.no_grad():
        for tensor, value in changed:
            if not tensor.is_leaf or not tensor.requires_grad:
                tensor.detach().copy_(value)


def _lift(graph: fx.GraphModule, num_inputs: int) -> tuple[fx.GraphModule, list[Tensor]]:
    """Make inputs of the tensors that the trace holds, in flat calling convention."""
    nodes = graph.graph
    lifted: list[Tensor] = []
    placeholders: dict[int, fx.Node] = {}
    anchor = [node for node in nodes.nodes if node.op == "placeholder"]
    last = anchor[-1] if anchor else None
    for node in list(nodes.nodes):
        if node.op == "get_attr":
            tensor = getattr(graph, node.target)
            if _is_written_number(node, tensor):
                _inline(nodes, node, tensor)
                continue
            if id(tensor) not in placeholders:
                with nodes.inserting_after(last) if last is not None else nodes.inserting_before(None):
                    last = placeholders[id(tensor)] = nodes.placeholder(f"lifted_{len(lifted)}")
                lifted.append(tensor)
            node.replace_all_uses_with(placeholders[id(tensor)])
            nodes.erase_node(node)
        elif node.op == "call_function" and node.target is _aten.native_batch_norm.default and node.args[5]:
            # This overload's schema hides that it changes the running statistics.
            if node.args[3] is None:
                node.target = _aten._native_batch_norm_legit.no_stats
                node.args = (*node.args[:3], *node.args[5:])
            else:
                node.target = _aten._native_batch_norm_legit.default
    nodes.set_codegen(fx.graph.CodeGen())
    # What nobody uses may look like a user of something.
    nodes.eliminate_dead_code(is_impure_node=_has_effect)
    pure = not any(changes_in_place(node) for node in nodes.nodes)
    if pure:
        drop_idle_views(nodes)
        drop_whole_indices(nodes)
    simplify(nodes)
    nodes.eliminate_dead_code(is_impure_node=_has_effect)
    if pure:
        shrink_sums(nodes)
        nodes.eliminate_dead_code(is_impure_node=_has_effect)
        # Tensors may lie otherwise in memory than where a view of them was traced.
        for node in nodes.find_nodes(op="call_function", target=_aten.view.default):
            node.target = _aten.reshape.default
    route_products(nodes)
    used = [not node.users for node in nodes.nodes if node.op == "placeholder"][num_inputs:]
    for node, unused in zip(placeholders.values(), used, strict=True):
        if unused:
            nodes.erase_node(node)
    nodes.lint()
    return fx.GraphModule({}, nodes), [t for t, unused in zip(lifted, used, strict=True) if not unused]


def _is_written_number(node: fx.Node, tensor: Tensor) -> bool:
    """Whether a constant is a number that the code wrote as ``torch.tensor(0.5)``."""
    copied = all(user.target is _aten.lift_fresh_copy.default for user in node.users)
    return copied and tensor.dim() == 0 and not tensor.is_cuda


def _inline(nodes: fx.Graph, node: fx.Node, tensor: Tensor) -> None:
    with nodes.inserting_before(node):
        number = nodes.call_function(_aten.full.default, ([], tensor.item()), {"dtype": tensor.dtype})
    for user in list(node.users):
        user.replace_all_uses_with(number)
        nodes.erase_node(user)
    nodes.erase_node(node)


def _has_effect(node: fx.Node) -> bool:
    if node.op in ("placeholder", "output"):
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    # A draw that nobody uses still moves the generator on.
    return node.target._schema.is_mutable or torch.Tag.nondeterministic_seeded in node.target.tags


def _changed(graph: fx.GraphModule, lifted: list[Tensor], num_inputs: int) -> list[Tensor]:
    """The lifted tensors that are changed in place, directly or through a view."""
    origin: dict[fx.Node, int] = {}
    changed: set[int] = set()
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for index, node in enumerate(placeholders):
        origin[node] = index - num_inputs
    for node in graph.graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        for argument, given in zip(node.target._schema.arguments, node.args, strict=False):
            if argument.alias_info is None or not isinstance(given, fx.Node) or given not in origin:
                continue
            if argument.alias_info.is_write:
                changed.add(origin[given])
            origin[node] = origin[given]
    if any(index < 0 for index in changed):
        raise Untraceable("the model or the guide changes its arguments in place")
    return [lifted[index] for index in sorted(changed)]
