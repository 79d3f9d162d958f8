"""Pictures of a training and of a trained pair, each a function that takes matplotlib axes and returns them.

Nothing is shown and no style is changed; a figure is made only where no axes are given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, to_rgb
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, StrMethodFormatter

from pyro_lvm.errors import DataError
from pyro_lvm.history import History

FloatArray = npt.NDArray[np.float64]

# Okabe and Ito 2008, told apart with any kind of colour vision; yellow comes late because it is faint on white.
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
# Four more, of Tol's muted scheme. No palette of twelve is safe by colour alone: these are triangles.
_MORE_COLOURS = ("#882255", "#999933", "#332288", "#AA4499")
# More classes than this no one tells apart by colour and marker.
_MAX_NAMED_CLASSES = len(_PALETTE + _MORE_COLOURS)
_UNLABELLED = "#BBBBBB"
_MISSING = "#E69F00"
_DIVERGING = "RdBu_r"
_HALO = [withStroke(linewidth=3, foreground="white")]
_MAX_HEATMAP_FEATURES = 40
_SMOOTHING = 9
_MAX_SCATTER_POINTS = 20_000
_MAX_NAME = 28


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
    ax = _axes(ax, (7.0, 4.3))
    offset = optimum or 0.0
    ax.plot(
        steps,
        elbo - offset,
        color=_PALETTE[0],
        linewidth=1.0,
        alpha=0.45 if len(steps) >= 2 * _SMOOTHING else 1.0,
        marker="o" if len(steps) < 3 else None,
        label="ELBO of the training rows (mean between records)",
    )
    restarts = _restarts(history)
    if len(steps) >= 2 * _SMOOTHING:
        ax.plot(
            steps,
            _running_median(elbo, np.searchsorted(restarts, steps)) - offset,
            color=_PALETTE[0],
            linewidth=1.6,
            label=f"its running median over {_SMOOTHING} records",
        )
    checked, validation = _series(history, "validation_elbo")
    if len(validation):
        ax.plot(
            checked,
            validation - offset,
            color=_PALETTE[5],
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
            label=f"exact optimum (maximum likelihood): {_minus(f'{optimum:.3f}')} nats/row",
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
    ax.set_xlabel("gradient steps")
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.grid(axis="y", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.legend(loc="best", fontsize=9, framealpha=0.9)
    return ax


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
    z = _matrix(z, "z", "(rows, latent_dim)")
    single = z.shape[1] == 1
    columns = (0,) if single else tuple(dims)
    if not single and (len(columns) != 2 or not all(0 <= column < z.shape[1] for column in columns)):
        raise DataError(f"dims={dims} of z with {z.shape[1]} columns: expected two numbers from 0 to {z.shape[1] - 1}")
    names = (
        tuple(axis_labels) if axis_labels is not None else tuple(f"posterior mean of $z_{{{c + 1}}}$" for c in columns)
    )
    if len(names) < len(columns):
        raise DataError(f"axis_labels has {len(names)} entries: expected {len(columns)}, one for each column drawn")
    coloured = None if labels is None else _read_labels(labels, label_names, len(z))
    finite = np.isfinite(z[:, columns]).all(axis=1)
    if not finite.any():
        raise DataError(f"z has {len(z)} rows and none of them is finite: expected one at least; has the fit diverged?")
    points = z[finite][:, columns]
    coloured = None if coloured is None else coloured.take(finite)
    ax = _axes(ax, (7.0, 5.2))
    ax.set_title("Latent coordinates of the rows")
    ax.set_xlabel(names[0])
    if single:
        _draw_line(ax, points[:, 0], coloured)
        return ax
    ax.set_ylabel(names[1])
    ax.set_aspect("equal", adjustable="datalim")
    if coloured is None:
        ax.scatter(points[:, 0], points[:, 1], color=_PALETTE[0], **_dots(len(points)))
    elif coloured.names is None:
        _draw_quantity(ax, points, coloured.values)
    else:
        _draw_classes(ax, points, coloured.values.astype(int), coloured.names)
    return ax


def loadings_images(
    loadings: Any,
    image_shape: Sequence[int],
    *,
    titles: Sequence[str] | None = None,
    axes: Any = None,
) -> npt.NDArray[Any]:
    """Draw each loading as an image, on one colour scale around zero.

    Loadings of colour images are drawn in colour around grey, which is zero.

    Args:
        loadings: Shape (data_dim, latent_dim).
        image_shape: (H, W), (1, H, W), (3, H, W) or (H, W, 3), of product data_dim.
        titles: One for each column; None numbers them.
        axes: As many axes as columns, in any array; None makes a figure. Those that are left over are blanked.

    Returns:
        The axes, an array.

    Raises:
        DataError: Shapes don't fit, entries are not finite, or there are too few axes.
    """
    loadings = _finite_loadings(loadings)
    count = loadings.shape[1]
    images = _images(loadings.T, image_shape)
    titles = _column_titles(titles, count)
    if axes is None:
        shape, size = grid_layout(count, image_shape)
        figure, axes = plt.subplots(*shape, figsize=size, layout="compressed", squeeze=False)
        figure.suptitle("Loadings" if images.ndim == 3 else "Loadings (grey is zero)")
    panels = _array_of_axes(axes)
    if panels.size < count:
        raise DataError(f"{panels.size} axes for {count} loadings: expected one for each, or axes=None to make them")
    limit = float(np.abs(loadings).max()) or 1.0
    for ax, image, title in zip(panels.flat, images, titles, strict=False):
        if images.ndim == 3:
            ax.imshow(image, cmap=_DIVERGING, vmin=-limit, vmax=limit)
        else:
            ax.imshow(0.5 + 0.5 * image / limit)
        ax.set_title(title, fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
    for ax in panels.flat[count:]:
        ax.set_axis_off()
    if images.ndim == 3:
        bar = panels.flat[0].figure.colorbar(
            panels.flat[0].images[0], ax=list(panels.flat), location="bottom", shrink=0.7, aspect=30
        )
        bar.set_label("loading (units of the data)")
    return panels


def loadings_heatmap(
    loadings: Any,
    feature_names: Sequence[str] | None = None,
    *,
    titles: Sequence[str] | None = None,
    quantity: str = "loading (units of the feature)",
    ax: Axes | None = None,
) -> Axes:
    """Draw loadings of a table's features, a row for each feature and a column for each latent coordinate.

    Args:
        loadings: Shape (data_dim, latent_dim); of more than 40 features the 40 largest are drawn.
        feature_names: The features' names; None numbers them.
        titles: The columns' names; None numbers them.
        quantity: What the entries are, with their unit.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        DataError: Shapes don't fit, or entries are not finite.
    """
    loadings = _finite_loadings(loadings)
    data_dim, latent_dim = loadings.shape
    if feature_names is not None and len(feature_names) != data_dim:
        raise DataError(f"{len(feature_names)} feature names for loadings of {data_dim} features: expected as many")
    names = [f"feature {i + 1}" for i in range(data_dim)] if feature_names is None else list(map(str, feature_names))
    titles = _column_titles(titles, latent_dim)
    shown = np.sort(np.argsort(-np.linalg.norm(loadings, axis=1), kind="stable")[:_MAX_HEATMAP_FEATURES])
    ax = _axes(ax, heatmap_size(data_dim, latent_dim))
    limit = float(np.abs(loadings).max()) or 1.0
    image = ax.imshow(loadings[shown], cmap=_DIVERGING, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    ax.set_yticks(range(len(shown)), [_short(names[i]) for i in shown], fontsize=9)
    ax.set_xticks(range(latent_dim), titles, fontsize=9)
    ax.tick_params(length=0)
    ax.set_title("Loadings" if len(shown) == data_dim else f"Loadings: the {len(shown)} largest of {data_dim} features")
    bar = ax.figure.colorbar(image, ax=ax)
    bar.set_label(quantity)
    return ax


def reconstructions(
    x: Any, x_hat: Any, image_shape: Sequence[int], *, count: int = 8, axes: Any = None
) -> npt.NDArray[Any]:
    """Draw images above their reconstructions, on one scale of grey or colour; what is missing is orange.

    Args:
        x: Images, shape (rows, data_dim) or (rows, *image_shape), NaN where missing.
        x_hat: Their reconstructions, of the same shape.
        image_shape: (H, W), (1, H, W), (3, H, W) or (H, W, 3), of product data_dim.
        count: How many of the rows to draw, the first ones; no more than there are.
        axes: An array of axes of shape (2, count); None makes a figure.

    Returns:
        The axes, shape (2, count).

    Raises:
        DataError: Shapes don't fit, or ``count`` is not positive.
    """
    x, x_hat = _same_shape(x, x_hat)
    if count < 1:
        raise DataError(f"count={count}: expected at least one image to draw")
    count = min(count, len(x))
    originals, rebuilt = _images(x[:count], image_shape), _images(x_hat[:count], image_shape)
    if axes is None:
        shape, size = grid_layout(2 * count, image_shape, num_columns=count)
        figure, axes = plt.subplots(*shape, figsize=size, layout="compressed", squeeze=False)
        figure.suptitle("Originals and their reconstructions")
    panels = _array_of_axes(axes)
    if panels.shape != (2, count):
        raise DataError(
            f"axes of shape {panels.shape} for {count} images: expected (2, {count}), or axes=None to make them"
        )
    finite = originals[np.isfinite(originals)] if np.isfinite(originals).any() else rebuilt[np.isfinite(rebuilt)]
    # From the originals alone: a reconstruction that overshoots must not make them look pale.
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    high = high if high > low else low + 1.0
    title = "original\n(orange: missing)" if np.isnan(originals).any() else "original"
    for row, (label, images) in enumerate(((title, originals), ("reconstruction", rebuilt))):
        for ax, image in zip(panels[row], images, strict=True):
            ax.imshow(_painted(image, low, high))
            ax.set_xticks([])
            ax.set_yticks([])
        panels[row, 0].set_ylabel(label, fontsize=10, rotation=0, ha="right", va="center")
    return panels


def reconstruction_scatter(x: Any, x_hat: Any, ax: Axes | None = None) -> Axes:
    """Draw the entries of a table, as reconstructed against as observed, each feature in its own standard deviations.

    R² is one minus the squared error over the variance, all features with equal weight; features that do not vary are
    left out, and so are missing entries.

    Args:
        x: Rows, shape (rows, data_dim), NaN where missing.
        x_hat: Their reconstructions, the same shape.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        DataError: Shapes don't fit, or no feature varies.
    """
    x, x_hat = _same_shape(x, x_hat)
    known = np.isfinite(x) & np.isfinite(x_hat)
    number = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, x, 0.0).sum(axis=0) / number
    scale = np.sqrt((np.where(known, x - mean, 0.0) ** 2).sum(axis=0) / number)
    # Rounding alone makes a constant column vary by about epsilon times its size.
    varies = scale > 1e-6 * np.maximum(np.abs(mean), np.finfo(np.float64).tiny)
    if not varies.any():
        raise DataError(
            f"none of the {x.shape[1]} features of x varies where x and x_hat are known: expected one at least"
        )
    known = known[:, varies]
    observed, predicted = (((values - mean)[:, varies] / scale[varies])[known] for values in (x, x_hat))
    r_squared = 1.0 - float(((observed - predicted) ** 2).sum() / (observed**2).sum())
    if len(observed) > _MAX_SCATTER_POINTS:
        drawn = np.random.default_rng(0).choice(len(observed), _MAX_SCATTER_POINTS, replace=False)
        observed, predicted = observed[drawn], predicted[drawn]
    ax = _axes(ax, (5.6, 5.2))
    ax.scatter(observed, predicted, color=_PALETTE[0], **_dots(len(observed)))
    low, high = min(observed.min(), predicted.min()), max(observed.max(), predicted.max())
    ends = (low - 0.05 * (high - low), high + 0.05 * (high - low))
    ax.plot(ends, ends, color="black", linewidth=1.0, linestyle=(0, (4, 2)), label="reconstructed = observed")
    ax.set(xlim=ends, ylim=ends, aspect="equal")
    ax.set_xlabel("observed (standard deviations of the feature)")
    ax.set_ylabel("reconstructed (standard deviations of the feature)")
    ax.set_title(f"Reconstruction: R² = {_minus(f'{r_squared:.3f}')} ({len(x):,} rows, {int(varies.sum())} features)")
    ax.legend(loc="upper left", fontsize=9)
    return ax


def grid_layout(
    count: int, image_shape: Sequence[int], *, num_columns: int | None = None
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Choose how images stand in a figure.

    Args:
        count: How many images.
        image_shape: Their shape, for the figure's proportions.
        num_columns: Images side by side; None chooses.

    Returns:
        Rows and columns of axes, and the figure's width and height in inches.
    """
    if num_columns is None:
        num_columns = math.ceil(count / math.ceil(count / 6))
    num_rows = math.ceil(count / num_columns)
    height, width = _image_size(tuple(image_shape))
    # Inches of an image's width, so that the figure fits on a page.
    edge = min(1.7, 9.0 / num_columns, 9.0 * width / (num_rows * height))
    # The rest is what titles, row labels and a colour bar take.
    return (num_rows, num_columns), (
        max(4.2, edge * num_columns + 1.2),
        edge * num_rows * height / width + 0.2 * num_rows + 1.0,
    )


