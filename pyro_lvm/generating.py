"""What a saved run makes up: new rows, and given rows once more from their latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_lvm import plots
from pyro_lvm.data import Dataset
from pyro_lvm.data.files import TEXT_ENDINGS, ending_of
from pyro_lvm.data.writing import check_new_file, replacing, write_table
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.latent import LatentSpace
from pyro_lvm.latent_figures import LatentFigures
from pyro_lvm.pair import acceptable
from pyro_lvm.plots.files import DPI
from pyro_lvm.predictive import Replication, posterior_predictive
from pyro_lvm.reading import LoadedRun, load_run
from pyro_lvm.source import DataSource

_PICTURE = ".png"
_ENDINGS = (*TEXT_ENDINGS, ".parquet", ".npy", _PICTURE)
# Of a picture, side by side and in all.
_COLUMNS, _MOST_IMAGES = 10, 400


def sample_run(
    run: str | Path,
    out: str | Path,
    *,
    count: int = 100,
    near_class: str | None = None,
    near_row: int | None = None,
    mean: bool = False,
    root: str | None = None,
    pair: str | None = None,
    device: str = "auto",
    seed: int = 0,
    force: bool = False,
) -> Tensor:
    r"""Draw new rows from a saved run's model and write them: a table, or a picture of images.

    Their latents come from the prior; or from the mean of the posteriors of some of the run's rows,
    :math:`\frac1M \sum_m q(z \mid x_m)`: those of a class, which makes new ones of the class, or a single row.

    Args:
        run: Folder of a run.
        out: The file to write: text, .parquet or .npy for a table, .png for a picture.
        count: How many.
        near_class: Label of the rows to be near to.
        near_row: Number of the row to be near to, from 0.
        mean: What the latents decode to, E[x | z], instead of draws around it.
        root: Folder of the run's own named data set.
        pair: The pair's file, ``FILE.py:MODEL,GUIDE``, where it was defined in one.
        device: Where to compute.
        seed: Of the draws.
        force: Replace a file that is there.

    Returns:
        The rows, in the data's units, shape (count, data_dim).

    Raises:
        PyroLvmError: Anything given is unusable; what was there before is as it was.
    """
    out = _check_out(out, force)
    if count < 1 or not 0 <= seed < 2**32:
        raise DataError(f"count={count}, seed={seed}: expected 1 or more, and a seed from 0 to 2^32 - 1")
    loaded = load_run(run, root=root, pair=pair, device=device)
    if _is_picture(out):
        _image_shape(loaded.dataset, out)
        if count > _MOST_IMAGES:
            raise DataError(f"count={count} images in one picture: expected at most {_MOST_IMAGES}; write to a table")
    near = _near(loaded.dataset, near_class, near_row)
    scaled = loaded.scaling.transform(loaded.dataset.rows)
    if mean:
        space = LatentSpace(loaded.pair, scaled)
        z = space.draw_prior(count, seed=seed) if near is None else space.sample_near(scaled[near], count, seed=seed)
        drawn = space.decode(z)
    else:
        usable = torch.arange(len(scaled)) if near is None else near
        usable = usable[acceptable(loaded.pair, scaled[usable])]
        if len(usable) == 0:
            raise PairError(
                f"every row that was chosen has missing entries, which the guide {type(loaded.pair.guide).__name__} "
                "cannot take: choose other rows"
            )
        chosen = usable[torch.randint(len(usable), (count,), generator=torch.Generator().manual_seed(seed))]
        kind: Replication = "mixed" if near is None else "posterior"
        drawn = posterior_predictive(loaded.pair, scaled[chosen], 1, replication=kind, seed=seed)[0]
    rows = loaded.scaling.inverse(drawn.cpu().reshape(count, -1))
    if _is_picture(out):
        _save(out, _sheet(rows, loaded.dataset, out))
    else:
        _write_rows(out, rows, loaded.dataset)
    return rows


@dataclass(frozen=True)
class Reconstructed:
    """How well rows come back from their latents.

    Attributes:
        num_rows: How many.
        r_squared: 1 - squared error / variance over the observed entries, each feature in its own standard deviation,
            those that vary; pixels are in the same unit. None where nothing varies.
    """

    num_rows: int
    r_squared: float | None


def reconstruct_run(
    run: str | Path,
    out: str | Path,
    source: DataSource | None = None,
    *,
    root: str | None = None,
    pair: str | None = None,
    device: str = "auto",
    seed: int = 0,
    force: bool = False,
) -> Reconstructed:
    """Take rows through a saved run's latent space and back, to E[x | z] at the posterior mean of z, and write them.

    Args:
        run: Folder of a run.
        out: The file to write: text, .parquet or .npy for a table, in the order of the rows; .png for a picture of
            some images above their reconstructions, or of a table's entries against theirs.
        source: Other rows; None for the run's own.
        root: Folder of the run's own named data set.
        pair: The pair's file, ``FILE.py:MODEL,GUIDE``, where it was defined in one.
        device: Where to compute.
        seed: Of the choice of images.
        force: Replace a file that is there.

    Returns:
        How well they come back.

    Raises:
        PyroLvmError: Anything given is unusable; what was there before is as it was.
    """
    out = _check_out(out, force)
    loaded = load_run(run, source, root=root, pair=pair, device=device)
    space = LatentSpace(loaded.pair, loaded.scaling.transform(loaded.dataset.rows))
    rows = loaded.dataset.rows
    x_hat = loaded.scaling.inverse(space.decode(space.embed()).reshape(rows.shape))
    if _is_picture(out):
        _save(out, _reconstructions(loaded, space, x_hat, seed))
    else:
        _write_rows(out, x_hat, loaded.dataset)
    return Reconstructed(len(rows), _r_squared(rows, x_hat, one_unit=loaded.dataset.image_shape is not None))


def _near(dataset: Dataset, label: str | None, row: int | None) -> Tensor | None:
    """Numbers of the rows to be near to; None for no such wish."""
    if label is not None and row is not None:
        raise DataError(f"near class '{label}' and near row {row}: choose one of them")
    if row is not None:
        if not 0 <= row < dataset.num_rows:
            raise DataError(f"near row {row}: expected a row of the run's data, 0 to {dataset.num_rows - 1}")
        return torch.tensor([row])
    if label is None:
        return None
    if dataset.labels is None:
        raise DataError(f"near class '{label}': the data of the run has no labels; fit with --label COLUMN")
    codes = dataset.labels.unique()
    names = {str(int(c)) if dataset.label_names is None else dataset.label_names[int(c)]: c for c in codes if c >= 0}
    if label not in names:
        known = ", ".join(list(names)[:12])
        raise DataError(f"near class '{label}': the data of the run has the classes {known}")
    of_class: Tensor = (dataset.labels == names[label]).nonzero()[:, 0]
    return of_class


def _check_out(out: str | Path, force: bool) -> Path:
    out = Path(out)
    if not out.name.lower().endswith(_ENDINGS):
        raise DataError(f"'{out}' has an ending that isn't known: expected {', '.join(_ENDINGS)}")
    check_new_file(out, force=force)
    return out


def _is_picture(out: Path) -> bool:
    return out.suffix.lower() == _PICTURE


def _image_shape(dataset: Dataset, out: Path) -> tuple[int, ...]:
    if dataset.image_shape is None:
        raise DataError(f"'{out}' is to be a picture, but the rows of the run are no images: write to .csv or .npy")
    return dataset.image_shape


def _write_rows(out: Path, rows: Tensor, dataset: Dataset) -> None:
    if out.suffix.lower() == ".npy":
        # By its name NumPy would add an ending in small letters.
        with replacing(out) as beside, beside.open("wb") as file:
            np.save(file, rows.numpy())
        return
    names = dataset.feature_names or tuple(str(i) for i in range(dataset.data_dim))
    delimiter = "\t" if (ending_of(out.name) or "").startswith(".tsv") else ","
    write_table(out, [pd.DataFrame(rows.numpy(), columns=list(names))], delimiter=delimiter)


def _save(out: Path, figure: Figure) -> None:
    with replacing(out) as beside:
        figure.savefig(beside, dpi=DPI, bbox_inches="tight")


def _sheet(rows: Tensor, dataset: Dataset, out: Path) -> Figure:
    """Images side by side."""
    shape = _image_shape(dataset, out)
    layout, size = plots.grid_layout(len(rows), shape, num_columns=min(len(rows), _COLUMNS))
    figure = Figure(figsize=size, layout="compressed")
    axes = figure.subplots(*layout, squeeze=False).reshape(1, -1)
    for ax in axes[0, len(rows) :]:
        ax.set_axis_off()
    known = dataset.rows[dataset.rows.isfinite()]
    limits = (float(known.min()), float(known.max()))
    plots.image_rows(rows[None], shape, limits=limits, axes=axes[:, : len(rows)])
    return figure


def _reconstructions(loaded: LoadedRun, space: LatentSpace, x_hat: Tensor, seed: int) -> Figure:
    dataset = loaded.dataset
    if dataset.image_shape is None:
        figure = Figure(figsize=(5.8, 5.2), layout="constrained")
        plots.reconstruction_scatter(dataset.rows, x_hat, figure.add_subplot())
        return figure
    figures = LatentFigures(
        space,
        labels=dataset.labels,
        label_names=dataset.label_names,
        image_shape=dataset.image_shape,
        inverse=loaded.scaling.inverse,
        seed=seed,
    )
    return figures.reconstructions()


def _r_squared(x: Tensor, x_hat: Tensor, *, one_unit: bool) -> float | None:
    x, x_hat = x.double(), x_hat.double()
    deviation = x - x.nanmean(0)
    variance = deviation.square().nanmean(0)
    # Rounding alone makes a constant column vary.
    varies = variance > 1e-12 * x.nanmean(0).square()
    if not bool(varies.any()):
        return None
    weights = torch.ones_like(variance) if one_unit else 1 / variance
    squares = [(difference.square() * weights)[:, varies].nansum() for difference in (x - x_hat, deviation)]
    return float(1 - squares[0] / squares[1])
