"""How a guide's latents are drawn for an estimator: by their own rule, by the score function, or enumerated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_lvm.errors import PairError
from pyro_lvm.pair import Pair
from pyro_lvm.seeding import seeded

# Rows that are enough to see which latents there are.
_ROWS = 4


class Scored(TorchDistribution):
    """A distribution whose draws carry no gradient, so that Pyro takes that of its density: the score function.

    A wrapper, where ``has_rsample_(False)`` would have to be set on a copy's innermost base, which is a different thing
    to look for in an independent, masked, expanded, transformed or foreign distribution.

    Args:
        base_dist: Any distribution with a density.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, base_dist: Any) -> None:
        self.base_dist = base_dist
        super().__init__(base_dist.batch_shape, base_dist.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """That of the wrapped distribution."""
        return self.base_dist.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> Scored:
        """The same distribution for a larger batch."""
        return Scored(self.base_dist.expand(batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """A draw without a gradient."""
        # A copy: a transform that knows its own output again answers with the input it came from, past the density's
        # dependence on the transform's parameters.
        drawn: Tensor = self.base_dist.sample(torch.Size(sample_shape)).detach().clone()
        return drawn

    def log_prob(self, value: Tensor) -> Tensor:
        """The density, which carries the gradient."""
        density: Tensor = self.base_dist.log_prob(value)
        return density


@dataclass(frozen=True)
class Latents:
    """The latents of a pair, by how they can be drawn.

    Attributes:
        pathwise: Sites of the guide that can be reparameterized, and their distributions.
        drawn: Those that can't.
        summed: Discrete sites of the model that the guide leaves to enumeration.
        shared: Those of the guide outside the plate over rows.
        priors: The model's distributions of the guide's sites, in the model's order.
        plate_nesting: How many batch dimensions plates take.
    """

    pathwise: dict[str, Any]
    drawn: dict[str, Any]
    summed: tuple[str, ...]
    shared: tuple[str, ...]
    priors: dict[str, Any]
    plate_nesting: int


def latents_of(pair: Pair, x: Tensor) -> Latents:
    """Look at a pair's latents, once, on a few rows.

    Args:
        pair: Any pair.
        x: Rows, shape (rows, ...).
    """
    few = x[:_ROWS]
    # With gradients, which tell a bound of a support that is a parameter from one that isn't.
    with seeded(0), pair.evaluating(), torch.enable_grad(), poutine.block():
        guide = poutine.trace(pair.run_guide).get_trace(few)
        model = poutine.trace(poutine.replay(pair.run_model, trace=guide)).get_trace(few)
    sites: dict[str, Any] = {name: site for name, site in guide.nodes.items() if _is_latent(site)}
    return Latents(
        pathwise={n: s["fn"] for n, s in sites.items() if s["fn"].has_rsample and not is_point(s["fn"])},
        drawn={n: s["fn"] for n, s in sites.items() if not s["fn"].has_rsample},
        summed=tuple(n for n, s in model.nodes.items() if _is_latent(s) and n not in sites),
        shared=tuple(n for n, s in sites.items() if not any(f.vectorized for f in s["cond_indep_stack"])),
        priors={n: s["fn"] for n, s in model.nodes.items() if n in sites},
        plate_nesting=max((-f.dim for t in (model, guide) for f in _plates(t)), default=0),
    )


def _plates(trace: Any) -> list[Any]:
    sites = (site for site in trace.nodes.values() if site["type"] == "sample")
    return [frame for site in sites for frame in site["cond_indep_stack"] if frame.vectorized]


def _is_latent(site: Any) -> bool:
    return site["type"] == "sample" and not site["is_observed"] and type(site["fn"]).__name__ != "_Subsample"


def is_point(distribution: Any) -> bool:
    """Whether it is a point mass: a parameter's value, not a draw, whose gradient every estimator has exactly."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return isinstance(distribution, Delta)


def refuse_moving_support(name: str, distribution: Any) -> None:
    """Refuse a distribution whose support depends on parameters: its score function is biased.

    Raises:
        PairError: It does.
    """
    innermost = distribution
    while hasattr(innermost, "base_dist"):
        innermost = innermost.base_dist
    constraint = innermost.support
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    bounds = (getattr(constraint, bound, None) for bound in ("lower_bound", "upper_bound"))
    if any(isinstance(bound, Tensor) and bound.requires_grad for bound in bounds):
        raise PairError(
            f"the latent '{name}' is drawn from a {type(innermost).__name__} whose support depends on parameters: the "
            "score function would miss what moves at its edge; use reparameterization"
        )


class Drawing(poutine.messenger.Messenger):
    """Within it, a guide's latents are drawn as an estimator wants it, whatever the guide says of enumeration.

    Args:
        scored: Draw what can be reparameterized by the score function as well.
        enumerated: Enumerate what can be.
        baseline: What Pyro's ``TraceGraph_ELBO`` is told to subtract, given a site that is drawn; None for nothing.
    """

    def __init__(
        self,
        *,
        scored: bool = False,
        enumerated: bool = False,
        baseline: Callable[[Any], dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.scored = scored
        self.enumerated = enumerated
        self.baseline = baseline

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or type(msg["fn"]).__name__ == "_Subsample":
            return
        # The dictionary may be the guide's own.
        infer = {k: v for k, v in msg["infer"].items() if k not in ("enumerate", "baseline")}
        if self.scored and msg["fn"].has_rsample and not is_point(msg["fn"]):
            msg["fn"] = Scored(msg["fn"])
        if self.enumerated and msg["fn"].has_enumerate_support:
            infer["enumerate"] = "parallel"
        if self.baseline is not None and not msg["fn"].has_rsample:
            infer["baseline"] = self.baseline(msg)
        msg["infer"] = infer
