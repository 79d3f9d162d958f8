"""A traced step is eager Pyro's step: the same losses over 200 steps, for every kind of ELBO, guide and optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn
from torch.distributions import constraints

from pyro_lvm import data_plate, observe
from pyro_lvm.compiled import SVI
from pyro_lvm.importance import ImportanceWeightedELBO
from pyro_lvm.plate import feeding
from pyro_lvm.svi import SVI as EagerSVI
from pyro_lvm.svi import FusedOptim

STEPS = 200
X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Pair = tuple[Callable[..., Any], Callable[..., Any]]


@pytest.fixture(autouse=True)
def _float64() -> Any:
    # Over 200 steps of Adam the rounding of float32 grows past what is asked for.
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def ppca() -> Pair:
    start = torch.randn(6, 2, generator=torch.Generator().manual_seed(1)) * 0.3

    def model(x: torch.Tensor) -> None:
        loadings = pyro.param("loadings", lambda: start.clone())
        mean = pyro.param("mean", lambda: torch.zeros(6))
        noise = pyro.param("noise", lambda: torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", 400, subsample=x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings.T + mean, noise).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        slope = pyro.param("slope", lambda: torch.zeros(6, 2))
        scale = pyro.param("scale", lambda: torch.full((2,), 0.5), constraint=constraints.positive)
        with pyro.plate("data", 400, subsample=x):
            pyro.sample("z", dist.Normal(x @ slope, scale).to_event(1))

    return model, guide


def mixture(infer: dict[str, Any] | None = None) -> Pair:
    start = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))

    def model(x: torch.Tensor) -> None:
        weights = pyro.param("weights", lambda: torch.ones(3) / 3, constraint=constraints.simplex)
        means = pyro.param("means", lambda: start.clone())
        with pyro.plate("data", len(x)):
            t = pyro.sample("t", dist.Categorical(weights), infer=infer or {})
            pyro.sample("x", dist.Normal(means[t], 1.0).to_event(1), obs=x)

    return model, lambda x: None


def scored(infer: Callable[[], dict[str, Any]] = dict) -> Pair:
    model, _ = mixture()

    def guide(x: torch.Tensor) -> None:
        slope = pyro.param("slope", lambda: torch.zeros(6, 3))
        with pyro.plate("data", len(x)):
            pyro.sample("t", dist.Categorical(logits=x @ slope), infer=infer())

    return model, guide


def masked() -> Pair:
    def model(x: torch.Tensor) -> None:
        mean = pyro.param("mean", lambda: torch.zeros(6))
        with pyro.plate("data", len(x)), poutine.mask(mask=x[:, 0] > 0):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(mean + z[:, None], 1.0).mask(x < 1.5).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        slope = pyro.param("slope", lambda: torch.zeros(6))
        with pyro.plate("data", len(x)), poutine.mask(mask=x[:, 0] > 0):
            pyro.sample("z", dist.Normal(x @ slope, 0.7))

    return model, guide


def network_baseline() -> Pair:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
    model, _ = mixture()

    def guide(x: torch.Tensor) -> None:
        pyro.module("baseline", net)
        slope = pyro.param("slope", lambda: torch.zeros(6, 3))
        with pyro.plate("data", len(x)):
            baseline = {"nn_baseline": lambda rows: net(rows).squeeze(-1), "nn_baseline_input": x}
            pyro.sample("t", dist.Categorical(logits=x @ slope), infer={"baseline": baseline})

    return model, guide


def counts() -> Pair:
    def model(x: torch.Tensor) -> None:
        rate = pyro.param("rate", lambda: torch.ones(6), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0, torch.tensor(2.0)))
            pyro.sample("x", dist.Poisson(rate * z[:, None]).to_event(1), obs=x.abs().round())

    def guide(x: torch.Tensor) -> None:
        a = pyro.param("a", lambda: torch.tensor(2.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(a + x.abs().sum(-1), 3.0))

    return model, guide


class Net(PyroModule):
    """A VAE with batch normalization and dropout, whose decoder owns a constrained parameter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.encoder = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(8, 4)
        self.decoder = nn.Linear(2, 6)
        self.noise = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

    def model(self, x: torch.Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), self.noise).to_event(1), obs=x)

    def guide(self, x: torch.Tensor) -> None:
        pyro.module("encoder", self.encoder)
        pyro.module("head", self.head)
        with pyro.plate("data", len(x)):
            loc, scale = self.head(self.encoder(x)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


def network() -> Pair:
    net = Net()
    return net.model, net.guide


class Regression(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](5, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 5]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

    def forward(self, x: torch.Tensor) -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        mean = self.linear(x[:, :5]).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, scale), obs=x[:, 5])


