"""The pairs of the speed benchmarks: each as Pyro functions, and its negative ELBO written by hand in PyTorch.

Both have the same parameters, unconstrained, under the same names, and draw the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import Tensor, nn
from torch.distributions import constraints

_LOG_2PI = math.log(2 * math.pi)


@dataclass
class Row:
    """One row of the table: a pair of some kind, its loss by hand, and a batch."""

    kind: str
    name: str
    model: Callable[..., Any]
    guide: Callable[..., Any]
    start: dict[str, Tensor]
    by_hand: Callable[[dict[str, Tensor], Tensor], Tensor]
    batch: Tensor
    elbo: type = Trace_ELBO


def _normal(x: Tensor, loc: Any, log_scale: Any) -> Tensor:
    return -0.5 * ((x - loc) * torch.exp(-log_scale)) ** 2 - log_scale - 0.5 * _LOG_2PI


def ppca(data_dim: int, latent_dim: int, batch: int) -> Row:
    """Probabilistic PCA with a linear-Gaussian guide of diagonal covariance."""
    g = torch.Generator().manual_seed(0)
    start = {
        "W": 0.3 * torch.randn(data_dim, latent_dim, generator=g),
        "mu": torch.zeros(data_dim),
        "sigma": torch.zeros(()),
        "A": 0.05 * torch.randn(data_dim, latent_dim, generator=g),
        "b": torch.zeros(latent_dim),
        "s": torch.full((latent_dim,), math.log(0.5)),
    }
    total = 50_000

    def model(x: Tensor) -> None:
        w, mu = pyro.param("W", start["W"].clone), pyro.param("mu", start["mu"].clone)
        sigma = pyro.param("sigma", lambda: start["sigma"].exp(), constraint=constraints.positive)
        with pyro.plate("data", total, subsample=x):
            z = pyro.sample("z", dist.Normal(torch.zeros(latent_dim), torch.ones(latent_dim)).to_event(1))
            pyro.sample("x", dist.Normal(z @ w.T + mu, sigma).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        a, b = pyro.param("A", start["A"].clone), pyro.param("b", start["b"].clone)
        s = pyro.param("s", lambda: start["s"].exp(), constraint=constraints.positive)
        with pyro.plate("data", total, subsample=x):
            pyro.sample("z", dist.Normal(x @ a + b, s).to_event(1))

    def by_hand(p: dict[str, Tensor], x: Tensor) -> Tensor:
        mean = x @ p["A"] + p["b"]
        z = mean + p["s"].exp() * torch.randn_like(mean)
        log_p = _normal(x, z @ p["W"].T + p["mu"], p["sigma"]).sum() + (-0.5 * z**2 - 0.5 * _LOG_2PI).sum()
        log_q = _normal(z, mean, p["s"]).sum()
        return -(log_p - log_q) * (total / len(x))

    rows = torch.randn(batch, data_dim, generator=g)
    return Row("ppca", f"PPCA {data_dim}/{latent_dim}, B={batch}", model, guide, start, by_hand, rows)


def vae(batch: int, sizes: tuple[int, int, int] = (784, 400, 20)) -> Row:
    """A VAE with one hidden softplus layer either way and Bernoulli pixels."""
    d, h, latent = sizes
    torch.manual_seed(0)
    encoder, decoder = nn.ModuleDict(), nn.ModuleDict()
    encoder["hidden"], encoder["loc"], encoder["log_scale"] = (
        nn.Linear(d, h),
        nn.Linear(h, latent),
        nn.Linear(h, latent),
    )
    decoder["hidden"], decoder["out"] = nn.Linear(latent, h), nn.Linear(h, d)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), latent), x.new_ones(len(x), latent)).to_event(1))
            logits = decoder["out"](F.softplus(decoder["hidden"](z)))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            hidden = F.softplus(encoder["hidden"](x))
            q = dist.Normal(encoder["loc"](hidden), encoder["log_scale"](hidden).exp())
            pyro.sample("z", q.to_event(1))

    start = {
        f"{role}$$${n}": p.detach().clone()
        for role, m in (("encoder", encoder), ("decoder", decoder))
        for n, p in m.named_parameters()
    }

    def by_hand(p: dict[str, Tensor], x: Tensor) -> Tensor:
        def linear(name: str, value: Tensor) -> Tensor:
            return F.linear(value, p[f"{name}.weight"], p[f"{name}.bias"])

        hidden = F.softplus(linear("encoder$$$hidden", x))
        loc, log_scale = linear("encoder$$$loc", hidden), linear("encoder$$$log_scale", hidden)
        z = loc + log_scale.exp() * torch.randn_like(loc)
        logits = linear("decoder$$$out", F.softplus(linear("decoder$$$hidden", z)))
        nll = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        log_prior = (-0.5 * z**2 - 0.5 * _LOG_2PI).sum()
        return nll - log_prior + _normal(z, loc, log_scale).sum()

    rows = (torch.rand(batch, d) > 0.5).float()
    return Row("vae", f"VAE {d}-{h}-{latent}, B={batch}", model, guide, start, by_hand, rows)


def mixture(components: int, data_dim: int, batch: int) -> Row:
    """A Gaussian mixture, its component summed out in the model."""
    g = torch.Generator().manual_seed(0)
    start = {
        "logits": torch.zeros(components),
        "loc": torch.randn(components, data_dim, generator=g),
        "scale": torch.zeros(components, data_dim),
    }

    def model(x: Tensor) -> None:
        logits = pyro.param("logits", start["logits"].clone)
        loc = pyro.param("loc", start["loc"].clone)
        scale = pyro.param("scale", lambda: start["scale"].exp(), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            t = pyro.sample("t", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(loc[t], scale[t]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pass

    def by_hand(p: dict[str, Tensor], x: Tensor) -> Tensor:
        log_x = _normal(x, p["loc"][:, None], p["scale"][:, None]).sum(-1)
        return -torch.logsumexp(p["logits"].log_softmax(-1)[:, None] + log_x, 0).sum()

    rows = torch.randn(batch, data_dim, generator=g)
    return Row(
        "mixture",
        f"mixture K={components}, D={data_dim}, B={batch}",
        model,
        guide,
        start,
        by_hand,
        rows,
        TraceEnum_ELBO,
    )


def bayesian_pca(data_dim: int, latent_dim: int, batch: int) -> Row:
    """PCA whose loadings are a latent that all rows share."""
    g = torch.Generator().manual_seed(0)
    total = 50_000
    start = {
        "sigma": torch.zeros(()),
        "W_loc": 0.3 * torch.randn(latent_dim, data_dim, generator=g),
        "W_scale": torch.full((latent_dim, data_dim), -2.0),
        "A": 0.05 * torch.randn(data_dim, latent_dim, generator=g),
        "s": torch.full((latent_dim,), math.log(0.5)),
    }

    def model(x: Tensor) -> None:
        sigma = pyro.param("sigma", lambda: start["sigma"].exp(), constraint=constraints.positive)
        w = pyro.sample("W", dist.Normal(torch.zeros(latent_dim, data_dim), 1.0).to_event(2))
        with pyro.plate("data", total, subsample=x):
            z = pyro.sample("z", dist.Normal(torch.zeros(latent_dim), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ w, sigma).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("W_loc", start["W_loc"].clone)
        scale = pyro.param("W_scale", lambda: start["W_scale"].exp(), constraint=constraints.positive)
        a = pyro.param("A", start["A"].clone)
        s = pyro.param("s", lambda: start["s"].exp(), constraint=constraints.positive)
        pyro.sample("W", dist.Normal(loc, scale).to_event(2))
        with pyro.plate("data", total, subsample=x):
            pyro.sample("z", dist.Normal(x @ a, s).to_event(1))

    def by_hand(p: dict[str, Tensor], x: Tensor) -> Tensor:
        w = p["W_loc"] + p["W_scale"].exp() * torch.randn_like(p["W_loc"])
        mean = x @ p["A"]
        z = mean + p["s"].exp() * torch.randn_like(mean)
        local = (
            _normal(x, z @ w, p["sigma"]).sum() - (0.5 * z**2 + 0.5 * _LOG_2PI).sum() - _normal(z, mean, p["s"]).sum()
        )
        shared = -(0.5 * w**2 + 0.5 * _LOG_2PI).sum() - _normal(w, p["W_loc"], p["W_scale"]).sum()
        return -(local * (total / len(x)) + shared)

    rows = torch.randn(batch, data_dim, generator=g)
    return Row("bayesian-pca", f"Bayesian PCA {data_dim}/{latent_dim}, B={batch}", model, guide, start, by_hand, rows)


def counts(data_dim: int, batch: int) -> Row:
    """Poisson counts whose rate is a row's own Gamma latent, under a Gamma guide."""
    g = torch.Generator().manual_seed(0)
    start = {"rate": torch.zeros(data_dim), "a": torch.zeros(()), "b": torch.zeros(())}

    def model(x: Tensor) -> None:
        rate = pyro.param("rate", lambda: start["rate"].exp(), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(torch.tensor(2.0), torch.tensor(2.0)))
            pyro.sample("x", dist.Poisson(rate * z[:, None]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        a = pyro.param("a", lambda: start["a"].exp(), constraint=constraints.positive)
        b = pyro.param("b", lambda: start["b"].exp(), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(a + x.sum(-1), b + float(x.shape[1])))

    def by_hand(p: dict[str, Tensor], x: Tensor) -> Tensor:
        a, b = p["a"].exp() + x.sum(-1), p["b"].exp() + float(x.shape[1])
        z = torch._standard_gamma(a) / b
        rate = p["rate"].exp() * z[:, None]
        log_p = (rate.log() * x - rate - (x + 1).lgamma()).sum() + (math.log(4.0) + z.log() - 2 * z).sum()
        log_q = (a * b.log() + (a - 1) * z.log() - b * z - a.lgamma()).sum()
        return -(log_p - log_q)

    rows = torch.poisson(torch.full((batch, data_dim), 3.0), generator=g)
    return Row("counts", f"counts, Gamma latents, D={data_dim}, B={batch}", model, guide, start, by_hand, rows)


ROWS: dict[str, Callable[[], Row]] = {
    "ppca-small": lambda: ppca(64, 8, 256),
    "ppca-large": lambda: ppca(784, 16, 1024),
    "vae-128": lambda: vae(128),
    "vae-1024": lambda: vae(1024),
    "mixture": lambda: mixture(10, 64, 256),
    "bayesian-pca": lambda: bayesian_pca(64, 8, 256),
    "counts": lambda: counts(20, 256),
}
