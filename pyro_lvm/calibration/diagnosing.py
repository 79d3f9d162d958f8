"""What is wrong with a guide, in the field's words, by the quantities whose ranks say so."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from pyro_lvm.calibration.quantities import LIKELIHOOD
from pyro_lvm.calibration.results import Quantity

# Standard errors from which on an effect is named, and how small one isn't worth a name.
_ERRORS = 3.0
_LEAST_SHIFT, _LEAST_FACTOR, _LEAST_BELIEF, _LEAST_MISS = 0.02, 1.02, 0.002, 0.1
# Share of the draws' variance between rows up to which a guide ignores them.
_INDEPENDENT = 1e-3


def diagnose(quantities: Sequence[Quantity], sizes: Mapping[str, tuple[int, int]]) -> tuple[str, ...]:
    """What the flagged quantities say, a sentence each; nothing where none is flagged.

    Args:
        quantities: All of them.
        sizes: How many coordinates each latent has, and how many of them are looked at.
    """
    flagged = [one for one in quantities if one.flagged]
    found: list[str] = []
    for latent, (size, looked_at) in sizes.items():
        found += _of_latent(latent, [one for one in quantities if one.latent == latent], few=looked_at < size)
    joint = [one for one in flagged if one.kind in ("norm", "density", "distance")]
    ignored = _ignored(quantities) if any(one.name == LIKELIHOOD for one in joint) else []
    # A latent that x says nothing of is rightly independent of it: with another to blame, it isn't told from that.
    if not found or len(ignored) == len(sizes):
        found += [f"the guide ignores x: its draws of {latent} don't depend on the row" for latent in ignored]
    if joint and not found:
        own = [one for one in quantities if one.kind in ("coordinate", "discrete")]
        found.append(
            f"each coordinate is calibrated by itself, but not all together, given the row: the joint shape is wrong, "
            f"or too little is made of x (by {_listed(joint)})"
            if len(own) > 1
            else f"{own[0].name} is calibrated over all rows, but not given the row: too little is made of x (by "
            f"{_listed(joint)})"
        )
    for one in flagged:
        if one.kind == "own":
            found.append(f"{one.name} is not calibrated: {_effect(one) or 'its ranks have the wrong shape'}")
    return tuple(found)


def _of_latent(latent: str, quantities: list[Quantity], *, few: bool) -> list[str]:
    coordinates = [one for one in quantities if one.kind == "coordinate"]
    flagged = [one for one in coordinates if one.flagged]
    found: list[str] = []
    mistaken = [one for one in flagged if _miss(one)]
    wrong: list[tuple[str, list[Quantity], Callable[[Quantity], float], Callable[[Quantity], str]]] = [
        ("wrong row by row", mistaken, _miss, _by_slope),
        ("too narrow", [one for one in flagged if one not in mistaken], lambda one: -_log_scale(one), _factor),
        ("too wide", flagged, _log_scale, _factor),
        ("biased", flagged, lambda one: abs(_shift(one)), _by_shift),
    ]
    for word, some, size, text in wrong:
        own = [one for one in some if size(one) > 0]
        if len(own) == 1:
            found.append(f"{own[0].name} is {word}{text(own[0])}")
        elif own:
            worst = max(own, key=size)
            of = f"all {len(own)}" if len(own) == len(coordinates) else f"{len(own)} of {len(coordinates)}"
            told = text(worst)
            comma = "," if told.startswith(" ") else ""
            seen = "coordinates looked at" if few else "coordinates"
            found.append(f"{latent} is {word} in {of} {seen}, most in {worst.name}{comma}{told}")
    odd = [one for one in flagged if not (_log_scale(one) or _shift(one) or _miss(one))]
    if odd:
        found.append(f"{_listed(odd)}: neither biased nor of the wrong width, but of the wrong shape")
    directions = [one for one in quantities if one.kind == "direction" and one.flagged]
    if directions and not flagged:
        worst = max(directions, key=lambda one: abs(_log_scale(one)) + abs(_shift(one)))
        found.append(
            f"each coordinate of {latent} is calibrated by itself, but not their sums: correlations are wrong "
            f"({_effect(worst) or 'of the wrong shape'} along one direction)"
        )
    discrete = [one for one in quantities if one.flagged and one.kind in ("discrete", "confidence")]
    if discrete:
        found.append(_of_discrete(latent, discrete))
    return found


def _of_discrete(latent: str, flagged: list[Quantity]) -> str:
    confidence = [
        one
        for one in flagged
        if one.kind == "confidence" and abs(one.location) > max(_ERRORS * one.location_error, _LEAST_BELIEF)
    ]
    if not confidence:
        return f"{latent} is drawn with the wrong frequencies"
    worst = max(confidence, key=lambda one: abs(one.location))
    name = worst.name.removeprefix("confidence of ")
    if worst.location > 0:
        return (
            f"{name} is over-confident: the guide gives the values that it draws {worst.location:.2g} more probability "
            "than the right ones"
        )
    return (
        f"{name} is under-confident: the guide gives the values that it draws {-worst.location:.2g} less probability "
        "than the right ones"
    )


def _ignored(quantities: Sequence[Quantity]) -> list[str]:
    """Latents of whose draws none depends on the row."""
    own: dict[str, list[Quantity]] = {}
    for one in quantities:
        if one.kind in ("coordinate", "discrete"):
            own.setdefault(one.latent, []).append(one)
    return [
        latent
        for latent, some in own.items()
        if all(one.dependence < _INDEPENDENT + _ERRORS * one.dependence_error for one in some)
    ]


def _log_scale(one: Quantity) -> float:
    """Log of the scale, 0 where it is not told from 1."""
    if not one.scale > 0:
        return 0.0
    size = math.log(one.scale)
    return size if abs(size) > max(_ERRORS * one.scale_error / one.scale, math.log(_LEAST_FACTOR)) else 0.0


def _shift(one: Quantity) -> float:
    """The location, 0 where it is not told from 0."""
    return one.location if abs(one.location) > max(_ERRORS * one.location_error, _LEAST_SHIFT) else 0.0


def _factor(one: Quantity) -> str:
    size = one.scale if one.scale > 1 else 1 / one.scale
    return f" by a factor of {size:.{3 if size < 1.1 else 2}g}" if size < 20 else " by a factor of 20 or more"


def _by_shift(one: Quantity) -> str:
    return f" by {one.location:+.2g} sd".replace("-", "−")


def _miss(one: Quantity) -> float:
    """How far the slope of the truth on the guide's mean is from 1, 0 where it is not told from it."""
    off = abs(one.slope - 1)
    return off if off > max(_ERRORS * one.slope_error, _LEAST_MISS) else 0.0


def _by_slope(one: Quantity) -> str:
    return f": the truth moves by {one.slope:.2g} where the guide's mean moves by 1".replace("-", "−")


def _effect(one: Quantity) -> str:
    parts = []
    if _log_scale(one):
        parts.append(f"too {'narrow' if one.scale < 1 else 'wide'}{_factor(one)}")
    if _shift(one):
        parts.append(f"biased{_by_shift(one)}")
    return ", ".join(parts)


def _listed(some: Sequence[Quantity]) -> str:
    names = [one.name for one in some]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
