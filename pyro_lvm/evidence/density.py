"""The density of rows with their latents, as a function of coordinates that Hamiltonian moves can take anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_lvm.checking.sites import samples
from pyro_lvm.compiled.program import Step, Uncompilable, compile_step
from pyro_lvm.errors import PairError
from pyro_lvm.evidence.placing import (
    Placing,
    Recording,
    find_latents,
    quiet,
    row_log_density,
    trace_of,
)
from pyro_lvm.pair import Pair, refuse_holes

Start = Literal["prior", "guide"]
"""Where a path to the posterior begins."""

# Relative to the largest, between a graph and Pyro's handlers at the same point, in float32.
_TOLERANCE = 1e-3
# Evaluations times entries of rows from which on a compiler's seconds come back: half a minute's on two cores.
_WORTH_COMPILING = 2.5e9


@dataclass(frozen=True)
class Point:
    """Where chains are, and what both ends of the path say of it.

    Attributes:
        u: Coordinates, shape (chains, dim).
        log_start: log s(u) of the path's beginning, nats, shape (chains,), float64.
        log_joint: log p(x, u), likewise.
        start_gradient: Gradient of the former, shape (chains, dim).
        joint_gradient: Gradient of the latter.
    """

    u: Tensor
    log_start: Tensor
    log_joint: Tensor
    start_gradient: Tensor
    joint_gradient: Tensor

    def log_density(self, beta: float) -> Tensor:
        """log of s(u)^(1 - beta) p(x, u)^beta, nats, shape (chains,)."""
        return (1 - beta) * self.log_start + beta * self.log_joint

    def gradient(self, beta: float) -> Tensor:
        """Its gradient, shape (chains, dim)."""
        return torch.lerp(self.start_gradient, self.joint_gradient, beta)

    def replaced(self, accepted: Tensor, other: Point) -> Point:
        """The other point for the chains that are ``accepted``, shape (chains,)."""
        wide = accepted[:, None]
        return Point(
            torch.where(wide, other.u, self.u),
            torch.where(accepted, other.log_start, self.log_start),
            torch.where(accepted, other.log_joint, self.log_joint),
            torch.where(wide, other.start_gradient, self.start_gradient),
            torch.where(wide, other.joint_gradient, self.joint_gradient),
        )


class LatentDensity:
    r"""log p(x, u) of rows, and log s(u) of what a path to the posterior begins at.

    The coordinates u of a row are its continuous latents, each mapped from its support to the real line by
    :func:`torch.distributions.biject_to`, with the logarithm of the Jacobian in both densities; discrete latents are
    summed out. Everything comes from Pyro's own traces of the pair. Where the tensor operations behind them can be had
    as a graph that gives the same numbers, later calls go through that alone.

    Args:
        pair: Any pair whose latents are a row's own.
        x: Rows, shape (rows, ...), on the pair's device.
        chains: Chains a row; chain c of row n is number c * rows + n.
        start: ``"prior"`` for s = p(z), ``"guide"`` for s = q(z | x).
        evaluations: How many are to come; with many of many entries, the graph is compiled.

    Attributes:
        chains: Chains a row.
        num_rows: Number of rows.
        places: The continuous latents, and where in the coordinates each is.
        discrete: Names of the latents that are summed out.

    Raises:
        PairError: A latent is shared by rows, discrete without an end of values, or of a support without a map to the
            real line; there is no continuous one; the guide can't take the rows, or doesn't draw what the model does.
    """

    def __init__(self, pair: Pair, x: Tensor, chains: int = 1, start: Start = "prior", *, evaluations: int = 0) -> None:
        self._pair, self._start = pair, start
        self.chains, self.num_rows = chains, len(x)
        self._x = x.repeat(chains, *(1,) * (x.dim() - 1))
        self._densities: Step | None = None
        # Not by the clock: what a seed gives must not depend on how busy the machine is.
        self._compiling = evaluations * self._x.numel() > _WORTH_COMPILING
        self._guide_discrete: list[str] = []
        with self._quiet(validate=True):
            trace = trace_of(pair.run_model, self._x, ())
            self.places, self.discrete = find_latents(trace, len(self._x))
            if not self.places:
                raise PairError(
                    "a row has no continuous latent in this model: there is nothing for Hamiltonian moves to move; use "
                    "iwae"
                )
            if start == "guide":
                refuse_holes(pair, x)
                self._check_guide()

    @property
    def dim(self) -> int:
        """Number of a row's coordinates."""
        return int(self.places[-1].part.stop)

    def by_chain(self, values: Tensor) -> Tensor:
        """What there is of each chain, shape (chains * rows, ...), as shape (chains, rows, ...)."""
        chains: Tensor = values.unflatten(0, (self.chains, self.num_rows))
        return chains

    def draw(self) -> Tensor:
        """Coordinates drawn from the path's beginning, one for each chain, shape (chains, dim)."""
        half = self._pair.run_model if self._start == "prior" else self._pair.run_guide
        with self._quiet():
            trace: Any = poutine.trace(half).get_trace(self._x)
            return self.coordinates({place.name: trace.nodes[place.name]["value"] for place in self.places})

    def coordinates(self, latents: Mapping[str, Tensor]) -> Tensor:
        """The coordinates of latents, by site, a value for each chain as the model draws them; shape (chains, dim)."""
        with self._quiet(), Recording(latents) as recording:
            poutine.trace(self._pair.run_model).get_trace(self._x)
        return torch.cat([place.flatten(recording.coordinates[place.name]) for place in self.places], 1)

    def latents(self, u: Tensor) -> dict[str, Tensor]:
        """The latents of coordinates, by site; the inverse of :meth:`coordinates`."""
        with self._quiet(), self._placing(u) as placing:
            poutine.trace(self._pair.run_model).get_trace(self._x)
        return placing.values

    def evaluate(self, u: Tensor) -> Point:
        """Both densities and their gradients at coordinates of shape (chains, dim)."""
        with torch.no_grad():
            if self._densities is None:
                self._densities = self._as_graph(u) or self._by_handlers
            return Point(u, *self._densities(u))

    def log_joint(self, u: Tensor) -> Tensor:
        """log p(x, u), nats, shape (chains,), float64, differentiable in u."""
        recording = torch.is_grad_enabled()
        with self._quiet(), torch.set_grad_enabled(recording):
            return self._model_trace(u)[0]

    # ------------------------------------------------------------------ behind these

    def _quiet(self, *, validate: bool = False) -> AbstractContextManager[None]:
        return quiet(self._pair, self._x, validate=validate)

    def _placing(self, u: Tensor) -> Placing:
        return Placing({place.name: place.take(u) for place in self.places})

    def _model_trace(self, u: Tensor) -> tuple[Tensor, Tensor, Placing]:
        """log p(x, u) and log p(u) of each chain, and the latents that u stands for."""
        with self._placing(u) as placing:
            trace = trace_of(self._pair.run_model, self._x, self.discrete)
        summed = bool(self.discrete)
        joint = row_log_density(trace, len(u), placing.log_jacobians, summed=summed)
        prior = row_log_density(trace, len(u), placing.log_jacobians, summed=summed, latents_alone=True)
        return joint, prior, placing

    def _both(self, u: Tensor) -> tuple[Tensor, Tensor]:
        joint, prior, placing = self._model_trace(u)
        if self._start == "prior":
            return prior, joint
        guide = trace_of(poutine.condition(self._pair.run_guide, data=placing.values), self._x, self._guide_discrete)
        return row_log_density(guide, len(u), placing.log_jacobians, summed=bool(self._guide_discrete)), joint

    def _with_gradients(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            start, joint = self._both(u)
            ends = [
                torch.autograd.grad(end.sum(), u, retain_graph=True, materialize_grads=True)[0]
                for end in (start, joint)
            ]
        return start.detach(), joint.detach(), ends[0], ends[1]

    def _by_handlers(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with self._quiet():
            return self._with_gradients(u)

    def _as_graph(self, u: Tensor) -> Step | None:
        """The same as a graph of tensor operations; None where there is none, or it says something else."""
        try:
            with self._quiet():
                graph = make_fx(lambda at: self._with_gradients(at))(u)
            graph.graph.eliminate_dead_code()
            graph.recompile()
        except Exception:  # noqa: BLE001  # what can't be had as a graph, Pyro's handlers do, or say what is wrong
            return None
        other = u + 0.1 * torch.randn_like(u)
        expected = self._by_handlers(other)
        candidates: list[Step] = [graph]
        if self._compiling:
            # Without a C++ compiler the graph is run as it is.
            with suppress(Uncompilable):
                candidates.insert(0, compile_step(graph, [u]))
        for densities in candidates:
            if all(_agree(*both) for both in zip(densities(other), expected, strict=True)):
                return densities
        return None

    def _check_guide(self) -> None:
        guide = self._pair.guide
        if isinstance(guide, AutoGuide):
            raise PairError(
                f"the guide {type(guide).__name__} has plates of a size of its own, so that a row can't have several "
                "chains that start from it: start from the prior"
            )
        trace = trace_of(self._pair.run_guide, self._x, ())
        places, self._guide_discrete = find_latents(trace, len(self._x))
        own, other = {p.name for p in self.places}, {p.name for p in places}
        if own != other:
            name = sorted(own ^ other)[0]
            raise PairError(
                f"the latent '{name}' is drawn by the {'model' if name in own else 'guide'} alone: expected the same "
                "continuous latents in both; start from the prior"
            )
        unknown = sorted(set(self._guide_discrete) - set(self.discrete))
        if unknown or [n for n, site in samples(trace).items() if site["is_observed"]]:
            raise PairError(f"the guide draws {unknown} or observes: expected draws of the model's latents alone")


def _agree(found: Tensor, expected: Tensor) -> bool:
    finite = expected.isfinite()
    if not bool(finite.any()):
        return True
    scale = float(expected[finite].abs().max())
    return torch.allclose(found[finite], expected[finite], rtol=0, atol=_TOLERANCE * max(scale, 1e-3))
