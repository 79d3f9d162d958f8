"""The pairs of the speed benchmarks in NumPyro, a jitted ``svi.update`` each; needs ``pip install numpyro``.

The mixture is NumPyro's own marginal one, which sums the component out in the density as enumeration would.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from svi_pairs import Row

Step = Callable[[], float]


def numpyro_step(row: Row, lr: float) -> Step:
    """A step of a row from the same start on the same batch.

    Raises:
        RuntimeError: NumPyro is not installed.
    """
    if torch.get_num_threads() == 1:
        # Read when JAX is imported for the first time.
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    try:
        import jax
        import jax.numpy as jnp
        import numpyro
    except ImportError as error:
        raise RuntimeError(f"NumPyro can't be imported ({error}): pip install numpyro") from error
    start = {key: jnp.asarray(value.numpy()) for key, value in row.start.items()}
    model, guide = _PAIRS[row.kind](start)
    batch = jnp.asarray(row.batch.numpy())
    svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(lr), numpyro.infer.Trace_ELBO())
    state: Any = svi.init(jax.random.PRNGKey(0), batch)
    update = jax.jit(svi.update)

    def step() -> float:
        nonlocal state
        state, loss = update(state, batch)
        return float(loss)

    return step


def _ppca(start: dict[str, Any]) -> tuple[Any, Any]:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    total, latent_dim = 50_000, start["b"].shape[0]
    positive = dist.constraints.positive

    def model(x: Any) -> None:
        w, mu = numpyro.param("W", start["W"]), numpyro.param("mu", start["mu"])
        sigma = numpyro.param("sigma", jnp.exp(start["sigma"]), constraint=positive)
        with numpyro.plate("data", total, subsample_size=len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(latent_dim), 1.0).to_event(1))
            numpyro.sample("x", dist.Normal(z @ w.T + mu, sigma).to_event(1), obs=x)

    def guide(x: Any) -> None:
        a, b = numpyro.param("A", start["A"]), numpyro.param("b", start["b"])
        s = numpyro.param("s", jnp.exp(start["s"]), constraint=positive)
        with numpyro.plate("data", total, subsample_size=len(x)):
            numpyro.sample("z", dist.Normal(x @ a + b, s).to_event(1))

    return model, guide


def _vae(start: dict[str, Any]) -> tuple[Any, Any]:
    import jax.nn
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    latent_dim = start["encoder$$$loc.bias"].shape[0]

    def linear(name: str, value: Any) -> Any:
        weight, bias = (numpyro.param(f"{name}.{part}", start[f"{name}.{part}"]) for part in ("weight", "bias"))
        return value @ weight.T + bias

    def model(x: Any) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros((len(x), latent_dim)), 1.0).to_event(1))
            logits = linear("decoder$$$out", jax.nn.softplus(linear("decoder$$$hidden", z)))
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: Any) -> None:
        hidden = jax.nn.softplus(linear("encoder$$$hidden", x))
        with numpyro.plate("data", len(x)):
            q = dist.Normal(linear("encoder$$$loc", hidden), jnp.exp(linear("encoder$$$log_scale", hidden)))
            numpyro.sample("z", q.to_event(1))

    return model, guide


def _mixture(start: dict[str, Any]) -> tuple[Any, Any]:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def model(x: Any) -> None:
        logits, loc = numpyro.param("logits", start["logits"]), numpyro.param("loc", start["loc"])
        scale = numpyro.param("scale", jnp.exp(start["scale"]), constraint=dist.constraints.positive)
        with numpyro.plate("data", len(x)):
            parts = dist.Normal(loc, scale).to_event(1)
            numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(logits=logits), parts), obs=x)

    return model, lambda x: None


def _bayesian_pca(start: dict[str, Any]) -> tuple[Any, Any]:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    total, latent_dim, shape = 50_000, start["s"].shape[0], start["W_loc"].shape
    positive = dist.constraints.positive

    def model(x: Any) -> None:
        sigma = numpyro.param("sigma", jnp.exp(start["sigma"]), constraint=positive)
        w = numpyro.sample("W", dist.Normal(jnp.zeros(shape), 1.0).to_event(2))
        with numpyro.plate("data", total, subsample_size=len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(latent_dim), 1.0).to_event(1))
            numpyro.sample("x", dist.Normal(z @ w, sigma).to_event(1), obs=x)

    def guide(x: Any) -> None:
        scale = numpyro.param("W_scale", jnp.exp(start["W_scale"]), constraint=positive)
        numpyro.sample("W", dist.Normal(numpyro.param("W_loc", start["W_loc"]), scale).to_event(2))
        s = numpyro.param("s", jnp.exp(start["s"]), constraint=positive)
        with numpyro.plate("data", total, subsample_size=len(x)):
            numpyro.sample("z", dist.Normal(x @ numpyro.param("A", start["A"]), s).to_event(1))

    return model, guide


def _counts(start: dict[str, Any]) -> tuple[Any, Any]:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def positive(name: str) -> Any:
        return numpyro.param(name, jnp.exp(start[name]), constraint=dist.constraints.positive)

    def model(x: Any) -> None:
        rate = positive("rate")
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Gamma(2.0, 2.0))
            numpyro.sample("x", dist.Poisson(rate * z[:, None]).to_event(1), obs=x)

    def guide(x: Any) -> None:
        a, b = positive("a"), positive("b")
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Gamma(a + x.sum(-1), b + float(x.shape[1])))

    return model, guide


_PAIRS: dict[str, Callable[[dict[str, Any]], tuple[Any, Any]]] = {
    "ppca": _ppca,
    "vae": _vae,
    "mixture": _mixture,
    "bayesian-pca": _bayesian_pca,
    "counts": _counts,
}