def auto(kind: Callable[[Any], Any]) -> Callable[[], Pair]:
    def make() -> Pair:
        model = Regression()
        return model, kind(model)

    return make


def subsampled() -> Pair:
    data = X.clone()

    def model(x: torch.Tensor) -> None:
        mean = pyro.param("mean", lambda: torch.zeros(6))
        with pyro.plate("rows", len(data), subsample_size=10) as chosen:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(mean + z[:, None], 1.0).to_event(1), obs=data[chosen])

    def guide(x: torch.Tensor) -> None:
        locs = pyro.param("locs", lambda: torch.zeros(len(data)))
        with pyro.plate("rows", len(data), subsample_size=10) as chosen:
            pyro.sample("z", dist.Normal(locs[chosen], 0.5))

    return model, guide


def holes() -> Pair:
    """With missing entries, a mask of the guide's own, and a warm-up by a tensor."""
    warm = torch.tensor(0.3)

    def model(x: torch.Tensor) -> None:
        mean = pyro.param("mean", lambda: torch.zeros(6))
        with data_plate(x):
            with poutine.scale(scale=warm):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            observe("x", dist.Normal(mean + z[:, None], 1.0), torch.where(x > 1.2, torch.nan, x))

    def guide(x: torch.Tensor) -> None:
        slope = pyro.param("slope", lambda: torch.zeros(6))
        warm.mul_(0.99).add_(0.01)
        with data_plate(x), poutine.scale(scale=warm):
            pyro.sample("z", dist.Normal(x.clamp(max=1.2) @ slope, 0.7))

    return model, guide


def adam() -> Any:
    return pyro.optim.Adam({"lr": 0.02})


enumerated = config_enumerate
CASES: dict[str, tuple[Callable[[], Pair], Callable[[], Any]]] = {
    "Trace": (ppca, Trace_ELBO),
    "Trace, particles": (ppca, lambda: Trace_ELBO(num_particles=3)),
    "Trace, vectorized particles": (ppca, lambda: Trace_ELBO(num_particles=3, vectorize_particles=True)),
    "MeanField": (ppca, TraceMeanField_ELBO),
    "Graph": (ppca, TraceGraph_ELBO),
    "Renyi": (ppca, lambda: RenyiELBO(num_particles=3)),
    "importance": (ppca, lambda: ImportanceWeightedELBO(4)),
    "importance, vectorized": (ppca, lambda: ImportanceWeightedELBO(4, vectorize_particles=True)),
    "importance, score function": (scored, lambda: ImportanceWeightedELBO(4)),
    "enumerated in the model": (lambda: mixture({"enumerate": "parallel"}), TraceEnum_ELBO),
    "enumerated in the guide": (lambda: scored(lambda: {"enumerate": "parallel"}), TraceEnum_ELBO),
    "enumerated one by one": (
        lambda: scored(lambda: {"enumerate": "parallel", "num_samples": 4}),
        lambda: TraceEnum_ELBO(num_particles=2),
    ),
    "score function": (scored, Trace_ELBO),
    "score function, graph": (scored, TraceGraph_ELBO),
    "decaying average": (
        lambda: scored(lambda: {"baseline": {"use_decaying_avg_baseline": True, "baseline_beta": 0.9}}),
        TraceGraph_ELBO,
    ),
    "network baseline": (network_baseline, TraceGraph_ELBO),
    "value baseline": (
        lambda: scored(lambda: {"baseline": {"baseline_value": torch.full((40,), -9.0)}}),
        TraceGraph_ELBO,
    ),
    "masks": (masked, Trace_ELBO),
    "Gamma draws": (counts, Trace_ELBO),
    "AutoNormal": (auto(AutoNormal), Trace_ELBO),
    "AutoNormal, analytic KL": (auto(AutoNormal), TraceMeanField_ELBO),
    "AutoLowRank": (auto(lambda m: AutoLowRankMultivariateNormal(m, rank=2)), Trace_ELBO),
    "subsampling": (subsampled, Trace_ELBO),
    "holes and warm-up": (holes, Trace_ELBO),
    "batch normalization and dropout": (network, Trace_ELBO),
}


