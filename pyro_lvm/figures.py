"""The pictures of a trained pair as files: what applies to the pair and its data is drawn, the rest left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution

from pyro_lvm import plots
from pyro_lvm.errors import DataError
from pyro_lvm.grading import Grade
from pyro_lvm.history import History
from pyro_lvm.pair import Decodes, Encodes, Pair, acceptable
from pyro_lvm.plots.files import write_figures

# A map of more points is a blot, and a scatter no surer.
_MAX_ROWS = 10_000
_MAX_LOADINGS = 24
_NUM_IMAGES = 10


def save_figures(
    folder: str | Path,
    pair: Pair,
    rows: Tensor,
    history: History,
    grade: Grade | None = None,
    *,
    labels: Any = None,
    label_names: Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
    image_shape: Sequence[int] | None = None,
    inverse: Callable[[Tensor], Tensor] | None = None,
) -> list[Path]:
    """Write the pictures of a trained pair, 150 dots an inch, those that apply to it and to the data.

    ``elbo.png`` is the training against the exact optimum; ``latent_map.png`` the posterior means of the guide's
    ``encode``, along the two principal directions where there are more; ``loadings.png`` the model's ``loadings``
    turned to principal axes (their own are arbitrary under rotation); ``reconstructions.png`` what the model's
    ``decode`` makes of the guide's posterior means. Of more than 10,000 rows a random 10,000 are drawn.

    Args:
        folder: Where to write; made if it isn't there.
        pair: A trained pair.
        rows: The training rows, shape (rows, ...), NaN where missing.
        history: The record of the training.
        grade: The grade on the training rows, for the optimum; None where there is none.
        labels: One a row, as :func:`pyro_lvm.plots.latent_map` takes them.
        label_names: The classes' names, by integer label.
        feature_names: The columns' names.
        image_shape: Of one image, where a row is one.
        inverse: Takes rows as the pair sees them back to the data's own units, for the reconstructions.

    Returns:
        The files written.

    Raises:
        DataError: Labels, names or shape don't fit the rows.
        ArtifactError: The folder can't be written.
    """
    flat = _flat(rows)
    _check(flat, labels, feature_names, image_shape)
    drawn = _Drawn(pair, rows, labels)
    figures: dict[str, Figure | None] = {
        "elbo": _elbo(history, grade),
        "latent_map": _latent_map(drawn, label_names),
        "loadings": _loadings(pair.model, flat.shape[1], feature_names, image_shape),
        "reconstructions": _reconstructions(drawn, image_shape, inverse),
    }
    return write_figures(folder, figures)


def principal_axes(loadings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Turn loadings to their principal axes.

    .. math:: W = U S V^\top, \qquad W V = U S, \qquad z' = V^\top z

    The model says the same of x for any rotation of z; this one makes the columns orthogonal, in order of the variance
    that they explain, the entry of largest magnitude in each positive.

    Args:
        loadings: W, shape (data_dim, latent_dim).

    Returns:
        The turned loadings W V, the rotation V, shape (latent_dim, latent_dim), so that ``z @ V`` are the coordinates
        along them, and each column's share of the explained variance, shape (latent_dim,); in float64 on the CPU.
    """
    weights = loadings.detach().cpu().double()
    # The rotation is square either way; the other factor would not be small for many rows.
    _, singular, turned = torch.linalg.svd(weights, full_matrices=weights.shape[0] < weights.shape[1])
    rotation = turned.mT
    columns = weights @ rotation
    largest = columns.gather(0, columns.abs().argmax(0, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0)
    variance = torch.zeros(weights.shape[1], dtype=torch.float64)
    variance[: len(singular)] = singular**2
    return columns * sign, rotation * sign, variance / variance.sum().clamp(min=torch.finfo(torch.float64).tiny)


class _Drawn:
    """The rows that are drawn, with their labels and the guide's posterior means, None where the guide gives none."""

    def __init__(self, pair: Pair, rows: Tensor, labels: Any) -> None:
        self.pair = pair
        self.num_rows = len(rows)
        chosen = acceptable(pair, rows).cpu().numpy().nonzero()[0]
        if len(chosen) > _MAX_ROWS:
            chosen = np.sort(np.random.default_rng(0).choice(chosen, _MAX_ROWS, replace=False))
        self.rows = rows[torch.from_numpy(chosen).to(rows.device)].detach()
        self.z = self._means()
        self.labels = None
        if labels is not None:
            self.labels = (labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels))[chosen]

    def _means(self) -> Tensor | None:
        if not isinstance(self.pair.guide, Encodes) or len(self.rows) == 0:
            return None
        with self.pair.evaluating():
            means = _mean(self.pair.guide.encode(self.rows.to(self.pair.device)))
        if means is None or means.ndim != 2 or len(means) != len(self.rows):
            return None
        return means if bool(means.isfinite().all(1).any()) else None

    def decoded(self, z: Tensor) -> Tensor | None:
        """The model's mean of x for latent coordinates of some rows, shape (rows, data_dim)."""
        if not isinstance(self.pair.model, Decodes):
            return None
        with self.pair.evaluating():
            mean = _mean(self.pair.model.decode(z))
        if mean is None or mean.numel() != len(z) * self.rows[0].numel() or not bool(mean.isfinite().all()):
            return None
        return mean.reshape(len(z), -1)


