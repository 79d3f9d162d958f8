"""Sums and views that are rewritten keep their values, and lose what they are meant to lose."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.shape_prop import ShapeProp

from pyro_lvm.compiled import SVI
from pyro_lvm.compiled.summing import shrink_sums
from pyro_lvm.compiled.viewing import drop_idle_views, drop_whole_indices
from pyro_lvm.svi import FusedOptim

G = torch.Generator().manual_seed(0)
X = torch.randn(7, 3, generator=G, dtype=torch.float64)
SCALE = torch.rand(3, generator=G, dtype=torch.float64) + 0.5
WEIGHT = torch.rand(7, 1, generator=G, dtype=torch.float64)


def rewritten(rewrite: Callable[[fx.Graph], None], function: Callable[..., Any], *inputs: Tensor) -> fx.GraphModule:
    graph = make_fx(function)(*inputs)
    rewrite(graph.graph)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    return graph


def inside(graph: fx.GraphModule, *inputs: Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """What is done to tensors of two varying dimensions, entry by entry."""
    ShapeProp(graph).propagate(*inputs)
    called = [n for n in graph.graph.nodes if n.op == "call_function" and "tensor_meta" in n.meta]
    return [str(n.target) for n in called if n.meta["tensor_meta"].shape == (7, 3) and "expand" not in str(n.target)]


SUMS: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], int]] = {
    "density by rows": (lambda x, s, w: (-(x**2) * (1 / s).expand(7, 3) - s.log().expand(7, 3) - 0.9).sum(-1), 2),
    "density of all": (lambda x, s, w: (-2 * x * x / 4 - 0.9).sum(), 1),
    "gradient of a scale": (lambda x, s, w: ((w.expand(7, 3) * x**2) * s.expand(7, 3) * s.expand(7, 3)).sum(0), 2),
    "kept dimensions": (lambda x, s, w: (x * s.expand(7, 3) + w.expand(7, 3)).sum((0,), True), 1),
    "nothing varies": (lambda x, s, w: (s.expand(7, 3) * 3).sum(0), 0),
    "one of two dimensions varies": (lambda x, s, w: (s.expand(7, 3) * 3).sum(), 0),
    "negative dimensions": (lambda x, s, w: (x * w.expand(7, 3)).sum((-1,)), 0),
    "a sum of sums": (lambda x, s, w: ((x * w.expand(7, 3)).sum(-1) * 195.0).sum(), 0),
    "smaller shapes": (lambda x, s, w: (x * s + w).sum((0, 1)), 2),
    "another type": (lambda x, s, w: (x.float() * s.float().expand(7, 3)).sum(0, dtype=torch.float64), 3),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_keep_their_values(name: str) -> None:
    # Wrong: a gradient that counts a row twice, or a density without its normalizer.
    function, most = SUMS[name]
    graph = rewritten(shrink_sums, function, X, SCALE, WEIGHT)
    torch.testing.assert_close(graph(X, SCALE, WEIGHT), function(X, SCALE, WEIGHT))
    assert len(inside(graph, X, SCALE, WEIGHT)) <= most


def test_what_a_matrix_product_reads_is_not_computed_again() -> None:
    # Wrong: a gradient that is in memory anyway would be computed a second time for the bias.
    def function(x: Tensor, s: Tensor, w: Tensor) -> Tensor:
        gradient = x * s.expand(7, 3)
        return (gradient.t() @ x).sum() + gradient.sum(0).sum()

    graph = rewritten(shrink_sums, function, X, SCALE, WEIGHT)
    assert inside(graph, X, SCALE, WEIGHT) == ["aten.mul.Tensor"]
    torch.testing.assert_close(graph(X, SCALE, WEIGHT), function(X, SCALE, WEIGHT))


def test_an_enumerated_index_is_a_view() -> None:
    # Wrong: every mixture would gather its parameters and scatter their gradients at every step.
    def function(means: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.arange(7).view(-1, 1, 1)
        return means[t], torch.zeros(7, 3, dtype=means.dtype).index_put([t], values, accumulate=True)

    values = torch.randn(7, 1, 1, 3, generator=G, dtype=torch.float64)
    graph = rewritten(drop_whole_indices, function, X, values)
    assert not [n for n in graph.graph.nodes if "index" in str(n.target)]
    torch.testing.assert_close(graph(X, values), function(X, values))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[torch.arange(5)],
        lambda x: x[torch.arange(6).view(2, 3)],
        lambda x: x[torch.arange(7).flip(0)],
        lambda x: x[:, torch.arange(3)],
        lambda x: (x + 1).index_put([torch.arange(7)], x, accumulate=True),
        lambda x: torch.zeros(7, 3, dtype=x.dtype).index_put([torch.arange(5)], x[:5]),
    ],
)
def test_other_indices_stay(function: Callable[[Tensor], Tensor]) -> None:
    graph = rewritten(drop_whole_indices, function, X)
    torch.testing.assert_close(graph(X), function(X))
    assert [n for n in graph.graph.nodes if "index" in str(n.target)]


def test_idle_views_go() -> None:
    def function(x: Tensor, s: Tensor) -> Tensor:
        return x.view(7, 3) + s.expand(7, 3).expand(7, 3) + s.view(1, 3).expand(1, 3).expand(7, 3)

    graph = rewritten(drop_idle_views, function, X, SCALE)
    names = [str(n.target) for n in graph.graph.nodes if n.op == "call_function"]
    assert sorted(names) == ["aten.add.Tensor"] * 2 + ["aten.expand.default"] * 2 + ["aten.view.default"]
    torch.testing.assert_close(graph(X, SCALE), function(X, SCALE))


@pytest.mark.parametrize("fused", [True, False])
def test_gradients_that_are_views_have_memory_of_their_own(fused: bool) -> None:
    # Wrong: a fused optimizer would read an expanded gradient as if it lay row by row, and clipping would be done
    # twice to two parameters that share one gradient, or to the data.
    data = torch.tensor([[3.0, -2.0, 1.0]])

    def model() -> None:
        parameters = [pyro.param(name, lambda: torch.zeros(4, 3)) for name in ("one", "two")]
        pyro.factor("whole", ((parameters[0] + parameters[1]) * data).sum())

    results = []
    for compile in (False, "auto"):
        pyro.clear_param_store()
        optim = FusedOptim(torch.optim.Adam, {"lr": 0.1, "fused": fused}, clip_norm=0.5)
        svi = SVI(model, lambda: None, optim, Trace_ELBO(), compile=compile)
        losses = [svi.step() for _ in range(10)]
        results.append((losses, pyro.param("two").detach().clone()))
    assert svi.explain().mode == "traced"
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-6)
    torch.testing.assert_close(results[1][1], results[0][1])
    assert data.tolist() == [[3.0, -2.0, 1.0]]


def test_a_mixture_sums_squares_alone() -> None:
    # Wrong: the rewriting would be there, and a real model's graph would not get it.
    def model(x: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.randn(4, 5))
        scale = pyro.param("scale", lambda: torch.ones(4, 5), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            t = pyro.sample("t", dist.Categorical(torch.ones(4)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(loc[t], scale[t]).to_event(1), obs=x)

    pyro.clear_param_store()
    svi = SVI(model, lambda x: None, pyro.optim.Adam({}), pyro.infer.TraceEnum_ELBO())
    x = torch.randn(9, 5)
    for _ in range(2):
        svi.step(x)
    ((entry,),) = svi._entries.values()
    graph = entry.traced.graph
    ShapeProp(graph).propagate(x, *entry.traced.lifted)
    entries = [n for n in graph.graph.nodes if getattr(n.meta.get("tensor_meta"), "shape", None) == (4, 9, 5)]
    assert entries
    assert len([n for n in entries if "expand" not in str(n.target)]) <= 5
