"""The course of a training: its ELBO against its steps, and against the exact optimum."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, StrMethodFormatter

from pyro_lvm.errors import DataError
from pyro_lvm.history import History
from pyro_lvm.plots.shared import PALETTE, FloatArray, minus, own_axes

_SMOOTHING = 9


def elbo_curve(history: History, *, optimum: float | None = None, ax: Axes | None = None) -> Axes:
    """Draw the ELBO of a training against its steps.

    Where the optimum is known, what is drawn is the ELBO minus the optimum, on an axis that is logarithmic but for a
    linear stretch around the optimum as wide as the minibatches' noise: the first steps' thousands of nats and the
    last steps' hundredths are read off one axis. Elsewhere the axis is linear, and a steep beginning left out.

    Args:
        history: The record of a training.
        optimum: Mean log-evidence of the training rows at the maximum of the likelihood, nats a row.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        DataError: The history has no finite ELBO, or the optimum is not finite.
    """
    steps, elbo = _series(history, "elbo")
    if len(elbo) == 0:
        raise DataError(
            f"the history has {len(history)} records and no finite ELBO: expected one at least; train first"
        )
    if optimum is not None and not math.isfinite(optimum):
        raise DataError(f"optimum={optimum}: expected a finite number of nats a row, or None where it is not known")
    ax = own_axes(ax, (7.0, 4.3))
    offset = optimum or 0.0
    # EM has no rate, a record of each step, and no noise to smooth away.
    by_gradients = bool(history.to_frame()["lr"].notna().any())
    smoothed = by_gradients and len(steps) >= 2 * _SMOOTHING
    ax.plot(
        steps,
        elbo - offset,
        color=PALETTE[0],
        linewidth=1.0,
        alpha=0.45 if smoothed else 1.0,
        marker="o" if len(steps) < 3 else None,
        label="ELBO of the training rows" + " (mean between records)" * by_gradients,
    )
    restarts = _restarts(history)
    if smoothed:
        ax.plot(
            steps,
            _running_median(elbo, np.searchsorted(restarts, steps)) - offset,
            color=PALETTE[0],
            linewidth=1.6,
            label=f"its running median over {_SMOOTHING} records",
        )
    checked, validation = _series(history, "validation_elbo")
    if len(validation):
        ax.plot(
            checked,
            validation - offset,
            color=PALETTE[5],
            linewidth=1.2,
            linestyle="--",
            marker="o",
            markersize=3,
            label="ELBO of the held-out rows",
        )
    seen = np.concatenate([elbo, validation]) - offset
    if optimum is not None:
        ax.axhline(
            0.0,
            color="black",
            linewidth=1.0,
            linestyle=(0, (4, 2)),
            label=f"exact optimum (maximum likelihood): {minus(f'{optimum:.3f}')} nats/row",
        )
        _logarithmic_below_zero(ax, seen, _noise(elbo))
        ax.set_ylabel("ELBO − optimum (nats/row)")
        ax.set_title("How far the ELBO is from the exact optimum")
    else:
        ax.set_ylabel("ELBO (nats/row)")
        ax.set_title("ELBO in training" + _cut_depths(ax, elbo, validation))
    for number, restart in enumerate(restarts):
        ax.axvline(
            restart,
            color="0.75",
            linewidth=0.8,
            linestyle=":",
            zorder=0,
            label=None if number else "learning rate restarted",
        )
    ax.set_xlabel("steps")
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.grid(axis="y", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.legend(loc="best", fontsize=9, framealpha=0.9)
    return ax


def _series(history: History, name: str) -> tuple[FloatArray, FloatArray]:
    """Steps and values of the records that have a finite one."""
    frame = history.to_frame()[["step", name]].astype(float)
    frame = frame[np.isfinite(frame[name])]
    return frame["step"].to_numpy(), frame[name].to_numpy()


def _restarts(history: History) -> list[float]:
    """Steps at which the learning rate jumped back up."""
    rates = history.to_frame()[["step", "lr"]].astype(float).to_numpy()
    return [float(before[0]) for before, after in pairwise(rates) if after[1] > 2 * before[1]]


def _running_median(elbo: FloatArray, rounds: npt.NDArray[np.intp]) -> FloatArray:
    """Medians within each round, NaN at its beginning, which is too steep for half a window."""
    half = _SMOOTHING // 2
    smooth = np.full(len(elbo), np.nan)
    for number in np.unique(rounds):
        (own,) = np.nonzero(rounds == number)
        window = pd.Series(elbo[own]).rolling(_SMOOTHING, center=True, min_periods=half + 1)
        smooth[own[half:]] = window.median().to_numpy()[half:]
    return smooth


def _noise(elbo: FloatArray) -> float:
    """Standard deviation of a record's noise, from the differences of neighbours in the last half."""
    late = np.diff(elbo[len(elbo) // 2 :])
    return float(1.4826 * np.median(np.abs(late)) / math.sqrt(2)) if len(late) else 0.0


def _logarithmic_below_zero(ax: Axes, values: FloatArray, noise: float) -> None:
    furthest = float(np.abs(values).max())
    if furthest == 0:
        return
    # Finer than the noise or than the nearest record there is nothing to see; eight decades are enough.
    finest = round(math.log10(max(3 * noise, float(np.abs(values).min()), 1e-8 * furthest)))
    coarsest = math.floor(math.log10(furthest))
    linear = 10.0 ** min(finest, coarsest)
    ax.set_yscale("symlog", linthresh=linear, linscale=1.0)
    decades = 10.0 ** np.arange(round(math.log10(linear)), math.ceil(math.log10(furthest)) + 1)
    ax.yaxis.set_major_locator(FixedLocator([*-decades[::-1], 0.0, *decades]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _signed(value)))
    between = np.outer(decades, np.arange(2, 10)).ravel()
    ax.yaxis.set_minor_locator(FixedLocator([*-between, *between]))
    lowest, highest = float(values.min()), float(values.max())
    ax.set_ylim(min(1.6 * lowest, -linear) if lowest < 0 else -linear, max(2 * highest, 0.6 * linear))


def _cut_depths(ax: Axes, elbo: FloatArray, validation: FloatArray) -> str:
    """Limit the axis to where four fifths of the records are, unless the rest would cost little room; what was cut."""
    low, high = float(np.quantile(elbo, 0.2)), float(elbo.max())
    if len(validation):
        low, high = min(low, float(np.median(validation))), max(high, float(validation.max()))
    below = elbo[elbo < low]
    if len(below) == 0 or high - float(elbo.min()) < 3 * (high - low):
        return ""
    ax.set_ylim(low - 0.04 * (high - low), high + 0.08 * (high - low))
    lowest = f"{below.min():,.0f}" if below.min() < -999 else f"{below.min():.3g}"
    return f" ({len(below)} of {len(elbo)} records are below the axis, the lowest at {minus(lowest)})"


def _signed(value: float) -> str:
    if 0 < abs(value) < 1e-4:
        return minus(f"{value:+.0e}")
    return "0" if value == 0 else minus(f"{value:+,.15f}".rstrip("0").rstrip("."))
