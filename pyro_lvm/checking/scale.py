"""Scale: whether every row counts N/B times in a batch of B rows out of N."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from pyro.infer import RenyiELBO, ReweightedWakeSleep

from pyro_lvm.checking.findings import Finding
from pyro_lvm.checking.running import Role, Run
from pyro_lvm.checking.sites import Site, frames, latents, samples
from pyro_lvm.checking.view import View


@dataclass(frozen=True)
class _Scale:
    """The scale of a site: what its plate of rows gives, and what else there is."""

    found: float
    plate: float
    num_rows: int

    @property
    def extra(self) -> float:
        return self.found / self.plate


def _read(site: Site, view: View, run: Run) -> _Scale | None:
    scale = torch.as_tensor(site["scale"], dtype=torch.float64)
    if scale.numel() == 0 or not bool((scale == scale.reshape(-1)[0]).all()):
        return None  # weights of the rows, which are their author's business
    found, plate = float(scale.reshape(-1)[0]), 1.0
    for name, frame in frames(site).items():
        ratio = (frame.full_size or frame.size) / frame.size
        if name in view.rows:
            plate = ratio
        else:
            found /= ratio
    return _Scale(found, plate, run.num_rows)


def _pairs(view: View) -> Iterator[tuple[Role, str, _Scale, _Scale]]:
    """The scales of each site in a plate of rows, on the larger and on the smaller batch."""
    for role, name, site in view.sites():
        if not (view.rows & frames(site).keys()):
            continue
        other = samples(view.small.traces[role]).get(name)
        large = _read(site, view, view.large)
        small = large if other is None else _read(other, view, view.small)
        if large is not None and small is not None:
            yield role, name, large, small


def check_scale(view: View) -> Iterator[Finding]:
    """Whether log-probabilities inside the data plate are scaled by N/B, in both halves alike."""
    found: dict[str, list[tuple[Role, str, _Scale]]] = {"wrong-scale": [], "tempered": [], "plate-ignores-num-rows": []}
    pairs = list(_pairs(view))
    num_rows = view.runner.num_rows
    if view.num_rows is None:
        # A pair that states its own N knows it better than who hands over some rows.
        num_rows = max([num_rows, *(n for _, _, large, small in pairs if (n := _stated(large, small)) is not None)])
    for role, name, large, small in pairs:
        code = _judge(view, num_rows, large, small)
        if code is not None:
            found[code].append((role, name, large if view.minibatch else small))
    if not found["wrong-scale"]:
        yield from _compare_halves(pairs)
    yield from _report(view, found, num_rows)


def _stated(large: _Scale, small: _Scale) -> int | None:
    """The N that a plate or, where the plate knows only the batch, a scale of its author's states."""
    plates = [scale.plate if scale.plate != 1.0 else scale.found for scale in (large, small)]
    stated = [plates[0] * large.num_rows, plates[1] * small.num_rows]
    return round(stated[0]) if math.isclose(*stated, rel_tol=1e-4) else None


def _judge(view: View, num_rows: int, large: _Scale, small: _Scale) -> str | None:
    def is_right(scale: _Scale) -> bool:
        return math.isclose(scale.found, num_rows / scale.num_rows, rel_tol=1e-4)

    constant = math.isclose(large.extra, small.extra, rel_tol=1e-4)
    if is_right(large) and is_right(small):
        return None
    if large.plate == small.plate == 1.0 and constant:
        if math.isclose(large.found, 1.0, rel_tol=1e-4):
            return "plate-ignores-num-rows" if view.minibatch else None
        return "tempered"
    if not math.isclose(small.plate, num_rows / small.num_rows, rel_tol=1e-4) or not constant:
        return "wrong-scale"
    written_out = view.minibatch and math.isclose(large.extra, num_rows / view.given_rows, rel_tol=1e-2)
    return "wrong-scale" if written_out else "tempered"


def _report(view: View, found: dict[str, list[tuple[Role, str, _Scale]]], num_rows: int) -> Iterator[Finding]:
    """One finding a code: a scale is nearly always one mistake for all sites."""
    for code, places in found.items():
        if not places:
            continue
        role, name, scale = places[0]
        others = list(dict.fromkeys(n for _, n, _ in places if n != name))
        also = f" (also {', '.join(others[:3])})" if others else ""
        if code == "wrong-scale":
            if scale.plate != 1.0 and not math.isclose(scale.extra, 1.0, rel_tol=1e-4):
                reason = "it is scaled twice; the plate does it already, remove poutine.scale"
            else:
                reason = "another N is written out; use pyro_lvm.data_plate(x), which fit tells the number of rows"
            message = (
                f"in the {role} '{name}'{also} is scaled by {scale.found:.4g} on a batch of {scale.num_rows} rows, "
                f"expected N/B = {num_rows}/{scale.num_rows} = {num_rows / scale.num_rows:.4g}: {reason}"
            )
            yield Finding(code, "error", name, message)
        elif code == "tempered":
            message = (
                f"in the {role} the log-probability of '{name}'{also} is multiplied by {scale.extra:.4g} besides N/B: "
                "what is trained is no bound on the evidence; remove poutine.scale, or anneal it to 1"
            )
            yield Finding(code, "warning", name, message)
        else:
            model = latents(view.large.traces["model"])
            shared = [n for n, site in model.items() if not view.in_rows(site)]
            wrong = (
                f"against the rows, '{shared[0]}' counts {num_rows / view.given_rows:.4g} times too much"
                if shared
                else "the loss is that of the batch, not of the data"
            )
            message = (
                f"batches of {view.given_rows} come from {num_rows} rows, but the plate around '{name}'{also} knows "
                f"only the batch: {wrong}; use pyro_lvm.data_plate(x), or pyro.plate(name, N, subsample=x)"
            )
            yield Finding(code, "error" if shared else "warning", name, message)


def _compare_halves(pairs: list[tuple[Role, str, _Scale, _Scale]]) -> Iterator[Finding]:
    scales: dict[Role, dict[str, float]] = {"model": {}, "guide": {}}
    for role, name, large, _ in pairs:
        scales[role][name] = large.extra
    for name, in_model in scales["model"].items():
        in_guide = scales["guide"].get(name, in_model)
        if not math.isclose(in_model, in_guide, rel_tol=1e-4):
            yield Finding(
                "wrong-scale",
                "error",
                name,
                f"'{name}' is multiplied by {in_model:.4g} in the model and by {in_guide:.4g} in the guide: expected "
                "the same, so that the two make up its KL; put both under the same poutine.scale, or under none",
            )


def check_importance_weights(view: View) -> Iterator[Finding]:
    """Whether an importance-weighted loss gets log-weights that are scaled by N/B."""
    elbo = view.runner.elbo_class
    if not (issubclass(elbo, (RenyiELBO, ReweightedWakeSleep)) and view.minibatch):
        return
    if any(large.found != 1.0 for _, _, large, _ in _pairs(view)):
        yield Finding(
            "importance-weights-on-minibatch",
            "error",
            None,
            f"{elbo.__name__} scales log-weights by N/B = {view.num_rows}/{view.given_rows} inside its log-sum-exp, "
            "which is no bound on the evidence: train on all rows at once, or with Trace_ELBO",
        )
