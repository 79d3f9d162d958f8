"""Loadings, as images where a row is one and as a heatmap where it is a line of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from pyro_lvm.errors import DataError
from pyro_lvm.plots.images import array_of_axes, as_images, grid_layout
from pyro_lvm.plots.shared import FloatArray, as_matrix, own_axes, short

_DIVERGING = "RdBu_r"
_MAX_HEATMAP_FEATURES = 40


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
    images = as_images(loadings.T, image_shape)
    titles = _column_titles(titles, count)
    if axes is None:
        shape, size = grid_layout(count, image_shape)
        figure, axes = plt.subplots(*shape, figsize=size, layout="compressed", squeeze=False)
        figure.suptitle("Loadings" if images.ndim == 3 else "Loadings (grey is zero)")
    panels = array_of_axes(axes)
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
    ax = own_axes(ax, heatmap_size(data_dim, latent_dim))
    limit = float(np.abs(loadings).max()) or 1.0
    image = ax.imshow(loadings[shown], cmap=_DIVERGING, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    ax.set_yticks(range(len(shown)), [short(names[i]) for i in shown], fontsize=9)
    ax.set_xticks(range(latent_dim), titles, fontsize=9)
    ax.tick_params(length=0)
    ax.set_title("Loadings" if len(shown) == data_dim else f"Loadings: the {len(shown)} largest of {data_dim} features")
    bar = ax.figure.colorbar(image, ax=ax)
    bar.set_label(quantity)
    return ax


def heatmap_size(num_features: int, num_columns: int) -> tuple[float, float]:
    """Choose the size in inches of a figure for :func:`loadings_heatmap`."""
    return 3.6 + min(0.5, 9.0 / num_columns) * max(2, num_columns), 1.2 + 0.24 * max(
        8, min(num_features, _MAX_HEATMAP_FEATURES)
    )


def _finite_loadings(loadings: Any) -> FloatArray:
    matrix = as_matrix(loadings, "loadings", "(data_dim, latent_dim)")
    if not np.isfinite(matrix).all():
        raise DataError("loadings hold NaN or infinite entries: expected finite numbers; has the fit diverged?")
    return matrix


def _column_titles(titles: Sequence[str] | None, count: int) -> list[str]:
    if titles is None:
        return [str(i + 1) for i in range(count)]
    if len(titles) != count:
        raise DataError(f"{len(titles)} titles for {count} loadings: expected one for each")
    return list(titles)
