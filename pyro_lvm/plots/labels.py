"""Labels of rows: reading them, and telling their classes apart by colour, marker and name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, to_rgb
from matplotlib.lines import Line2D

from pyro_lvm.errors import DataError
from pyro_lvm.plots.shared import HALO, PALETTE, UNLABELLED, FloatArray, as_numbers, dot_style, short

# Four more, of Tol's muted scheme. No palette of twelve is safe by colour alone: these are triangles.
_MORE_COLOURS = ("#882255", "#999933", "#332288", "#AA4499")
# More classes than this no one tells apart by colour and marker.
MAX_NAMED_CLASSES = len(PALETTE + _MORE_COLOURS)


class Labels(NamedTuple):
    """A label for each row: its class, or a quantity."""

    # Places in ``names``, -1 without a label; or, where ``names`` is None, a quantity.
    values: FloatArray
    names: tuple[str, ...] | None

    def take(self, rows: npt.NDArray[np.bool_]) -> Labels:
        """The labels of some of the rows."""
        return Labels(self.values[rows], self.names)


def read_labels(labels: Any, label_names: Sequence[str] | None, num_rows: int) -> Labels:
    """Labels as they are given: integers and words are classes, floats a quantity."""
    given = as_numbers(labels)
    if given.shape != (num_rows,):
        raise DataError(f"labels of shape {given.shape} for {num_rows} rows of z: expected one label for each row")
    if given.dtype.kind == "f":
        return Labels(given.astype(np.float64), None)
    if given.dtype.kind not in "biu":
        known = ~pd.isna(given)
        names, codes = np.unique(given[known].astype(str), return_inverse=True)
        places = np.full(num_rows, -1.0)
        places[known] = codes
        return Labels(places, tuple(map(str, names)))
    codes = given.astype(np.int64)
    present = np.unique(codes[codes >= 0])
    if label_names is not None and len(present) and present[-1] >= len(label_names):
        raise DataError(
            f"labels go up to {present[-1]} and label_names has {len(label_names)} entries: expected a name for each "
            "label, the first for label 0"
        )
    places = np.where(codes < 0, -1, np.searchsorted(present, codes))
    chosen = tuple(str(code) if label_names is None else str(label_names[code]) for code in present)
    return Labels(places.astype(np.float64), chosen)


def class_style(count: int) -> tuple[list[tuple[float, float, float]], list[str]]:
    """A colour and a marker for each class."""
    if count <= MAX_NAMED_CLASSES:
        colours = [to_rgb(colour) for colour in (PALETTE + _MORE_COLOURS)[:count]]
        return colours, ["o" if i < len(PALETTE) else "^" for i in range(count)]
    ramp = colormaps["viridis"](np.linspace(0, 1, count))
    return [(float(r), float(g), float(b)) for r, g, b, _ in ramp], ["o"] * count


def draw_classes(ax: Axes, points: FloatArray, codes: npt.NDArray[np.int64], names: tuple[str, ...]) -> None:
    """Scatter points in their classes' colours, and say which is which."""
    colours, markers = class_style(len(names))
    dots = dot_style(len(points))
    unlabelled = codes < 0
    if unlabelled.any():
        ax.scatter(points[unlabelled, 0], points[unlabelled, 1], color=UNLABELLED, zorder=1, **dots)
    # In random order: drawn class by class, the last would hide the others.
    order = np.random.default_rng(0).permutation(len(points))
    order = order[codes[order] >= 0]
    for marker in dict.fromkeys(markers):
        rows = order[[markers[code] == marker for code in codes[order]]]
        shades = [colours[code] for code in codes[rows]]
        ax.scatter(points[rows, 0], points[rows, 1], color=shades, marker=marker, zorder=2, **dots)
    if len(names) > MAX_NAMED_CLASSES:
        _class_bar(ax, colours, names)
    else:
        _class_legend(ax, colours, markers, names, bool(unlabelled.any()))
    # More than these would lie on top of each other.
    if len(names) > 1 and max(map(len, names)) <= 3 and sum(map(len, names)) <= 36:
        _name_medians(ax, points, codes, colours, names)


def _class_legend(
    ax: Axes, colours: list[tuple[float, float, float]], markers: list[str], names: tuple[str, ...], unlabelled: bool
) -> None:
    entries = [(c, m, short(n)) for c, m, n in zip(colours, markers, names, strict=True)]
    if unlabelled:
        entries.append((to_rgb(UNLABELLED), "o", "no label"))
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=colour, markersize=7, label=name)
        for colour, marker, name in entries
    ]
    ax.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, fontsize=9, frameon=False
    )


def _class_bar(ax: Axes, colours: list[tuple[float, float, float]], names: tuple[str, ...]) -> None:
    edges = np.arange(len(names) + 1) - 0.5
    mappable = ScalarMappable(BoundaryNorm(edges, len(names)), colormaps["viridis"].resampled(len(names)))
    bar = ax.figure.colorbar(mappable, ax=ax)
    ticks = np.unique(np.linspace(0, len(names) - 1, MAX_NAMED_CLASSES).round().astype(int))
    bar.set_ticks(list(ticks), labels=[short(names[tick]) for tick in ticks], fontsize=9)
    bar.ax.minorticks_off()
    bar.set_label(f"label ({len(colours)} classes)")


def _name_medians(
    ax: Axes,
    points: FloatArray,
    codes: npt.NDArray[np.int64],
    colours: list[tuple[float, float, float]],
    names: tuple[str, ...],
) -> None:
    present = np.unique(codes[codes >= 0])
    medians = np.array([np.median(points[codes == code], axis=0) for code in present]).reshape(-1, 2)
    # One scale for both axes: they are drawn with equal aspect.
    extent = float(np.ptp(points, axis=0).max()) or 1.0
    distance = extent * (0.03 + 0.025 * max(map(len, names)))
    for place, code in zip(_spread(medians, distance), present, strict=True):
        ax.text(
            float(place[0]),
            float(place[1]),
            names[code],
            color=tuple(0.7 * channel for channel in colours[code]),
            fontsize=15,
            fontweight="bold",
            ha="center",
            va="center",
            path_effects=HALO,
            zorder=3,
        )


def _spread(places: FloatArray, distance: float) -> FloatArray:
    """Push places apart until no two are nearer than ``distance``."""
    # A trace of difference, so that places on top of each other have a direction to go.
    places = places + 1e-6 * distance * np.arange(len(places))[:, None]
    for _ in range(200):
        apart = places[:, None] - places[None]
        length = np.linalg.norm(apart, axis=-1)
        lack = np.where(length < distance, distance - length, 0.0)
        np.fill_diagonal(lack, 0.0)
        if lack.max(initial=0.0) < 1e-3 * distance:
            break
        places = places + 0.5 * (apart * (lack / np.maximum(length, 1e-12))[..., None]).sum(axis=1)
    return places
