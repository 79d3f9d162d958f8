"""Whether a guide's ranks are uniform, and how often its regions hold the truth, as curves within their bands."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_lvm.calibration import Calibration, Coverage, Quantity
from pyro_lvm.calibration.results import ALPHA
from pyro_lvm.plots.shared import PALETTE, UNLABELLED, own_axes, short

_WRONG = "#D55E00"
# Panels in a line, and at most.
_ACROSS, _MOST_PANELS = 4, 24


def rank_ecdf(one: Quantity, ax: Axes | None = None, *, level: float = 1 - ALPHA) -> Axes:
    """Draw how far the ECDF of ranks is above that of uniform ones, within the band that holds it all.

    Above zero and then below, the guide is too narrow, below and then above too wide; a hill is a guide that is too
    high, a valley one that is too low.

    Args:
        one: The ranks of a quantity.
        ax: Where to draw; None makes a figure.
        level: The probability that all of the curve is in the band if ranks are uniform.

    Returns:
        The axes.
    """
    ax = own_axes(ax, (3.6, 2.8))
    even = np.arange(1, one.draws + 1) / (one.draws + 1)
    lower, upper = one.band(level)
    colour = _WRONG if one.flagged else "black"
    ax.fill_between(even, lower - even, upper - even, color=UNLABELLED, alpha=0.5, linewidth=0, step="mid")
    ax.axhline(0, color="0.5", linewidth=0.8)
    ax.step(even, one.ecdf - even, where="mid", color=colour, linewidth=1.4)
    ax.set_xlim(0, 1)
    reach = 1.15 * float(max(np.abs(one.ecdf - even).max(), np.abs(upper - even).max(), np.abs(lower - even).max()))
    ax.set_ylim(-reach, reach)
    ax.set_title(f"{short(one.name)}: p = {one.adjusted_p_value:.1g}", fontsize=8, color=colour)
    ax.tick_params(labelsize=7)
    return ax


def rank_ecdfs(calibration: Calibration) -> Figure:
    """Draw the ranks of all quantities, each in a panel; where they are many, those that stray most.

    The band is that which all of the panels stay in with a probability of 0.99 if the guide is right.

    Args:
        calibration: What was found.

    Returns:
        A figure.
    """
    kept = sorted(range(len(calibration.quantities)), key=lambda i: calibration.quantities[i].p_value)[:_MOST_PANELS]
    shown = [calibration.quantities[i] for i in sorted(kept)]
    across = min(_ACROSS, len(shown))
    lines = math.ceil(len(shown) / across)
    figure = Figure(figsize=(2.75 * across, 2.1 * lines + 0.7), layout="constrained")
    axes = np.asarray(figure.subplots(lines, across, sharex=True, squeeze=False)).flatten()
    for one, ax in zip(shown, axes, strict=False):
        rank_ecdf(one, ax, level=1 - ALPHA / len(calibration.quantities))
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    more = len(calibration.quantities) - len(shown)
    figure.suptitle(
        f"Ranks of the truth among {calibration.draws} draws, {calibration.num_simulations:,} simulated rows"
        + (f" (the {len(shown)} of {len(calibration.quantities)} that stray most)" if more else ""),
        fontsize=11,
    )
    figure.supxlabel("rank, as a share of the draws", fontsize=9)
    figure.supylabel("ECDF less uniform", fontsize=9)
    return figure


def coverage_curves(calibration: Calibration, ax: Axes | None = None) -> Axes:
    """Draw how often regions of each probability hold the truth.

    Below the diagonal the guide is over-confident, above it too cautious. Of regions of highest density by the guide,
    and of balls around random points (TARP), as far as there are.

    Args:
        calibration: What was found.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.
    """
    ax = own_axes(ax, (4.2, 4.2))
    curves: list[tuple[str, Coverage | None]] = [
        ("regions of highest density", calibration.coverage),
        ("balls around random points (TARP)", calibration.tarp),
    ]
    found = [(label, coverage) for label, coverage in curves if coverage is not None]
    if found:
        levels, lower, upper = found[0][1].levels, found[0][1].lower, found[0][1].upper
        ax.fill_between(levels, lower, upper, color=UNLABELLED, alpha=0.5, linewidth=0, label="99% by chance")
    ax.plot([0, 1], [0, 1], color="0.5", linewidth=0.8)
    for (label, coverage), colour, style in zip(found, (PALETTE[0], PALETTE[1]), ("-", "--"), strict=False):
        ax.plot(coverage.levels, coverage.empirical, color=colour, linestyle=style, linewidth=1.6, label=label)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_aspect("equal")
    ax.set_xlabel("probability that the guide gives the region")
    ax.set_ylabel("share of rows whose truth is in it")
    ax.set_title("Expected coverage")
    if found:
        ax.legend(loc="upper left", fontsize=8, frameon=False)
    else:
        ax.text(0.5, 0.5, "no region: the guide's density\nisn't to be had", ha="center", va="center", fontsize=9)
    return ax
