"""Pairs to check the checker with: sound ones of every design, and broken ones with a single mistake each.

A broken pair is the smallest in which the mistake can be made, and names the code and the site that must be found.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, ReweightedWakeSleep, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_lvm import data_plate, observe
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.models import PPCA

D, LATENT, K = 4, 2, 3
NAN = float("nan")


@dataclass(frozen=True)
class Case:
    """A pair with rows to check it on, and what must be found."""

    name: str
    make: Callable[[], tuple[Any, Any]]
    rows: Tensor
    code: str | None = None
    site: str | None = None
    severity: str | None = "error"
    options: dict[str, Any] = field(default_factory=dict)


def gaussian_rows(n: int = 40) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(0)) * 0.7 + 0.2


def count_rows(n: int = 40) -> Tensor:
    return torch.poisson(torch.full((n, D), 3.0), generator=torch.Generator().manual_seed(0))


def binary_rows(n: int = 40) -> Tensor:
    return (torch.rand(n, D, generator=torch.Generator().manual_seed(0)) < 0.4).float()


def rows_with_holes(n: int = 40) -> Tensor:
    x = gaussian_rows(n)
    x[::3, 1] = NAN
    return x


SOUND: list[Case] = []
BROKEN: list[Case] = []


def sound(rows: Tensor, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
    def enlist(make: Callable[[], tuple[Any, Any]]) -> Any:
        SOUND.append(Case(name or make.__name__, make, rows, options=options))
        return make

    return enlist


def broken(code: str, site: str | None, rows: Tensor, severity: str = "error", **options: Any) -> Callable[[Any], Any]:
    def enlist(make: Callable[[], tuple[Any, Any]]) -> Any:
        BROKEN.append(Case(make.__name__, make, rows, code, site, severity, options))
        return make

    return enlist


# What most pairs here have in common: a linear-Gaussian story told with plain functions.


def linear_model(x: Tensor) -> None:
    loadings = pyro.param("loadings", lambda: 0.5 * torch.randn(LATENT, D))
    with data_plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ loadings, 1.0).to_event(1), obs=x)


def linear_guide(x: Tensor) -> None:
    slope = pyro.param("slope", lambda: torch.zeros(D, LATENT))
    scale = pyro.param("scale", torch.ones(LATENT), constraint=constraints.positive)
    with data_plate(x):
        pyro.sample("z", dist.Normal(x @ slope, scale).to_event(1))


# ---- sound


@sound(gaussian_rows())
def ppca_full() -> tuple[Any, Any]:
    return PPCA(D, LATENT), LinearGaussian(D, LATENT, "full")


@sound(gaussian_rows())
def ppca_diagonal() -> tuple[Any, Any]:
    return PPCA(D, LATENT), LinearGaussian(D, LATENT, "diagonal")


@sound(gaussian_rows(), num_rows=400)
def ppca_on_a_minibatch() -> tuple[Any, Any]:
    return PPCA(D, LATENT), LinearGaussian(D, LATENT)


@sound(gaussian_rows())
def plain_functions() -> tuple[Any, Any]:
    return linear_model, linear_guide


@sound(gaussian_rows(), elbo=RenyiELBO)
def importance_weights_on_all_rows() -> tuple[Any, Any]:
    return linear_model, linear_guide


@sound(gaussian_rows(), elbo=Trace_ELBO(num_particles=3, vectorize_particles=True))
def vectorized_particles() -> tuple[Any, Any]:
    return linear_model, linear_guide


class VAE(nn.Module):
    """The design of Pyro's VAE example: methods of one module, pyro.module, a plate of the batch's size."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(D, 6), nn.Softplus())
        self.to_loc, self.to_scale = nn.Linear(6, LATENT), nn.Linear(6, LATENT)
        self.decoder = nn.Sequential(nn.Linear(LATENT, 6), nn.Softplus(), nn.Linear(6, D), nn.Sigmoid())

    def model(self, x: Tensor) -> Tensor:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("latent", dist.Normal(x.new_zeros(len(x), LATENT), x.new_ones(len(x), LATENT)).to_event(1))
            loc = self.decoder(z)
            # Grey images under a Bernoulli density, as the example has it.
            pyro.sample("obs", dist.Bernoulli(loc, validate_args=False).to_event(1), obs=x.reshape(-1, D))
            return loc

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        pyro.module("to_loc", self.to_loc)
        pyro.module("to_scale", self.to_scale)
        with pyro.plate("data", x.shape[0]):
            hidden = self.encoder(x.reshape(-1, D))
            pyro.sample("latent", dist.Normal(self.to_loc(hidden), self.to_scale(hidden).exp()).to_event(1))


