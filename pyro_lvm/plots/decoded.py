"""What points of a latent space decode to, as images: a grid over two coordinates, and rows of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from pyro_lvm.errors import DataError
from pyro_lvm.plots.images import array_of_axes, as_images, grid_layout, image_size, painted
from pyro_lvm.plots.shared import FloatArray, as_numbers, minus, own_axes

_MAX_TICKS = 8
# Black pixels between two images of a grid.
_SEAM = 1


def decoded_grid(
    images: Any,
    image_shape: Sequence[int],
    z: Any = None,
    *,
    dims: tuple[int, int] = (0, 1),
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw what a grid of latent points decodes to as one picture, the second coordinate growing upwards.

    Args:
        images: Decoded points, shape (num_second, num_first, data_dim) or (num_second, num_first, *image_shape).
        image_shape: (H, W), (1, H, W), (3, H, W) or (H, W, 3).
        z: The points, shape (num_second, num_first, latent_dim), for the ticks.
        dims: The coordinates that the grid goes along.
        limits: Values that are black and white; None for those of all images together.
        ax: Where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        DataError: Shapes don't fit, or no entry is finite.
    """
    values = as_numbers(images).astype(np.float64)
    if values.ndim < 3 or 0 in values.shape:
        raise DataError(f"images of shape {values.shape}: expected (num_second, num_first, data_dim)")
    num_rows, num_columns = values.shape[:2]
    flat = as_images(values.reshape(num_rows * num_columns, -1), image_shape)
    low, high = grey_range(flat, limits)
    tiles = np.stack([painted(image, low, high) for image in flat])
    height, width = tiles.shape[1:3]
    # Images that fill their frame, as small digits do, would run into each other.
    tiles = np.pad(tiles, ((0, 0), (0, _SEAM), (0, _SEAM), (0, 0)))
    height, width = height + _SEAM, width + _SEAM
    # Row 0 of the grid is the lowest.
    tiles = tiles.reshape(num_rows, num_columns, height, width, 3)[::-1]
    picture = tiles.transpose(0, 2, 1, 3, 4).reshape(num_rows * height, num_columns * width, 3)
    ax = own_axes(ax, grid_figure_size(num_rows, num_columns, image_shape))
    ax.imshow(picture[:-_SEAM, :-_SEAM], interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    if z is not None:
        points = as_numbers(z)
        if points.shape[:2] != (num_rows, num_columns):
            raise DataError(f"z has shape {points.shape}, images {values.shape}: expected the same grid")
        _ticks(ax, "x", points[0, :, dims[0]], width)
        _ticks(ax, "y", points[::-1, 0, dims[1]], height)
    ax.set_xlabel(f"$z_{{{dims[0] + 1}}}$ (prior quantiles)")
    ax.set_ylabel(f"$z_{{{dims[1] + 1}}}$ (prior quantiles)")
    ax.set_title("What the latent space decodes to")
    return ax


def image_rows(
    images: Any,
    image_shape: Sequence[int],
    *,
    row_titles: Sequence[str] | None = None,
    column_titles: Sequence[str] | None = None,
    title: str | None = None,
    limits: tuple[float, float] | None = None,
    axes: Any = None,
) -> npt.NDArray[Any]:
    """Draw rows of images: traversals, interpolations, samples of each class.

    Args:
        images: Shape (num_rows, num_columns, data_dim) or (num_rows, num_columns, *image_shape).
        image_shape: (H, W), (1, H, W), (3, H, W) or (H, W, 3).
        row_titles: What each row shows.
        column_titles: What each column shows.
        title: Above all.
        limits: Values that are black and white; None for those of all images together.
        axes: An array of axes of shape (num_rows, num_columns); None makes a figure.

    Returns:
        The axes, shape (num_rows, num_columns).

    Raises:
        DataError: Shapes don't fit, or no entry is finite.
    """
    values = as_numbers(images).astype(np.float64)
    if values.ndim < 3 or 0 in values.shape:
        raise DataError(f"images of shape {values.shape}: expected (num_rows, num_columns, data_dim)")
    num_rows, num_columns = values.shape[:2]
    for name, titles, count in (("row", row_titles, num_rows), ("column", column_titles, num_columns)):
        if titles is not None and len(titles) != count:
            raise DataError(f"{len(titles)} {name} titles for {count} {name}s of images: expected one for each")
    flat = as_images(values.reshape(num_rows * num_columns, -1), image_shape)
    low, high = grey_range(flat, limits)
    if axes is None:
        _, size = grid_layout(num_rows * num_columns, image_shape, num_columns=num_columns)
        axes = plt.subplots(num_rows, num_columns, figsize=size, layout="compressed", squeeze=False)[1]
        if title is not None:
            axes[0, 0].figure.suptitle(title)
    panels = array_of_axes(axes)
    if panels.shape != (num_rows, num_columns):
        raise DataError(f"axes of shape {panels.shape} for images of {(num_rows, num_columns)}: expected the same")
    for ax, image in zip(panels.flat, flat, strict=True):
        ax.imshow(painted(image, low, high))
        ax.set_xticks([])
        ax.set_yticks([])
    for ax, text in zip(panels[:, 0], row_titles or (), strict=False):
        ax.set_ylabel(text, fontsize=10, rotation=0, ha="right", va="center")
    for ax, text in zip(panels[0], column_titles or (), strict=False):
        ax.set_title(text, fontsize=9)
    return panels


def samples_and_nearest(
    samples: Any,
    nearest: Any,
    distances: Any,
    typical_distance: float,
    image_shape: Sequence[int],
    *,
    axes: Any = None,
) -> npt.NDArray[Any]:
    """Draw samples above the training rows that are nearest to them, with their distances.

    Args:
        samples: Shape (count, ...).
        nearest: The nearest rows, shape (count, ...).
        distances: Shape (count,).
        typical_distance: Median distance of a training row to the nearest other one.
        image_shape: Shape of one image.
        axes: An array of axes of shape (2, count); None makes a figure.

    Returns:
        The axes, shape (2, count).

    Raises:
        DataError: Shapes don't fit, or no entry is finite.
    """
    drawn, found = (as_numbers(v).astype(np.float64) for v in (samples, nearest))
    apart = as_numbers(distances).reshape(-1)
    if drawn.shape != found.shape or len(apart) != len(drawn):
        raise DataError(
            f"samples of shape {drawn.shape}, nearest rows of {found.shape}, {len(apart)} distances: expected one each"
        )
    # From the rows alone: a sample that overshoots must not make them look pale.
    panels = image_rows(
        np.stack([drawn, found]),
        image_shape,
        row_titles=["sample", "nearest\ntraining row"],
        title=f"Samples and what they are nearest to (rows among themselves: {typical_distance:.3g})",
        limits=grey_range(found),
        axes=axes,
    )
    for ax, distance in zip(panels[1], apart, strict=True):
        ax.set_xlabel(f"{distance:.3g}", fontsize=9)
    return panels


def grey_range(images: FloatArray, limits: tuple[float, float] | None = None) -> tuple[float, float]:
    """The values that are drawn black and white."""
    finite = images[np.isfinite(images)]
    if not len(finite):
        raise DataError(f"images of shape {images.shape}, none of their entries finite: has the training diverged?")
    low, high = limits if limits is not None else (float(finite.min()), float(finite.max()))
    return low, high if high > low else low + 1.0


def grid_figure_size(num_rows: int, num_columns: int, image_shape: Sequence[int]) -> tuple[float, float]:
    """Choose the size in inches of a figure for :func:`decoded_grid`."""
    height, width = image_size(tuple(image_shape))
    edge = 7.0 / max(num_columns * width, num_rows * height)
    return edge * num_columns * width + 0.9, edge * num_rows * height + 0.9


def _ticks(ax: Axes, axis: str, values: FloatArray, pixels: int) -> None:
    # Always the first and the last.
    places = np.unique(np.linspace(0, len(values) - 1, min(len(values), _MAX_TICKS)).round().astype(int))
    texts = [minus(f"{values[place]:.2g}") for place in places]
    centres = (places + 0.5) * pixels - 0.5
    (ax.set_xticks if axis == "x" else ax.set_yticks)(list(centres), texts, fontsize=9)
    ax.tick_params(length=0)
