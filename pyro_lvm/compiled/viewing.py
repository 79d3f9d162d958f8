"""Views that show everything as it was, and indices that take everything in its order, taken out of a graph.

Distributions expand their parameters to shapes that these have already. A component that is summed out has the value
``arange(K)``, and ``means[t]`` becomes a gather, its gradient a scatter; both are the tensor itself in another shape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

_aten = torch.ops.aten
_ZEROS = (_aten.new_zeros.default, _aten.zeros.default, _aten.zeros_like.default)


def drop_idle_views(nodes: fx.Graph) -> None:
    """Drop views of the same shape, and repeat at once what is repeated twice, in place."""
    for node in list(nodes.nodes):
        if node.target not in (_aten.view.default, _aten.expand.default):
            continue
        seen: Any = node.args[0]
        if _shape(seen) is not None and _shape(seen) == _shape(node):
            node.replace_all_uses_with(seen)
            nodes.erase_node(node)
        elif node.target is seen.target is _aten.expand.default and -1 not in node.args[1]:
            node.args = (seen.args[0], node.args[1])


def drop_whole_indices(nodes: fx.Graph) -> None:
    """Make views of the gathers and scatters by ``arange(K)`` along a first dimension of K entries, in place."""
    for node in list(nodes.nodes):
        if node.target is _aten.index.Tensor:
            tensor, indices = node.args
            shape, index = _shape(tensor), _whole(indices)
            if shape and index and max(index) == shape[0]:
                _replace(nodes, node, tensor, (*index, *shape[1:]))
        elif node.target is _aten.index_put.default:
            zeros, indices, values = node.args[:3]
            shape, index = _shape(node), _whole(indices)
            apart = isinstance(zeros, fx.Node) and zeros.target in _ZEROS
            if apart and shape and index and max(index) == shape[0] and _shape(values) == (*index, *shape[1:]):
                _replace(nodes, node, values, shape)


def _whole(indices: Any) -> tuple[int, ...] | None:
    """The shape of an index that is ``arange`` with further dimensions of one entry; None for another."""
    if len(indices) != 1 or not isinstance(indices[0], fx.Node):
        return None
    shape, node = _shape(indices[0]), indices[0]
    while node.target is _aten.view.default:
        node = node.args[0]  # type: ignore[assignment]
    if shape is None or node.target is not _aten.arange.default or sum(size != 1 for size in shape) > 1:
        return None
    return shape


def _shape(node: Any) -> tuple[int, ...] | None:
    meta = node.meta.get("tensor_meta") if isinstance(node, fx.Node) else None
    return None if meta is None else tuple(meta.shape)


def _replace(nodes: fx.Graph, node: fx.Node, tensor: Any, shape: tuple[int, ...]) -> None:
    with nodes.inserting_before(node):
        view = nodes.call_function(_aten.view.default, (tensor, list(shape)))
    view.meta = dict(node.meta)
    node.replace_all_uses_with(view)
    nodes.erase_node(node)
