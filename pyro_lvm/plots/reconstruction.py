"""Rows beside what a pair makes of them: images above images, and a table's entries as a scatter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from pyro_lvm.errors import DataError
from pyro_lvm.plots.images import array_of_axes, as_images, grid_layout, painted
from pyro_lvm.plots.shared import PALETTE, FloatArray, as_matrix, dot_style, minus, own_axes

_MAX_SCATTER_POINTS = 20_000


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
    originals, rebuilt = as_images(x[:count], image_shape), as_images(x_hat[:count], image_shape)
    if axes is None:
        shape, size = grid_layout(2 * count, image_shape, num_columns=count)
        figure, axes = plt.subplots(*shape, figsize=size, layout="compressed", squeeze=False)
        figure.suptitle("Originals and their reconstructions")
    panels = array_of_axes(axes)
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
            ax.imshow(painted(image, low, high))
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
    ax = own_axes(ax, (5.6, 5.2))
    ax.scatter(observed, predicted, color=PALETTE[0], **dot_style(len(observed)))
    low, high = min(observed.min(), predicted.min()), max(observed.max(), predicted.max())
    ends = (low - 0.05 * (high - low), high + 0.05 * (high - low))
    ax.plot(ends, ends, color="black", linewidth=1.0, linestyle=(0, (4, 2)), label="reconstructed = observed")
    ax.set(xlim=ends, ylim=ends, aspect="equal")
    ax.set_xlabel("observed (standard deviations of the feature)")
    ax.set_ylabel("reconstructed (standard deviations of the feature)")
    ax.set_title(f"Reconstruction: R² = {minus(f'{r_squared:.3f}')} ({len(x):,} rows, {int(varies.sum())} features)")
    ax.legend(loc="upper left", fontsize=9)
    return ax


def _same_shape(x: Any, x_hat: Any) -> tuple[FloatArray, FloatArray]:
    first, second = as_matrix(x, "x", "(rows, data_dim)"), as_matrix(x_hat, "x_hat", "(rows, data_dim)")
    if first.shape != second.shape:
        raise DataError(
            f"x is {len(first)} rows of {first.shape[1]} entries, x_hat {len(second)} of {second.shape[1]}: expected "
            "the same; pass the reconstructions of these rows"
        )
    return first, second
