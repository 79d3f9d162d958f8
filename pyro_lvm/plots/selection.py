"""How many latent dimensions, or components: a criterion over its candidates, and which is the best."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pyro_lvm.em import SelectionCurve
from pyro_lvm.errors import DataError
from pyro_lvm.plots.shared import PALETTE, own_axes

_AXES = {
    "evidence": "held-out log-evidence (nats/row)",
    "imputation": "squared error of imputing (feature variances)",
    "bic": "BIC",
    "laplace": "Laplace evidence (nats, up to a constant)",
}
_COUNTED = {"n_components": "number of latent dimensions", "n_mixtures": "number of mixture components"}


def selection_curve(curve: SelectionCurve, ax: Axes | None = None) -> Axes:
    """Draw a criterion over its candidates, with its standard errors, and mark the best.

    Args:
        curve: What :func:`pyro_lvm.em.select` gives.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        DataError: No score is finite.
    """
    order = np.argsort(curve.candidates)
    candidates, scores, errors = (
        np.asarray(values)[order] for values in (curve.candidates, curve.scores, curve.standard_errors)
    )
    finite = np.isfinite(scores)
    if not finite.any():
        raise DataError(f"none of the {len(scores)} scores is finite: expected one at least; choose other candidates")
    ax = own_axes(ax, (7.0, 4.3))
    ax.errorbar(
        candidates[finite],
        scores[finite],
        yerr=errors[finite] if errors.any() else None,
        color=PALETTE[0],
        marker="o",
        markersize=4,
        linewidth=1.4,
        elinewidth=1.0,
        capsize=2.5,
        label="mean and standard error over folds" if errors.any() else None,
    )
    direction = "highest" if curve.higher_is_better else "lowest"
    ax.plot(
        curve.best,
        float(scores[candidates == curve.best][0]),
        color=PALETTE[5],
        marker="o",
        markersize=11,
        markerfacecolor="none",
        markeredgewidth=2,
        linestyle="none",
        label=f"best ({direction}): {curve.best}",
    )
    counted = _COUNTED.get(curve.parameter, curve.parameter)
    ax.set_xlabel(counted)
    # Two lines: one is longer than a small panel is high.
    better = f"{'higher' if curve.higher_is_better else 'lower'} is better"
    ax.set_ylabel(f"{_AXES.get(curve.criterion, curve.criterion)},\n{better}")
    ax.set_title(f"Choice of the {counted}")
    ax.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    ax.grid(axis="y", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.legend(loc="best", fontsize=9, framealpha=0.9)
    return ax
