r"""Taking out of a sum what does not vary in it: :math:`\sum_i (c\,x_i + d) = c \sum_i x_i + n d`.

A density adds its normalizer and multiplies by its precision entry by entry, and a gradient by the chain rule's every
factor; a compiler that fuses loops does the same. Sums are linear: what is constant along the summed dimensions is done
once, and a sum of squares is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

_aten = torch.ops.aten
_SUMS = (_aten.sum.dim_IntList, _aten.sum.default)
_PRODUCTS = (_aten.mul.Tensor, _aten.mul.Scalar)
# Whoever else uses an entry computes it anew; a matrix product must have it in memory, where it is cheap to read.
_COMPUTED_ANEW = {
    *_SUMS,
    *_PRODUCTS,
    _aten.div.Tensor,
    _aten.neg.default,
    _aten.add.Tensor,
    _aten.sub.Tensor,
    _aten.pow.Tensor_Scalar,
    _aten.expand.default,
}
_REARRANGED = (_aten.expand.default, _aten.view.default, _aten.unsqueeze.default)


@dataclass(frozen=True)
class _Term:
    """A number times tensors."""

    number: float
    factors: tuple[fx.Node, ...]

    def times(self, number: float) -> _Term:
        return _Term(self.number * number, self.factors)


def shrink_sums(nodes: fx.Graph) -> None:
    """Rewrite a graph's sums in place."""
    shapes: dict[fx.Node, tuple[int, ...] | None] = {}
    for node in list(nodes.nodes):
        if node.target in _SUMS and not node.kwargs and isinstance(node.args[0], fx.Node):
            _Sum(nodes, node, shapes).shrink()