@sound(0.8 * binary_rows() + 0.1)
def pyro_vae_example() -> tuple[Any, Any]:
    vae = VAE()
    return vae.model, vae.guide


def mixture_model(x: Tensor) -> None:
    weights = pyro.param("weights", torch.ones(K) / K, constraint=constraints.simplex)
    locs = pyro.param("locs", lambda: torch.randn(K, D))
    with data_plate(x):
        t = pyro.sample("t", dist.Categorical(weights))
        observe("x", dist.Normal(locs[t], 1.0), x)


def mixture_guide(x: Tensor) -> None:
    slope = pyro.param("slope", lambda: 0.1 * torch.randn(D, K))
    with data_plate(x):
        pyro.sample("t", dist.Categorical(logits=x @ slope))


@sound(gaussian_rows())
def mixture_sampled() -> tuple[Any, Any]:
    return mixture_model, mixture_guide


@sound(gaussian_rows(), elbo=TraceEnum_ELBO(max_plate_nesting=1))
def mixture_enumerated_in_the_guide() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", lambda: 0.1 * torch.randn(D, K))
        with data_plate(x):
            pyro.sample("t", dist.Categorical(logits=x @ slope), infer={"enumerate": "parallel"})

    return mixture_model, guide


@sound(gaussian_rows(), elbo=TraceEnum_ELBO)
def mixture_enumerated_in_the_model() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        locs = pyro.param("locs", lambda: torch.randn(K, D))
        with data_plate(x):
            t = pyro.sample("t", dist.Categorical(torch.ones(K)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(locs[t], 1.0).to_event(1), obs=x)

    return model, lambda x: None


@sound(gaussian_rows(), num_rows=400)
def bayesian_with_a_global_latent() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros(D), 3.0).to_event(1))
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(mean + z[..., None], 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(D))
        scale = pyro.param("scale", torch.ones(D), constraint=constraints.positive)
        slope = pyro.param("slope", torch.zeros(D))
        pyro.sample("mean", dist.Normal(loc, scale).to_event(1))
        with data_plate(x):
            pyro.sample("z", dist.Normal(x @ slope, 1.0))

    return model, guide


class Decoder(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(LATENT, 5), nn.ReLU(), nn.Linear(5, D))
        self.noise = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

    def forward(self, x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1))
            observe("x", dist.Normal(self.net(z), self.noise), x)


class Encoder(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(D, 5), nn.ReLU(), nn.Linear(5, 2 * LATENT))

    def forward(self, x: Tensor) -> None:
        loc, log_scale = self.net(torch.nan_to_num(x)).chunk(2, -1)
        with data_plate(x):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


@sound(gaussian_rows())
def pyro_modules_with_linear_nets() -> tuple[Any, Any]:
    return Decoder(), Encoder()


@sound(gaussian_rows())
def network_that_starts_at_zero() -> tuple[Any, Any]:
    encoder = Encoder()
    for parameter in encoder.net[2].parameters():
        nn.init.zeros_(parameter)
    return Decoder(), encoder


@sound(rows_with_holes(), num_rows=400)
def holes_through_observe() -> tuple[Any, Any]:
    return Decoder(), Encoder()


@sound(
    torch.cat([gaussian_rows(), gaussian_rows()]).masked_fill(torch.eye(80, D, dtype=torch.bool).roll(1, 1), NAN)[:4]
)
def every_row_has_a_hole() -> tuple[Any, Any]:
    return Decoder(), Encoder()