def heatmap_size(num_features: int, num_columns: int) -> tuple[float, float]:
    """Choose the size in inches of a figure for :func:`loadings_heatmap`."""
    return 3.6 + min(0.5, 9.0 / num_columns) * max(2, num_columns), 1.2 + 0.24 * max(
        8, min(num_features, _MAX_HEATMAP_FEATURES)
    )


class _Labels(NamedTuple):
    # Places in ``names``, -1 without a label; or, where ``names`` is None, a quantity.
    values: FloatArray
    names: tuple[str, ...] | None

    def take(self, rows: npt.NDArray[np.bool_]) -> _Labels:
        return _Labels(self.values[rows], self.names)


def _read_labels(labels: Any, label_names: Sequence[str] | None, num_rows: int) -> _Labels:
    given = _numbers(labels)
    if given.shape != (num_rows,):
        raise DataError(f"labels of shape {given.shape} for {num_rows} rows of z: expected one label for each row")
    if given.dtype.kind == "f":
        return _Labels(given.astype(np.float64), None)
    if given.dtype.kind not in "biu":
        known = ~pd.isna(given)
        names, codes = np.unique(given[known].astype(str), return_inverse=True)
        places = np.full(num_rows, -1.0)
        places[known] = codes
        return _Labels(places, tuple(map(str, names)))
    codes = given.astype(np.int64)
    present = np.unique(codes[codes >= 0])
    if label_names is not None and len(present) and present[-1] >= len(label_names):
        raise DataError(
            f"labels go up to {present[-1]} and label_names has {len(label_names)} entries: expected a name for each "
            "label, the first for label 0"
        )
    places = np.where(codes < 0, -1, np.searchsorted(present, codes))
    chosen = tuple(str(code) if label_names is None else str(label_names[code]) for code in present)
    return _Labels(places.astype(np.float64), chosen)


