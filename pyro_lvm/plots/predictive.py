"""Predictive checks as pictures: statistics against those of replicates, and rows beside theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_lvm.errors import DataError
from pyro_lvm.plots.decoded import grey_range, image_rows
from pyro_lvm.plots.shared import UNLABELLED, as_matrix, as_numbers, own_axes, short
from pyro_lvm.predictive import PredictiveCheck, StatisticCheck

_COLOURS = {"misfit": "#D55E00", "doubtful": "#E69F00", "fits": "black"}
# Numbers whose labels can be read below each other.
_MAX_NUMBERS = 40
# Numbers that half a page's width is enough for.
_FEW = 14


def statistic_check(one: StatisticCheck, ax: Axes | None = None) -> Axes:
    """Draw a statistic of the rows against those of the replicates.

    Of one number, a histogram of the replicates and a line at the rows'. Of several, the replicates' central 95% and
    median of each, and a dot for the rows'; where they are many, those that stray most.

    Args:
        one: The check.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.
    """
    colour = _COLOURS[one.verdict]
    ax = own_axes(ax, (4.2, 3.2) if len(one.labels) == 1 else (max(4.2, min(11.0, 1.4 + 0.26 * len(one.labels))), 3.6))
    if len(one.labels) == 1:
        _histogram(one, colour, ax)
    else:
        _ranges(one, colour, ax)
    p = f"p = {one.p_value:.2g}" if one.p_value >= 0.01 else f"p = {one.p_value:.1g}"
    ax.set_title(f"{one.name}: {p}", fontsize=10, color=colour)
    ax.legend(fontsize=7, framealpha=0.9)
    return ax


def _histogram(one: StatisticCheck, colour: str, ax: Axes) -> None:
    observed, values = float(one.observed[0]), as_numbers(one.replicated)[:, 0]
    # Of two rows, say, the kurtosis is 1 but for rounding.
    if not one.alike:
        ax.hist(values, bins=min(40, max(8, len(values) // 12)), color=UNLABELLED, label="replicates")
    else:
        ax.axvline(values[0], color=UNLABELLED, linewidth=6, label="replicates, all alike")
        if np.isclose(values[0], observed):
            ax.set_xlim(observed - 1, observed + 1)
    ax.axvline(observed, color=colour, linewidth=2, label="rows")
    ax.set_yticks([])


def _ranges(one: StatisticCheck, colour: str, ax: Axes) -> None:
    observed, replicated = as_numbers(one.observed), as_numbers(one.replicated)
    spread = np.std(replicated, 0)
    strays = np.abs(observed - replicated.mean(0)) / np.where(spread > 0, spread, np.inf)
    shown = np.sort(np.argsort(-strays, kind="stable")[:_MAX_NUMBERS])
    observed, replicated = observed[shown], replicated[:, shown]
    low, middle, high = np.quantile(replicated, (0.025, 0.5, 0.975), axis=0)
    if one.name == "spectrum" and min(low.min(), observed.min()) > 0:
        ax.set_yscale("log")
    elif np.median(high - low) < 0.05 * np.ptp(np.concatenate([low, high, observed])):
        # Numbers far from each other leave no room for how far each strays.
        low, high, observed, middle = low - middle, high - middle, observed - middle, np.zeros_like(middle)
        ax.set_ylabel("minus the replicates' median")
    places = np.arange(len(shown))
    ax.vlines(places, low, high, color=UNLABELLED, linewidth=6, label="replicates, 95%")
    ax.plot(places, middle, "_", color="0.4", markersize=8)
    ax.plot(places, observed, "o", color=colour, markersize=4.5, label="rows")
    ax.set_xticks(places, [short(one.labels[i]) for i in shown], rotation=90, fontsize=7 if len(shown) > 24 else 8)
    ax.set_xlim(-0.6, len(shown) - 0.4)
    if len(shown) < len(one.labels):
        ax.set_xlabel(f"the {len(shown)} of {len(one.labels)} that stray most", fontsize=8)


def statistic_checks(check: PredictiveCheck) -> Figure:
    """Draw all statistics of a check, single numbers first, each in a panel.

    Args:
        check: The check.

    Returns:
        A figure.
    """
    # Of four columns: one for a single number, two for a few, all for many.
    widths = [1 if len(one.labels) == 1 else 2 if len(one.labels) <= _FEW else 4 for one in check.statistics]
    order = sorted(range(len(widths)), key=lambda i: widths[i])
    places: dict[int, tuple[int, int]] = {}
    line, column = 0, 0
    for i in order:
        if column + widths[i] > 4 or (places and widths[i] != widths[order[order.index(i) - 1]]):
            line, column = line + 1, 0
        places[i] = (line, column)
        column += widths[i]
    heights = [2.4] * (line + 1)
    for i, (where, _) in places.items():
        heights[where] = 2.4 if widths[i] == 1 else 3.2
    figure = Figure(figsize=(11.0, sum(heights) + 0.6), layout="constrained")
    grid = figure.add_gridspec(line + 1, 4, height_ratios=heights)
    for i, (where, first) in places.items():
        statistic_check(check.statistics[i], figure.add_subplot(grid[where, first : first + widths[i]]))
    mild = "" if check.held_out or not check.conservative else " (p-values are conservative)"
    figure.suptitle(f"{check.rows}{mild} against {check.replicates}")
    return figure


def replicate_images(
    x: Any, replicates: Any, image_shape: Sequence[int], *, count: int = 6, axes: Any = None
) -> npt.NDArray[Any]:
    """Draw images, each beside replicates.

    Args:
        x: Images, shape (rows, ...), NaN where missing.
        replicates: Of them, shape (draws, rows, ...).
        image_shape: (H, W), (1, H, W), (3, H, W) or (H, W, 3).
        count: How many of the rows to draw, the first ones; no more than there are.
        axes: An array of axes of shape (count, 1 + draws); None makes a figure.

    Returns:
        The axes, shape (count, 1 + draws).

    Raises:
        DataError: Shapes don't fit, or ``count`` is not positive.
    """
    rows = as_matrix(x, "x", "(rows, data_dim)")
    drawn = as_numbers(replicates).astype(np.float64)
    drawn = drawn.reshape(*drawn.shape[:2], -1) if drawn.ndim > 2 else drawn
    if count < 1 or drawn.shape[1:] != rows.shape:
        raise DataError(
            f"count={count}, replicates of shape {drawn.shape} for rows of {rows.shape}: expected one image at least, "
            "and (draws, rows, data_dim)"
        )
    count = min(count, len(rows))
    images = np.concatenate([rows[None], drawn])[:, :count].transpose(1, 0, 2)
    # From the rows alone: a replicate's noise must not make them look pale.
    titles = ["row", *(f"replicate {i + 1}" for i in range(len(drawn)))]
    return image_rows(
        images,
        image_shape,
        column_titles=titles,
        title="Rows and replicates of them",
        limits=grey_range(rows[:count]),
        axes=axes,
    )