@sound(count_rows(), num_rows=500)
def poisson_counts() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        loadings = pyro.param("loadings", lambda: 0.3 * torch.randn(LATENT, D))
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Poisson((z @ loadings).exp()).to_event(1), obs=x)

    return model, linear_guide


def gamma_model(x: Tensor) -> None:
    rate = pyro.param("rate", torch.ones(D), constraint=constraints.positive)
    with data_plate(x):
        z = pyro.sample("z", dist.Gamma(2.0, 2.0))
        pyro.sample("x", dist.Poisson(z[..., None] * rate).to_event(1), obs=x)


@sound(count_rows())
def gamma_latent_with_a_lognormal_guide() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.full((D,), 0.01))
        with data_plate(x):
            pyro.sample("z", dist.LogNormal(x @ slope, 0.3))

    return gamma_model, guide


@sound(count_rows().long())
def gamma_guide_and_whole_numbers() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.full((D,), 0.1), constraint=constraints.positive)
        with data_plate(x):
            pyro.sample("z", dist.Gamma(1.0 + x.float() @ slope, 2.0))

    return gamma_model, guide


@sound(gaussian_rows())
def latent_that_follows_x_through_another() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        with data_plate(x):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b[..., None], 1.0).expand([len(x), D]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D))
        factor = pyro.param("factor", torch.tensor(0.5))
        with data_plate(x):
            a = pyro.sample("a", dist.Normal(x @ slope, 1.0))
            pyro.sample("b", dist.Normal(factor * a, 1.0))

    return model, guide


@sound(gaussian_rows())
def several_plates() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        with pyro.plate("features", D, dim=-2):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            with data_plate(x):
                pyro.sample("x", dist.Normal(mean, 1.0), obs=x.T)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(D, 1))
        with pyro.plate("features", D, dim=-2):
            pyro.sample("mean", dist.Normal(loc, 0.5))

    return model, guide


@sound(gaussian_rows(8))
def sequential_plate() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        loadings = pyro.param("loadings", lambda: torch.randn(LATENT, D))
        for i in pyro.plate("data", len(x)):
            z = pyro.sample(f"z_{i}", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample(f"x_{i}", dist.Normal(z @ loadings, 1.0).to_event(1), obs=x[i])

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D, LATENT))
        for i in pyro.plate("data", len(x)):
            pyro.sample(f"z_{i}", dist.Normal(x[i] @ slope, 1.0).to_event(1))

    return model, guide


@sound(gaussian_rows(30), name="plate_with_its_own_number_of_rows")
@sound(gaussian_rows(30), name="plate_with_its_own_number_of_rows_which_is_given", num_rows=300)
def own_plate_that_knows_n() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        loadings = pyro.param("loadings", lambda: torch.randn(LATENT, D))
        with pyro.plate("rows", 300, subsample=x):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D, LATENT))
        with pyro.plate("rows", 300, subsample=x):
            pyro.sample("z", dist.Normal(x @ slope, 1.0).to_event(1))

    return model, guide


@sound(gaussian_rows(), num_rows=400)
def auxiliary_deterministic_and_factor() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.deterministic("root", z.sqrt())
            pyro.factor("likelihood", -(x - z[..., None]).square().sum(-1))

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D))
        with data_plate(x):
            u = pyro.sample("u", dist.Normal(x @ slope, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u.exp(), log_density=-u))

    return model, guide


class Dropout(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(D, 5), nn.Dropout(0.2), nn.ReLU(), nn.Linear(5, 2 * LATENT))


@sound(gaussian_rows())
def dropout_in_the_encoder() -> tuple[Any, Any]:
    return Decoder(), Dropout()


@sound(gaussian_rows(), num_rows=400)
def automatic_guide_of_a_global_latent() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros(D), 3.0).to_event(1))
        with data_plate(x):
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    return model, AutoNormal(model)


# ---- broken: sites


@broken("latent-missing-in-guide", "z", gaussian_rows())
def forgotten_latent() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        pyro.param("slope", torch.zeros(D, LATENT))

    return linear_model, guide


@broken("latent-missing-in-guide", "t", gaussian_rows())
def forgotten_discrete_latent() -> tuple[Any, Any]:
    class Empty(PyroModule):
        def forward(self, x: Tensor) -> None:
            pass

    return mixture_model, Empty()