def _class_style(count: int) -> tuple[list[tuple[float, float, float]], list[str]]:
    """A colour and a marker for each class."""
    if count <= _MAX_NAMED_CLASSES:
        colours = [to_rgb(colour) for colour in (_PALETTE + _MORE_COLOURS)[:count]]
        return colours, ["o" if i < len(_PALETTE) else "^" for i in range(count)]
    ramp = colormaps["viridis"](np.linspace(0, 1, count))
    return [(float(r), float(g), float(b)) for r, g, b, _ in ramp], ["o"] * count


def _draw_classes(ax: Axes, points: FloatArray, codes: npt.NDArray[np.int64], names: tuple[str, ...]) -> None:
    colours, markers = _class_style(len(names))
    dots = _dots(len(points))
    unlabelled = codes < 0
    if unlabelled.any():
        ax.scatter(points[unlabelled, 0], points[unlabelled, 1], color=_UNLABELLED, zorder=1, **dots)
    # In random order: drawn class by class, the last would hide the others.
    order = np.random.default_rng(0).permutation(len(points))
    order = order[codes[order] >= 0]
    for marker in dict.fromkeys(markers):
        rows = order[[markers[code] == marker for code in codes[order]]]
        shades = [colours[code] for code in codes[rows]]
        ax.scatter(points[rows, 0], points[rows, 1], color=shades, marker=marker, zorder=2, **dots)
    if len(names) > _MAX_NAMED_CLASSES:
        _class_bar(ax, colours, names)
    else:
        _class_legend(ax, colours, markers, names, bool(unlabelled.any()))
    # More than these would lie on top of each other.
    if len(names) > 1 and max(map(len, names)) <= 3 and sum(map(len, names)) <= 36:
        _name_medians(ax, points, codes, colours, names)


