"""Pictures of a latent space: what the axes hold is read back from them."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb

from pyro_lvm import plots
from pyro_lvm.errors import DataError
from pyro_lvm.evidence import LatentUnits

RNG = np.random.default_rng(0)


def points_of(ax: plt.Axes) -> np.ndarray:
    drawn = np.concatenate([c.get_offsets().data for c in ax.collections if isinstance(c, PathCollection)])
    return drawn[np.lexsort(drawn.T[::-1])]


def draw(ax: plt.Axes) -> None:
    """Rendering is where locators and layouts fail."""
    ax.figure.canvas.draw()


class TestPriorAndPosterior:
    def test_each_side_holds_its_own_points_on_one_scale(self) -> None:
        """Wrong: the sides are swapped, or a narrow posterior is blown up to look as wide as the prior."""
        prior, posterior = RNG.normal(size=(200, 3)), 0.1 * RNG.normal(size=(200, 3)) + 1
        axes = plots.prior_and_posterior(prior, posterior, RNG.integers(0, 3, 200), dims=(0, 2))
        for ax, z in zip(axes, (prior, posterior), strict=True):
            expected = z[:, [0, 2]]
            np.testing.assert_allclose(points_of(ax), expected[np.lexsort(expected.T[::-1])])
        assert axes[0].get_xlim() == axes[1].get_xlim()
        assert axes[0].get_ylim() == axes[1].get_ylim()
        assert axes[0].get_legend() is None
        assert len(np.unique(axes[0].collections[0].get_facecolor(), axis=0)) == 1, "a draw from the prior has no label"
        assert axes[1].get_legend() is not None
        draw(axes[0])

    def test_one_latent_coordinate(self) -> None:
        """Wrong: a one-dimensional latent space can't be drawn."""
        draw(plots.prior_and_posterior(RNG.normal(size=(50, 1)), RNG.normal(size=(50, 1)))[1])

    def test_unlike_sizes(self) -> None:
        """Wrong: labels would be matched to other points on one side."""
        with pytest.raises(DataError, match="as many of each"):
            plots.prior_and_posterior(np.ones((4, 2)), np.ones((5, 2)))


class TestDecodedGrid:
    z = np.stack(np.meshgrid([-1.0, 0.0, 1.0, 2.0], [-2.0, 0.0, 3.0]), axis=-1)

    def test_the_second_coordinate_grows_upwards(self) -> None:
        """Wrong: the picture is upside down, or its axes swapped. Each tile is as grey as z1 + 10 z2."""
        images = (self.z[..., 0] + 10 * self.z[..., 1])[..., None] * np.ones(6)
        ax = plots.decoded_grid(images, (2, 3), self.z)
        picture = ax.images[0].get_array()[..., 0]
        # A black seam of one pixel between two images.
        assert picture.shape == (3 * 2 + 2, 4 * 3 + 3)
        assert (picture[2] == 0).all()
        low, high = images.min(), images.max()
        np.testing.assert_allclose(picture[-1, 0], (images[0, 0, 0] - low) / (high - low))
        np.testing.assert_allclose(picture[0, -1], (images[2, 3, 0] - low) / (high - low))
        np.testing.assert_allclose(picture[-1, -1], (images[0, 3, 0] - low) / (high - low))
        assert [t.get_text() for t in ax.get_xticklabels()] == ["−1", "0", "1", "2"]
        assert [t.get_text() for t in ax.get_yticklabels()] == ["3", "0", "−2"]
        draw(ax)

    def test_colour_and_given_axes(self) -> None:
        """Wrong: channels are taken for pixels."""
        ax = plt.subplots()[1]
        images = torch.rand(2, 2, 3, 4, 5)
        assert plots.decoded_grid(images, (3, 4, 5), limits=(0, 1), ax=ax) is ax
        np.testing.assert_allclose(ax.images[0].get_array()[5:, :5], images[0, 0].permute(1, 2, 0))

    def test_shapes(self) -> None:
        """Wrong: another grid's ticks stand beside the picture."""
        with pytest.raises(DataError, match="the same grid"):
            plots.decoded_grid(np.ones((2, 2, 4)), (2, 2), self.z)
        with pytest.raises(DataError, match="image_shape"):
            plots.decoded_grid(np.ones((2, 2, 4)), (3, 2))
        with pytest.raises(DataError, match="none of their entries finite"):
            plots.decoded_grid(np.full((2, 2, 4), np.nan), (2, 2))