@broken("latent-missing-in-guide", "z", gaussian_rows())
def misspelled_latent() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D, LATENT))
        with data_plate(x):
            pyro.sample("Z", dist.Normal(x @ slope, 1.0).to_event(1))

    return linear_model, guide


@broken("unknown-guide-site", "w", gaussian_rows())
def latent_that_the_model_lacks() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D, LATENT))
        with data_plate(x):
            pyro.sample("z", dist.Normal(x @ slope, 1.0).to_event(1))
            pyro.sample("w", dist.Normal(0.0, 1.0))

    return linear_model, guide


@broken("observed-in-guide", "x", gaussian_rows())
def data_observed_in_the_guide() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D, LATENT))
        with data_plate(x):
            pyro.sample("z", dist.Normal(x @ slope, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([D]).to_event(1), obs=x)

    return linear_model, guide


@broken("nothing-observed", None, gaussian_rows())
def forgotten_observation() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        loadings = pyro.param("loadings", lambda: torch.randn(LATENT, D))
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.deterministic("x", z @ loadings)

    return model, linear_guide


@broken("duplicate-site", "data", gaussian_rows())
def plate_made_twice() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D, LATENT))
        with data_plate(x):
            loc = x @ slope
        with data_plate(x):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    return linear_model, guide


@broken("duplicate-site", "z", gaussian_rows())
def loop_without_an_index() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        with data_plate(x):
            zs = [pyro.sample("z", dist.Normal(0.0, 1.0)) for _ in range(LATENT)]
            pyro.sample("x", dist.Normal(sum(zs)[..., None], 1.0).expand([len(x), D]).to_event(1), obs=x)

    return model, linear_guide


@broken("sites-vary", "extra", gaussian_rows(), severity="warning")
def random_control_flow() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        linear_model(x)
        if random.random() < 0.5:
            pyro.sample("extra", dist.Normal(0.0, 1.0))

    return model, linear_guide


@broken("enumeration-without-traceenum", "t", gaussian_rows(), elbo=Trace_ELBO)
def enumeration_in_the_model_without_traceenum() -> tuple[Any, Any]:
    return mixture_enumerated_in_the_model()


@broken("enumeration-without-traceenum", "t", gaussian_rows(), severity="warning")
def enumeration_in_the_guide_without_traceenum() -> tuple[Any, Any]:
    return mixture_enumerated_in_the_guide()


# ---- broken: halves


@broken("not-callable", None, gaussian_rows())
def class_instead_of_an_object() -> tuple[Any, Any]:
    return PPCA, LinearGaussian(D, LATENT)


@broken("wrong-signature", None, gaussian_rows())
def guide_with_labels() -> tuple[Any, Any]:
    def guide(x: Tensor, labels: Tensor) -> None:
        linear_guide(x)

    return linear_model, guide


@broken("guide-raises", None, gaussian_rows())
def network_of_another_width() -> tuple[Any, Any]:
    encoder = Encoder()
    encoder.net[0] = nn.Linear(D + 1, 5)
    return Decoder(), encoder


@broken("model-raises", None, gaussian_rows())
def parameter_of_the_global_store() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        pyro.param("made_elsewhere")
        linear_model(x)

    return model, linear_guide


@broken("rows-overwritten", None, rows_with_holes())
def holes_filled_in_place() -> tuple[Any, Any]:
    class Guide(Encoder):
        def forward(self, x: Tensor) -> None:
            x[torch.isnan(x)] = 0.0
            super().forward(x)

    return Decoder(), Guide()


@broken("rows-overwritten", None, gaussian_rows())
def rows_centred_in_place() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        x -= 0.5
        linear_guide(x)

    return linear_model, guide


# ---- broken: plates


@broken("plate-missing", "z", gaussian_rows())
def guide_without_a_plate() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D, LATENT))
        pyro.sample("z", dist.Normal(x @ slope, 1.0).to_event(1))

    return linear_model, guide


@broken("plate-missing", "z", gaussian_rows())
def one_posterior_for_all_rows() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(LATENT))
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    return linear_model, guide


