"""Matrix products by oneDNN where MKL, which PyTorch calls for them, is slow: on AMD's processors with AVX-512.

MKL keeps to AVX2 there, which is half of what they can do. Both libraries are part of PyTorch. Which of them multiplies
is judged by the processor and by sizes, never by the clock: the same run always gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

_aten = torch.ops.aten
# Multiplications below which what oneDNN does before and after costs more than it spares, and the least that each of
# the three sizes has to be: measured on one and two threads (`benchmarks/products.py`).
_LEAST_WORK = 2**22
_LEAST_SIZE = 8


@cache
def onednn_is_faster() -> bool:
    """Whether this machine is one of those where oneDNN multiplies faster than MKL, and this PyTorch has both."""
    processor: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return (
        "AMD" in str(processor.get("cpu_name"))
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def route_products(nodes: fx.Graph) -> None:
    """Have oneDNN do the large products of single-precision matrices of a graph on a CPU, where it is faster."""
    if not onednn_is_faster():
        return
    for node in list(nodes.nodes):
        if node.target not in (_aten.mm.default, _aten.addmm.default) or node.kwargs or not _is_large(node):
            continue
        *added, left, right = node.args
        with nodes.inserting_before(node):
            routed = nodes.call_function(torch.ops.pyro_lvm.product.default, (left, right))
            routed.meta = dict(node.meta)
            if added:
                routed = nodes.call_function(_aten.add.Tensor, (routed, *added))
                routed.meta = dict(node.meta)
        node.replace_all_uses_with(routed)
        nodes.erase_node(node)


def _is_large(node: fx.Node) -> bool:
    result = node.meta.get("val")
    if not isinstance(result, Tensor) or result.device.type != "cpu" or result.dtype != torch.float32:
        return False
    # What was lifted into the graph says nothing of itself, but one of the two is mostly something else.
    left, right = node.args[-2:]
    inner = [
        argument.meta["val"].shape[axis]
        for argument, axis in ((left, 1), (right, 0))
        if isinstance(argument, fx.Node) and "val" in argument.meta
    ]
    sizes = [*result.shape, *inner[:1]]
    return len(sizes) == 3 and min(sizes) >= _LEAST_SIZE and math.prod(sizes) >= _LEAST_WORK


def product(left: Tensor, right: Tensor) -> Tensor:
    """The product of two single-precision matrices on a CPU, by oneDNN.

    oneDNN takes a second factor of any strides, and PyTorch copies a first one whose rows aren't contiguous; the same
    product is had from the transposes, and the one with less to copy is taken. The result may be a transpose therefore.

    Args:
        left: Shape (m, k).
        right: Shape (k, n).

    Returns:
        Shape (m, n).
    """
    linear = torch.ops.mkldnn._linear_pointwise.default
    straight = _to_copy(left) <= _to_copy(right.t())
    first, second = (left, right.t()) if straight else (right.t(), left)
    result: Tensor = linear(first, second, None, "none", [], "")
    return result if straight else result.t()


def _to_copy(first: Tensor) -> int:
    return 0 if first.is_contiguous() else first.numel()


# An operation of its own, because Inductor would copy a transposed second factor of oneDNN's.
torch.library.define("pyro_lvm::product", "(Tensor left, Tensor right) -> Tensor")
torch.library.impl("pyro_lvm::product", "CPU")(product)
torch.library.register_fake("pyro_lvm::product")(product)
