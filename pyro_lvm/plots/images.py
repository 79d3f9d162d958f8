"""Rows as images: their shape, their colours, and how they stand in a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb

from pyro_lvm.errors import DataError
from pyro_lvm.plots.shared import FloatArray

_MISSING = "#E69F00"


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
    height, width = image_size(tuple(image_shape))
    # Inches of an image's width, so that the figure fits on a page.
    edge = min(1.7, 9.0 / num_columns, 9.0 * width / (num_rows * height))
    # The rest is what titles, row labels and a colour bar take.
    return (num_rows, num_columns), (
        max(4.2, edge * num_columns + 1.2),
        edge * num_rows * height / width + 0.2 * num_rows + 1.0,
    )


def array_of_axes(axes: Any) -> npt.NDArray[Any]:
    """Axes, however they are nested, as an array."""
    return np.asarray(axes, dtype=np.object_)


def image_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of an image."""
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) == 3 and shape[0] in (1, 3):
        return shape[1], shape[2]
    if len(shape) == 3 and shape[2] in (1, 3):
        return shape[0], shape[1]
    raise DataError(f"image_shape={shape}: expected (H, W), (1, H, W), (3, H, W) or (H, W, 3)")


def as_images(rows: FloatArray, image_shape: Sequence[int]) -> FloatArray:
    """Rows as images: (rows, H, W) in grey, (rows, H, W, 3) in colour."""
    shape = tuple(int(n) for n in image_shape)
    height, width = image_size(shape)
    if math.prod(shape) != rows.shape[1]:
        raise DataError(
            f"image_shape={shape} has {math.prod(shape)} pixels and the rows have {rows.shape[1]} entries: expected as "
            "many; give the shape of one image"
        )
    images = rows.reshape(len(rows), *shape)
    if math.prod(shape) == height * width:
        return images.reshape(len(rows), height, width)
    return images.transpose(0, 2, 3, 1) if shape[0] == 3 else images


def painted(image: FloatArray, low: float, high: float) -> FloatArray:
    """An image in grey or colour as red, green and blue from 0 to 1, with a colour of its own for what is missing."""
    scaled = np.clip((image - low) / (high - low), 0.0, 1.0)
    if scaled.ndim == 2:
        scaled = np.repeat(scaled[..., None], 3, axis=-1)
    missing = np.isnan(scaled).any(axis=-1)
    scaled[missing] = to_rgb(_MISSING)
    return scaled
