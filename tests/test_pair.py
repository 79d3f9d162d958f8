import pyro
import pytest
import torch
from pyro.distributions import Normal
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

from pyro_lvm import fit
from pyro_lvm.errors import ArtifactError, PairError
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.models import PPCA
from pyro_lvm.pair import Pair
from pyro_lvm.plate import data_plate, observe

X = torch.randn(30, 3, generator=torch.Generator().manual_seed(1)) + torch.tensor([5.0, 0.0, 0.0])


def function_model(x: torch.Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(3))
    scale = pyro.param("scale", torch.tensor(2.0), constraint=constraints.positive)
    with data_plate(x):
        z = pyro.sample("z", Normal(0.0, 1.0))
        observe("x", Normal(loc + z[:, None], scale), x)


def function_guide(x: torch.Tensor) -> None:
    slope = pyro.param("slope", torch.zeros(()))
    with data_plate(x):
        pyro.sample("z", Normal(slope * x.mean(-1), 1.0))


class Model(PyroModule):
    """A model whose attributes have the same names as its guide's."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(3))
        self.scale = PyroParam(torch.tensor(2.0), constraint=constraints.positive)

    def forward(self, x: torch.Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", Normal(0.0, 1.0))
            observe("x", Normal(self.loc + z[:, None], self.scale), x)


class Guide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.ones(()))
        self.scale = PyroParam(torch.tensor(0.5), constraint=constraints.positive)

    def forward(self, x: torch.Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", Normal(self.loc * x.mean(-1), self.scale))


class OneModule(nn.Module):
    """Both halves as methods of one module, with ``pyro.module``, as Pyro's own examples write them."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(1, 3)
        self.encoder = nn.Linear(3, 2)

    def model(self, x: torch.Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", Normal(x.new_zeros(x.shape[0], 1), 1.0).to_event(1))
            pyro.sample("x", Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x: torch.Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", Normal(loc, log_scale.exp()).to_event(1))


class Hybrid(PyroModule):
    """A module that also calls ``pyro.param``."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> None:
        scale = pyro.param("hybrid_scale", torch.tensor(2.0), constraint=constraints.positive)
        with data_plate(x):
            z = pyro.sample("z", Normal(0.0, 1.0))
            observe("x", Normal(self.loc + z[:, None], scale), x)


def make(kind: str) -> Pair:
    if kind == "functions":
        return Pair(function_model, function_guide)
    if kind == "modules":
        return Pair(Model(), Guide())
    if kind == "mixed":
        return Pair(function_model, Guide())
    if kind == "hybrid":
        return Pair(Hybrid(), Guide())
    module = OneModule()
    return Pair(module.model, module.guide)


KINDS = ["functions", "modules", "mixed", "hybrid", "one module"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_pair_trains_all_its_parameters(kind: str) -> None:
    # Wrong: stock SVI fails on a module's plain parameters, or trains one of two that share a name.
    pair = make(kind)
    pair.materialize(X)
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    fit(pair.model, pair.guide, X, pair=pair, steps=5, progress=False)
    after = pair.state_dict()
    assert before.keys() == after.keys()
    assert len(before) >= 3
    for name, value in before.items():
        assert not torch.equal(value, after[name]), f"{name} was not trained"


@pytest.mark.parametrize("kind", KINDS)
def test_two_pairs_do_not_meet_and_the_global_store_stays_empty(kind: str) -> None:
    # Wrong: a second pair would begin with, and go on to change, the parameters of the first.
    first, second = make(kind), make(kind)
    fit(first.model, first.guide, X, pair=first, steps=20, progress=False)
    kept = {name: value.clone() for name, value in first.state_dict().items()}
    second.materialize(X)
    assert all(not torch.equal(value, second.state_dict()[name]) for name, value in kept.items())
    fit(second.model, second.guide, X, pair=second, steps=3, progress=False)
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in kept.items())
    assert len(pyro.get_param_store()) == 0


def test_attributes_of_the_same_name_stay_apart() -> None:
    # Wrong: Pyro files both under "loc", and the guide would be trained as the model's mean.
    pair = make("modules")
    fit(pair.model, pair.guide, X, pair=pair, steps=300, lr=0.1, progress=False)
    assert pair.model.loc.shape == (3,)
    assert pair.guide.loc.shape == ()
    assert pair.model.loc[0] > 1


def test_zoo_modules_do_not_meet_even_outside_a_pair() -> None:
    # Wrong: running two models by hand would give the second the first one's parameters.
    first, second = PPCA(3, 1), PPCA(3, 1)
    with torch.no_grad():
        second.relative_mean.fill_(7.0)
    first(X)
    second(X)
    assert (second.relative_mean == 7).all()
    assert (first.relative_mean == 0).all()


def test_replaced_parameter_is_noticed() -> None:
    # Wrong: the store would bring back the tensor that somebody has replaced.
    pair = make("modules")
    pair.materialize(X)
    pair.model.loc = nn.Parameter(torch.full((3,), 9.0))
    pair.materialize(X)
    assert (pair.model.loc == 9).all()


@pytest.mark.parametrize("kind", KINDS)
def test_state_survives_a_fresh_build(kind: str) -> None:
    # Wrong: a loaded pair would begin at its initial parameters; those of `pyro.param` only exist once it has run.
    trained, fresh = make(kind), make(kind)
    fit(trained.model, trained.guide, X, pair=trained, steps=10, progress=False)
    state = {name: value.clone() for name, value in trained.state_dict().items()}
    fresh.load_state_dict(state)
    fresh.materialize(X)
    assert fresh.state_dict().keys() == state.keys()
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in state.items())


def test_state_of_another_shape_is_refused() -> None:
    state = Pair(PPCA(4, 2), LinearGaussian(4, 2)).state_dict()
    with pytest.raises(ArtifactError, match=r"has shape \(4, 2\), expected \(5, 2\)"):
        Pair(PPCA(5, 2), LinearGaussian(5, 2)).load_state_dict(
            state | {"model.origin": torch.zeros(5), "model.unit": torch.ones(5)}
        )
    with pytest.raises(ArtifactError, match="unknown"):
        make("modules").load_state_dict(state)


def test_materialize_leaves_random_state_and_buffers_alone() -> None:
    class Counting(Model):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("runs", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> None:
            self.runs += 1
            super().forward(x)

    pair = Pair(Counting(), Guide())
    state = torch.get_rng_state()
    pair.materialize(X)
    assert torch.equal(state, torch.get_rng_state())
    assert pair.model.runs == 0


def test_what_is_no_pair_is_refused() -> None:
    with pytest.raises(PairError, match="the model is a Tensor, which cannot be called"):
        Pair(torch.zeros(2), function_guide)
    with pytest.raises(PairError, match="the guide is the class Guide: expected an instance"):
        Pair(function_model, Guide)


def test_start_leaves_alone_what_has_been_started() -> None:
    # Wrong: training on would throw away what was learned or loaded.
    pair = Pair(PPCA(3, 1), LinearGaussian(3, 1))
    pair.start(X, torch.Generator().manual_seed(0))
    assert torch.allclose(pair.model.mean, X.mean(0), atol=1e-5)
    with torch.no_grad():
        pair.model.relative_mean.add_(1.0)
    kept = pair.model.mean.clone()
    pair.start(X, torch.Generator().manual_seed(1))
    assert torch.equal(kept, pair.model.mean)
