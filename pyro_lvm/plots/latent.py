"""Latent coordinates of rows, in two directions as a map or in one as strips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from pyro_lvm.errors import DataError
from pyro_lvm.plots.labels import MAX_NAMED_CLASSES, Labels, class_style, draw_classes, read_labels
from pyro_lvm.plots.shared import HALO, PALETTE, UNLABELLED, FloatArray, as_matrix, dot_style, own_axes, short


def latent_map(
    z: Any,
    labels: Any = None,
    *,
    label_names: Sequence[str] | None = None,
    dims: tuple[int, int] = (0, 1),
    axis_labels: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw latent coordinates, most often the posterior means of a guide, coloured by label.

    Two latent directions are a map. A single one is a strip for each class, or a histogram where there are no labels.

    Args:
        z: Latent coordinates, shape (rows, latent_dim); rows that are not finite are left out.
        labels: One a row: integers or strings for classes (a negative integer or None is a row without a label), floats
            for a quantity, which gets a colour bar.
        label_names: The classes' names, by integer label.
        dims: The two columns of ``z`` to draw; not looked at where it has but one.
        axis_labels: What the drawn columns are, one or two.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        DataError: Shapes don't fit, ``dims`` are not columns of ``z``, or no row is finite.
    """
    z = as_matrix(z, "z", "(rows, latent_dim)")
    single = z.shape[1] == 1
    columns = (0,) if single else tuple(dims)
    if not single and (len(columns) != 2 or not all(0 <= column < z.shape[1] for column in columns)):
        raise DataError(f"dims={dims} of z with {z.shape[1]} columns: expected two numbers from 0 to {z.shape[1] - 1}")
    names = (
        tuple(axis_labels) if axis_labels is not None else tuple(f"posterior mean of $z_{{{c + 1}}}$" for c in columns)
    )
    if len(names) < len(columns):
        raise DataError(f"axis_labels has {len(names)} entries: expected {len(columns)}, one for each column drawn")
    coloured = None if labels is None else read_labels(labels, label_names, len(z))
    finite = np.isfinite(z[:, columns]).all(axis=1)
    if not finite.any():
        raise DataError(f"z has {len(z)} rows and none of them is finite: expected one at least; has the fit diverged?")
    points = z[finite][:, columns]
    coloured = None if coloured is None else coloured.take(finite)
    ax = own_axes(ax, (7.0, 5.2))
    ax.set_title("Latent coordinates of the rows")
    ax.set_xlabel(names[0])
    if single:
        _draw_line(ax, points[:, 0], coloured)
        return ax
    ax.set_ylabel(names[1])
    ax.set_aspect("equal", adjustable="datalim")
    if coloured is None:
        ax.scatter(points[:, 0], points[:, 1], color=PALETTE[0], **dot_style(len(points)))
    elif coloured.names is None:
        _draw_quantity(ax, points, coloured.values)
    else:
        draw_classes(ax, points, coloured.values.astype(int), coloured.names)
    return ax


def _draw_quantity(ax: Axes, points: FloatArray, values: FloatArray) -> None:
    known = np.isfinite(values)
    dots = dot_style(len(points))
    ax.scatter(points[~known, 0], points[~known, 1], color=UNLABELLED, zorder=1, **dots)
    drawn = ax.scatter(points[known, 0], points[known, 1], c=values[known], cmap="viridis", zorder=2, **dots)
    bar = ax.figure.colorbar(drawn, ax=ax)
    bar.set_label("label")
    if bar.solids is not None:
        bar.solids.set_alpha(1.0)


def _draw_line(ax: Axes, z: FloatArray, labels: Labels | None) -> None:
    """One latent coordinate: a histogram, a strip for each class, or against a quantity."""
    if labels is None:
        ax.hist(
            z, bins=min(60, max(5, round(2 * len(z) ** (1 / 3)))), color=PALETTE[0], edgecolor="white", linewidth=0.4
        )
        ax.set_ylabel("rows")
        return
    dots = dot_style(len(z))
    if labels.names is None:
        ax.scatter(z, labels.values, color=PALETTE[0], **dots)
        ax.set_ylabel("label")
        return
    codes = labels.values.astype(int)
    colours, markers = class_style(len(labels.names))
    names = [short(name) for name in labels.names]
    if (codes < 0).any():
        codes = np.where(codes < 0, len(names), codes)
        colours, markers, names = [*colours, to_rgb(UNLABELLED)], [*markers, "o"], [*names, "no label"]
    jitter = np.random.default_rng(0).uniform(-0.32, 0.32, len(z))
    for code, (colour, marker) in enumerate(zip(colours, markers, strict=True)):
        own = codes == code
        ax.scatter(z[own], code + jitter[own], color=colour, marker=marker, **dots)
        if own.any():
            median = np.median(z[own])
            ax.plot([median, median], [code - 0.4, code + 0.4], color="black", linewidth=2, path_effects=HALO)
    ticks = np.unique(np.linspace(0, len(names) - 1, min(len(names), 2 * MAX_NAMED_CLASSES)).round().astype(int))
    ax.set_yticks(list(ticks), [names[tick] for tick in ticks])
    ax.set_ylabel("label (bar: the median)")
    ax.invert_yaxis()