def run(
    kind: type, pair: Callable[[], Pair], elbo: Callable[[], ELBO], optim: Callable[[], Any], **options: Any
) -> Any:
    pyro.clear_param_store()
    pyro.set_rng_seed(7)
    model, guide = pair()
    svi = kind(model, guide, optim(), elbo(), **options)
    losses = [svi.step(X) for _ in range(STEPS)]
    return losses, svi, torch.rand(3)


@pytest.mark.parametrize("name", CASES)
def test_losses_and_noise_are_eager_pyros(name: str) -> None:
    # Wrong: what a person trains with this package would not be what Pyro trains.
    pair, elbo = CASES[name]
    expected, _, noise = run(pyro.infer.SVI, pair, elbo, adam)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        losses, svi, own_noise = run(SVI, pair, elbo, adam)
    assert svi.explain().steps == {"eager": 1, "traced": STEPS - 1}, str(svi.explain())
    assert losses == pytest.approx(expected, rel=1e-5)
    assert torch.equal(noise, own_noise)


def named(**options: Any) -> Callable[[str], dict[str, Any]]:
    return lambda name: {"lr": 0.05 if name == "slope" else 0.01, **options}


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "Adam": lambda: pyro.optim.Adam({"lr": 0.02, "betas": (0.8, 0.99), "weight_decay": 0.1}),
    "AdamW": lambda: pyro.optim.AdamW({"lr": 0.02, "weight_decay": 0.3}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 0.02, "lrd": 0.99, "clip_norm": 50.0}),
    "SGD": lambda: pyro.optim.SGD({"lr": 1e-5}),
    "SGD, Nesterov": lambda: pyro.optim.SGD({"lr": 1e-5, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "clipped by norm": lambda: pyro.optim.Adam({"lr": 0.02}, {"clip_norm": 5.0}),
    "clipped by value": lambda: pyro.optim.SGD({"lr": 1e-4}, {"clip_value": 3.0}),
    "options by name": lambda: pyro.optim.Adam(named()),
    "schedule": lambda: pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.02}, "gamma": 0.98}
    ),
    "fused": lambda: FusedOptim(torch.optim.Adam, {"lr": 0.02}),
    "fused, clipped": lambda: FusedOptim(torch.optim.Adam, {"lr": 0.02}, clip_norm=10.0),
    "RMSprop, which has no graph": lambda: pyro.optim.RMSprop({"lr": 0.02}),
}


def whole_graph_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole step's graph, the optimizer in it, without the seconds that compiling takes."""
    monkeypatch.setattr("pyro_lvm.compiled.svi.compile_step", lambda graph, inputs: graph)


