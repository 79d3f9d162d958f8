"""How well neighbourhoods are kept, against brute force."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits

from pyro_lvm.errors import DataError
from pyro_lvm.latent import nearest_rows, neighbourhoods

RNG = np.random.default_rng(0)


def brute_trustworthiness(x: np.ndarray, z: np.ndarray, k: int) -> float:
    """Venna and Kaski 2001, written out with loops."""
    n = len(x)
    ranks = np.argsort(np.argsort(cdist(x, x), axis=1), axis=1)
    near = np.argsort(cdist(z, z), axis=1)[:, 1 : k + 1]
    penalty = sum(max(0, ranks[i, j] - k) for i in range(n) for j in near[i])
    return 1 - 2 / (n * k * (2 * n - 3 * k - 1)) * penalty


def test_trustworthiness_and_continuity() -> None:
    """Wrong: the roles of rows and coordinates are swapped, which hides what a map tears apart or glues together."""
    x = RNG.normal(size=(80, 5))
    z = x[:, :2] ** 3
    kept = neighbourhoods(x, z, num_neighbours=4)
    assert kept.trustworthiness == pytest.approx(brute_trustworthiness(x, z, 4), abs=1e-12)
    assert kept.continuity == pytest.approx(brute_trustworthiness(z, x, 4), abs=1e-12)
    assert kept.trustworthiness != pytest.approx(kept.continuity, abs=1e-3)
    assert kept.accuracy is None


def test_the_rows_themselves_are_kept_wholly() -> None:
    """Wrong: what loses nothing is not 1."""
    x = RNG.normal(size=(50, 3))
    kept = neighbourhoods(x, 7 * x + 1)
    assert kept.trustworthiness == kept.continuity == pytest.approx(1)
    assert kept.pca_trustworthiness == pytest.approx(1)


def test_accuracies_on_digits() -> None:
    """Wrong: PCA has another size than z, or labels are matched to other rows. 8 pixels, PCA of 8 and all 64."""
    data = load_digits()
    order = np.random.default_rng(1).permutation(len(data.data))[:600]
    x, labels = data.data[order], data.target[order]
    kept = neighbourhoods(x, RNG.normal(size=(600, 8)), labels)
    assert kept.accuracy < 0.2  # chance is 0.1
    assert 0.85 < kept.pca_accuracy < kept.raw_accuracy
    assert neighbourhoods(x, x, labels).accuracy == neighbourhoods(x, x, labels).raw_accuracy
    named = np.array([f"digit {label}" for label in labels], dtype=object)
    assert neighbourhoods(x, x, named).accuracy == pytest.approx(kept.raw_accuracy)


def test_rows_without_a_label_and_quantities() -> None:
    """Wrong: unlabelled rows count as a class of their own; a quantity as a thousand classes."""
    x = np.concatenate([RNG.normal(size=(60, 2)), RNG.normal(size=(60, 2)) + 8])
    labels = np.repeat([0, 1], 60)
    hidden = np.where(RNG.random(120) < 0.4, -1, labels)
    assert neighbourhoods(x, x, hidden).accuracy == 1.0
    assert neighbourhoods(x, x, x[:, 0]).accuracy is None
    assert neighbourhoods(x, x, np.zeros(120, int)).accuracy is None


def test_holes_count_as_the_features_mean() -> None:
    """Wrong: one hole makes every figure NaN."""
    x = RNG.normal(size=(60, 4))
    holes = x.copy()
    holes[3, 1] = math.nan
    filled = holes.copy()
    filled[3, 1] = np.nanmean(holes[:, 1])
    assert neighbourhoods(holes, x) == neighbourhoods(filled, x)


def test_many_rows_are_sampled() -> None:
    """Wrong: memory grows with the square of the rows, or z and x are sampled apart."""
    x = RNG.normal(size=(500, 3))
    kept = neighbourhoods(torch.from_numpy(x), torch.from_numpy(2 * x), max_rows=100)
    assert kept.num_rows == 100
    assert kept.trustworthiness == pytest.approx(1)


def test_nearest_rows_by_brute_force() -> None:
    """Wrong: a remembered row passes for an invention."""
    rows, samples = RNG.normal(size=(70, 4)), RNG.normal(size=(6, 4))
    samples[0] = rows[13]
    found = nearest_rows(samples, rows, 3)
    distances = cdist(samples, rows)
    np.testing.assert_array_equal(found.indices, np.argsort(distances, axis=1)[:, :3])
    np.testing.assert_allclose(found.distances, np.sort(distances, axis=1)[:, :3], atol=1e-7)
    assert found.indices[0, 0] == 13
    among = cdist(rows, rows) + np.diag(np.full(70, np.inf))
    assert found.typical_distance == pytest.approx(np.median(among.min(1)))


@pytest.mark.parametrize(
    ("x", "z", "labels", "k", "said"),
    [
        (np.ones((5, 2)), np.ones((4, 2)), None, 1, "5 rows and 4 latent"),
        (RNG.normal(size=(8, 2)), np.ones((8, 2)), None, 4, "below half the rows"),
        (RNG.normal(size=(8, 2)), np.full((8, 2), np.nan), None, 2, "NaN or infinite"),
        (RNG.normal(size=(8, 2)), np.ones((8, 2)), np.ones(7), 2, "labels of shape"),
    ],
)
def test_bad_input(x: np.ndarray, z: np.ndarray, labels: np.ndarray | None, k: int, said: str) -> None:
    """Wrong: scikit-learn's message, which doesn't speak of latent coordinates."""
    with pytest.raises(DataError, match=said):
        neighbourhoods(x, z, labels, num_neighbours=k)


def test_bad_counts_of_nearest_rows() -> None:
    """Wrong: as above."""
    with pytest.raises(DataError, match="samples of 3 entries and rows of 2"):
        nearest_rows(np.ones((2, 3)), np.ones((5, 2)))
    with pytest.raises(DataError, match="count=9 of 5 rows"):
        nearest_rows(np.ones((2, 2)), np.ones((5, 2)), 9)
