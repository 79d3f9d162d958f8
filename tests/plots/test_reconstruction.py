"""Rows beside their reconstructions: what the axes hold is read back from them and compared with the rows."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from sklearn.metrics import r2_score

from pyro_lvm import plots
from pyro_lvm.errors import DataError


def points_of(ax: plt.Axes) -> np.ndarray:
    """Everything scattered, in order of the first coordinate."""
    drawn = [c.get_offsets().data for c in ax.collections if isinstance(c, PathCollection)]
    together = np.concatenate(drawn)
    return together[np.lexsort(together.T[::-1])]


def in_order(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(points.T[::-1])]


def draw(ax: plt.Axes) -> None:
    """Rendering is where locators and layouts fail."""
    ax.figure.canvas.draw()


class TestReconstructions:
    x = np.random.default_rng(0).uniform(size=(12, 24))

    def test_originals_stand_above_their_own_reconstructions(self):
        """A row out of step would show one image's reconstruction under another."""
        axes = plots.reconstructions(self.x, self.x + 0.01, (4, 6), count=3)
        assert axes.shape == (2, 3)
        low, high = self.x[:3].min(), self.x[:3].max()
        for column in range(3):
            for row, values in enumerate((self.x, self.x + 0.01)):
                expected = np.clip((values[column].reshape(4, 6) - low) / (high - low), 0, 1)
                np.testing.assert_allclose(axes[row, column].images[0].get_array()[..., 0], expected)
        assert [axes[row, 0].get_ylabel() for row in range(2)] == ["original", "reconstruction"]
        draw(axes[0, 0])

    def test_no_more_are_drawn_than_there_are(self):
        """Two rows must not need eight axes."""
        assert plots.reconstructions(self.x[:2], self.x[:2], (4, 6)).shape == (2, 2)

    def test_missing_entries_have_a_colour_of_their_own_and_it_is_said(self):
        """Drawn black, a hole looks like a dark pixel."""
        x = self.x.copy()
        x[0, 0] = np.nan
        x[1] = np.nan
        axes = plots.reconstructions(x, self.x, (4, 6), count=2)
        image = axes[0, 0].images[0].get_array()
        np.testing.assert_allclose(image[0, 0], to_rgb("#E69F00"))
        assert (np.ptp(image.reshape(-1, 3)[1:], axis=1) == 0).all()
        assert "missing" in axes[0, 0].get_ylabel()
        assert np.isfinite(axes[1, 1].images[0].get_array()).all()

    @pytest.mark.parametrize("shape", [(3, 2, 4), (2, 4, 3)])
    def test_colour_images_keep_their_channels(self, shape):
        """Channels first and channels last are both common."""
        axes = plots.reconstructions(self.x.reshape(12, *shape), self.x, shape, count=1)
        image = self.x[0].reshape(shape)
        expected = np.moveaxis(image, 0, -1) if shape[0] == 3 else image
        low, high = self.x[0].min(), self.x[0].max()
        np.testing.assert_allclose(axes[0, 0].images[0].get_array(), (expected - low) / (high - low))

    @pytest.mark.parametrize("x", [np.zeros((2, 24)), np.full((2, 24), np.nan)])
    def test_images_without_contrast_draw(self, x):
        """Blank images have no range to scale by."""
        draw(plots.reconstructions(x, np.zeros((2, 24)), (4, 6))[0, 0])

    def test_given_axes_are_used(self):
        """A notebook may want them beside something else."""
        _, given = plt.subplots(2, 3)
        axes = plots.reconstructions(self.x, self.x, (4, 6), count=3, axes=given)
        assert all(made is ax for made, ax in zip(axes.flat, given.flat, strict=True))

    def test_r_squared_is_that_of_scikit_learn(self):
        """Standardised entries pooled over features weigh each feature alike: scikit-learn's uniform average."""
        rng = np.random.default_rng(1)
        x = rng.normal(size=(300, 4)) * [1, 10, 0.01, 5] + [0, 100, 3, -7]
        x_hat = x + rng.normal(size=(300, 4)) * [0.5, 3, 0.02, 1]
        ax = plots.reconstruction_scatter(x, x_hat)
        expected = r2_score(x, x_hat, multioutput="uniform_average")
        assert f"R² = {expected:.3f}".replace("-", "−") in ax.get_title()
        scale = x.std(axis=0)
        expected_points = np.stack([((v - x.mean(axis=0)) / scale).ravel() for v in (x, x_hat)], axis=1)
        np.testing.assert_allclose(points_of(ax), in_order(expected_points))

    def test_missing_entries_and_constant_features_are_left_out(self):
        """Either would turn R² into NaN or infinity."""
        rng = np.random.default_rng(2)
        x = rng.normal(size=(100, 3))
        x[:, 1] = 0.1
        x[::2, 0] = np.nan
        ax = plots.reconstruction_scatter(x, np.nan_to_num(x))
        assert "R² = 1.000 (100 rows, 2 features)" in ax.get_title()
        assert len(points_of(ax)) == 150

    def test_the_identity_is_drawn_across_the_axes(self):
        """It is what the points are compared with."""
        ax = plots.reconstruction_scatter(self.x, self.x)
        (line,) = ax.lines
        np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())
        assert ax.get_xlim() == ax.get_ylim() == tuple(line.get_xdata())

    @pytest.mark.parametrize(
        ("call", "says"),
        [
            (lambda x: plots.reconstructions(x, x, (5, 5)), "25 pixels"),
            (lambda x: plots.reconstructions(x, x[:5], (4, 6)), "12 rows of 24 entries, x_hat 5 of 24"),
            (lambda x: plots.reconstructions(x, x, (4, 6), count=0), "count=0"),
            (lambda x: plots.reconstructions(x, x, (4, 6), count=3, axes=plt.subplots(1, 3)[1]), r"expected \(2, 3\)"),
            (lambda x: plots.reconstruction_scatter(x, x[:, :3]), "x_hat 12 of 3"),
            (lambda x: plots.reconstruction_scatter(np.full_like(x, 1e6), x), "none of the 24 features"),
            (lambda x: plots.reconstruction_scatter(np.full_like(x, np.nan), x), "none of the 24 features"),
        ],
    )
    def test_what_does_not_fit_is_said_in_one_line(self, call, says):
        """Broadcasting would draw rows of another length without a word."""
        with pytest.raises(DataError, match=says) as caught:
            call(self.x)
        assert "\n" not in str(caught.value)