def _class_legend(
    ax: Axes, colours: list[tuple[float, float, float]], markers: list[str], names: tuple[str, ...], unlabelled: bool
) -> None:
    entries = [(c, m, _short(n)) for c, m, n in zip(colours, markers, names, strict=True)]
    if unlabelled:
        entries.append((to_rgb(_UNLABELLED), "o", "no label"))
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
    ticks = np.unique(np.linspace(0, len(names) - 1, _MAX_NAMED_CLASSES).round().astype(int))
    bar.set_ticks(list(ticks), labels=[_short(names[tick]) for tick in ticks], fontsize=9)
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
            path_effects=_HALO,
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


def _draw_quantity(ax: Axes, points: FloatArray, values: FloatArray) -> None:
    known = np.isfinite(values)
    dots = _dots(len(points))
    ax.scatter(points[~known, 0], points[~known, 1], color=_UNLABELLED, zorder=1, **dots)
    drawn = ax.scatter(points[known, 0], points[known, 1], c=values[known], cmap="viridis", zorder=2, **dots)
    bar = ax.figure.colorbar(drawn, ax=ax)
    bar.set_label("label")
    if bar.solids is not None:
        bar.solids.set_alpha(1.0)


def _draw_line(ax: Axes, z: FloatArray, labels: _Labels | None) -> None:
    """One latent coordinate: a histogram, a strip for each class, or against a quantity."""
    if labels is None:
        ax.hist(
            z, bins=min(60, max(5, round(2 * len(z) ** (1 / 3)))), color=_PALETTE[0], edgecolor="white", linewidth=0.4
        )
        ax.set_ylabel("rows")
        return
    dots = _dots(len(z))
    if labels.names is None:
        ax.scatter(z, labels.values, color=_PALETTE[0], **dots)
        ax.set_ylabel("label")
        return
    codes = labels.values.astype(int)
    colours, markers = _class_style(len(labels.names))
    names = [_short(name) for name in labels.names]
    if (codes < 0).any():
        codes = np.where(codes < 0, len(names), codes)
        colours, markers, names = [*colours, to_rgb(_UNLABELLED)], [*markers, "o"], [*names, "no label"]
    jitter = np.random.default_rng(0).uniform(-0.32, 0.32, len(z))
    for code, (colour, marker) in enumerate(zip(colours, markers, strict=True)):
        own = codes == code
        ax.scatter(z[own], code + jitter[own], color=colour, marker=marker, **dots)
        if own.any():
            median = np.median(z[own])
            ax.plot([median, median], [code - 0.4, code + 0.4], color="black", linewidth=2, path_effects=_HALO)
    ticks = np.unique(np.linspace(0, len(names) - 1, min(len(names), 2 * _MAX_NAMED_CLASSES)).round().astype(int))
    ax.set_yticks(list(ticks), [names[tick] for tick in ticks])
    ax.set_ylabel("label (bar: the median)")
    ax.invert_yaxis()


