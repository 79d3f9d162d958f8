"""Families of approximate posteriors, free for each row: the guide's own, and a Gaussian with correlations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import MultivariateNormal, constraints, transform_to

from pyro_lvm.checking.sites import samples
from pyro_lvm.elbo import row_frame
from pyro_lvm.errors import PairError
from pyro_lvm.evidence.density import LatentDensity
from pyro_lvm.evidence.placing import find_latents, quiet, row_terms, sum_to_rows, trace_of
from pyro_lvm.marginals import innermost
from pyro_lvm.pair import Pair, refuse_holes

# Of several ways to write the same parameter, the ones that are not moved.
_SPARE = {"logits": {"probs"}, "scale_tril": {"covariance_matrix", "precision_matrix"}}
# Between a distribution and its copy from its own parameters, relative.
_TOLERANCE = 1e-3
# Draws that show where a Gaussian is to begin.
_DRAWS = 64

Parameters = dict[str, Tensor]
"""Free numbers by name, rows first, shape (rows, ...)."""


class Family(Protocol):
    """What is optimized a row at a time.

    Attributes:
        begin: Where that begins.
    """

    begin: Parameters

    def elbo(self, parameters: Parameters, rows: Tensor, draws: int) -> Tensor:
        """Draws of the ELBO of the rows with these numbers, shape (draws, rows), float64.

        Their gradient is that through the draws of the latents; of what goes through log q itself the mean is zero, and
        at an exact posterior all of it is noise.

        Source: Roeder, Wu & Duvenaud 2017, "Sticking the landing", NeurIPS.
        """


@dataclass(frozen=True)
class _Member:
    """A latent's distribution in a guide, taken apart."""

    name: str
    kind: Any
    event_dims: int
    row_dim: int
    # Parameters and their units, rows first; a unit is what a parameter without a scale of its own is moved by.
    values: Mapping[str, Tensor]
    units: Mapping[str, Tensor]
    # Of a discrete latent, its values, along a dimension of their own.
    support: Tensor | None

    def free(self) -> Parameters:
        return {
            f"{self.name}.{key}": transform_to(self.kind.arg_constraints[key]).inv(value) / self.units[key]
            for key, value in self.values.items()
        }

    def at(self, parameters: Parameters, rows: Tensor, draws: int) -> tuple[Any, Any]:
        """The distribution for so many copies of the rows, and the same without gradients."""
        values = {}
        for key, units in self.units.items():
            value = transform_to(self.kind.arg_constraints[key])(parameters[f"{self.name}.{key}"] * units[rows])
            values[key] = value.repeat(draws, *(1,) * (value.dim() - 1))
        return self._made(values), self._made({key: value.detach() for key, value in values.items()})

    def _made(self, values: Mapping[str, Tensor]) -> Any:
        own = {
            key: value.movedim(0, _row_axis(self.kind, key, self.row_dim, self.event_dims))
            for key, value in values.items()
        }
        made = self.kind(**own)
        return made.to_event(self.event_dims) if self.event_dims else made


