"""How well a latent space keeps neighbours, and which training rows a sample is nearest to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from torch import Tensor

from pyro_lvm.errors import DataError

FloatArray = npt.NDArray[np.float64]

_FOLDS = 5
# Rows whose distance to their nearest other row says what distances mean.
_TYPICAL_ROWS = 2000


@dataclass(frozen=True)
class Neighbourhoods:
    """How well latent coordinates keep the neighbourhoods of rows, and PCA coordinates of as many dimensions.

    Attributes:
        num_rows: Rows looked at.
        num_neighbours: k.
        trustworthiness: From 0 to 1: neighbours in the latent space are neighbours among the rows (Venna & Kaski 2001).
        continuity: The same with the roles swapped: neighbours among the rows stay neighbours.
        pca_trustworthiness: Of PCA's coordinates.
        pca_continuity: Of PCA's coordinates.
        accuracy: Share of labels that the k nearest neighbours in the latent space tell, over five folds; None without
            classes.
        pca_accuracy: From PCA's coordinates.
        raw_accuracy: From the rows themselves.
    """

    num_rows: int
    num_neighbours: int
    trustworthiness: float
    continuity: float
    pca_trustworthiness: float
    pca_continuity: float
    accuracy: float | None = None
    pca_accuracy: float | None = None
    raw_accuracy: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class Nearest:
    """The training rows that samples are nearest to.

    Attributes:
        indices: Of the training rows, nearest first, shape (samples, count).
        distances: Euclidean, in the rows' units, the same shape.
        typical_distance: Median distance of a training row to the nearest other one: a sample much nearer than that to
            some row is that row remembered.
    """

    indices: npt.NDArray[np.int64]
    distances: FloatArray
    typical_distance: float


def neighbourhoods(
    x: Tensor | FloatArray,
    z: Tensor | FloatArray,
    labels: Any = None,
    *,
    num_neighbours: int = 5,
    max_rows: int = 3000,
    seed: int = 0,
) -> Neighbourhoods:
    """Judge how well latent coordinates keep what is near in the rows.

    Missing entries count as their feature's mean. All is by Euclidean distance, on the same rows.

    Args:
        x: Rows, shape (rows, ...), NaN where missing.
        z: Their latent coordinates, shape (rows, latent_dim).
        labels: Classes, one a row, negative or None for a row without; None, or floats (a quantity), for no accuracies.
        num_neighbours: k.
        max_rows: Of more rows, as many at random: memory grows with their square.
        seed: Of that choice and of the folds.

    Returns:
        The figures.

    Raises:
        DataError: The shapes don't fit, z isn't finite, or there are too few rows for so many neighbours.
    """
    points, coordinates = _filled(x), _matrix(z)
    if len(points) != len(coordinates):
        raise DataError(f"{len(points)} rows and {len(coordinates)} latent coordinates: expected as many")
    if not np.isfinite(coordinates).all():
        raise DataError("z holds NaN or infinite coordinates: expected finite ones; has the training diverged?")
    given = None if labels is None else _array(labels)
    if given is not None and given.shape != (len(points),):
        raise DataError(f"labels of shape {given.shape} for {len(points)} rows: expected one a row")
    if len(points) > max_rows:
        chosen = np.sort(np.random.default_rng(seed).choice(len(points), max_rows, replace=False))
        points, coordinates = points[chosen], coordinates[chosen]
        given = None if given is None else given[chosen]
    if not 1 <= num_neighbours < len(points) / 2:
        raise DataError(
            f"num_neighbours={num_neighbours} of {len(points)} rows: expected from 1 to below half the rows"
        )
    components = min(coordinates.shape[1], *points.shape)
    pca = PCA(components, random_state=seed).fit_transform(points)
    accuracies: dict[str, float] = {}
    known = None if given is None else _classes(given)
    if given is not None and known is not None and known.sum() >= _FOLDS * (num_neighbours + 1):
        spaces = {"accuracy": coordinates, "pca_accuracy": pca, "raw_accuracy": points}
        told = given[known].astype(str) if given.dtype.kind == "O" else given[known]
        for name, space in spaces.items():
            accuracies[name] = _accuracy(space[known], told, num_neighbours, seed)
    return Neighbourhoods(
        len(points),
        num_neighbours,
        *(
            float(trustworthiness(one, other, n_neighbors=num_neighbours))
            for one, other in ((points, coordinates), (coordinates, points), (points, pca), (pca, points))
        ),
        **accuracies,
    )


def nearest_rows(samples: Tensor | FloatArray, rows: Tensor | FloatArray, count: int = 1, *, seed: int = 0) -> Nearest:
    """Find the training rows nearest to samples, to see whether the model invents or remembers.

    Missing entries of the rows count as their feature's mean.

    Args:
        samples: Shape (samples, ...).
        rows: Training rows, shape (rows, ...).
        count: How many rows for each sample.
        seed: Of the rows that the typical distance is taken from, at most 2,000.

    Returns:
        Their places and distances.

    Raises:
        DataError: The shapes don't fit, or there are fewer rows than asked for.
    """
    points, wanted = _filled(rows), _matrix(samples)
    if points.shape[1] != wanted.shape[1]:
        raise DataError(f"samples of {wanted.shape[1]} entries and rows of {points.shape[1]}: expected as many")
    if not 1 <= count <= len(points) or len(points) < 2:
        raise DataError(f"count={count} of {len(points)} rows: expected from 1 to their number, and two rows at least")
    search = NearestNeighbors().fit(points)
    distances, indices = search.kneighbors(wanted, count)
    some = np.random.default_rng(seed).permutation(len(points))[:_TYPICAL_ROWS]
    among, _ = search.kneighbors(points[some], 2)
    return Nearest(indices.astype(np.int64), distances, float(np.median(among[:, 1])))


def _accuracy(points: FloatArray, labels: npt.NDArray[Any], num_neighbours: int, seed: int) -> float:
    folds = KFold(_FOLDS, shuffle=True, random_state=seed)
    return float(cross_val_score(KNeighborsClassifier(num_neighbours), points, labels, cv=folds).mean())


def _classes(labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Which rows have a class; None where the labels are a quantity, or tell nothing apart."""
    if labels.dtype.kind == "f":
        return None
    if labels.dtype.kind in "biu":
        known = np.asarray(labels.astype(np.int64) >= 0)
    else:
        known = np.array([label is not None and label == label for label in labels])
    return known if len(set(labels[known].tolist())) > 1 else None


def _filled(rows: Tensor | FloatArray) -> FloatArray:
    points = _matrix(rows)
    missing = np.isnan(points)
    if not missing.any():
        return points
    number = np.maximum((~missing).sum(0), 1)
    means = np.where(missing, 0.0, points).sum(0) / number
    return np.where(missing, means, points)


def _matrix(values: Tensor | FloatArray) -> FloatArray:
    array = _array(values)
    if array.ndim < 2 or 0 in array.shape:
        raise DataError(f"numbers of shape {array.shape}: expected (rows, ...), with a row and an entry at least")
    return array.reshape(len(array), -1).astype(np.float64)


def _array(values: Any) -> npt.NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
