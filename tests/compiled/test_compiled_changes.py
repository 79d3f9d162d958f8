"""What is traced goes stale, can't be traced, or is taken up elsewhere: each is right, and said."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch._dynamo.utils import counters
from torch.distributions import constraints

from pyro_lvm import fit
from pyro_lvm.compiled import SVI, PolynomialAverage
from pyro_lvm.compiled.capture import Untraceable
from pyro_lvm.compiled.tracing import trace
from pyro_lvm.compiled.verification import Disagreement, verify_traced
from pyro_lvm.errors import TrainingError
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.models import PPCA
from pyro_lvm.svi import SVI as EagerSVI
from pyro_lvm.svi import FusedOptim

X = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))


def model(x: torch.Tensor, beta: Any = 1.0) -> None:
    loc = pyro.param("loc", lambda: torch.zeros(4))
    noise = pyro.param("noise", lambda: torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        with poutine.scale(scale=beta):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(loc + z[:, None], noise).to_event(1), obs=x)


def guide(x: torch.Tensor, beta: Any = 1.0) -> None:
    slope = pyro.param("slope", lambda: torch.zeros(4))
    with pyro.plate("data", len(x)), poutine.scale(scale=beta):
        pyro.sample("z", dist.Normal(x @ slope, 0.6))


def adam() -> Any:
    return pyro.optim.Adam({"lr": 0.05})


def both(steps: Callable[[Any], list[float]], **options: Any) -> tuple[list[float], list[float], Any]:
    """The losses of the same steps by eager Pyro and by the traced one."""
    results = []
    for kind, own in ((pyro.infer.SVI, {}), (SVI, options)):
        pyro.clear_param_store()
        pyro.set_rng_seed(3)
        svi = kind(model, guide, adam(), Trace_ELBO(), **own)
        results.append(steps(svi))
    return results[0], results[1], svi


def test_shapes_strides_and_types() -> None:
    # Wrong: a smaller last batch would crash, or be taken for a whole one.
    wide = torch.randn(30, 8)
    batches = [X, X[:7], X[7:], wide[:, ::2], X.T.contiguous().T, X, X[:1], wide[:, :4], X[:7]]

    def steps(svi: Any) -> list[float]:
        return [svi.step(batch) for batch in batches * 2]

    expected, losses, svi = both(steps)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert svi.explain().steps == {"eager": 1, "traced": 2 * len(batches) - 1}


def test_rows_of_another_type() -> None:
    # Wrong: bytes would go through the graph of floats.
    batches = [X, X.double(), (4 * X).to(torch.int32), X.half(), X > 0]

    def steps(svi: Any) -> list[float]:
        svi.model, svi.guide = (lambda x: model(x.float())), (lambda x: guide(x.float()))
        return [svi.step(batch) for batch in batches * 2]

    expected, losses, svi = both(steps)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert svi.explain().traced == len(batches)


def test_python_values_among_the_arguments() -> None:
    expected, losses, svi = both(lambda svi: [svi.step(X, beta=b) for b in (1.0, 0.5, 0.5, 1.0, 1, True, 0.25, 0.25)])
    assert losses == pytest.approx(expected, rel=1e-5)
    assert svi.explain().traced == 5


def test_tensor_arguments_anneal_in_one_graph() -> None:
    expected, losses, svi = both(lambda svi: [svi.step(X, torch.tensor((i + 1) / 20)) for i in range(20)])
    assert losses == pytest.approx(expected, rel=1e-5)
    assert svi.explain().traced == 1


settings = {"beta": 1.0}
temperature = 1.0


def test_numbers_that_the_code_reads_by_name() -> None:
    # Wrong: annealing by a Python number would stop at the first one.
    global temperature
    offset = 0.0

    def outer(x: torch.Tensor) -> None:
        model(x + offset, settings["beta"] * temperature)

    def steps(svi: Any) -> list[float]:
        global temperature
        nonlocal offset
        svi.model, svi.guide = outer, guide
        losses = []
        for i in range(12):
            settings["beta"], temperature, offset = 1.0 - 0.1 * (i // 4), 1.0 + (i // 6), float(i // 9)
            losses.append(svi.step(X))
        settings["beta"], temperature, offset = 1.0, 1.0, 0.0
        return losses

    expected, losses, svi = both(steps)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert "eager" not in svi.explain().mode


def test_a_number_that_is_different_at_every_step_is_given_up() -> None:
    counter = {"i": 0}

    def annealed(x: torch.Tensor) -> None:
        model(x, (counter["i"] + 1) / 50)

    def steps(svi: Any) -> list[float]:
        svi.model = annealed
        losses = []
        for i in range(20):
            counter["i"] = i
            losses.append(svi.step(X))
        return losses

    with pytest.warns(UserWarning, match="'i' is different at every step: pass it as a tensor"):
        expected, losses, _ = both(steps)
    assert losses == pytest.approx(expected, rel=1e-5)


def test_replaced_parameters_are_noticed() -> None:
    # Wrong: after loading, training would go on with what was there before.
    def steps(svi: Any) -> list[float]:
        store = pyro.get_param_store()
        losses = [svi.step(X) for _ in range(5)]
        store["loc"] = torch.full((4,), 2.0)
        losses += [svi.step(X) for _ in range(3)]
        store._params["slope"].data = torch.ones(4)
        losses += [svi.step(X) for _ in range(3)]
        store.set_state(store.get_state())
        return losses + [svi.step(X) for _ in range(3)]

    expected, losses, svi = both(steps)
    assert losses == pytest.approx(expected, rel=1e-5)
    frozen = pyro.get_param_store()._params["noise"].requires_grad_(False)
    value, before = float(frozen), svi.explain().traced
    svi.step(X)
    assert float(frozen) == value
    assert svi.explain().traced == before + 1


def test_what_can_not_be_seen_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: a stale graph would train on to the end.
    hidden = [np.array(1.0)]

    def odd(x: torch.Tensor) -> None:
        model(x + float(hidden[0]))

    monkeypatch.setattr("pyro_lvm.compiled.svi._VERIFY_EVERY", 10)
    monkeypatch.setattr("pyro_lvm.compiled.svi._VERIFY_FIRST", 5)
    svi = SVI(odd, guide, adam(), Trace_ELBO())
    for _ in range(4):
        svi.step(X)
    hidden[0] = np.array(3.0)
    with pytest.warns(UserWarning, match="no longer agreed with eager Pyro"):
        _ = [svi.step(X) for _ in range(8)]
    pyro.set_rng_seed(0)
    expected = svi.evaluate_loss(X)
    pyro.set_rng_seed(0)
    assert svi.step(X) == pytest.approx(expected, rel=1e-4)


def deciding(x: torch.Tensor) -> None:
    z = pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))
    pyro.sample("x", dist.Normal(z if z > 0 else -z, 1.0), obs=x)


def counting(x: torch.Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(()))
    scale = float(np.random.uniform(1, 2))  # noqa: NPY002 - a person's model
    z = pyro.sample("z", dist.Normal(loc, scale))
    pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def reading(x: torch.Tensor) -> None:
    z = pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))
    pyro.sample("x", dist.Normal(z * len(set(x.tolist())), 1.0), obs=x[0])


@pytest.mark.parametrize(
    ("odd", "why"),
    [(deciding, "decides by a tensor's value"), (counting, "differs|the loss is"), (reading, r"Tensor\.tolist")],
)
def test_falling_back_leaves_everything_as_it_was(odd: Callable[..., None], why: str) -> None:
    # Wrong: trying would change the noise, the parameters, or the optimizer.
    def posterior(x: torch.Tensor) -> None:
        pyro.sample("z", dist.Normal(pyro.param("q", torch.zeros(())), 1.0))

    x = torch.tensor([1.0, 2.0, 2.0]) if odd is reading else torch.tensor(1.0)
    results = []
    for kind in (pyro.infer.SVI, SVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(3)
        svi = kind(odd, posterior, adam(), Trace_ELBO())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            losses = [svi.step(x) for _ in range(10)]
        results.append((losses, torch.rand(2).tolist(), np.random.rand()))  # noqa: NPY002
    assert results[0] == results[1]
    (warning,) = caught
    assert "SVI goes on as eager Pyro" in str(warning.message)
    assert svi.explain().steps == {"eager": 10}
    assert pytest.importorskip("re").search(why, str(svi.explain()))


def test_verification_can_fail() -> None:
    # Wrong: a comparison that always agrees.
    svi = EagerSVI(model, guide, adam(), Trace_ELBO())
    svi.step(X)
    traced = trace(svi.loss_and_grads, model, guide, (X,), {})
    verify_traced(traced, svi.loss_and_grads, model, guide, (X,), {}, [X], 5)
    node = next(n for n in traced.graph.graph.nodes if n.target is torch.ops.aten.mul.Tensor)
    node.target = torch.ops.aten.add.Tensor
    traced.graph.recompile()
    with pytest.raises(Disagreement, match=r"differs by|the loss is"):
        verify_traced(traced, svi.loss_and_grads, model, guide, (X,), {}, [X], 5)


def test_a_gradient_that_vanishes_but_for_rounding_agrees() -> None:
    # Wrong: a bias before batch normalization would send everybody back to eager Pyro.
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))

    def normalized(x: torch.Tensor) -> None:
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x).squeeze(-1), 0.6))

    svi = SVI(model, normalized, adam(), Trace_ELBO())
    for _ in range(5):
        svi.step(X)
    assert svi.explain().mode == "traced"


@pytest.mark.parametrize(("share", "agrees"), [(1e-6, True), (1e-4, False)])
def test_a_gradient_may_be_what_rounding_leaves_of_terms_as_large_as_the_loss(share: float, agrees: bool) -> None:
    # Wrong: at the best noise scale, whose gradient is 0 but for rounding, a training goes on as eager Pyro; or a
    # gradient that is wrong agrees.
    rows = torch.randn(500, 784, generator=torch.Generator().manual_seed(0))
    best = rows.double().square().mean().sqrt().float()

    def wide(x: torch.Tensor) -> None:
        noise = pyro.param("noise", lambda: best.clone(), constraint=constraints.positive)
        with pyro.plate("data", 500, subsample=x):
            pyro.sample("x", dist.Normal(0.0, noise).expand([784]).to_event(1), obs=x)

    svi = EagerSVI(wide, lambda x: None, pyro.optim.Adam({"lr": 0.0}), Trace_ELBO())
    loss = float(svi.step(rows))
    traced = trace(svi.loss_and_grads, wide, svi.guide, (rows,), {})
    output = traced.graph.graph.output_node()
    (value, gradient) = output.args[0]
    with traced.graph.graph.inserting_before(output):
        moved = traced.graph.graph.call_function(torch.ops.aten.add.Tensor, (gradient, share * loss))
    output.args = ([value, moved],)
    traced.graph.recompile()
    with nullcontext() if agrees else pytest.raises(Disagreement, match="gradient 0"):
        verify_traced(traced, svi.loss_and_grads, wide, svi.guide, (rows,), {}, [rows], 5)


def test_no_parameters_is_untraceable() -> None:
    with pytest.raises(Untraceable, match="no tensor of the parameters"):
        trace(Trace_ELBO().loss_and_grads, lambda x: None, lambda x: None, (X,), {})


def test_without_a_compiler_the_graph_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", broken)
    with pytest.warns(UserWarning, match="traced but not compiled.*no C\\+\\+ compiler") as caught:
        expected, losses, svi = both(lambda svi: [svi.step(X) for _ in range(10)], compile=True)
    assert len(caught) == 1
    assert losses == pytest.approx(expected, rel=1e-5)
    assert svi.explain().steps == {"eager": 1, "traced": 9}


def test_handlers_around_a_step_still_count() -> None:
    def steps(svi: Any) -> list[float]:
        losses = []
        for i in range(6):
            with poutine.scale(scale=0.1 if i % 2 else 1.0):
                losses.append(svi.step(X))
        return losses

    expected, losses, _ = both(steps)
    assert losses == pytest.approx(expected, rel=1e-5)


def test_one_mode_continues_the_other() -> None:
    # Wrong: momenta or step counts would start again when a run goes on elsewhere.
    for make in (adam, lambda: pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.99})):
        results = []
        for modes in ((False,) * 4, (False, "auto", False, "auto")):
            pyro.clear_param_store()
            pyro.set_rng_seed(3)
            optim = make()
            losses = []
            for mode in modes:
                svi = SVI(model, guide, optim, Trace_ELBO(), compile=mode)
                losses += [svi.step(X) for _ in range(10)]
            results.append(losses)
        assert results[1] == pytest.approx(results[0], rel=1e-5)


def test_run_takes_batches_of_its_own_and_notices_nonsense() -> None:
    x = torch.cat([X, X + 1.0])
    svi = SVI(model, guide, adam(), Trace_ELBO())
    losses = svi.run(300, x, batch_size=20)
    assert losses.shape == (300,)
    assert losses[-50:].mean() < losses[:50].mean()
    bad = SVI(model, guide, pyro.optim.SGD({"lr": 1e30}), Trace_ELBO())
    with pyro.validation_enabled(False), pytest.raises(TrainingError, match="the loss is"):
        bad.run(300, x)


def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole step's graph without the seconds that compiling takes."""
    monkeypatch.setattr("pyro_lvm.compiled.svi.compile_step", lambda graph, inputs: graph)