def _dots(count: int) -> dict[str, Any]:
    """Smaller and fainter the more there are, so that density shows as depth of colour."""
    crowd = math.log10(max(count, 10)) - 2
    return {
        "s": float(np.clip(26 / 10 ** (0.35 * crowd), 2, 30)),
        "alpha": float(np.clip(0.85 / 10 ** (0.1 * crowd), 0.4, 0.85)),
        "linewidths": 0,
        "rasterized": True,
    }


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
    return f" ({len(below)} of {len(elbo)} records are below the axis, the lowest at {_minus(lowest)})"


def _signed(value: float) -> str:
    return "0" if value == 0 else _minus(f"{value:+,.15f}".rstrip("0").rstrip("."))


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _short(name: str) -> str:
    """A name cut in its middle: names that are alike begin alike, and often end differently."""
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 13]}…{name[-12:]}"


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is not None:
        return ax
    made: Axes = plt.subplots(figsize=size, layout="constrained")[1]
    return made


def _array_of_axes(axes: Any) -> npt.NDArray[Any]:
    return np.asarray(axes, dtype=np.object_)


def _numbers(values: Any) -> npt.NDArray[Any]:
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(values)


def _matrix(values: Any, name: str, expected: str) -> FloatArray:
    array = _numbers(values)
    if array.ndim < 2 or 0 in array.shape or array.dtype.kind not in "biuf":
        raise DataError(f"{name} has shape {array.shape} and holds {array.dtype}: expected numbers of shape {expected}")
    return array.reshape(len(array), -1).astype(np.float64)