class GuideFamily:
    """The guide's own distributions, their parameters no longer tied to what the guide makes of a row.

    Args:
        pair: Any pair whose latents are a row's own; a discrete one is summed out.
        x: Rows, shape (rows, ...), on the pair's device.

    Attributes:
        begin: The guide's own parameters.
        is_richest: Whether a Gaussian with correlations would be no richer, or no rival where components are summed
            out.

    Raises:
        PairError: A latent is shared by rows, or depends on another continuous one's draw; a distribution has no
            gradient through its draws, or isn't made of parameters; the guide can't take the rows.
    """

    def __init__(self, pair: Pair, x: Tensor) -> None:
        refuse_holes(pair, x)
        self._pair, self._x = pair, x
        with quiet(pair, x):
            plain = trace_of(pair.run_guide, x, ())
            summed = find_latents(plain, len(x))[1]
            model = trace_of(poutine.replay(pair.run_model, trace=plain), x, ())
            self._left = [name for name in find_latents(model, len(x))[1] if name not in summed]
            if self._left and summed:
                raise PairError(
                    f"the guide draws the discrete latent '{summed[0]}' and leaves '{self._left[0]}' to be summed out: "
                    "expected it to draw both, or neither"
                )
            self._members, again = (
                [_take_apart(name, site, len(x)) for name, site in samples(trace_of(pair.run_guide, x, summed)).items()]
                for _ in range(2)
            )
        if not self._members:
            raise PairError("the guide draws no latent: all are summed out, so that it has nothing to miss")
        for one, other in zip(self._members, again, strict=True):
            if any(not torch.equal(value, other.values[key]) for key, value in one.values.items()):
                raise PairError(
                    f"the guide's distribution of '{one.name}' depends on what it draws before, so that a row's best "
                    "one is not found by its parameters: draw all continuous latents from one joint distribution"
                )
        self.begin: Parameters = {}
        for member in self._members:
            self.begin |= member.free()
        alone = len(self._members) == 1 and issubclass(self._members[0].kind, MultivariateNormal)
        self._summed = bool(summed)
        self.is_richest = alone or self._summed

    def elbo(self, parameters: Parameters, rows: Tensor, draws: int) -> Tensor:
        """As of every :class:`Family`."""
        x = self._x[rows].repeat(draws, *(1,) * (self._x.dim() - 1))
        values, log_guide, log_shares = self._draw(parameters, rows, draws)
        recording = torch.is_grad_enabled()
        with quiet(self._pair, x), torch.set_grad_enabled(recording):
            trace = trace_of(poutine.condition(self._pair.run_model, data=values), x, self._left)
            terms = row_terms(trace, len(x), {}, summed=self._summed or bool(self._left))
            if log_shares is not None:
                each = terms - log_guide
                terms = (log_shares.exp() * each).expand(*each.shape[:-1], len(x)).reshape(-1, len(x)).sum(0)
            else:
                terms = terms.reshape(-1, len(x)).logsumexp(0) - log_guide
        elbo: Tensor = terms.reshape(draws, len(rows))
        return elbo

    def draw(self, parameters: Parameters, rows: Tensor, draws: int) -> dict[str, Tensor]:
        """The continuous latents of so many copies of the rows, by site."""
        return self._draw(parameters, rows, draws)[0]

    def _draw(self, parameters: Parameters, rows: Tensor, draws: int) -> tuple[dict[str, Tensor], Any, Any]:
        """Values by site, log q of each row, and log of the share of each combination of discrete values, if any."""
        values: dict[str, Tensor] = {}
        log_guide: Any = 0.0
        log_shares: Any = None
        num_rows = len(rows) * draws
        for member in self._members:
            distribution, held = member.at(parameters, rows, draws)
            if member.support is not None:
                values[member.name] = member.support
                own = distribution.log_prob(member.support).double()
                log_shares = own if log_shares is None else log_shares + own
                # Its own gradient has mean zero over the values, too.
                log_guide = log_guide + own.detach()
                continue
            values[member.name] = distribution.rsample()
            own = held.log_prob(values[member.name]).double()
            log_guide = log_guide + (own if self._summed else sum_to_rows(own, member.row_dim, num_rows))
        return values, log_guide, log_shares