class TestImageRows:
    def test_images_stand_where_they_belong_on_one_scale(self) -> None:
        """Wrong: each image stretched to its own range makes a faint one look like any other."""
        images = RNG.uniform(size=(2, 3, 6))
        axes = plots.image_rows(images, (2, 3), row_titles=["a", "b"], column_titles=["1", "2", "3"], title="all")
        scaled = (images - images.min()) / np.ptp(images)
        for i, j in np.ndindex(2, 3):
            np.testing.assert_allclose(axes[i, j].images[0].get_array()[..., 1], scaled[i, j].reshape(2, 3))
        assert [ax.get_ylabel() for ax in axes[:, 0]] == ["a", "b"]
        assert [ax.get_title() for ax in axes[0]] == ["1", "2", "3"]
        draw(axes[0, 0])

    def test_titles_that_dont_fit(self) -> None:
        """Wrong: rows carry other rows' names."""
        with pytest.raises(DataError, match="3 row titles for 2 rows"):
            plots.image_rows(np.ones((2, 2, 4)), (2, 2), row_titles=["a", "b", "c"])

    def test_samples_stand_above_their_nearest_rows(self) -> None:
        """Wrong: a sample is compared with another's neighbour."""
        samples, rows = RNG.uniform(-1, 2, size=(3, 4)), RNG.uniform(size=(3, 4))
        axes = plots.samples_and_nearest(samples, rows, np.array([0.5, 1.25, 2.0]), 1.0, (2, 2))
        limits = rows.min(), rows.max()
        expected = np.clip((samples[1] - limits[0]) / (limits[1] - limits[0]), 0, 1)
        np.testing.assert_allclose(axes[0, 1].images[0].get_array()[..., 0].ravel(), expected)
        assert [ax.get_xlabel() for ax in axes[1]] == ["0.5", "1.25", "2"]


class TestUnits:
    def test_bars_are_sorted_and_collapsed_ones_grey(self) -> None:
        """Wrong: a collapsed dimension passes for a used one."""
        units = LatentUnits("z", torch.tensor([0.5, 0.001, 2.0]), torch.tensor([0.4, 0.002, 0.9]))
        ax = plots.kl_per_dimension(units)
        assert [patch.get_height() for patch in ax.patches] == pytest.approx([2.0, 0.5, 0.001])
        assert [t.get_text() for t in ax.get_xticklabels()] == ["z3", "z1", "z2"]
        assert ax.patches[2].get_facecolor()[:3] == to_rgb("#BBBBBB")
        assert ax.patches[1].get_facecolor()[:3] == to_rgb("#0072B2")
        assert "2 of 3" in ax.get_title()
        draw(ax)

    def test_many_dimensions_draw(self) -> None:
        """Wrong: labels of 200 dimensions lie over each other, or the layout fails."""
        ax = plots.kl_per_dimension(LatentUnits("z", torch.rand(200), torch.rand(200)))
        assert len(ax.patches) == 60
        draw(ax)

    def test_unknown_divergences(self) -> None:
        """Wrong: an empty picture."""
        with pytest.raises(DataError, match="no KL is known"):
            plots.kl_per_dimension(LatentUnits("z", None, torch.ones(2)))

    def test_traversals_of_a_table_are_in_the_features_deviations(self) -> None:
        """Wrong: a feature in grams hides one in tonnes. Lines of the largest change come first."""
        z = np.linspace(-2, 2, 5)[None, :, None] * np.ones((1, 1, 1))
        x = np.concatenate([z, 1000 * z, np.zeros_like(z)], axis=2)
        (ax,) = plots.traversal_lines(z, x, np.array([0.5, 4000.0, 0.0]), ["gram", "tonne", "same"])
        assert [line.get_label() for line in ax.lines] == ["gram", "tonne", "same"]
        np.testing.assert_allclose(ax.lines[0].get_ydata(), [-4, -2, 0, 2, 4])
        np.testing.assert_allclose(ax.lines[1].get_ydata(), [-0.5, -0.25, 0, 0.25, 0.5])
        np.testing.assert_allclose(ax.lines[0].get_xdata(), z[0, :, 0])
        draw(ax)

    def test_traversals_of_other_shapes(self) -> None:
        """Wrong: a traceback from NumPy."""
        with pytest.raises(DataError, match="expected \\(num_dims, num"):
            plots.traversal_lines(np.ones((2, 5, 2)), np.ones((2, 4, 3)), np.ones(3))