def _finite_loadings(loadings: Any) -> FloatArray:
    matrix = _matrix(loadings, "loadings", "(data_dim, latent_dim)")
    if not np.isfinite(matrix).all():
        raise DataError("loadings hold NaN or infinite entries: expected finite numbers; has the fit diverged?")
    return matrix


def _same_shape(x: Any, x_hat: Any) -> tuple[FloatArray, FloatArray]:
    first, second = _matrix(x, "x", "(rows, data_dim)"), _matrix(x_hat, "x_hat", "(rows, data_dim)")
    if first.shape != second.shape:
        raise DataError(
            f"x is {len(first)} rows of {first.shape[1]} entries, x_hat {len(second)} of {second.shape[1]}: expected "
            "the same; pass the reconstructions of these rows"
        )
    return first, second


def _column_titles(titles: Sequence[str] | None, count: int) -> list[str]:
    if titles is None:
        return [str(i + 1) for i in range(count)]
    if len(titles) != count:
        raise DataError(f"{len(titles)} titles for {count} loadings: expected one for each")
    return list(titles)


def _image_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of an image."""
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) == 3 and shape[0] in (1, 3):
        return shape[1], shape[2]
    if len(shape) == 3 and shape[2] in (1, 3):
        return shape[0], shape[1]
    raise DataError(f"image_shape={shape}: expected (H, W), (1, H, W), (3, H, W) or (H, W, 3)")


def _images(rows: FloatArray, image_shape: Sequence[int]) -> FloatArray:
    """Rows as images: (rows, H, W) in grey, (rows, H, W, 3) in colour."""
    shape = tuple(int(n) for n in image_shape)
    height, width = _image_size(shape)
    if math.prod(shape) != rows.shape[1]:
        raise DataError(
            f"image_shape={shape} has {math.prod(shape)} pixels and the rows have {rows.shape[1]} entries: expected as "
            "many; give the shape of one image"
        )
    images = rows.reshape(len(rows), *shape)
    if math.prod(shape) == height * width:
        return images.reshape(len(rows), height, width)
    return images.transpose(0, 2, 3, 1) if shape[0] == 3 else images


def _painted(image: FloatArray, low: float, high: float) -> FloatArray:
    """An image in grey or colour as red, green and blue from 0 to 1, with a colour of its own for what is missing."""
    scaled = np.clip((image - low) / (high - low), 0.0, 1.0)
    if scaled.ndim == 2:
        scaled = np.repeat(scaled[..., None], 3, axis=-1)
    missing = np.isnan(scaled).any(axis=-1)
    scaled[missing] = to_rgb(_MISSING)
    return scaled