class GaussianFamily:
    """One Gaussian with all correlations over a row's latents, in the coordinates in which they have no bounds.

    Args:
        pair: Any pair whose latents are a row's own; a discrete one that the model alone has is summed out.
        x: Rows, shape (rows, ...), on the pair's device.
        family: A family that shows where to begin.
        parameters: Its member for each row.

    Attributes:
        begin: Independent coordinates, with the mean and the standard deviation that they have under the member.
    """

    def __init__(self, pair: Pair, x: Tensor, family: GuideFamily, parameters: Parameters) -> None:
        self._pair, self._x = pair, x
        density = LatentDensity(pair, x, _DRAWS)
        with torch.no_grad():
            latents = family.draw(parameters, torch.arange(len(x)), _DRAWS)
        u = density.by_chain(density.coordinates(latents))
        self._mean, self._scale = u.mean(0), u.std(0)
        self._densities: dict[tuple[int, ...], LatentDensity] = {}
        self.begin: Parameters = {
            "shift": torch.zeros_like(self._mean),
            "factor": torch.zeros_like(self._mean).diag_embed(),
        }

    def elbo(self, parameters: Parameters, rows: Tensor, draws: int) -> Tensor:
        """As of every :class:`Family`."""
        mean = self._mean[rows] + self._scale[rows] * parameters["shift"]
        factor = self._scale[rows].unsqueeze(-1) * transform_to(constraints.lower_cholesky)(parameters["factor"])
        u = MultivariateNormal(mean, scale_tril=factor, validate_args=False).rsample((draws,))
        held = MultivariateNormal(mean.detach(), scale_tril=factor.detach(), validate_args=False)
        log_joint = self._density(rows, draws).log_joint(u.flatten(0, 1))
        elbo: Tensor = log_joint.reshape(draws, len(rows)) - held.log_prob(u).double()
        return elbo

    def _density(self, rows: Tensor, draws: int) -> LatentDensity:
        """Made once for a round's steps, all of the same rows."""
        key = (draws, *rows.tolist())
        if key not in self._densities:
            self._densities = {old: kept for old, kept in self._densities.items() if old[1:] == key[1:]}
            self._densities[key] = LatentDensity(self._pair, self._x[rows], draws)
        return self._densities[key]


def _take_apart(name: str, site: Any, num_rows: int) -> _Member:
    base: Any = innermost(site["fn"])
    event_dims = len(base.batch_shape) - len(site["fn"].batch_shape)
    row_dim = row_frame(site["cond_indep_stack"], num_rows).dim
    discrete = bool(base.support.is_discrete)
    arguments = base.arg_constraints
    spare = {other for key in arguments for other in _SPARE.get(key, ())}
    try:
        if not (discrete or base.has_rsample):
            raise ValueError("no gradient goes through its draws")
        values, units = {}, {}
        for key, constraint in arguments.items():
            if key in spare:
                continue
            value = getattr(base, key).detach()
            event = value.shape[value.dim() - constraint.event_dim :]
            value = value.expand(*base.batch_shape, *event)
            axis = _row_axis(type(base), key, row_dim, event_dims)
            values[key] = value.movedim(axis, 0).clone()
            units[key] = _unit(base, key, value).movedim(axis, 0)
        support = site["value"] if discrete else None
        member = _Member(name, type(base), event_dims, row_dim, values, units, support)
        copy = member.at(member.free(), torch.arange(num_rows), 1)[0]
        one, other = (d.log_prob(site["value"]) for d in (copy, site["fn"]))
        if not values or not torch.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE):
            raise ValueError("it is not made of its parameters alone")
    except (NotImplementedError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise PairError(
            f"the guide's {type(base).__name__} of '{name}' can't be optimized a row at a time "
            f"({' '.join(str(error).split())[:80]}): expected a distribution with parameters for each row, such as "
            "Normal"
        ) from error
    return member


def _row_axis(kind: Any, key: str, row_dim: int, event_dims: int) -> int:
    """Where the rows are in a parameter of a distribution whose batch has them at ``row_dim``."""
    axis: int = row_dim - event_dims - kind.arg_constraints[key].event_dim
    return axis


def _unit(base: Any, key: str, value: Tensor) -> Tensor:
    """A place, and what is below the diagonal, are moved in units of the spread; the rest has none."""
    real = base.support in (constraints.real, constraints.real_vector)
    if not real or key not in ("loc", "scale_tril"):
        return torch.ones_like(value)
    spread = base.stddev.detach().expand(base.batch_shape + base.event_shape)
    if key == "loc":
        return spread  # type: ignore[no-any-return]
    diagonal = torch.eye(value.shape[-1], dtype=torch.bool, device=value.device)
    return torch.where(diagonal, 1.0, spread.unsqueeze(-1))
