"""The pictures of a latent space as files: what applies to the pair and its data is drawn, the rest left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_lvm import plots
from pyro_lvm.errors import PairError
from pyro_lvm.evidence import LatentUnits
from pyro_lvm.latent import LatentSpace, nearest_rows
from pyro_lvm.plots.files import write_figures

# What a page holds: classes, coordinates, images side by side, pairs of rows.
_MAX_CLASSES, _MAX_COORDINATES, _NUM_IMAGES, _NUM_PAIRS = 12, 10, 9, 6
_MAX_TABLE_COORDINATES = 6
_GRID = 15
# A map of more points is a blot.
_MAX_POINTS = 10_000


class LatentFigures:
    """Draws the pictures of a latent space.

    Args:
        space: The space, over the rows that it was trained on.
        units: What its dimensions are used for; the most used are drawn first. None where it isn't known.
        labels: One a row: integers (negative for none) or strings for classes, floats for a quantity.
        label_names: The classes' names, by integer label.
        feature_names: The columns' names.
        image_shape: Of one image, where a row is one.
        inverse: Takes rows as the pair sees them back to the data's own units.
        seed: Of everything drawn.
    """

    def __init__(
        self,
        space: LatentSpace,
        units: LatentUnits | None = None,
        *,
        labels: Any = None,
        label_names: Sequence[str] | None = None,
        feature_names: Sequence[str] | None = None,
        image_shape: Sequence[int] | None = None,
        inverse: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        self.space = space
        self.units = units
        self.labels = None if labels is None else np.asarray(labels)
        self.label_names = label_names
        self.feature_names = feature_names
        self.image_shape = image_shape
        self._inverse = inverse
        self.seed = seed
        self._random = np.random.default_rng(seed)
        order = list(range(space.latent_dim))
        if units is not None and units.kl is not None:
            order = units.kl.argsort(descending=True, stable=True).tolist()
        # The most used coordinates, in their own order.
        self.dims = sorted(order[:_MAX_COORDINATES])
        self._pair_of_dims = (sorted(order[:2])[0], sorted(order[:2])[-1])
        self._rows = self._in_units(space.rows.reshape(len(space.rows), -1))
        finite = self._rows[self._rows.isfinite()]
        self._limits = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)

    def save(self, folder: str | Path) -> list[Path]:
        """Write the pictures, 150 dots an inch, those that apply to the pair and to its data.

        ``prior_and_posterior.png``: draws from the prior, and of each row's latent under the guide, by label;
        ``kl_per_dimension.png``; ``traversals.png``: one coordinate moved at a time. Of images also
        ``decoded_grid.png`` over prior quantiles, ``interpolations.png`` between rows, ``reconstructions.png``,
        ``near_classes.png`` (or ``near_rows.png`` without classes): new rows where those of a class are; and
        ``nearest_rows.png``: samples of the model above the training rows that they are nearest to.

        Args:
            folder: Where to write; made if it isn't there.

        Returns:
            The files written.

        Raises:
            ArtifactError: The folder can't be written.
            PairError: The pair decodes to nothing that can be drawn.
        """
        figures: dict[str, Figure | None] = {
            "prior_and_posterior": self.prior_and_posterior(),
            "kl_per_dimension": self.kl_per_dimension(),
            "traversals": self.traversals(),
        }
        if self.image_shape is not None:
            near = "near_rows" if self._classes() is None else "near_classes"
            figures |= {
                "decoded_grid": self.decoded_grid(),
                "interpolations": self.interpolations(),
                near: self.samples_near(),
                "nearest_rows": self.nearest_rows(),
                "reconstructions": self.reconstructions(),
            }
        return write_figures(folder, figures)

    def prior_and_posterior(self) -> Figure:
        """The notes' two pictures: without pattern under the prior, in regions under the guide."""
        chosen = self._some(len(self.space.rows), _MAX_POINTS)
        posterior = self.space.draw(self.space.rows[chosen], seed=self.seed)
        prior = self.space.draw_prior(len(chosen), seed=self.seed)
        figure = Figure(figsize=(11.5, 5.2), layout="constrained")
        plots.prior_and_posterior(
            prior,
            posterior,
            None if self.labels is None else self.labels[chosen.numpy()],
            label_names=self.label_names,
            dims=self._pair_of_dims,
            axes=figure.subplots(1, 2),
        )
        return figure

    def kl_per_dimension(self) -> Figure | None:
        """KL of each latent dimension."""
        if self.units is None or self.units.kl is None or len(self.units.kl) < 2:
            return None
        figure = Figure(figsize=(max(4.6, min(11.0, 1.6 + 0.32 * len(self.units.kl))), 4.0), layout="constrained")
        plots.kl_per_dimension(self.units, figure.add_subplot())
        return figure

    def traversals(self) -> Figure:
        """One coordinate at a time, the most used ones."""
        dims = self.dims if self.image_shape is not None else self.dims[:_MAX_TABLE_COORDINATES]
        z = self.space.traverse(dims=dims, num=_NUM_IMAGES if self.image_shape is not None else 41)
        x = self._decoded(z)
        if self.image_shape is not None:
            titles = [f"$z_{{{dim + 1}}}$" for dim in dims]
            return self._image_rows(x, "Prior quantiles from 0.02 to 0.98 of one coordinate at a time", titles)
        columns = min(3, len(dims))
        lines = -(-len(dims) // columns)
        figure = Figure(figsize=(4.8 * columns, 4.4 * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True).flat
        for ax in axes[len(dims) :]:
            ax.set_axis_off()
        values = torch.where(self._rows.isfinite(), self._rows, torch.nan).double()
        deviation = (values - values.nanmean(0)).square().nanmean(0).sqrt()
        plots.traversal_lines(z, x, deviation, self.feature_names, dims=dims, axes=axes[: len(dims)])
        figure.suptitle("Along each latent coordinate, the others at their prior medians")
        return figure

    def decoded_grid(self) -> Figure | None:
        """What the plane of the two most used coordinates decodes to."""
        if self.space.latent_dim < 2:
            return None
        z = self.space.grid(_GRID, self._pair_of_dims)
        figure = Figure(figsize=plots.grid_figure_size(_GRID, _GRID, self._shape), layout="constrained")
        plots.decoded_grid(
            self._decoded(z), self._shape, z, dims=self._pair_of_dims, limits=self._limits, ax=figure.add_subplot()
        )
        return figure

    def interpolations(self) -> Figure | None:
        """On straight lines between the posterior means of rows, of different classes where there are any."""
        count = min(_NUM_PAIRS, len(self.space.rows) // 2)
        if count < 1:
            return None
        classes = self._classes()
        order = self._random.permutation(len(self.space.rows))
        if classes is not None:
            # One of each class after the other, so that neighbours in this order differ.
            _, sizes = np.unique(classes, return_counts=True)
            ranks = np.concatenate([np.arange(size) for size in sizes])
            by_class = order[np.argsort(classes[order], kind="stable")]
            order = by_class[np.argsort(ranks, kind="stable")]
        ends = torch.from_numpy(order[: 2 * count].reshape(count, 2).copy())
        start, end = (self.space.embed(self.space.rows[ends[:, i]]) for i in range(2))
        points = self.space.interpolate(start, end, _NUM_IMAGES)
        return self._image_rows(self._decoded(points), "From the latent mean of one row to another's")

    def samples_near(self) -> Figure:
        """New rows where those of each class are; or, without classes, around single rows."""
        classes = self._classes()
        if classes is None:
            chosen = self._some(len(self.space.rows), _NUM_PAIRS)
            own = []
            for i in chosen.tolist():
                near = self.space.sample_near(self.space.rows[i : i + 1], _NUM_IMAGES, seed=self.seed)
                own.append(torch.cat([self._rows[i : i + 1], self._decoded(near)]))
            columns = ["the row", *[""] * _NUM_IMAGES]
            return self._image_rows(torch.stack(own), "Rows and draws near them", columns=columns)
        codes = [code for code in np.unique(classes) if code >= 0][:_MAX_CLASSES]
        drawn = [
            self._decoded(
                self.space.sample_near(self.space.rows[torch.from_numpy(classes == code)], _NUM_IMAGES, seed=self.seed)
            )
            for code in codes
        ]
        return self._image_rows(torch.stack(drawn), "Drawn where the rows of each class are", self._names(codes))

    def nearest_rows(self) -> Figure | None:
        """Samples above the training rows that they are nearest to."""
        if len(self._rows) < 2:
            return None
        samples = self._decoded(self.space.draw_prior(_NUM_IMAGES, seed=self.seed))
        nearest = nearest_rows(samples, self._rows, seed=self.seed)
        shape, size = plots.grid_layout(2 * _NUM_IMAGES, self._shape, num_columns=_NUM_IMAGES)
        figure = Figure(figsize=(size[0], size[1] + 0.3), layout="compressed")
        plots.samples_and_nearest(
            samples,
            self._rows[torch.from_numpy(nearest.indices[:, 0])],
            nearest.distances[:, 0],
            nearest.typical_distance,
            self._shape,
            axes=figure.subplots(*shape, squeeze=False),
        )
        figure.suptitle(
            "Samples, the rows that they are nearest to, and how far "
            f"(rows from each other: {nearest.typical_distance:.3g})"
        )
        return figure

    def reconstructions(self) -> Figure:
        """Rows above what their latent means decode to."""
        classes = self._classes()
        order = self._random.permutation(len(self.space.rows))
        if classes is not None:
            _, first = np.unique(classes[order], return_index=True)
            order = order[np.concatenate([first, np.setdiff1d(np.arange(len(order)), first)])]
        chosen = torch.from_numpy(order[:_NUM_IMAGES].copy())
        x_hat = self._decoded(self.space.embed(self.space.rows[chosen]))
        x = self._in_units(self.space.rows[chosen].reshape(len(chosen), -1))
        shape, size = plots.grid_layout(2 * len(chosen), self._shape, num_columns=len(chosen))
        figure = Figure(figsize=size, layout="compressed")
        axes = figure.subplots(*shape, squeeze=False)
        plots.reconstructions(x, x_hat, self._shape, count=len(chosen), axes=axes)
        figure.suptitle("Originals and their reconstructions from the latent means")
        return figure

    # ------------------------------------------------------------------ shared

    @property
    def _shape(self) -> Sequence[int]:
        if self.image_shape is None:
            raise PairError("the rows are no images: give image_shape to draw them")
        return self.image_shape

    def _some(self, total: int, count: int) -> Tensor:
        if total <= count:
            return torch.arange(total)
        return torch.from_numpy(np.sort(self._random.choice(total, count, replace=False)))

    def _in_units(self, rows: Tensor) -> Tensor:
        rows = rows.detach().cpu()
        return rows if self._inverse is None else self._inverse(rows)

    def _decoded(self, z: Tensor) -> Tensor:
        x = self.space.decode(z)
        return self._in_units(x.reshape(*z.shape[:-1], -1))

    def _classes(self) -> Any:
        """A number for each row's class, -1 without one; None where there are no classes, or a quantity."""
        if self.labels is None or self.labels.dtype.kind == "f":
            return None
        if self.labels.dtype.kind in "biu":
            codes = np.where(self.labels.astype(np.int64) < 0, -1, self.labels.astype(np.int64))
        else:
            known = np.array([label is not None and label == label for label in self.labels])
            codes = np.full(len(self.labels), -1)
            codes[known] = np.unique(self.labels[known].astype(str), return_inverse=True)[1]
        return codes if (codes >= 0).any() else None

    def _names(self, codes: Sequence[int]) -> list[str]:
        if self.labels is not None and self.labels.dtype.kind not in "biu":
            known = sorted({str(label) for label in self.labels if label is not None and label == label})
            return [known[code] for code in codes]
        return [str(code) if self.label_names is None else str(self.label_names[code]) for code in codes]

    def _image_rows(
        self, images: Tensor, title: str, rows: Sequence[str] | None = None, columns: Sequence[str] | None = None
    ) -> Figure:
        num_rows, num_columns = images.shape[:2]
        shape, size = plots.grid_layout(num_rows * num_columns, self._shape, num_columns=num_columns)
        figure = Figure(figsize=size, layout="compressed")
        plots.image_rows(
            images,
            self._shape,
            row_titles=rows,
            column_titles=columns,
            limits=self._limits,
            axes=figure.subplots(*shape, squeeze=False),
        )
        figure.suptitle(title)
        return figure
