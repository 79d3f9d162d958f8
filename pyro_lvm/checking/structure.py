"""Sites and plates: whether model and guide speak of the same latents, inside the same plates."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from pyro.infer import TraceEnum_ELBO
from pyro.infer.tracetmc_elbo import TraceTMC_ELBO

from pyro_lvm.checking.findings import Finding, Severity
from pyro_lvm.checking.running import ROLES, Role, Run
from pyro_lvm.checking.sites import (
    Site,
    asks_for_enumeration,
    frames,
    is_factor,
    latents,
    observed,
    samples,
)
from pyro_lvm.checking.view import View

_OTHER: dict[Role, Role] = {"model": "guide", "guide": "model"}
_DEFAULT_PLATE = "data"


def check_signature(role: Role, half: Any) -> Iterator[Finding]:
    """Whether a half takes a batch of rows as its one argument."""
    try:
        signature = inspect.signature(half)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(object())
    except TypeError as error:
        yield Finding(
            "wrong-signature",
            "error",
            None,
            f"the {role} takes {signature} and can't be called as {role}(x) ({error}): model and guide both take the "
            "batch of rows and nothing else; give other arguments defaults, or bind them with functools.partial",
        )


def check_duplicates(run: Run) -> Iterator[Finding]:
    """Whether each name is used once in each half."""
    for role, error in run.errors.items():
        match = re.search(r"Multiple sample sites named '(.+?)'", str(error))
        if match is None:
            continue
        name = match.group(1)
        if name in samples(run.traces[role]):
            mend = f"give each its own name, as in f'{name}_{{i}}'"
        else:
            mend = "make the plate once, `rows = data_plate(x)`, and open it as often as needed with `with rows:`"
        yield Finding(
            "duplicate-site",
            "error",
            name,
            f"the {role} makes '{name}' twice: expected one site of a name; {mend}",
        )


def check_sites(view: View, varying: frozenset[str]) -> Iterator[Finding]:
    """Whether the guide draws exactly what the model leaves open.

    Args:
        view: The pair's traces.
        varying: Sites that come and go from run to run, of which nothing more is said.
    """
    model, guide = view.large.traces["model"], view.large.traces["guide"]
    for name, site in observed(guide).items():
        if not is_factor(site):
            yield Finding(
                "observed-in-guide",
                "error",
                name,
                f"the guide observes '{name}': only the model observes, the guide draws latents given x; remove obs= "
                "(and the whole statement, if it is the data's)",
            )
    if view.large.errors:
        # What a half would have drawn after it raised is unknown.
        return
    enumerates = issubclass(view.runner.elbo_class, (TraceEnum_ELBO, TraceTMC_ELBO))
    drawn, wanted = latents(guide), latents(model)
    spare = [name for name in drawn if name not in wanted and name not in varying]
    for name, site in wanted.items():
        if name in samples(guide) or name in varying:
            continue
        if asks_for_enumeration(site):
            if not enumerates:
                yield _not_enumerated(name, view, in_guide=False)
            continue
        near = difflib.get_close_matches(name, spare, 1, cutoff=0.4)
        hint = f" (is '{near[0]}' meant to be it?)" if near else ""
        yield Finding(
            "latent-missing-in-guide",
            "error",
            name,
            f"the model draws '{name}', the guide doesn't{hint}: its posterior would silently be the prior; add "
            f"pyro.sample('{name}', ...) to the guide",
        )
    for name in spare:
        known = "which the model observes" if name in observed(model) else "which the model doesn't know"
        yield Finding(
            "unknown-guide-site",
            "error",
            name,
            f"the guide draws '{name}', {known}: expected the model's latents ({', '.join(wanted) or 'none'}); rename "
            "or remove it, or mark it infer={'is_auxiliary': True}",
        )
    for name, site in drawn.items():
        if name in wanted and asks_for_enumeration(site) and not enumerates:
            yield _not_enumerated(name, view, in_guide=True)
    if not observed(model):
        yield Finding(
            "nothing-observed",
            "error",
            None,
            "the model observes nothing, so it learns nothing from the data: give a site obs=x, or use "
            "pyro_lvm.observe('x', distribution, x)",
        )


def _not_enumerated(name: str, view: View, *, in_guide: bool) -> Finding:
    severity: Severity = "warning" if in_guide else "error"
    what = "is drawn instead, with a noisier gradient" if in_guide else "would be drawn from the prior"
    return Finding(
        "enumeration-without-traceenum",
        severity,
        name,
        f"'{name}' asks for enumeration, which {view.runner.elbo_class.__name__} doesn't do: it {what}; train with "
        "elbo=TraceEnum_ELBO",
    )


def check_varying(runs: list[Run]) -> tuple[frozenset[str], list[Finding]]:
    """The sites that come and go between runs on the same rows, and the finding that says so."""
    names = [{role: set(samples(run.traces[role])) for role in ROLES} for run in runs if not run.errors]
    for role in ROLES:
        varying = {name for found in names for name in found[role] if any(name not in other[role] for other in names)}
        if varying:
            first = sorted(varying)[0]
            message = (
                f"the {role}'s sites differ from run to run on the same rows ({', '.join(sorted(varying))} come and "
                "go): Python's control flow is random; draw every site every time, or mask it"
            )
            return frozenset(varying), [Finding("sites-vary", "warning", first, message)]
    return frozenset(), []


def check_plates(view: View) -> Iterator[Finding]:
    """Whether every site is in the same plates in both halves, and the rows in the data plate."""
    # Where a half has the rows in a plate, that is the one to use; its author named it.
    held = [n for _, _, site in view.sites() for n in frames(site) if n in view.rows | view.drawn]
    plate = held[0] if held else _DEFAULT_PLATE
    plates_said: set[str] = set()
    for role, name, site in view.sites():
        if site["infer"].get("is_auxiliary") or site["infer"].get("_deterministic"):
            continue
        if not view.in_rows(site):
            fixed = _fixed_plate(view, role, name, site)
            if fixed is not None:
                yield fixed
            elif view.follows_rows(role, name):
                yield _missing(name, role, plate, "its shape follows the rows of x", of_rows=True)
        for drawn in sorted((view.drawn & frames(site).keys()) - plates_said):
            plates_said.add(drawn)
            frame = frames(site)[drawn]
            yield Finding(
                "plate-subsamples",
                "warning",
                name,
                f"in the {role} plate '{drawn}' draws {frame.size} of the {frame.full_size} rows given: expected all "
                "of them, so that there is an answer for each row; drop subsample_size and let fit make the batches",
            )
    model, guide = (samples(view.large.traces[role]) for role in ROLES)
    for name in (n for n in latents(view.large.traces["model"]) if n in guide):
        yield from _compare_plates(view, name, model[name], guide[name])


def _fixed_plate(view: View, role: Role, name: str, site: Site) -> Finding | None:
    """The plate of a fixed size that stands where the data plate should."""
    for frame in site["cond_indep_stack"]:
        if frame.size > 1 and (frame.name == _DEFAULT_PLATE or (view.follows_rows(role, name) and not view.rows)):
            return wrong_size(frame.name, name, role, frame.size, view.large.num_rows)
    return None


def wrong_size(plate: str, site: str, role: Role, size: int, num_rows: int) -> Finding:
    """The finding that a plate's size is not the number of rows given."""
    return Finding(
        "plate-size-mismatch",
        "error",
        site,
        f"in the {role} plate '{plate}' has size {size} for a batch of {num_rows} rows: a plate over rows takes its "
        "size from them; use pyro_lvm.data_plate(x), or pyro.plate(name, len(x))",
    )