def scheduled(svi: Any, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        losses.append(svi.step(X))
        if isinstance(svi.optim, pyro.optim.PyroLRScheduler):
            svi.optim.step()
    return losses


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizer_in_the_graph_is_torchs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: the compiled step would follow another rule than the optimizer that it was given.
    whole_graph_interpreted(monkeypatch)
    results = []
    for kind, options in ((EagerSVI, {}), (SVI, {"compile": True})):
        pyro.clear_param_store()
        pyro.set_rng_seed(7)
        svi = kind(*ppca(), OPTIMIZERS[name](), Trace_ELBO(), **options)
        losses = scheduled(svi, STEPS)
        values = {n: p.detach().clone() for n, p in pyro.get_param_store().items()}
        results.append((losses, values, svi.optim.get_state()))
    (expected, learned, state), (losses, own, own_state) = results
    mode = "traced" if name.startswith("RMSprop") else "compiled"
    assert svi.explain().mode == mode, str(svi.explain())
    assert losses == pytest.approx(expected, rel=1e-9)
    for parameter, value in learned.items():
        assert torch.allclose(value, own[parameter], rtol=1e-7, atol=1e-9), parameter
    # The state is where Pyro keeps it, and as far on.
    flat, spec = torch.utils._pytree.tree_flatten(state)
    own_flat, own_spec = torch.utils._pytree.tree_flatten(own_state)
    assert spec == own_spec
    for one, other in zip(flat, own_flat, strict=True):
        if one is None or other is None:
            assert one is other
        else:
            assert torch.allclose(torch.as_tensor(one).double(), torch.as_tensor(other).double(), rtol=1e-6, atol=1e-9)


def test_training_and_evaluation_modes_are_kept_apart() -> None:
    # Wrong: dropout would go on in evaluation, or the statistics of batches move on.
    def run_modes(kind: type) -> tuple[list[float], torch.Tensor]:
        pyro.clear_param_store()
        net = Net()
        pyro.set_rng_seed(1)
        svi = kind(net.model, net.guide, adam(), Trace_ELBO())
        losses = []
        for i in range(STEPS):
            net.train(i % 10 < 7)
            losses.append(svi.step(X))
        return losses, net.encoder[1].running_mean  # type: ignore[return-value]

    expected, mean = run_modes(pyro.infer.SVI)
    losses, own_mean = run_modes(SVI)
    assert losses == pytest.approx(expected, rel=1e-6)
    assert torch.allclose(mean, own_mean)


def test_modules_own_their_parameters_where_pyro_is_told_so() -> None:
    # Wrong: two pairs in one process would meet in the global store.
    with pyro.settings.context(module_local_params=True):
        results = []
        for kind in (EagerSVI, SVI):
            pyro.set_rng_seed(2)
            model = Regression()
            model.extra = nn.Parameter(torch.zeros(()))
            guide = AutoNormal(model)
            svi = kind(model, guide, adam(), Trace_ELBO())
            results.append([svi.step(X) for _ in range(STEPS)])
        assert len(pyro.get_param_store()) == 0
    assert svi.explain().mode == "traced"
    assert results[1] == pytest.approx(results[0], rel=1e-6)


def test_the_number_of_rows_comes_from_whoever_feeds() -> None:
    # Wrong: N would be what it was when the step was traced.
    model, guide = holes()
    svi = SVI(model, guide, adam(), Trace_ELBO())
    for num_rows in (None, 400, 800, 400):
        with feeding(num_rows):
            losses = []
            for kind in range(2):
                pyro.set_rng_seed(4)
                losses.append(svi.step(X) if kind else svi.evaluate_loss(X))
        assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_compiled_losses_are_eager_pyros(name: str) -> None:
    pair, elbo = CASES[name]
    expected, _, noise = run(pyro.infer.SVI, pair, elbo, adam)
    losses, svi, own_noise = run(SVI, pair, elbo, adam, compile=True)
    assert svi.explain().mode == "compiled", str(svi.explain())
    assert losses == pytest.approx(expected, rel=1e-5)
    assert torch.equal(noise, own_noise)
