"""Gradient estimators side by side: how much each parameter's gradient shakes, and how large it is."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from pyro_lvm.errors import DataError
from pyro_lvm.gradients import GUIDE, MODEL, GradientComparison
from pyro_lvm.plots.shared import PALETTE, own_axes

_HALVES = {MODEL: ("o", PALETTE[0]), GUIDE: ("D", PALETTE[5])}


def gradient_noise(comparison: GradientComparison, ax: Axes | None = None) -> Axes:
    """Draw each estimator's noise, the model's parameters and the guide's apart, against the signal.

    Noise is the standard deviation of a draw of the gradient (the root of the variance summed over entries), signal the
    norm of the reference. An estimator whose mark is to the right of its half's line needs many draws, or many steps,
    to see where it is going. Each estimator's time a step stands by its name.

    Args:
        comparison: What :func:`pyro_lvm.gradients.compare` gives.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        DataError: No estimator has any noise.
    """
    frame = comparison.to_frame()
    frame = frame[frame["parameter"].isin(list(_HALVES))]
    if not (frame["variance"] > 0).any():
        raise DataError("no estimator has any noise: expected one at least that draws")
    names = [m.estimator for m in comparison.measured]
    ax = own_axes(ax, (8.0, 1.7 + 0.42 * len(names)))
    handles = []
    for half, (marker, colour) in _HALVES.items():
        own = frame[frame["parameter"] == half].set_index("estimator")
        if own.empty:
            continue
        noise = own["variance"].reindex(names) ** 0.5
        shown = (noise > 0).to_numpy()
        places = [place for place, there in enumerate(shown) if there]
        ax.plot(noise[shown], places, linestyle="none", marker=marker, color=colour, markersize=7)
        handles.append(Line2D([], [], linestyle="none", marker=marker, color=colour, label=f"{half}: noise of a draw"))
        for bound in dict.fromkeys(own["bound"]):
            where = [names.index(name) for name in own.index[own["bound"] == bound]]
            signal = float(own.loc[own["bound"] == bound, "signal"].iloc[0])
            if signal > 0:
                ax.vlines(signal, min(where) - 0.4, max(where) + 0.4, color=colour, linewidth=1.2, linestyle="--")
        handles.append(Line2D([], [], color=colour, linestyle="--", linewidth=1.2, label=f"{half}: signal"))
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(numticks=9))
    ax.set_yticks(range(len(names)), [f"{m.estimator}  ({m.milliseconds:.3g} ms)" for m in comparison.measured])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel("size of the gradient (nats/row per unit of the parameters)")
    rows = (
        "all" if comparison.batch_size == comparison.num_rows else f"{comparison.batch_size} of {comparison.num_rows}"
    )
    ax.set_title(f"Noise of a gradient from {rows} rows, {comparison.draws} draws")
    ax.grid(axis="x", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4, fontsize=9, frameon=False)
    return ax
