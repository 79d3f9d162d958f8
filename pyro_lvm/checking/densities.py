"""Shapes and values: whether each site's log-probability is one finite number a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_lvm.checking.findings import Finding
from pyro_lvm.checking.running import Role, Run, attempt, first_line, named_site
from pyro_lvm.checking.sites import (
    Site,
    expected_shape,
    fits_plates,
    innermost,
    log_prob,
    observed,
    plate_sizes,
    samples,
)
from pyro_lvm.checking.state import perturb
from pyro_lvm.checking.structure import wrong_size
from pyro_lvm.checking.supports import beyond, bounds, describe, support_of
from pyro_lvm.checking.view import View, mismatch_in_plate

# Noise that takes a parameter of 1 below 0 in a third of the runs.
_FAR_AWAY, _FAR_AWAY_RUNS = 3.0, 8


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
        f"the {role} raises {first_line(error)}{after}: run {role}(x[:{run.num_rows}]) to see where",
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
                        f"{describe(constraint)} (least: {worst}): map it there, as softplus or exp do for a scale",
                    )
                    return


def check_ranges(view: View) -> Iterator[Finding]:
    """Whether every distribution's parameters stay in their domain wherever training may take the pair."""
    runner, said = view.runner, set()
    for seed in range(_FAR_AWAY_RUNS):
        perturb([t for _, t in view.joint.parameters.values()], _FAR_AWAY, seed)
        run = runner.run(view.x, validate=False, restore=False)
        # Read before the parameters are put back: a distribution may hold one of them itself.
        strayed = [(role, *found) for role in run.traces for found in _strayed(run.traces[role])]
        runner.kept.restore()
        for role, name, kind, parameter, domain in strayed:
            if (role, name) not in said:
                said.add((role, name))
                yield Finding(
                    "range-not-enforced",
                    "warning",
                    name,
                    f"in the {role} nothing keeps the {parameter} of '{name}' ({kind}) in {domain}: training may take "
                    "it out; map it there with softplus or exp, or give its parameter a constraint",
                )


def _strayed(trace: Any) -> Iterator[tuple[str, str, str, str]]:
    """The sites whose distribution has a parameter outside its domain: site, distribution, parameter, domain."""
    for name, site in samples(trace).items():
        distribution = innermost(site["fn"])
        for parameter, constraint in getattr(distribution, "arg_constraints", {}).items():
            domain = None if constraints.is_dependent(constraint) else bounds(constraint)
            if domain is None or parameter not in vars(distribution):
                continue
            value = getattr(distribution, parameter).detach()
            # An exponential that underflows to 0 is kept in its domain; what is below 0 is not.
            if beyond(domain, (value, value)):
                yield name, type(distribution).__name__, parameter, describe(constraint)


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
                f"{describe(support_of(site))}: use a likelihood on the data's range, or transform the data into it",
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
