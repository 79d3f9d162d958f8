"""Draws of a latent: whether model and guide agree on their shape and on the values that they may take."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_lvm.checking.findings import Finding
from pyro_lvm.checking.running import Run, attempt
from pyro_lvm.checking.sites import Site, event_dim, innermost, latents
from pyro_lvm.checking.view import describe_draw


def check_draws(run: Run) -> Iterator[Finding]:
    """Whether model and guide agree on the shape and the support of each latent."""
    prior_sites, guide_sites = latents(run.traces["model"]), latents(run.traces["guide"])
    for name in (n for n in prior_sites if n in guide_sites):
        prior, guide = prior_sites[name], guide_sites[name]
        shapes = [tuple(getattr(site["fn"], "event_shape", ())) for site in (prior, guide)]
        if shapes[0] != shapes[1]:
            reason = "to_event differs" if event_dim(prior) != event_dim(guide) else "the sizes differ"
            yield Finding(
                "event-shape-mismatch",
                "error",
                name,
                f"a draw of '{name}' has {describe_draw(prior)} in the model and {describe_draw(guide)} in the guide "
                f"({reason}): expected the same; give the guide's distribution the prior's sizes and .to_event(...)",
            )
            continue
        yield from _compare_supports(name, prior, guide)


def _compare_supports(name: str, prior: Site, guide: Site) -> Iterator[Finding]:
    wide, narrow = support_of(prior), support_of(guide)
    if wide is None or narrow is None:
        return
    kinds = (
        f"{type(innermost(guide['fn'])).__name__} in the guide, {type(innermost(prior['fn'])).__name__} in the model"
    )
    is_point = type(innermost(guide["fn"])).__name__ == "Delta"
    inside, error = attempt(lambda: bool(prior["fn"].support.check(guide["value"]).all()))
    outside = error is None and not inside and not bool(torch.isnan(guide["value"]).any())
    if not is_point:
        discrete = [_is_discrete(c) for c in (wide, narrow)]
        if None not in discrete and discrete[0] != discrete[1] and not _is_relaxed(guide):
            yield Finding(
                "support-mismatch",
                "error",
                name,
                f"'{name}' is {kinds}: one is discrete, the other continuous; draw it from the prior's kind",
            )
            return
        outer, inner = bounds(wide), bounds(narrow)
        if outer is not None and inner is not None:
            # Bounds that were drawn may not broadcast against each other.
            outside = outside or bool(attempt(beyond, outer, inner)[0])
    if outside:
        yield Finding(
            "support-mismatch",
            "error",
            name,
            f"'{name}' is {kinds}: the guide draws values outside the prior's support {describe(wide)}; use a "
            "distribution on that support, such as LogNormal for positive values or Beta for the unit interval",
        )
    elif not is_point and outer is not None and inner is not None and _cuts_off(outer, inner, bool(discrete[0])):
        yield Finding(
            "support-narrower",
            "warning",
            name,
            f"'{name}' is {kinds}: the guide can't reach all of the prior's support {describe(wide)}, only "
            f"{describe(narrow)}; use a distribution on all of it",
        )


def support_of(site: Site) -> Any:
    """The support of one entry of a site's draws."""
    support, _ = attempt(lambda: site["fn"].support)
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _is_discrete(constraint: Any) -> bool | None:
    value, error = attempt(lambda: bool(constraint.is_discrete))
    return value if error is None else None


def _is_relaxed(site: Site) -> bool:
    # Draws are discrete, their gradient is the relaxation's.
    return "StraightThrough" in type(innermost(site["fn"])).__name__


def bounds(constraint: Any) -> tuple[Tensor, Tensor] | None:
    """Least and largest value of a support that is an interval."""
    if constraint in (constraints.real, constraints.real_vector):
        return torch.tensor(-math.inf), torch.tensor(math.inf)
    if constraint is constraints.boolean:
        return torch.tensor(0.0), torch.tensor(1.0)
    if not (hasattr(constraint, "lower_bound") or hasattr(constraint, "upper_bound")):
        return None
    lower, upper = getattr(constraint, "lower_bound", -math.inf), getattr(constraint, "upper_bound", math.inf)
    return torch.as_tensor(lower, dtype=torch.float64), torch.as_tensor(upper, dtype=torch.float64)


def beyond(outer: tuple[Tensor, Tensor], inner: tuple[Tensor, Tensor]) -> bool:
    """Whether an interval reaches outside another."""
    return bool((inner[0] < outer[0]).any() or (inner[1] > outer[1]).any())


def _cuts_off(outer: tuple[Tensor, Tensor], inner: tuple[Tensor, Tensor], discrete: bool) -> bool:
    """Whether the inner interval ends where the outer goes on for ever, or leaves out discrete values."""
    if discrete:
        return bool(attempt(beyond, inner, outer)[0])
    return any(bool(i.isfinite().any()) and bool(o.isinf().any()) for o, i in zip(outer, inner, strict=True))


def describe(constraint: Any) -> str:
    """A support in words."""
    text = repr(constraint).replace("GreaterThan(lower_bound=0.0)", "(0, inf)")
    return text if len(text) < 60 else type(constraint).__name__.strip("_")
