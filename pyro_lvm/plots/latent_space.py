"""A latent space before and after seeing the rows: draws from the prior beside draws from the posteriors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt

from pyro_lvm.errors import DataError
from pyro_lvm.plots.images import array_of_axes
from pyro_lvm.plots.latent import latent_map
from pyro_lvm.plots.shared import UNLABELLED, as_matrix

# Of the points, those that set the limits: a few far ones would make the rest a blot.
_SHOWN = 99.5


def prior_and_posterior(
    prior: Any,
    posterior: Any,
    labels: Any = None,
    *,
    label_names: Sequence[str] | None = None,
    dims: tuple[int, int] = (0, 1),
    axes: Any = None,
) -> npt.NDArray[Any]:
    """Draw latent coordinates under the prior beside those under the guide, on the same scale, the latter by label.

    Draws from the prior are no row's, and have no label.

    Args:
        prior: Draws from the prior, shape (rows, latent_dim), as many as ``posterior`` has.
        posterior: A draw, or the mean, of each row's posterior, the same shape.
        labels: One a row, as :func:`pyro_lvm.plots.latent_map` takes them.
        label_names: The classes' names, by integer label.
        dims: The two coordinates to draw; not looked at where there is but one.
        axes: Two axes; None makes a figure.

    Returns:
        The axes, shape (2,).

    Raises:
        DataError: Shapes don't fit, or no row is finite.
    """
    before, after = (
        as_matrix(given, name, "(rows, latent_dim)") for given, name in ((prior, "prior"), (posterior, "z"))
    )
    if before.shape != after.shape:
        raise DataError(f"prior has shape {before.shape}, posterior {after.shape}: expected as many of each")
    if axes is None:
        axes = plt.subplots(1, 2, figsize=(11.5, 5.2), layout="constrained")[1]
    panels = array_of_axes(axes).reshape(-1)
    if len(panels) != 2:
        raise DataError(f"{len(panels)} axes: expected two, for the prior and the posterior")
    columns = (0,) if after.shape[1] == 1 else dims
    names = [f"$z_{{{column + 1}}}$" for column in columns]
    titles = (r"Prior: $z \sim p(z)$", r"Posterior: $z \sim q(z \mid x)$")
    for ax, z, own, title in zip(panels, (before, after), (None, labels), titles, strict=True):
        latent_map(z, own, label_names=label_names, dims=dims, axis_labels=names, ax=ax)
        ax.set_title(title)
    # The colour of the first class would say that they are of it.
    for drawn in (*panels[0].collections, *panels[0].patches):
        drawn.set_facecolor(UNLABELLED)
    both = np.concatenate([before, after])[:, columns]
    both = both[np.isfinite(both).all(1)]
    extent = 1.1 * float(np.percentile(np.abs(both - np.median(both, 0)), _SHOWN)) or 1.0
    centre = np.median(both, 0)
    for ax in panels:
        ax.set_xlim(centre[0] - extent, centre[0] + extent)
        if len(columns) == 2:
            ax.set_aspect("equal", adjustable="box")
            ax.set_ylim(centre[1] - extent, centre[1] + extent)
    return panels