def _missing(name: str, role: Role, plate: str, why: str, *, of_rows: bool) -> Finding:
    mend = (
        "its rows are neither independent nor scaled by N/B; put it inside `with data_plate(x):`"
        if of_rows
        else f"expected the same plates in both halves; open '{plate}' in both, or in neither"
    )
    return Finding(
        "plate-missing", "error", name, f"in the {role} '{name}' is outside plate '{plate}', but {why}: {mend}"
    )


def _compare_plates(view: View, name: str, model: Site, guide: Site) -> Iterator[Finding]:
    """Whether a latent is in the same plates in both halves."""
    plates: dict[Role, dict[str, Any]] = {"model": frames(model), "guide": frames(guide)}
    for plate in sorted(plates["model"].keys() & plates["guide"].keys()):
        in_model, in_guide = plates["model"][plate], plates["guide"][plate]
        if in_model.size != in_guide.size and -1 not in (in_model.size, in_guide.size):
            message = (
                f"plate '{plate}' has size {in_model.size} in the model and {in_guide.size} in the guide: expected the "
                "same; open pyro_lvm.data_plate(x) with the same x in both"
            )
            yield Finding("plate-size-mismatch", "error", name, message)
        elif in_model.dim != in_guide.dim:
            message = (
                f"plate '{plate}' is at dim={in_model.dim} in the model and dim={in_guide.dim} in the guide: expected "
                "the same; give both the model's dim"
            )
            yield Finding("plate-dim-wrong", "error", name, message)
    lacking = {role: set(plates[_OTHER[role]]) - set(plates[role]) for role in ROLES}
    for plate in sorted(lacking["guide"]):
        size = plates["model"][plate].size
        twin = next((p for p in sorted(lacking["model"]) if plates["guide"][p].size == size), None)
        if twin is not None:
            lacking["model"].discard(twin)
            message = (
                f"the plate of {size} around '{name}' is called '{plate}' in the model and '{twin}' in the guide: "
                f"expected one name; call it '{plate}' in both"
            )
            yield Finding("plate-name-mismatch", "error", name, message)
        else:
            yield _missing(name, "guide", plate, "inside it in the model", of_rows=plate in view.rows)
    for plate in sorted(lacking["model"]):
        yield _missing(name, "model", plate, "inside it in the guide", of_rows=plate in view.rows)