def _check(flat: Tensor, labels: Any, feature_names: Sequence[str] | None, image_shape: Sequence[int] | None) -> None:
    num_rows, data_dim = flat.shape
    for what, given, expected in (
        ("labels", None if labels is None else len(labels), num_rows),
        ("feature names", None if feature_names is None else len(feature_names), data_dim),
        ("pixels in image_shape", None if image_shape is None else int(np.prod(image_shape)), data_dim),
    ):
        if given is not None and given != expected:
            raise DataError(
                f"{given} {what} for {num_rows} rows of {data_dim} columns: expected {expected}; give as many"
            )


def _elbo(history: History, grade: Grade | None) -> Figure | None:
    optimum = None if grade is None else grade.log_evidence_ml
    if optimum is not None and not np.isfinite(optimum):
        optimum = None
    figure = Figure(figsize=(7.0, 4.3), layout="constrained")
    try:
        plots.elbo_curve(history, optimum=optimum, ax=figure.add_subplot())
    except DataError:
        # Nothing recorded yet.
        return None
    return figure


def _latent_map(drawn: _Drawn, label_names: Sequence[str] | None) -> Figure | None:
    if drawn.z is None:
        return None
    z, names = _principal_means(drawn.z, _matrix_of_loadings(drawn.pair.model))
    figure = Figure(figsize=(7.4, 5.2), layout="constrained")
    ax = plots.latent_map(z, drawn.labels, label_names=label_names, axis_labels=names, ax=figure.add_subplot())
    count = int(z.isfinite().all(1).sum())
    of = "" if count == drawn.num_rows else f" of {drawn.num_rows:,}"
    ax.set_title(f"Posterior means of {count:,}{of} rows")
    return figure


def _matrix_of_loadings(model: Any) -> Tensor | None:
    loadings = getattr(model, "loadings", None)
    if isinstance(loadings, Tensor) and loadings.ndim == 2 and bool(loadings.isfinite().all()):
        return loadings.detach()
    return None


def _principal_means(z: Tensor, loadings: Tensor | None) -> tuple[Tensor, list[str] | None]:
    """Posterior means along the directions worth looking at, and what these are."""
    z = z.cpu().double()
    if loadings is not None and loadings.shape[1] == z.shape[1]:
        # A single latent too: its sign must be the one that the loadings are drawn with.
        _, rotation, shares = principal_axes(loadings)
        if z.shape[1] == 1:
            return z @ rotation, ["latent direction"]
        return z @ rotation, [
            f"latent direction {i + 1} ({_percent(share)} of the explained variance)" for i, share in enumerate(shares)
        ]
    if z.shape[1] <= 2:
        return z, None
    finite = z[z.isfinite().all(1)]
    _, rotation, shares = principal_axes(finite - finite.mean(0))
    return z @ rotation, [
        f"principal direction {i + 1} ({_percent(share)} of the posterior means' variance)"
        for i, share in enumerate(shares)
    ]