@broken("plate-missing", "x", gaussian_rows())
def observation_outside_the_plate() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        loadings = pyro.param("loadings", lambda: torch.randn(LATENT, D))
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ loadings, 1.0).to_event(2), obs=x)

    return model, linear_guide


@broken("plate-name-mismatch", "z", gaussian_rows())
def plates_of_two_names() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D, LATENT))
        with data_plate(x, "rows"):
            pyro.sample("z", dist.Normal(x @ slope, 1.0).to_event(1))

    return linear_model, guide


@broken("plate-size-mismatch", "z", gaussian_rows())
def plate_of_a_written_out_size() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D, LATENT))
        with pyro.plate("data", 40):
            pyro.sample("z", dist.Normal(x @ slope, 1.0).to_event(1))

    return linear_model, guide


@broken("plate-size-mismatch", "mean", gaussian_rows())
def plates_of_two_sizes() -> tuple[Any, Any]:
    model, _ = several_plates()

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(1))
        with pyro.plate("features", D + 1, dim=-2):
            pyro.sample("mean", dist.Normal(loc, 0.5))

    return model, guide


@broken("plate-dim-wrong", "z", gaussian_rows())
def plate_in_the_wrong_dimension() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D, LATENT))
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x @ slope, 1.0).to_event(1))

    return linear_model, guide


@broken("plate-subsamples", "z", gaussian_rows(), severity="warning")
def plate_that_draws_rows_of_its_own() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        loadings = pyro.param("loadings", lambda: torch.randn(LATENT, D))
        with pyro.plate("data", len(x), subsample_size=10) as chosen:
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings, 1.0).to_event(1), obs=x[chosen])

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D, LATENT))
        with pyro.plate("data", len(x), subsample_size=10) as chosen:
            pyro.sample("z", dist.Normal(x[chosen] @ slope, 1.0).to_event(1))

    return model, guide


# ---- broken: shapes and supports


@broken("wrong-log-prob-shape", "z", gaussian_rows())
def forgotten_to_event_in_the_guide() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D, LATENT))
        with data_plate(x):
            pyro.sample("z", dist.Normal(x @ slope, 1.0))

    return linear_model, guide


@broken("wrong-log-prob-shape", "x", gaussian_rows())
def forgotten_to_event_in_the_model() -> tuple[Any, Any]:
    class Model(PyroModule):
        def forward(self, x: Tensor) -> None:
            with data_plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(-1, D), 1.0), obs=x)

    return Model(), linear_guide


@broken("wrong-log-prob-shape", "z", gaussian_rows())
def column_that_broadcasts_to_a_square() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).expand([len(x), D]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D, 1))
        with data_plate(x):
            pyro.sample("z", dist.Normal(x @ slope, 1.0))

    return model, guide


@broken("wrong-log-prob-shape", "mean", gaussian_rows())
def forgotten_to_event_of_a_global_latent() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros(D), 1.0))
        with data_plate(x):
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(D))
        pyro.sample("mean", dist.Normal(loc, 1.0))

    return model, guide


@broken("wrong-log-prob-shape", "x", rows_with_holes())
def mask_of_entries_on_rows() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        loadings = pyro.param("loadings", lambda: torch.randn(LATENT, D))
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            with poutine.mask(mask=~torch.isnan(x)):
                pyro.sample("x", dist.Normal(z @ loadings, 1.0).to_event(1), obs=torch.nan_to_num(x))

    return model, lambda x: linear_guide(torch.nan_to_num(x))


@broken("event-shape-mismatch", "z", gaussian_rows())
def latents_of_two_sizes() -> tuple[Any, Any]:
    return PPCA(D, 2), LinearGaussian(D, 3)


@broken("event-shape-mismatch", "mean", gaussian_rows())
def event_dims_that_differ() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        with data_plate(x):
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(()))
        pyro.sample("mean", dist.Normal(loc, 1.0))

    return model, guide


@broken("support-mismatch", "z", count_rows())
def normal_guide_of_a_gamma_latent() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D))
        with data_plate(x):
            pyro.sample("z", dist.Normal(5.0 + x @ slope, 0.1))

    return gamma_model, guide