@pytest.mark.parametrize("batch_size", [None, 7])
def test_run_is_the_steps_that_it_saves_looking_at(batch_size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: what is skipped within a run would be a comparison, a count, or the smaller batch's own graph.
    interpreted(monkeypatch)
    monkeypatch.setattr("pyro_lvm.compiled.svi._VERIFY_EVERY", 120)
    results = []
    for compile in (False, True):
        pyro.clear_param_store()
        pyro.set_rng_seed(3)
        svi = SVI(model, guide, adam(), Trace_ELBO(), compile=compile)
        results.append(svi.run(250, X, batch_size=batch_size).tolist() + svi.run(3, X).tolist())
    assert results[1] == pytest.approx(results[0], rel=1e-4)
    report = svi.explain()
    assert report.steps == {"eager": 1, "compiled": 252}
    assert report.verified >= 3
    assert {float(s["state"][0]["step"]) for s in svi.optim.get_state().values()} == {253.0}


def test_steps_are_traced_until_compiling_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: a clock would decide, and the same run would not be the same twice.
    interpreted(monkeypatch)
    monkeypatch.setattr("pyro_lvm.compiled.policy._COMPILE", 0.01)
    monkeypatch.setattr("pyro_lvm.compiled.policy._COMPILE_AN_OPERATION", 0.0)
    reports = []
    for _ in range(2):
        pyro.clear_param_store()
        svi = SVI(model, guide, adam(), Trace_ELBO())
        for _ in range(100):
            svi.step(X)
        reports.append(svi.explain())
    enough = reports[0].break_even
    assert 0 < enough < 90
    assert [r.steps for r in reports] == [{"eager": 1, "traced": enough, "compiled": 99 - enough}] * 2


def enumerated() -> tuple[Callable[..., None], Callable[..., None]]:
    """A pair with a drawn and an enumerated latent in the guide."""
    weights = torch.full((4,), 0.25)
    start = torch.randn(4, 4, generator=torch.Generator().manual_seed(5))

    def mixture(x: torch.Tensor) -> None:
        means = pyro.param("means", lambda: start.clone())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            t = pyro.sample("t", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(means[t] + z[..., None], 1.0).to_event(1), obs=x)

    def posterior(x: torch.Tensor) -> None:
        slope = pyro.param("slope", lambda: torch.zeros(4, 4))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 0.6))
            pyro.sample("t", dist.Categorical(logits=x @ slope), infer={"enumerate": "parallel"})

    return mixture, posterior


