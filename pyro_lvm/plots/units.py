"""Which latent dimensions a pair uses, and what moving along each does to a table's features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from pyro_lvm.errors import DataError
from pyro_lvm.evidence import LatentUnits
from pyro_lvm.plots.images import array_of_axes
from pyro_lvm.plots.shared import PALETTE, UNLABELLED, as_numbers, own_axes, short

# Bars that can still be told apart, and lines.
_MAX_BARS = 60
_MAX_LINES = 6


def kl_per_dimension(units: LatentUnits, ax: Axes | None = None) -> Axes:
    """Draw each latent dimension's KL from its prior, largest first; those that collapsed are grey.

    Args:
        units: Of :func:`pyro_lvm.evidence.elbo_terms`.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        DataError: The divergences are not known.
    """
    if units.kl is None:
        raise DataError(f"no KL is known for each dimension of '{units.site}': expected a prior that factorizes")
    kl = as_numbers(units.kl)
    order = np.argsort(-kl, kind="stable")
    shown = order[:_MAX_BARS]
    collapsed = np.array([name in units.collapsed for name in units.names])
    ax = own_axes(ax, (max(4.6, min(11.0, 1.6 + 0.32 * len(shown))), 4.0))
    ax.bar(range(len(shown)), kl[shown], color=[UNLABELLED if collapsed[i] else PALETTE[0] for i in shown], width=0.75)
    size = 9 if len(shown) <= 24 else 7
    ax.set_xticks(
        range(len(shown)), [units.names[i] for i in shown], fontsize=size, rotation=90 if len(shown) > 12 else 0
    )
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.7, len(shown) - 0.3)
    ax.set_ylabel("KL from the prior (nats/row)")
    of = "" if len(shown) == len(kl) else f", the {len(shown)} largest"
    ax.set_title(f"{units.num_active} of {len(kl)} latent dimensions are active{of}")
    if collapsed.any():
        ax.legend(
            handles=[Patch(color=PALETTE[0], label="active"), Patch(color=UNLABELLED, label="collapsed to the prior")],
            loc="upper right",
            fontsize=9,
            framealpha=0.9,
        )
    ax.grid(axis="y", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def traversal_lines(
    z: Any,
    x: Any,
    scale: Any,
    feature_names: Sequence[str] | None = None,
    *,
    dims: Sequence[int] | None = None,
    axes: Any = None,
) -> npt.NDArray[Any]:
    """Draw what moving along each latent coordinate does to a table's features, those that change most.

    Args:
        z: Points, shape (num_dims, num, latent_dim).
        x: What they decode to, shape (num_dims, num, data_dim).
        scale: Each feature's standard deviation, shape (data_dim,), in which changes are drawn.
        feature_names: The features' names; None numbers them.
        dims: The coordinate that each of ``z`` moves along; None for the first ones in order.
        axes: An axes for each; None makes a figure.

    Returns:
        The axes, shape (num_dims,).

    Raises:
        DataError: Shapes don't fit.
    """
    points, values, unit = (as_numbers(v).astype(np.float64) for v in (z, x, scale))
    if points.ndim != 3 or values.ndim != 3 or points.shape[:2] != values.shape[:2] or unit.shape != values.shape[2:]:
        raise DataError(
            f"z of shape {points.shape}, x of {values.shape}, scale of {unit.shape}: expected (num_dims, num, "
            "latent_dim), (num_dims, num, data_dim) and (data_dim,)"
        )
    count, data_dim = len(points), values.shape[2]
    moved = list(range(count)) if dims is None else list(dims)
    if len(moved) != count or (feature_names is not None and len(feature_names) != data_dim):
        raise DataError(f"{len(moved)} dims for {count} traversals of {data_dim} features: expected one of each, named")
    names = [f"feature {i + 1}" for i in range(data_dim)] if feature_names is None else list(map(str, feature_names))
    if axes is None:
        columns = min(3, count)
        lines = -(-count // columns)
        figure, made = plt.subplots(
            lines, columns, figsize=(4.8 * columns, 4.4 * lines), layout="constrained", squeeze=False, sharey=True
        )
        figure.suptitle("Along each latent coordinate, the others held")
        for ax in made.flat[count:]:
            ax.set_axis_off()
        axes = made.flat[:count]
    panels = array_of_axes(axes).reshape(-1)
    if len(panels) != count:
        raise DataError(f"{len(panels)} axes for {count} traversals: expected one for each")
    # A constant feature has no unit of its own.
    unit = np.where(unit > 0, unit, 1.0)
    for ax, place, curve, dim in zip(panels, points, values, moved, strict=True):
        change = (curve - curve[len(curve) // 2]) / unit
        largest = np.argsort(-np.ptp(change, axis=0), kind="stable")[:_MAX_LINES]
        for colour, feature in zip(PALETTE, largest, strict=False):
            ax.plot(place[:, dim], change[:, feature], color=colour, linewidth=1.5, label=short(names[feature]))
        ax.set_xlabel(f"$z_{{{dim + 1}}}$")
        # Beneath: lines through the middle leave no corner free.
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, fontsize=8, frameon=False)
        ax.grid(color="0.92", linewidth=0.8)
        ax.set_axisbelow(True)
    panels[0].set_ylabel("change (sd of the feature)")
    return panels
