"""Pictures of loadings: what the axes hold is read back from them and compared with the matrix."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from pyro_lvm import plots
from pyro_lvm.errors import DataError


def draw(ax: plt.Axes) -> None:
    """Rendering is where locators and layouts fail."""
    ax.figure.canvas.draw()


class TestLoadings:
    loadings = np.random.default_rng(0).normal(size=(24, 5))

    def test_each_loading_is_one_image_on_one_scale_around_zero(self):
        """Images on scales of their own can't be compared, and a scale off zero gives the sign away wrongly."""
        axes = plots.loadings_images(self.loadings, (4, 6), titles=list("abcde"))
        drawn = [ax for ax in axes.flat if ax.images]
        assert [ax.get_title() for ax in drawn] == list("abcde")
        for ax, column in zip(drawn, self.loadings.T, strict=True):
            np.testing.assert_allclose(ax.images[0].get_array(), column.reshape(4, 6))
            low, high = ax.images[0].get_clim()
            assert -low == high == np.abs(self.loadings).max()
        (bar,) = [ax for ax in axes.flat[0].figure.axes if ax not in list(axes.flat)]
        assert "units" in bar.get_xlabel()
        draw(axes.flat[0])

    @pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (4, 6, 1)])
    def test_a_channel_of_grey_changes_nothing(self, shape):
        """Data sets give grey images with and without their one channel."""
        axes = plots.loadings_images(self.loadings[:, :2], shape)
        np.testing.assert_allclose(axes.flat[1].images[0].get_array(), self.loadings[:, 1].reshape(4, 6))

    @pytest.mark.parametrize("shape", [(3, 2, 4), (2, 4, 3)])
    def test_colour_is_drawn_around_grey(self, shape):
        """Channels must end last whichever way they came, and zero must be grey."""
        column = self.loadings[:, :1]
        axes = plots.loadings_images(column, shape)
        image = column.reshape(shape)
        expected = np.moveaxis(image, 0, -1) if shape[0] == 3 else image
        np.testing.assert_allclose(axes.flat[0].images[0].get_array(), 0.5 + 0.5 * expected / np.abs(column).max())

    def test_given_axes_are_used_and_those_left_over_blanked(self):
        """Drawing elsewhere, or leaving empty frames, spoils a figure of one's own."""
        figure, given = plt.subplots(2, 3)
        axes = plots.loadings_images(self.loadings, (4, 6), axes=given)
        assert all(made is ax for made, ax in zip(axes.flat, given.flat, strict=True))
        assert [ax.axison for ax in given.flat] == [True] * 5 + [False]
        assert plt.get_fignums() == [figure.number]

    def test_the_heatmap_holds_the_loadings(self):
        """Rows and columns swapped would still draw where the matrix is square."""
        ax = plots.loadings_heatmap(torch.tensor(self.loadings), [f"f{i}" for i in range(24)], titles=list("abcde"))
        np.testing.assert_allclose(ax.images[0].get_array(), self.loadings)
        assert [tick.get_text() for tick in ax.get_yticklabels()] == [f"f{i}" for i in range(24)]
        assert [tick.get_text() for tick in ax.get_xticklabels()] == list("abcde")
        draw(ax)

    def test_of_many_features_the_largest_are_shown_in_their_order_and_it_is_said(self):
        """A cut that isn't said reads as all there is."""
        loadings = np.zeros((100, 2))
        loadings[10:50, 1] = np.linspace(1, -3, 40)
        ax = plots.loadings_heatmap(loadings, [f"f{i}" for i in range(100)])
        assert [tick.get_text() for tick in ax.get_yticklabels()] == [f"f{i}" for i in range(10, 50)]
        assert "the 40 largest of 100 features" in ax.get_title()

    def test_loadings_of_zero_draw(self):
        """A collapsed model has no scale."""
        draw(plots.loadings_images(np.zeros((24, 2)), (4, 6)).flat[0])
        draw(plots.loadings_heatmap(np.zeros((1, 1))))

    @pytest.mark.parametrize(
        ("call", "says"),
        [
            (lambda w: plots.loadings_images(w, (5, 5)), "25 pixels and the rows have 24 entries"),
            (lambda w: plots.loadings_images(w, (2, 3, 4)), r"expected \(H, W\)"),
            (lambda w: plots.loadings_images(w, (24,)), r"expected \(H, W\)"),
            (lambda w: plots.loadings_images(w, (4, 6), titles=["a"]), "1 titles for 5 loadings"),
            (lambda w: plots.loadings_images(w, (4, 6), axes=plt.subplots(1, 2)[1]), "2 axes for 5 loadings"),
            (lambda w: plots.loadings_images(w[:, 0], (4, 6)), r"loadings has shape \(24,\)"),
            (lambda w: plots.loadings_images(w * np.nan, (4, 6)), "NaN"),
            (lambda w: plots.loadings_heatmap(w, ["a"]), "1 feature names for loadings of 24"),
        ],
    )
    def test_what_does_not_fit_is_said_in_one_line(self, call, says):
        """A wrong image shape must not be a reshape error from deep inside."""
        with pytest.raises(DataError, match=says) as caught:
            call(self.loadings)
        assert "\n" not in str(caught.value)
