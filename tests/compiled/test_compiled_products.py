"""Products by oneDNN are the products, whatever the layout, and are taken only where the rule says so."""

from collections.abc import Callable
from types import MappingProxyType

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI as PyroSVI
from pyro.infer import Trace_ELBO
from torch import Tensor, fx
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_lvm.compiled import SVI, products, tracing
from pyro_lvm.compiled.products import onednn_is_faster, product, route_products

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")),
    reason="this build of PyTorch has no oneDNN",
)

G = torch.Generator().manual_seed(0)


def matrix(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=G)


LAYOUTS = {
    "forward": (matrix(70, 90), matrix(50, 90).t()),
    "gradient of the input": (matrix(70, 90), matrix(90, 50)),
    "gradient of the weight": (matrix(90, 70).t(), matrix(90, 50)),
    "gradient of a narrow weight": (matrix(90, 300).t(), matrix(90, 20)),
    "both transposed": (matrix(90, 70).t(), matrix(50, 90).t()),
    "repeated": (torch.randn(90, generator=G).expand(70, 90), torch.randn(90, 1, generator=G).expand(90, 50)),
    "strided": (matrix(70, 180)[:, ::2], matrix(90, 101)[:, 1::2]),
    "offset": (matrix(71, 90)[1:], matrix(90, 53)[:, 3:]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_product_of_any_layout_is_the_product(layout: str) -> None:
    # Wrong: a transpose would be taken for its matrix, or strides that Inductor was told of would not be those it gets.
    left, right = LAYOUTS[layout]
    got = product(left, right)
    # Of sums of 90 products, in double precision.
    scale = left.abs().double() @ right.abs().double()
    error = (got.double() - left.double() @ right.double()).abs()
    assert got.shape == (len(left), right.shape[1])
    assert (error <= 90 * torch.finfo(torch.float32).eps * scale).all()
    with FakeTensorMode() as mode:
        told = product(mode.from_tensor(left), mode.from_tensor(right))
    assert (told.shape, told.stride(), told.dtype) == (got.shape, got.stride(), got.dtype)
    torch.library.opcheck(
        torch.ops.pyro_lvm.product.default, (left, right), test_utils=("test_schema", "test_faketensor")
    )


def routed(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[fx.GraphModule, list[str]]:
    graph = make_fx(function)(*inputs)
    route_products(graph.graph)
    graph.graph.lint()
    graph.recompile()
    return graph, [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def test_large_products_are_routed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: nothing would be faster, or a bias would get lost.
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)

    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return (torch.addmm(bias, x, weight.t()) @ weight).t() @ x

    x, weight, bias = matrix(300, 200), matrix(100, 200), torch.randn(100, generator=G)
    graph, operations = routed(layer, x, weight, bias)
    assert operations.count("pyro_lvm.product.default") == 3
    assert not {"aten.mm.default", "aten.addmm.default"} & set(operations)
    expected = layer(x.double(), weight.double(), bias.double())
    torch.testing.assert_close(graph(x, weight, bias).double(), expected, rtol=1e-5, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        pytest.param(matrix(256, 64), matrix(64, 8), id="small"),
        pytest.param(matrix(2048, 2048), matrix(2048, 2), id="thin"),
        pytest.param(matrix(300, 200).double(), matrix(200, 100).double(), id="double"),
        pytest.param(matrix(300, 200).bfloat16(), matrix(200, 100).bfloat16(), id="half"),
    ],
)
def test_other_products_stay(left: Tensor, right: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: small steps would be slower than before, and double precision would not be that.
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    assert routed(torch.mm, left, right)[1] == ["aten.mm.default"]


def test_a_weighted_sum_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: its weights would get lost.
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)

    def weighted(added: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return torch.addmm(added, left, right, beta=0.5, alpha=2.0)

    assert routed(weighted, matrix(1, 100), matrix(300, 200), matrix(200, 100))[1] == ["aten.addmm.default"]


@pytest.mark.parametrize(
    ("name", "instructions", "faster"),
    [
        ("AMD EPYC 9654 96-Core Processor", "AVX512", True),
        ("AMD EPYC 7763 64-Core Processor", "AVX2", False),
        ("Intel(R) Xeon(R) Platinum 8480+", "AVX512", False),
        (None, "DEFAULT", False),
    ],
)
def test_only_where_mkl_is_slow(
    name: str | None, instructions: str, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Wrong: a processor on which MKL is the faster one would be slowed down.
    if not torch.backends.mkl.is_available():
        pytest.skip("this build of PyTorch has no MKL")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType({"cpu_name": name} if name else {}))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    assert onednn_is_faster.__wrapped__() is faster


def test_a_compiled_step_with_routed_products_is_pyros_and_repeats_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: a layout that Inductor changed would spoil a gradient, or a resumed training would end elsewhere.
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    x, start = matrix(2048, 160), 0.1 * matrix(160, 16)

    def losses(svi: type[PyroSVI], **options: bool) -> list[float]:
        pyro.clear_param_store()
        pyro.set_rng_seed(0)

        def model(x: Tensor) -> None:
            weight = pyro.param("weight", start.clone)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(16), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z @ weight.T, 1.0).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            weight = pyro.param("coder", start.clone)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x @ weight, 0.5).to_event(1))

        trainer = svi(model, guide, pyro.optim.SGD({"lr": 1e-6}), Trace_ELBO(), **options)
        values = [trainer.step(x) for _ in range(8)]
        if isinstance(trainer, SVI):
            assert trainer.explain().mode == "compiled"
        return values

    counts: list[int] = []

    def count(nodes: fx.Graph) -> None:
        route_products(nodes)
        counts.append(sum(node.target is torch.ops.pyro_lvm.product.default for node in nodes.nodes))

    monkeypatch.setattr(tracing, "route_products", count)
    got = losses(SVI, compile=True)
    # Forwards twice, the gradients of both weights, and that of z.
    assert counts == [5]
    assert got == pytest.approx(losses(PyroSVI), rel=1e-5)
    assert got == losses(SVI, compile=True)