@broken("support-mismatch", "p", binary_rows())
def lognormal_guide_of_a_beta_latent() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        with data_plate(x):
            p = pyro.sample("p", dist.Beta(1.0, 1.0))
            pyro.sample("x", dist.Bernoulli(p[..., None]).expand([len(x), D]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D))
        with data_plate(x):
            pyro.sample("p", dist.LogNormal(x @ slope - 3.0, 0.1))

    return model, guide


@broken("support-mismatch", "t", gaussian_rows())
def continuous_guide_of_a_discrete_latent() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        with data_plate(x):
            t = pyro.sample("t", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(t[..., None], 1.0).expand([len(x), D]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D))
        with data_plate(x):
            pyro.sample("t", dist.Beta((x @ slope).exp(), 1.0))

    return model, guide


@broken("support-mismatch", "t", gaussian_rows())
def more_components_in_the_guide() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", lambda: torch.zeros(D, K + 1))
        with data_plate(x):
            pyro.sample("t", dist.Categorical(logits=x @ slope))

    return mixture_model, guide


@broken("support-narrower", "z", gaussian_rows(), severity="warning")
def lognormal_guide_of_a_normal_latent() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D, LATENT))
        with data_plate(x):
            pyro.sample("z", dist.LogNormal(x @ slope, 1.0).to_event(1))

    return linear_model, guide


# ---- broken: scale


def scaled(half: Any, factor: Callable[[Tensor], float]) -> Any:
    def run(x: Tensor) -> None:
        with poutine.scale(scale=factor(x)):
            half(x)

    return run


@broken("wrong-scale", "z", gaussian_rows(), num_rows=400)
def scaled_by_hand_besides_the_plate() -> tuple[Any, Any]:
    return scaled(linear_model, lambda x: 400 / len(x)), scaled(linear_guide, lambda x: 400 / len(x))


@broken("wrong-scale", "z", gaussian_rows())
def scaled_twice_where_n_is_not_given() -> tuple[Any, Any]:
    return scaled(linear_model, lambda x: 40 / len(x)), scaled(linear_guide, lambda x: 40 / len(x))


@broken("wrong-scale", "z", gaussian_rows(30), num_rows=600)
def plate_of_another_n() -> tuple[Any, Any]:
    return own_plate_that_knows_n()


@broken("wrong-scale", "z", gaussian_rows())
def annealing_of_one_half() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        loadings = pyro.param("loadings", lambda: torch.randn(LATENT, D))
        with data_plate(x):
            with poutine.scale(scale=0.5):
                z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings, 1.0).to_event(1), obs=x)

    return model, linear_guide


@broken("tempered", "z", gaussian_rows(), severity="warning")
def constant_scale() -> tuple[Any, Any]:
    return scaled(linear_model, lambda x: 4.0), scaled(linear_guide, lambda x: 4.0)


@broken("plate-ignores-num-rows", "latent", binary_rows(), severity="warning", num_rows=400)
def vae_example_on_minibatches() -> tuple[Any, Any]:
    return pyro_vae_example()


@broken("plate-ignores-num-rows", "x", gaussian_rows(), num_rows=400)
def global_latent_that_counts_too_much() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros(D), 3.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(D))
        pyro.sample("mean", dist.Normal(loc, 1.0).to_event(1))

    return model, guide


@broken("importance-weights-on-minibatch", None, gaussian_rows(), num_rows=400, elbo=RenyiELBO(num_particles=4))
def renyi_on_a_minibatch() -> tuple[Any, Any]:
    return linear_model, linear_guide


@broken("importance-weights-on-minibatch", None, gaussian_rows(), num_rows=400, elbo=ReweightedWakeSleep)
def wake_sleep_on_a_minibatch() -> tuple[Any, Any]:
    return linear_model, linear_guide


# ---- broken: values and gradients


@broken("parameter-out-of-range", "z", gaussian_rows())
def scale_straight_from_a_network() -> tuple[Any, Any]:
    class Guide(Encoder):
        def forward(self, x: Tensor) -> None:
            loc, scale = (self.net(x) - 0.5).chunk(2, -1)
            with data_plate(x):
                pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return Decoder(), Guide()


