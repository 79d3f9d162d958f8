"""Shapes, supports and values: whether each site's density is one finite number a row, and of the right kind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_lvm.checking.findings import Finding
from pyro_lvm.checking.running import Role, Run, attempt, first_line, named_site
from pyro_lvm.checking.sites import (
    Site,
    event_dim,
    expected_shape,
    fits_plates,
    innermost,
    latents,
    log_prob,
    observed,
    plate_sizes,
    samples,
)
from pyro_lvm.checking.structure import wrong_size
from pyro_lvm.checking.view import View, describe_draw, mismatch_in_plate


def check_overwritten(run: Run) -> Iterator[Finding]:
    """Whether the rows are still what they were."""
    for role in run.overwritten:
        yield Finding(
            "rows-overwritten",
            "error",
            None,
            f"the {role} changes the rows in place, so that what runs after it sees other data (holes that were filled "
            "are taken for observations): work on a copy, as torch.nan_to_num(x) or x.clone() make one",
        )


def check_raised(run: Run, role: Role) -> Iterator[Finding]:
    """What a half raised, as a finding that says where to look."""
    error = run.errors.get(role)
    if error is None:
        return
    mismatch = mismatch_in_plate(error)
    if mismatch is not None:
        plate, site, dim, expected, actual = mismatch
        if dim == -1 and expected != run.num_rows and actual == run.num_rows:
            yield wrong_size(plate, site, role, expected, run.num_rows)
            return
        yield Finding(
            "wrong-log-prob-shape",
            "error",
            site,
            f"in the {role} the batch shape of '{site}' has size {actual} at dim {dim}, where plate '{plate}' has "
            f"{expected}: the dimensions of one draw are left in the batch shape; declare them with .to_event(1)",
        )
        return
    last = next(reversed(samples(run.traces[role])), None)
    after = f", after site '{last}'" if last is not None else ""
    yield Finding(
        "model-raises" if role == "model" else "guide-raises",
        "error",
        named_site(error),
        f"the {role} raises {first_line(error)}{after}: run {role}(x) on {run.num_rows} rows to see where",
    )


def check_shapes(run: Run) -> Iterator[Finding]:
    """Whether every log-probability has the shape of the plates around it."""
    for role in run.traces:
        for name, site in samples(run.traces[role]).items():
            value, error = attempt(log_prob, site)
            if error is not None:
                if _is_shape_error(site):
                    yield _wrong_shape(role, name, site, f"can't be computed ({first_line(error)})")
            elif not fits_plates(site, value.shape):
                yield _misplaced(role, name, site, run.num_rows, value) or _wrong_shape(
                    role, name, site, f"has shape {tuple(value.shape)}"
                )


def _is_shape_error(site: Site) -> bool:
    """Whether a log-probability can't be computed because of its mask's shape or its value's."""
    _, unmasked = attempt(lambda: site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]))
    return unmasked is None or "must match" in str(unmasked) or "broadcast" in str(unmasked)


def _misplaced(role: Role, name: str, site: Site, num_rows: int, value: Tensor) -> Finding | None:
    sizes = plate_sizes(site)
    for frame in site["cond_indep_stack"]:
        if frame.dim is not None and frame.dim < -1 and frame.size == num_rows:
            free = [d for d in range(1, -frame.dim) if d not in sizes and value.shape[-d] not in (1,)]
            if free:
                message = (
                    f"in the {role} plate '{frame.name}' is at dim={frame.dim}, but the rows of '{name}' are at "
                    f"dim={-free[0]} (log-probability of shape {tuple(value.shape)}): drop dim=, or set it to "
                    f"{-free[0]}"
                )
                return Finding("plate-dim-wrong", "error", name, message)
    return None


def _wrong_shape(role: Role, name: str, site: Site, what: str) -> Finding:
    inside = ", ".join(f"'{f.name}'" for f in site["cond_indep_stack"]) or "no plate"
    return Finding(
        "wrong-log-prob-shape",
        "error",
        name,
        f"in the {role} the log-probability of '{name}' {what} inside {inside}, expected {expected_shape(site)}: "
        "dimensions of one draw are left in the batch shape (declare them with .to_event(1)), or the parameters or the "
        "mask broadcast to more than the rows (compare their shapes)",
    )


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
    wide, narrow = _support(prior), _support(guide)
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
        outer, inner = _bounds(wide), _bounds(narrow)
        if outer is not None and inner is not None:
            outside = outside or _beyond(outer, inner)
    if outside:
        yield Finding(
            "support-mismatch",
            "error",
            name,
            f"'{name}' is {kinds}: the guide draws values outside the prior's support {_describe(wide)}; use a "
            "distribution on that support, such as LogNormal for positive values or Beta for the unit interval",
        )
    elif not is_point and outer is not None and inner is not None and _cut_off(outer, inner, bool(discrete[0])):
        yield Finding(
            "support-narrower",
            "warning",
            name,
            f"'{name}' is {kinds}: the guide can't reach all of the prior's support {_describe(wide)}, only "
            f"{_describe(narrow)}; use a distribution on all of it",
        )


