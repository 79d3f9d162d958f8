import pyro
import pytest
import torch
from pyro.distributions import Normal
from pyro.infer import SVI as StockSVI
from pyro.infer import Trace_ELBO

from pyro_lvm.svi import SVI, FusedOptim


def model(x: torch.Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(2))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", Normal(0.0, 1.0))
        pyro.sample("x", Normal(loc + z[:, None], 1.0).to_event(1), obs=x)


def guide(x: torch.Tensor) -> None:
    slope = pyro.param("slope", torch.zeros(()))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=torch.distributions.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", Normal(slope * x.sum(-1), scale))


X = torch.randn(20, 2, generator=torch.Generator().manual_seed(2)) + 1


def train(svi_class: type, optim: pyro.optim.PyroOptim, steps: int = 30) -> tuple[list[float], dict[str, torch.Tensor]]:
    pyro.clear_param_store()
    pyro.set_rng_seed(3)
    svi = svi_class(model, guide, optim, Trace_ELBO())
    losses = [svi.step(X) for _ in range(steps)]
    return losses, {name: value.detach().clone() for name, value in pyro.get_param_store().items()}


def test_equals_stock_svi_with_one_optimizer_a_parameter() -> None:
    # Wrong: fusing the optimizers would change what is learned.
    losses, learned = train(SVI, FusedOptim(torch.optim.Adam, {"lr": 0.05}))
    stock_losses, stock_learned = train(StockSVI, pyro.optim.Adam({"lr": 0.05}))
    assert losses == pytest.approx(stock_losses, rel=1e-5)
    for name, value in stock_learned.items():
        assert torch.allclose(value, learned[name], atol=1e-5)


def test_works_with_pyro_optimizers_too() -> None:
    losses, _ = train(SVI, pyro.optim.ClippedAdam({"lr": 0.05}))
    stock_losses, _ = train(StockSVI, pyro.optim.ClippedAdam({"lr": 0.05}))
    assert losses == pytest.approx(stock_losses, rel=1e-6)


def test_trains_only_what_is_chosen() -> None:
    # Wrong: a variational E-step would move the model.
    pyro.set_rng_seed(0)
    model(X)
    guide(X)
    store = pyro.get_param_store()
    loc = store._params["loc"]
    svi = SVI(model, guide, FusedOptim(torch.optim.Adam, {"lr": 0.1}), Trace_ELBO(), trainable=lambda p: p is not loc)
    svi.step(X)
    assert (store["loc"] == 0).all()
    assert store["slope"] != 0
    assert loc.grad is None


def test_clips_the_whole_gradient() -> None:
    optim = FusedOptim(torch.optim.SGD, {"lr": 1.0}, clip_norm=1e-3)
    _, learned = train(SVI, optim, steps=1)
    start = {"loc": torch.zeros(2), "slope": torch.zeros(()), "scale": torch.zeros(())}
    moved = torch.cat([(learned[n] - start[n]).flatten() for n in ("loc", "slope")] + [learned["scale"].log().view(1)])
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-3)


def test_optimizer_state_goes_on_where_it_stopped() -> None:
    # Wrong: a resumed run would forget its momentum.
    parameter = torch.tensor([1.0, 2.0], requires_grad=True)

    def steps(optim: FusedOptim, value: torch.Tensor, count: int) -> None:
        for _ in range(count):
            value.grad = 2 * value.detach()
            optim([value])

    whole, first, second = (FusedOptim(torch.optim.Adam, {"lr": 0.1}) for _ in range(3))
    steps(whole, parameter, 6)
    resumed = torch.tensor([1.0, 2.0], requires_grad=True)
    steps(first, resumed, 3)
    with pytest.raises(RuntimeError, match="no parameters yet"):
        second.set_state(first.get_state())
    second.join([resumed])
    second.set_state(first.get_state())
    steps(second, resumed, 3)
    assert torch.equal(parameter, resumed)