@broken("parameter-out-of-range", "x", gaussian_rows())
def rate_straight_from_a_network() -> tuple[Any, Any]:
    class Model(Decoder):
        def forward(self, x: Tensor) -> None:
            with data_plate(x):
                z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(0.0, self.net(z)).to_event(1), obs=x)

    return Model(), Encoder()


@broken("range-not-enforced", "x", gaussian_rows(), severity="warning")
def scale_without_a_constraint() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        loadings = pyro.param("loadings", lambda: torch.randn(LATENT, D))
        noise = pyro.param("noise", torch.tensor(1.0))
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings, noise).to_event(1), obs=x)

    return model, linear_guide


@broken("observed-outside-support", "x", gaussian_rows())
def bernoulli_density_of_real_values() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        loadings = pyro.param("loadings", lambda: torch.randn(LATENT, D))
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ loadings).to_event(1), obs=x)

    return model, linear_guide


@broken("log-prob-not-finite", "x", gaussian_rows())
def scale_that_underflows() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        log_scale = pyro.param("log_scale", torch.tensor(-60.0))
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            loc = z.sum(-1, keepdim=True).expand(-1, D)
            pyro.sample("x", dist.Normal(loc, log_scale.exp()).to_event(1), obs=x)

    return model, linear_guide


@broken("gradient-not-finite", "slope", gaussian_rows())
def square_root_at_zero() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D, LATENT))
        with data_plate(x):
            pyro.sample("z", dist.Normal((x @ slope).square().sqrt(), 1.0).to_event(1))

    return linear_model, guide


@broken("gradient-absent", "slope", gaussian_rows())
def detached_parameter() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D, LATENT))
        scale = pyro.param("scale", torch.ones(LATENT), constraint=constraints.positive)
        with data_plate(x):
            pyro.sample("z", dist.Normal((x @ slope).detach(), scale).to_event(1))

    return linear_model, guide


@broken("gradient-absent", "guide.logits.weight", gaussian_rows())
def network_under_no_grad() -> tuple[Any, Any]:
    class Guide(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Linear(D, K)

        def forward(self, x: Tensor) -> None:
            with torch.no_grad():
                logits = self.logits(x)
            with data_plate(x):
                pyro.sample("t", dist.Categorical(logits=logits))

    return mixture_model, Guide()


@broken("parameter-not-registered", "encoder.weight", gaussian_rows())
def network_that_pyro_never_sees() -> tuple[Any, Any]:
    encoder = nn.Linear(D, LATENT)

    def guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", dist.Normal(encoder(x), 1.0).to_event(1))

    return linear_model, guide


@broken("parameter-not-registered", "guide.encoder.weight", gaussian_rows())
def module_without_pyro_module() -> tuple[Any, Any]:
    class Guide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(D, LATENT)

        def forward(self, x: Tensor) -> None:
            with data_plate(x):
                pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))

    return linear_model, Guide()


@broken("parameter-unused", "guide.spare.weight", gaussian_rows(), severity="warning")
def layer_that_is_never_used() -> tuple[Any, Any]:
    encoder = Encoder()
    encoder.spare = nn.Linear(D, 2)
    return Decoder(), encoder


# ---- broken: rows


@broken("smaller-batch-fails", None, gaussian_rows())
def written_out_batch_size() -> tuple[Any, Any]:
    class Guide(Encoder):
        def forward(self, x: Tensor) -> None:
            loc, log_scale = self.net(x).chunk(2, -1)
            with data_plate(x):
                pyro.sample("z", dist.Normal(loc, log_scale.exp().expand(len(self.ones), -1)).to_event(1))

    guide = Guide()
    # Of the size of the batch that its author had in mind, 37 of 40 rows.
    guide.register_buffer("ones", torch.ones(37))
    return Decoder(), guide


@broken("single-row-fails", None, gaussian_rows())
def squeeze_of_a_single_row() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(D, LATENT))
        rows = x.squeeze()
        with data_plate(x):
            pyro.sample("z", dist.Normal(torch.einsum("nd,dk->nk", rows, slope), 1.0).to_event(1))

    return linear_model, guide