class _Sum:
    def __init__(self, nodes: fx.Graph, node: fx.Node, shapes: dict[fx.Node, tuple[int, ...] | None]) -> None:
        self._nodes, self._node, self._shapes = nodes, node, shapes
        self._summed: fx.Node = node.args[0]  # type: ignore[assignment]

    def shrink(self) -> None:
        meta, whole = self._node.meta.get("tensor_meta"), self._shape(self._summed)
        if meta is None or not meta.dtype.is_floating_point or not whole or _dtype(self._summed) is not meta.dtype:
            return
        given: Any = self._node.args[1] if len(self._node.args) > 1 else ()
        dims = {d % len(whole) for d in given} or set(range(len(whole)))
        self._whole, self._dims, self._type = whole, dims, meta.dtype
        terms = self._terms(self._summed)
        parts = [(term, *self._split(term)) for term in terms]
        if not any(outer or not inner or (len(terms) == 1 and term.number != 1) for term, inner, outer in parts):
            return
        with self._nodes.inserting_before(self._node):
            total, number = None, 0.0
            for term, inner, outer in parts:
                if not term.factors:
                    number += term.number * math.prod(whole[d] for d in dims)
                    continue
                value = self._value(term.number, inner, outer)
                total = value if total is None else self._call(_aten.add.Tensor, total, value)
            assert total is not None
            if number:
                total = self._call(_aten.add.Tensor, total, number)
            kept = tuple(1 if d in dims else size for d, size in enumerate(whole))
            if self._shape(total) != kept:
                total = self._call(_aten.expand.default, total, list(kept))
            if tuple(meta.shape) != kept:
                total = self._nodes.call_function(_aten.view.default, (total, list(meta.shape)))
        total.meta["tensor_meta"] = meta
        self._node.replace_all_uses_with(total)
        self._nodes.erase_node(self._node)

    # ------------------------------------------------------------------ taking apart

    def _terms(self, node: fx.Node) -> list[_Term]:
        """What is added up to a node, as far as it is computed for this alone."""
        if node.target in (_aten.add.Tensor, _aten.sub.Tensor) and not node.kwargs and self._may_open(node):
            sign = -1.0 if node.target is _aten.sub.Tensor else 1.0
            left, right = (
                self._terms(part) if isinstance(part, fx.Node) else [_Term(float(part), ())]  # type: ignore[arg-type]
                for part in node.args
            )
            return [*left, *(term.times(sign) for term in right)]
        if node.target is _aten.neg.default and self._may_open(node):
            return [term.times(-1.0) for term in self._terms(node.args[0])]  # type: ignore[arg-type]
        return [self._product(node)]

    def _product(self, node: fx.Node) -> _Term:
        once = self._repeated(node)
        if once is not None:
            return self._product(once)
        if self._may_open(node):
            if node.target is _aten.neg.default:
                return self._product(node.args[0]).times(-1.0)  # type: ignore[arg-type]
            if node.target in _PRODUCTS:
                first, second = (
                    self._product(part) if isinstance(part, fx.Node) else _Term(float(part), ())  # type: ignore[arg-type]
                    for part in node.args
                )
                return _Term(first.number * second.number, first.factors + second.factors)
            if node.target is _aten.div.Tensor and isinstance(node.args[1], (int, float)) and node.args[1]:
                return self._product(node.args[0]).times(1 / node.args[1])  # type: ignore[arg-type]
        return _Term(1.0, (node,))

    def _repeated(self, node: fx.Node) -> fx.Node | None:
        """What a node repeats along a plate: the same when multiplied by it; None if it repeats nothing."""
        if node.target is _aten.expand.default and self._shape(node.args[0]) is not None:
            return node.args[0]  # type: ignore[return-value]
        inner = node
        while inner.target in _REARRANGED:
            inner = inner.args[0]  # type: ignore[assignment]
            shape = self._shape(inner)
            if shape is not None and math.prod(shape) == 1 and len(shape) <= len(self._whole):
                return inner
        return None

    def _may_open(self, node: fx.Node) -> bool:
        parts = [part for part in node.args if isinstance(part, fx.Node)]
        return all(user.target in _COMPUTED_ANEW for user in node.users) and all(
            _dtype(part) is self._type and self._shape(part) is not None for part in parts
        )

    def _split(self, term: _Term) -> tuple[list[fx.Node], list[fx.Node]]:
        """The factors that vary along what is summed, and those that don't."""
        inner = [f for f in term.factors if any(self._size(f, d) != 1 for d in self._dims)]
        return inner, [f for f in term.factors if f not in inner]

    # ------------------------------------------------------------------ putting together

    def _value(self, number: float, inner: list[fx.Node], outer: list[fx.Node]) -> fx.Node:
        varying = {d for d in self._dims if any(self._size(f, d) != 1 for f in inner)}
        number *= math.prod(self._whole[d] for d in self._dims - varying)
        value = self._multiply(inner)
        if value is not None:
            rank = len(self._shape(value) or ())
            summed = sorted(d - len(self._whole) + rank for d in varying)
            value = self._call(_aten.sum.dim_IntList, value, summed, True)
        value = self._multiply([*outer, *([] if value is None else [value])])
        assert value is not None
        return value if number == 1 else self._call(_aten.mul.Tensor, value, number)

    def _multiply(self, factors: Iterable[fx.Node]) -> fx.Node | None:
        product = None
        for factor in factors:
            product = factor if product is None else self._call(_aten.mul.Tensor, product, factor)
        return product

    def _call(self, target: Any, first: fx.Node, *rest: Any) -> fx.Node:
        node = self._nodes.call_function(target, (first, *rest))
        shape = self._shape(first) or ()
        if target is _aten.expand.default:
            shape = tuple(rest[0])
        elif target is _aten.sum.dim_IntList:
            shape = tuple(1 if d in rest[0] else size for d, size in enumerate(shape))
        elif isinstance(rest[0], fx.Node):
            shape = tuple(torch.broadcast_shapes(shape, self._shape(rest[0]) or ()))
        self._shapes[node] = shape
        return node

    def _size(self, node: fx.Node, dim: int) -> int:
        shape = self._shape(node) or ()
        position = dim - len(self._whole) + len(shape)
        return shape[position] if position >= 0 else 1

    def _shape(self, node: Any) -> tuple[int, ...] | None:
        if node not in self._shapes:
            meta = node.meta.get("tensor_meta")
            if meta is not None:
                self._shapes[node] = tuple(meta.shape)
            elif node.target is _aten.expand.default:
                self._shapes[node] = None if -1 in node.args[1] else tuple(node.args[1])
            else:
                # Made by another rewriting, of one tensor entry by entry.
                parts = [p for p in node.args if isinstance(p, fx.Node)]
                self._shapes[node] = self._shape(parts[0]) if len(parts) == 1 else None
        return self._shapes[node]


def _dtype(node: fx.Node) -> torch.dtype | None:
    meta = node.meta.get("tensor_meta")
    if meta is not None:
        return meta.dtype  # type: ignore[no-any-return]
    kinds = {_dtype(part) for part in node.args if isinstance(part, fx.Node)}
    kind = kinds.pop() if len(kinds) == 1 else None
    return kind if kind is not None and kind.is_floating_point else None