@pytest.mark.parametrize("compile", ["auto", True])
def test_a_saved_run_goes_on_bit_for_bit(compile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: a fresh ELBO would look for its plates by drawing, and the noise be another from there on; or a part of
    # the state would not be where Pyro stores it.
    interpreted(monkeypatch)

    def svi(optim: Any, ready: bool = False) -> SVI:
        return SVI(*enumerated(), optim, TraceEnum_ELBO(), compile=compile, ready=ready)

    pyro.clear_param_store()
    pyro.set_rng_seed(3)
    optim = adam()
    first = svi(optim)
    losses = [first.step(X) for _ in range(20)]
    store, state = pyro.get_param_store().get_state(), optim.get_state()
    store["params"] = {name: value.detach().clone().requires_grad_() for name, value in store["params"].items()}
    state = torch.utils._pytree.tree_map(lambda t: t.clone() if isinstance(t, torch.Tensor) else t, state)
    random_state = pyro.util.get_rng_state()
    losses = [first.step(X) for _ in range(20)]
    pyro.clear_param_store()
    pyro.get_param_store().set_state(store)
    optim = adam()
    optim.set_state(state)
    # Pyro's optimizers take their state up when they first see a parameter.
    pyro.util.set_rng_state(random_state)
    again = svi(optim, ready=True)
    resumed = [again.step(X) for _ in range(20)]
    if compile is True:
        # Its first step is traced, until the optimizer has seen every parameter.
        assert resumed == pytest.approx(losses, rel=1e-5)
    else:
        assert resumed == losses


def test_a_fresh_elbo_looks_for_plates_as_pyros_does() -> None:
    # Wrong: the first step of an enumerated guide, in which Pyro draws to see how deep plates nest, would differ.
    results = []
    for kind in (pyro.infer.SVI, SVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(3)
        elbo = TraceEnum_ELBO()
        svi = kind(*enumerated(), adam(), elbo)
        results.append(([svi.step(X) for _ in range(5)], elbo.max_plate_nesting))
    assert results[1][1] == results[0][1] == 1
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)


@pytest.mark.parametrize("compile", ["auto", True])
def test_averages_are_those_of_the_steps(compile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreted(monkeypatch)
    svi = SVI(model, guide, adam(), Trace_ELBO(), compile=compile)
    svi.step(X)
    parameter = pyro.get_param_store()._params["loc"]
    svi.average = PolynomialAverage([parameter])
    expected = parameter.detach().clone()
    for t in range(200):
        svi.step(X)
        expected += (9.0 / (t + 9.0)) * (parameter.detach() - expected)
    assert torch.allclose(svi.average.averages[0], expected, atol=1e-6)


def test_compiled_by_inductor() -> None:
    # Wrong: only the graph was ever tested, and the machine code drops an update.
    def steps(svi: Any) -> list[float]:
        return [svi.step(X) for _ in range(100)]

    expected, losses, svi = both(steps, compile=True)
    assert svi.explain().steps == {"eager": 1, "compiled": 99}, str(svi.explain())
    assert losses == pytest.approx(expected, rel=1e-5)
    # Another SVI finds the code in Inductor's cache.
    hits = counters["inductor"]["fxgraph_cache_hit"]
    again = SVI(model, guide, svi.optim, Trace_ELBO(), compile=True)
    assert torch.isfinite(again.run(3, X)).all()
    assert counters["inductor"]["fxgraph_cache_hit"] > hits
    # The optimizer is another, of the same kind: no second compilation.
    svi.optim = adam()
    svi.step(X)
    svi.step(X)
    assert svi.explain().compiled == 1
    # The state is Pyro's own, and eager Pyro goes on with it.
    assert {float(s["state"][0]["step"]) for s in svi.optim.get_state().values()} == {2.0}


def test_machine_code_reads_closed_over_data_as_it_lies() -> None:
    # Wrong: the copies that a compiled step is compared on would have other strides than the code was made for.
    wide = torch.randn(30, 8, generator=torch.Generator().manual_seed(1))
    every_other, repeated = wide[:, ::2], wide[:1, :4].expand(30, 4)

    def closed(x: torch.Tensor) -> None:
        model(x[:, ::2] + every_other + repeated)

    def steps(svi: Any) -> list[float]:
        svi.model, svi.guide = closed, (lambda x: guide(x[:, ::2]))
        return [svi.step(wide) for _ in range(20)]

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        expected, losses, svi = both(steps, compile=True)
    assert svi.explain().mode == "compiled", str(svi.explain())
    assert losses == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("compile", [False, "auto"])
def test_fit_is_the_same_in_either_mode(compile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: the default would be faster and another.
    monkeypatch.setattr("pyro_lvm.compiled.policy._WORTH_TRACING", 1)
    monkeypatch.setattr("pyro_lvm.compiled.svi.compile_step", lambda graph, inputs: graph)
    results = []
    for mode in (compile, True):
        torch.manual_seed(0)
        result = fit(PPCA(4, 2), LinearGaussian(4, 2), X, steps=150, batch_size=10, progress=False, compile=mode)
        results.append(result.history.to_frame()["elbo"].to_numpy())
    assert np.allclose(results[0], results[1], rtol=1e-4)


def test_fused_state_that_is_loaded_is_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_lvm.compiled.svi.compile_step", lambda graph, inputs: graph)
    results = []
    for mode in (False, True):
        pyro.clear_param_store()
        pyro.set_rng_seed(3)
        optim = FusedOptim(torch.optim.Adam, {"lr": 0.05})
        svi = SVI(model, guide, optim, Trace_ELBO(), compile=mode)
        losses = [svi.step(X) for _ in range(5)]
        state = torch.utils._pytree.tree_map(
            lambda t: t.clone() if isinstance(t, torch.Tensor) else t, optim.get_state()
        )
        losses += [svi.step(X) for _ in range(5)]
        optim.set_state(state)
        losses += [svi.step(X) for _ in range(5)]
        results.append(losses)
    assert svi.explain().mode == "compiled"
    assert results[1] == pytest.approx(results[0], rel=1e-5)


def test_lower_precision_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_lvm.compiled.svi.compile_step", lambda graph, inputs: graph)

    def wide(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            weight = pyro.param("weight", lambda: torch.full((4, 1), 0.3))
            pyro.sample("z", dist.Normal((x @ weight).squeeze(-1).float(), 0.6))

    results = []
    for precision in (None, torch.bfloat16):
        pyro.clear_param_store()
        pyro.set_rng_seed(3)
        svi = SVI(model, wide, adam(), Trace_ELBO(), compile=True, autocast=precision)
        results.append([svi.step(X) for _ in range(30)])
    assert svi.explain().mode == "compiled", str(svi.explain())
    assert results[0] != results[1]
    assert results[1] == pytest.approx(results[0], rel=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optim", [adam, lambda: pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.99})])
def test_captured_steps_are_eager_ones_with_fresh_noise(optim: Callable[[], Any]) -> None:
    # Wrong: a replay would repeat its noise, its batch, its rate or its step count.
    torch.set_default_device("cuda")
    try:
        x = X.cuda()
        results = []
        for kind, options in ((pyro.infer.SVI, {}), (SVI, {"compile": True})):
            pyro.clear_param_store()
            pyro.set_rng_seed(3)
            svi = kind(model, guide, optim(), Trace_ELBO(), **options)
            results.append([svi.step(x + 0.01 * i) for i in range(50)])
        report = svi.explain()
        assert report.mode == "compiled", str(report)
        assert not report.reasons, str(report)
        assert results[1] == pytest.approx(results[0], rel=1e-4)
    finally:
        torch.set_default_device(None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fit_trains_on_a_gpu_in_either_mode() -> None:
    results = []
    for mode in (False, True):
        torch.manual_seed(0)
        result = fit(PPCA(4, 2), LinearGaussian(4, 2), X, steps=100, progress=False, compile=mode, device="cuda")
        results.append(result.history.to_frame()["elbo"].to_numpy())
    assert np.allclose(results[0], results[1], rtol=1e-3)