@broken("missing-entries", "x", rows_with_holes())
def mask_after_the_density() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        loadings = pyro.param("loadings", lambda: torch.randn(LATENT, D))
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            density = dist.Normal(z @ loadings, 1.0, validate_args=False).mask(~torch.isnan(x))
            pyro.sample("x", density.to_event(1), obs=x)

    return model, lambda x: linear_guide(torch.nan_to_num(x))


@broken("missing-entries", None, rows_with_holes())
def guide_that_says_it_takes_no_holes() -> tuple[Any, Any]:
    return PPCA(D, LATENT), LinearGaussian(D, LATENT)


@broken("missing-entries", "z", gaussian_rows())
def guide_that_says_it_takes_holes() -> tuple[Any, Any]:
    guide = LinearGaussian(D, LATENT)
    guide.accepts_missing = True
    return PPCA(D, LATENT), guide


@broken("rows-not-independent", "z", gaussian_rows())
def rows_centred_by_their_batch() -> tuple[Any, Any]:
    return linear_model, lambda x: linear_guide(x - x.mean(0))


@broken("rows-not-independent", "x", gaussian_rows())
def noise_of_the_batch() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        loadings = pyro.param("loadings", lambda: torch.randn(LATENT, D))
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings, x.std(0)).to_event(1), obs=x)

    return model, linear_guide


class Normalized(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(D, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2 * LATENT))


@broken("rows-not-independent", "z", gaussian_rows(), severity="warning")
def batch_normalization() -> tuple[Any, Any]:
    return Decoder(), Normalized()


@broken("not-amortized", "z", gaussian_rows(), severity="warning")
def guide_that_ignores_the_row() -> tuple[Any, Any]:
    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(LATENT))
        with data_plate(x):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    return linear_model, guide


@broken("not-amortized", "z", gaussian_rows(), severity="warning")
def automatic_guide() -> tuple[Any, Any]:
    return linear_model, AutoNormal(linear_model)


@broken("not-amortized", "z", gaussian_rows(), severity="warning")
def automatic_point_estimate() -> tuple[Any, Any]:
    return linear_model, AutoDelta(linear_model)


@broken("not-amortized", "z", gaussian_rows(), num_rows=400)
def automatic_guide_on_minibatches() -> tuple[Any, Any]:
    return linear_model, AutoNormal(linear_model)


# ---- broken: prediction, saving, the loss itself


class Likelihood(dist.TorchDistribution):
    """A density that nobody taught to draw."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real_vector

    def __init__(self, loc: Tensor) -> None:
        self.loc = loc
        super().__init__(loc.shape[:-1], loc.shape[-1:])

    def expand(self, batch_shape: Any, _instance: Any = None) -> Likelihood:
        return Likelihood(self.loc.expand(*batch_shape, *self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return -(value - self.loc).square().sum(-1)


@broken("uncondition-fails", "x", gaussian_rows(), severity="warning")
def likelihood_that_cannot_be_sampled() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        loadings = pyro.param("loadings", lambda: torch.randn(LATENT, D))
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", Likelihood(z @ loadings), obs=x)

    return model, linear_guide


@broken("state-not-saved", "centre", gaussian_rows())
def statistics_kept_in_a_plain_attribute() -> tuple[Any, Any]:
    class Guide(Encoder):
        centre: Tensor | None = None

        def forward(self, x: Tensor) -> None:
            if self.centre is None:
                self.centre = x.mean(0)
            super().forward(x - self.centre)

    return Decoder(), Guide()


@broken("elbo-raises", "x", gaussian_rows(), elbo=TraceEnum_ELBO)
def indexing_that_does_not_broadcast() -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        locs = pyro.param("locs", lambda: torch.randn(K, D))
        with data_plate(x):
            t = pyro.sample("t", dist.Categorical(torch.ones(K)), infer={"enumerate": "parallel"})
            loc = torch.stack([locs[i] for i in t.reshape(-1)])
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    return model, lambda x: None
