"""What separates an ELBO from the evidence, as bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from pyro_lvm.errors import DataError
from pyro_lvm.evidence import Gap
from pyro_lvm.plots.shared import PALETTE, own_axes


def gap_bars(gaps: Mapping[str, Gap], ax: Axes | None = None) -> Axes:
    """Draw each gap as a bar: what the family lacks below, what the encoder misses upon it.

    What a Gaussian with correlations would gain is hatched; error lines are Monte Carlo standard errors.

    Args:
        gaps: By what is written beneath, such as ``training`` and ``held-out``, or a pair's name.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        DataError: There is no gap.
    """
    if not gaps:
        raise DataError("there is no gap to draw: expected one at least")
    ax = own_axes(ax, (max(4.2, 1.8 + 1.3 * len(gaps)), 4.2))
    places = np.arange(len(gaps))
    approximation, amortization = (
        np.array([float(getattr(gap, name).mean()) for gap in gaps.values()])
        for name in ("approximation", "amortization")
    )
    errors = [
        [getattr(gap, f"{name}_standard_error") for gap in gaps.values()] for name in ("approximation", "amortization")
    ]
    lines: dict[str, Any] = {"ecolor": "0.25", "error_kw": {"elinewidth": 1.0}, "capsize": 3, "width": 0.55}
    ax.bar(places, approximation, yerr=errors[0], color=PALETTE[0], label="approximation: the family lacks", **lines)
    ax.bar(
        places,
        amortization,
        bottom=approximation.clip(min=0),
        yerr=errors[1],
        color=PALETTE[1],
        label="amortization: the encoder misses",
        **lines,
    )
    handles: list[Any] = ax.get_legend_handles_labels()[0]
    gained = np.array([gap.gained_by_full or 0.0 for gap in gaps.values()])
    if (gained > 0).any():
        ax.bar(
            places,
            gained.clip(min=0),
            bottom=(approximation - gained).clip(min=0),
            width=0.55,
            fill=False,
            hatch="///",
            edgecolor="white",
            linewidth=0,
        )
        handles.append(Patch(facecolor=PALETTE[0], edgecolor="white", hatch="///", label="of which correlations give"))
    ax.axhline(0, color="0.3", linewidth=0.8)
    ax.set_xticks(places, list(gaps))
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.6, len(gaps) - 0.4)
    ax.set_ylabel("log p(x) less ELBO (nats/row)")
    ax.set_title("The gap taken apart")
    # Beneath: a bar may reach anywhere.
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), fontsize=9, frameon=False, handles=handles)
    ax.grid(axis="y", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    return ax
