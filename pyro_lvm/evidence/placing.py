"""A row's continuous latents as coordinates without bounds: where they are in a model's trace, and put there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.poutine.messenger import Messenger
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from torch import Tensor
from torch.distributions import Distribution, Transform, biject_to

from pyro_lvm.checking.sites import is_deterministic, samples
from pyro_lvm.elbo import FIRST_ENUMERATED, row_frame
from pyro_lvm.errors import PairError
from pyro_lvm.pair import Half, Pair
from pyro_lvm.plate import feeding


@dataclass(frozen=True)
class Place:
    """Where in a row's coordinates a latent is.

    Attributes:
        name: The latent.
        part: Its part of the coordinates.
        shape: Of its own coordinates, without that of the rows.
        axis: Where in them the rows go.
    """

    name: str
    part: slice
    shape: tuple[int, ...]
    axis: int

    def take(self, u: Tensor) -> Tensor:
        """The latent's own coordinates, in the shape that its distribution has them, of those of shape (rows, dim)."""
        return u[:, self.part].reshape(len(u), *self.shape).movedim(0, self.axis)

    def flatten(self, own: Tensor) -> Tensor:
        """The inverse of :meth:`take`, for this latent alone: shape (rows, ...)."""
        own = own.movedim(self.axis, 0)
        return own.reshape(len(own), -1)


def find_latents(trace: Any, num_rows: int) -> tuple[list[Place], list[str]]:
    """Where the continuous latents of a trace go, and the names of the discrete ones, which are to be summed out.

    Args:
        trace: Of a model or a guide.
        num_rows: Rows of the trace.

    Raises:
        PairError: A site is outside the plate over rows; a discrete latent has too many values to sum over, or is
            beside a plate inside that of the rows; a support has no map to the real line.
    """
    places: list[Place] = []
    discrete: list[str] = []
    begin = 0
    for name, site in samples(trace).items():
        frame = row_frame(site["cond_indep_stack"], num_rows)
        if frame is None:
            raise PairError(
                f"the site '{name}' lies outside the plate over rows: the evidence is a row's own where all its sites "
                "are; use elbo, which spreads what rows share over them"
            )
        if site["is_observed"]:
            continue
        fn = site["fn"]
        if fn.support.is_discrete:
            if not fn.has_enumerate_support:
                raise PairError(
                    f"the latent '{name}' is discrete and {type(fn).__name__} has no end of values to sum over: "
                    "Hamiltonian moves need continuous latents; use iwae, or give it a distribution with finitely many"
                )
            discrete.append(name)
            continue
        own = _transform(name, fn).inverse_shape(site["value"].shape)
        axis = len(fn.batch_shape) + frame.dim
        shape = (*own[:axis], *own[axis + 1 :])
        size = int(torch.Size(shape).numel())
        places.append(Place(name, slice(begin, begin + size), tuple(shape), axis))
        begin += size
    if discrete:
        for name, site in samples(trace).items():
            inside = [f.name for f in site["cond_indep_stack"] if f.vectorized and f.dim != -1]
            if inside:
                raise PairError(
                    f"the latent '{discrete[0]}' is to be summed out and '{name}' is inside plate '{inside[0]}': that "
                    "is to be had where every site is in the data plate alone; draw it as an event, by to_event"
                )
    return places, discrete


class Unconditioned(UnconditionMessenger):
    """Draws what is observed, and leaves a ``pyro.deterministic`` the value that the model gives it."""

    def _pyro_sample(self, msg: Any) -> None:
        if not is_deterministic(msg):
            super()._pyro_sample(msg)