def _support(site: Site) -> Any:
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


def _bounds(constraint: Any) -> tuple[Tensor, Tensor] | None:
    """Least and largest value of a support that is an interval."""
    if constraint in (constraints.real, constraints.real_vector):
        return torch.tensor(-math.inf), torch.tensor(math.inf)
    if constraint is constraints.boolean:
        return torch.tensor(0.0), torch.tensor(1.0)
    if not (hasattr(constraint, "lower_bound") or hasattr(constraint, "upper_bound")):
        return None
    lower, upper = getattr(constraint, "lower_bound", -math.inf), getattr(constraint, "upper_bound", math.inf)
    return torch.as_tensor(lower, dtype=torch.float64), torch.as_tensor(upper, dtype=torch.float64)


def _beyond(outer: tuple[Tensor, Tensor], inner: tuple[Tensor, Tensor]) -> bool:
    return bool((inner[0] < outer[0]).any() or (inner[1] > outer[1]).any())


def _cut_off(outer: tuple[Tensor, Tensor], inner: tuple[Tensor, Tensor], discrete: bool) -> bool:
    """Whether the inner interval ends where the outer goes on for ever, or leaves out discrete values."""
    if discrete:
        return bool((inner[0] > outer[0]).any() or (inner[1] < outer[1]).any())
    ends = [(i.isfinite() & o.isinf()).any() for o, i in zip(outer, inner, strict=True)]
    return bool(ends[0] or ends[1])


def _describe(constraint: Any) -> str:
    text = repr(constraint).replace("GreaterThan(lower_bound=0.0)", "(0, inf)")
    return text if len(text) < 60 else type(constraint).__name__.strip("_")


def check_parameters(run: Run, holes: bool) -> Iterator[Finding]:
    """Whether every distribution was given parameters of its domain.

    Args:
        run: With validation off, where a half raises with it on.
        holes: Whether the rows have missing entries.
    """
    roles: tuple[Role, ...] = ("guide", "model")  # what the guide draws out of range puts the model out of range
    for role in roles:
        for name, site in samples(run.traces[role]).items():
            distribution = innermost(site["fn"])
            for parameter, constraint in getattr(distribution, "arg_constraints", {}).items():
                if constraints.is_dependent(constraint) or parameter not in vars(distribution):
                    continue
                value = getattr(distribution, parameter)
                valid, error = attempt(constraint.check, value)
                if error is None and not bool(valid.all()) and holes and bool(value.isnan().any()):
                    yield missing_entries(name)
                    return
                if error is None and not bool(valid.all()):
                    worst = (
                        f"{int(torch.isnan(value).sum())} NaN" if bool(value.isnan().any()) else f"{value.min():.3g}"
                    )
                    yield Finding(
                        "parameter-out-of-range",
                        "error",
                        name,
                        f"in the {role} the {parameter} of '{name}' ({type(distribution).__name__}) has values outside "
                        f"{_describe(constraint)} (least: {worst}): map it there, as softplus or exp do for a scale",
                    )
                    return


def check_values(view: View) -> Iterator[Finding]:
    """Whether every log-probability is finite, and every observation inside its distribution's support."""
    for role, name, site in view.joint_sites():
        value, error = attempt(log_prob, site)
        is_data = name in observed(view.joint.traces[role])
        holes = bool(torch.isnan(view.x).any())
        if holes and (error is not None or not bool(torch.isfinite(value).all())):
            yield missing_entries(name)
        elif error is not None and "support" in str(error):
            yield Finding(
                "observed-outside-support" if is_data else "support-mismatch",
                "error",
                name,
                f"in the {role} '{name}' holds values outside the support of {type(innermost(site['fn'])).__name__}, "
                f"{_describe(_support(site))}: use a likelihood on the data's range, or transform the data into it",
            )
        elif error is not None:
            yield Finding(
                "model-raises" if role == "model" else "guide-raises",
                "error",
                name,
                f"in the {role} the log-probability of '{name}' can't be computed: {first_line(error)}",
            )
        elif not bool(torch.isfinite(value).all()):
            count = int((~torch.isfinite(value)).sum())
            yield Finding(
                "log-prob-not-finite",
                "error",
                name,
                f"in the {role} the log-probability of '{name}' is NaN or infinite in {count} of {value.numel()} "
                "places: look for a scale that goes to zero, or values that the distribution rules out",
            )


def missing_entries(name: str | None) -> Finding:
    """The finding that a pair's density can't take the holes that the rows have."""
    return Finding(
        "missing-entries",
        "error",
        name,
        "the rows have missing entries (NaN), and with them the log-probability or its gradient is NaN: observe with "
        "pyro_lvm.observe, which fills before it masks, and give the guide the rows with their holes filled",
    )
