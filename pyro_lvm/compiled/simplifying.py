"""Doing once what distributions do for every entry: three rewritings of a graph that leave its numbers, up to rounding.

Distributions repeat their parameters along plates first and take logarithms, squares and quotients of them afterwards;
Inductor would compute these as often as they are repeated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

_aten = torch.ops.aten
# Of one tensor and numbers, entry by entry.
_ENTRYWISE = {
    _aten.log.default,
    _aten.exp.default,
    _aten.neg.default,
    _aten.sqrt.default,
    _aten.reciprocal.default,
    _aten.lgamma.default,
    _aten.pow.Tensor_Scalar,
    _aten.mul.Tensor,
    _aten.mul.Scalar,
    _aten.div.Tensor,
}
# With which number they change nothing.
_NEUTRAL = {
    _aten.mul.Tensor: 1,
    _aten.mul.Scalar: 1,
    _aten.div.Tensor: 1,
    _aten.pow.Tensor_Scalar: 1,
    _aten.add.Tensor: 0,
    _aten.sub.Tensor: 0,
}


def simplify(nodes: fx.Graph) -> None:
    """Rewrite a graph of loss and gradients in place."""
    _drop_neutral(nodes)
    _expand_late(nodes)
    _divide_early(nodes)


def _drop_neutral(nodes: fx.Graph) -> None:
    """Drop multiplications by one, additions of zero, and detaching, of which nothing is left in a graph."""
    if any(changes_in_place(node) for node in nodes.nodes):
        # What looks neutral may be a copy from before the change.
        return
    for node in list(nodes.nodes):
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        same, *rest = node.args
        if same.op == "placeholder":
            continue
        neutral = node.target in _NEUTRAL and _is_number(rest, _NEUTRAL[node.target]) and _is_floating_point(same)
        if node.target is _aten.detach.default or neutral:
            node.replace_all_uses_with(same)
            nodes.erase_node(node)


def _expand_late(nodes: fx.Graph) -> None:
    """Take logarithms and powers before they are repeated along a plate, not after."""
    for node in list(nodes.nodes):
        if node.op != "call_function" or node.target not in _ENTRYWISE or not node.args:
            continue
        repeated, *rest = node.args
        if not _is_repeated(repeated) or any(isinstance(argument, fx.Node) for argument in rest) or node.kwargs:
            continue
        with nodes.inserting_before(node):
            once = nodes.call_function(node.target, (repeated.args[0], *rest))
            again = nodes.call_function(_aten.expand.default, (once, repeated.args[1]))
        node.replace_all_uses_with(again)
        nodes.erase_node(node)


def _divide_early(nodes: fx.Graph) -> None:
    """Multiply by the reciprocal of what is repeated along a plate: a division costs ten multiplications."""
    reciprocals: dict[fx.Node, fx.Node] = {}
    for node in list(nodes.nodes):
        if node.target is not _aten.div.Tensor or not _is_repeated(node.args[1]):
            continue
        repeated = node.args[1]
        if repeated not in reciprocals:
            with nodes.inserting_after(repeated):
                once = nodes.call_function(_aten.reciprocal.default, (repeated.args[0],))
            with nodes.inserting_after(once):
                reciprocals[repeated] = nodes.call_function(_aten.expand.default, (once, repeated.args[1]))
        node.target = _aten.mul.Tensor
        node.args = (node.args[0], reciprocals[repeated])


def _is_repeated(argument: Any) -> bool:
    return isinstance(argument, fx.Node) and argument.target is _aten.expand.default


def _is_number(arguments: list[Any], value: int) -> bool:
    return len(arguments) == 1 and isinstance(arguments[0], (int, float)) and arguments[0] == value


def _is_floating_point(node: fx.Node) -> bool:
    # An integer that is multiplied by 1.0 becomes a float.
    meta = node.meta.get("tensor_meta")
    return meta is not None and meta.dtype.is_floating_point


def changes_in_place(node: fx.Node) -> bool:
    """Whether an operation changes a tensor that others may see."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
        return False
    # Noise is drawn into memory that nobody else sees.
    drawn_into = node.args[0]
    return not (
        isinstance(drawn_into, fx.Node)
        and drawn_into.target is _aten.empty.memory_format
        and len(drawn_into.users) == 1
    )