def _loadings(
    model: Any, data_dim: int, feature_names: Sequence[str] | None, image_shape: Sequence[int] | None
) -> Figure | None:
    loadings = _matrix_of_loadings(model)
    if loadings is None or len(loadings) != data_dim:
        return None
    turned, _, shares = principal_axes(loadings)
    turned, shares = turned[:, :_MAX_LOADINGS], shares[:_MAX_LOADINGS]
    count = turned.shape[1]
    first = "" if count == loadings.shape[1] else f" (the first {count} of {loadings.shape[1]})"
    if image_shape is not None:
        shape, size = plots.grid_layout(count, image_shape)
        figure = Figure(figsize=size, layout="compressed")
        titles = [f"{i + 1}: {_percent(share)}" for i, share in enumerate(shares)]
        plots.loadings_images(turned, image_shape, titles=titles, axes=figure.subplots(*shape, squeeze=False))
        figure.suptitle(f"Loadings by explained variance{first}")
        return figure
    entries, quantity = turned, "loading (units of the feature)"
    correlations = _correlations(loadings, turned, getattr(model, "noise_variance", None))
    if correlations is not None:
        entries, quantity = correlations, "correlation with the latent direction"
    figure = Figure(figsize=plots.heatmap_size(data_dim, count), layout="constrained")
    titles = [f"{i + 1}\n{_percent(share)}" for i, share in enumerate(shares)]
    ax = figure.add_subplot()
    plots.loadings_heatmap(entries, feature_names, titles=titles, quantity=quantity, ax=ax)
    ax.set_xlabel(f"latent direction, share of the explained variance{first}")
    return figure


def _correlations(loadings: Tensor, turned: Tensor, noise_variance: Any) -> Tensor | None:
    """Loadings over the standard deviations that the model gives the features, comparable whatever their units."""
    if not isinstance(noise_variance, Tensor) or noise_variance.numel() not in (1, len(loadings)):
        return None
    total = (loadings.cpu().double() ** 2).sum(1) + noise_variance.detach().cpu().double().reshape(-1)
    return turned / total.sqrt()[:, None] if bool((total > 0).all()) else None


def _reconstructions(
    drawn: _Drawn, image_shape: Sequence[int] | None, inverse: Callable[[Tensor], Tensor] | None
) -> Figure | None:
    if drawn.z is None:
        return None
    usable = drawn.z.isfinite().all(1).cpu().numpy().nonzero()[0]
    if image_shape is not None:
        usable = _one_of_each(usable, drawn.labels)
    chosen = torch.from_numpy(usable)
    x = _flat(drawn.rows[chosen.to(drawn.rows.device)]).cpu()
    x_hat = drawn.decoded(drawn.z[chosen.to(drawn.z.device)])
    if x_hat is None:
        return None
    if inverse is not None:
        x, x_hat = inverse(x), inverse(_flat(x_hat).cpu())
    if image_shape is not None:
        shape, size = plots.grid_layout(2 * len(x), image_shape, num_columns=len(x))
        figure = Figure(figsize=size, layout="compressed")
        axes = figure.subplots(*shape, squeeze=False)
        plots.reconstructions(x, x_hat, image_shape, count=len(x), axes=axes)
        figure.suptitle("Originals and their reconstructions from the posterior means")
        return figure
    figure = Figure(figsize=(5.8, 5.2), layout="constrained")
    try:
        plots.reconstruction_scatter(x, x_hat, ax=figure.add_subplot())
    except DataError:
        # No feature varies.
        return None
    return figure


def _one_of_each(usable: Any, labels: Any) -> Any:
    """A few rows at random; of each class one, as far as they go."""
    usable = np.random.default_rng(0).permutation(usable)
    if labels is None or labels.dtype.kind == "f":
        return usable[:_NUM_IMAGES]
    own = labels[usable] if labels.dtype.kind in "biu" else labels[usable].astype(str)
    _, first = np.unique(own, return_index=True)
    rest = np.setdiff1d(np.arange(len(usable)), first)
    return usable[np.concatenate([first, rest])[:_NUM_IMAGES]]


def _flat(rows: Tensor) -> Tensor:
    return rows.detach().reshape(len(rows), -1)


def _mean(distribution: Any) -> Tensor | None:
    """A distribution's mean, None where it has none."""
    if not isinstance(distribution, Distribution):
        return None
    try:
        mean: Tensor = distribution.mean
    except NotImplementedError:
        return None
    return mean.detach()


def _percent(share: Any) -> str:
    """A share in whole percent, which never rounds to nothing or to all."""
    rounded = round(100 * float(share))
    if rounded == 0 and share > 0:
        return "<1%"
    return ">99%" if rounded == 100 and share < 1 - 1e-9 else f"{rounded}%"