class Placing(Messenger):
    """Gives latents the values that their coordinates stand for, whatever their distributions' supports depend on.

    Args:
        coordinates: Of each latent, in the shape that its distribution has them.

    Attributes:
        values: The latents' values, by site, once the model has run.
        log_jacobians: log |dz/du| of each, of the shape of its log-density.
    """

    def __init__(self, coordinates: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._coordinates = coordinates
        self.values: dict[str, Tensor] = {}
        self.log_jacobians: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self._coordinates or msg["is_observed"]:
            return
        transform = _transform(name, msg["fn"])
        u = self._coordinates[name]
        value = transform(u)
        self.values[name] = value
        self.log_jacobians[name] = transform.log_abs_det_jacobian(u, value)
        msg["value"], msg["done"] = value, True


class Recording(Messenger):
    """Gives latents values, and notes the coordinates that stand for them.

    Args:
        values: Of each latent.

    Attributes:
        coordinates: Of each latent, once the model has run.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._values = values
        self.coordinates: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self._values or msg["is_observed"]:
            return
        msg["value"], msg["done"] = self._values[name], True
        self.coordinates[name] = _transform(name, msg["fn"]).inv(msg["value"])


def trace_of(half: Half, x: Tensor, discrete: Collection[str]) -> Any:
    """A half's trace with its densities, all values of the discrete latents along dimensions of their own."""
    if discrete:
        half = poutine.enum(config_enumerate(half, default="parallel"), first_available_dim=FIRST_ENUMERATED)
    trace: Any = poutine.trace(half).get_trace(x)
    trace.compute_log_prob()
    return trace


def row_terms(
    trace: Any, num_rows: int, log_jacobians: Mapping[str, Tensor], *, summed: bool, latents_alone: bool = False
) -> Tensor:
    """What a trace's sites say of each row, added up, nats, float64.

    Args:
        trace: Of a model or a guide, by :func:`trace_of`; every site is in the plate over rows.
        num_rows: Rows of the trace.
        log_jacobians: To be added, by site.
        summed: Whether values of discrete latents lie along dimensions of their own.
        latents_alone: Leave out what is observed.

    Returns:
        Shape (rows,), or (..., rows) with the values to the left.
    """
    total = torch.zeros((), dtype=torch.float64)
    for name, site in samples(trace).items():
        if latents_alone and site["is_observed"]:
            continue
        own = site["log_prob"].double()
        frame = row_frame(site["cond_indep_stack"], num_rows)
        # A plate that knows the whole data set's size scales each row by N/B.
        own = own * (frame.size / (frame.full_size or frame.size))
        if name in log_jacobians:
            own = own + log_jacobians[name].double()
        total = total.to(own.device) + (own if summed else sum_to_rows(own, frame.dim, num_rows))
    return total.expand(*total.shape[:-1], num_rows)


def row_log_density(
    trace: Any, num_rows: int, log_jacobians: Mapping[str, Tensor], *, summed: bool, latents_alone: bool = False
) -> Tensor:
    """log of what a trace says of each row, discrete latents summed out, shape (rows,); as :func:`row_terms`."""
    terms = row_terms(trace, num_rows, log_jacobians, summed=summed, latents_alone=latents_alone)
    return terms.reshape(-1, num_rows).logsumexp(0) if summed else terms


def sum_to_rows(terms: Tensor, row_dim: int, num_rows: int) -> Tensor:
    """Sum over every dimension but that of the rows, shape (rows,)."""
    shape = torch.broadcast_shapes(terms.shape, (num_rows,) + (1,) * (-row_dim - 1))
    return terms.expand(shape).movedim(row_dim, -1).reshape(-1, num_rows).sum(0)


@contextmanager
def quiet(pair: Pair, x: Tensor, *, validate: bool = False) -> Iterator[None]:
    """Within the context the pair is run on rows for itself alone: nothing is trained, recorded, or scaled by N/B.

    Args:
        pair: The pair.
        x: The rows.
        validate: Let Pyro check values, where that is switched on.
    """
    complete = not (x.is_floating_point() and bool(x.isnan().any()))
    validating = pyro.settings.get("validate_poutine") and validate
    with (
        pair.evaluating(),
        poutine.block(),
        feeding(None, complete=complete),
        pyro.validation_enabled(validating),
    ):
        yield


def _transform(name: str, fn: Distribution) -> Transform:
    """From the real line to the support of a latent's distribution."""
    try:
        transform: Transform = biject_to(fn.support)
    except NotImplementedError as error:
        raise PairError(
            f"the latent '{name}' has the support {fn.support}, which no map takes to the real line: Hamiltonian moves "
            "need one; use iwae"
        ) from error
    return transform
