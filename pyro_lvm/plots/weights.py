"""How far each row's importance weights are to be trusted, as a histogram."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from pyro_lvm.errors import DataError
from pyro_lvm.plots.shared import PALETTE, own_axes
from pyro_lvm.predictive import RowWeights

# Between good and fair, and between fair and of no use (Vehtari et al. 2024).
_MARKS = (0.5, 0.7)
# What is further out is drawn at the edge.
_SHOWN = (-0.5, 1.5)
_BINS = 40


def pareto_k_histogram(weights: RowWeights, ax: Axes | None = None) -> Axes:
    """Draw how many rows have which Pareto k; above 0.7 no reweighting makes the guide's draws the posterior's.

    Args:
        weights: Importance weights of rows; k below -0.5 or above 1.5 is drawn at the edges.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        DataError: There were too few draws for any k.
    """
    k = weights.pareto_k.numpy()
    k = np.clip(k[~np.isnan(k)], *_SHOWN)
    if not len(k):
        raise DataError(f"{len(weights.log_weights)} draws a row are too few for Pareto k: expected 25 or more")
    ax = own_axes(ax, (6.0, 3.6))
    # Edges upon the mark: a bar is on one side of it.
    edges = np.linspace(*_SHOWN, _BINS + 1).tolist()
    useless = k > _MARKS[1]
    colours, labels = (PALETTE[0], PALETTE[5]), ("can be reweighted", "can't be")
    for part, colour, label in zip((k[~useless], k[useless]), colours, labels, strict=True):
        ax.hist(part, edges, color=colour, label=f"{label}: {len(part) / len(k):.0%}")
    for mark in _MARKS:
        ax.axvline(mark, color="0.3", linewidth=0.8, linestyle="--")
    ax.set_xlim(*_SHOWN)
    ax.set_xlabel("Pareto k of a row's importance weights")
    ax.set_ylabel("rows")
    ax.set_title(f"Whether the guide's draws can be reweighted ({len(k)} rows)")
    ax.legend(frameon=False, fontsize=9)
    return ax
