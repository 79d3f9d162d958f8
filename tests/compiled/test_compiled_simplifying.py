"""What is rewritten in a graph leaves its values, and takes what it is meant to take out."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.shape_prop import ShapeProp

from pyro_lvm.compiled.optimizers import _power
from pyro_lvm.compiled.simplifying import simplify

X = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SCALE = torch.rand(3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5


def simplified(function: Callable[..., Tensor], *inputs: Tensor) -> fx.GraphModule:
    graph = make_fx(function)(*inputs)
    simplify(graph.graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def operations(graph: fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def test_a_repeated_scale_is_divided_by_once() -> None:
    # Wrong: a normal density would divide, and take a logarithm, for every entry of the batch.
    def density(x: Tensor, scale: Tensor) -> Tensor:
        repeated = scale.expand(7, 3)
        return -(x**2) / (2 * repeated**2) - repeated.log() + x / repeated

    graph = simplified(density, X, SCALE)
    torch.testing.assert_close(graph(X, SCALE), density(X, SCALE))
    ShapeProp(graph).propagate(X, SCALE)
    found = {str(n.target): n.meta["tensor_meta"].shape for n in graph.graph.nodes if n.op == "call_function"}
    assert "aten.div.Tensor" not in found
    assert found["aten.reciprocal.default"] == found["aten.log.default"] == (3,)


def test_neutral_operations_go() -> None:
    # Wrong: every transform and every particle would cost operations that do nothing.
    def neutral(x: Tensor) -> Tensor:
        return ((x.exp() * 1 + 0.0).detach() / 1 - 0) ** 1.0

    graph = simplified(neutral, X)
    assert operations(graph) == ["aten.exp.default"]
    torch.testing.assert_close(graph(X), neutral(X))


def test_an_integer_times_one_still_becomes_a_float() -> None:
    count = torch.arange(4)
    assert simplified(lambda n: (n + 2) * 1.0, count)(count).dtype == torch.float32


def test_a_copy_from_before_a_change_in_place_stays_a_copy() -> None:
    # Wrong: `value * 1` would see what was done to the value afterwards.
    def change(x: Tensor) -> Tensor:
        value = x.exp()
        copy = value * 1
        value.add_(1.0)
        return copy + value

    torch.testing.assert_close(simplified(change, X)(X), change(X))


def test_noise_does_not_keep_neutral_operations() -> None:
    # Wrong: noise, drawn into fresh memory, would be taken for a change that somebody else can see.
    def noisy(x: Tensor) -> Tensor:
        return x.exp() * 1 + torch.empty(7, 3, dtype=torch.float64).normal_()

    graph = simplified(noisy, X)
    assert "aten.mul.Tensor" not in operations(graph)
    torch.manual_seed(3)
    ours = graph(X)
    torch.manual_seed(3)
    torch.testing.assert_close(ours, noisy(X))


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.99), (0.5, 0.0)])
def test_adams_corrections_take_any_decay(betas: tuple[float, float]) -> None:
    # Wrong: a power by way of its logarithm would fail for a decay of zero.
    for count in (1.0, 2.0, 5_000.0):
        for beta in betas:
            value = torch.as_tensor(_power(beta, torch.tensor(count, dtype=torch.float64)))
            assert float(value) == pytest.approx(beta**count, rel=1e-12, abs=1e-300)
