"""Latent maps: what the axes hold is read back from them and compared with the coordinates and labels."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb

from pyro_lvm import plots
from pyro_lvm.errors import DataError


def legend_of(ax: plt.Axes) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


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


class TestLatentMap:
    z = np.random.default_rng(0).normal(size=(200, 3))

    def test_the_chosen_columns_are_drawn_whatever_the_labels(self):
        """Rows shuffled for drawing must stay whole, and none may be lost between classes."""
        for labels in (None, np.arange(200) % 10, np.arange(200) % 30, np.linspace(0, 1, 200), np.arange(200) % 4 - 1):
            ax = plots.latent_map(self.z, labels, dims=(2, 0))
            np.testing.assert_allclose(points_of(ax), in_order(self.z[:, [2, 0]]))

    def test_each_point_has_the_colour_that_the_legend_gives_its_class(self):
        """A permutation applied to points but not to colours would look just as pretty."""
        labels = np.arange(200) % 10
        ax = plots.latent_map(self.z, labels, label_names=list("abcdefghij"))
        assert legend_of(ax) == list("abcdefghij")
        handles = ax.get_legend().legend_handles
        named = [(to_rgb(h.get_color()), h.get_marker()) for h in handles]
        assert len(set(named)) == 10
        colour_at = {}
        for collection in ax.collections:
            for place, colour in zip(collection.get_offsets().data, collection.get_facecolors(), strict=True):
                colour_at[tuple(place)] = tuple(colour[:3])
        for row, label in zip(self.z[:, :2], labels, strict=True):
            np.testing.assert_allclose(colour_at[tuple(row)], named[label][0])

    def test_short_names_stand_near_their_medians(self):
        """Ten classes are not told apart by colour alone."""
        labels = torch.arange(200) % 10
        centres = 10 * np.random.default_rng(1).normal(size=(10, 2))
        z = centres[labels] + 0.1 * self.z[:, :2]
        ax = plots.latent_map(torch.tensor(z), labels)
        for text in ax.texts:
            median = np.median(z[labels.numpy() == int(text.get_text())], axis=0)
            assert np.linalg.norm(np.subtract(text.get_position(), median)) < 0.1 * np.ptp(z, axis=0).max()
        assert len(ax.texts) == 10

    def test_names_on_top_of_each_other_are_pushed_apart(self):
        """Classes that the map doesn't separate would print ten digits in one spot."""
        z = np.repeat(self.z[:20], 10, axis=0)
        ax = plots.latent_map(z, np.arange(200) % 10)
        draw(ax)
        boxes = [text.get_window_extent() for text in ax.texts]
        places = np.array([[box.x0 + box.width / 2, box.y0 + box.height / 2] for box in boxes])
        distances = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e9 * np.eye(10)
        assert distances.min() > 0.8 * boxes[0].width

    def test_long_names_stay_in_the_legend(self):
        """Names of more than a few letters would cover the points."""
        ax = plots.latent_map(self.z, np.arange(200) % 2, label_names=["benign", "malignant " + "x" * 60])
        assert not ax.texts
        assert all(len(text) <= 28 for text in legend_of(ax))

    def test_a_legend_outside_covers_no_point(self):
        """The legend of ten classes is as large as a cluster."""
        ax = plots.latent_map(self.z, np.arange(200) % 10)
        draw(ax)
        assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1

    def test_many_classes_get_a_bar_in_place_of_a_legend(self):
        """A legend of thirty entries is longer than the figure."""
        ax = plots.latent_map(self.z, np.arange(200) % 30)
        assert ax.get_legend() is None
        (bar,) = [other for other in ax.figure.axes if other is not ax]
        assert "30 classes" in bar.get_ylabel()
        draw(ax)

    def test_a_single_class_draws(self):
        """One class has no spread of colours to choose from."""
        ax = plots.latent_map(self.z, np.full(200, 7))
        assert legend_of(ax) == ["7"]
        draw(ax)

    def test_rows_without_a_label_are_grey_and_named_so(self):
        """A missing label must not become a class of its own, nor the last class by a negative index."""
        ax = plots.latent_map(self.z, np.arange(200) % 4 - 1, label_names=["a", "b", "c"])
        assert legend_of(ax) == ["a", "b", "c", "no label"]
        grey = ax.collections[0]
        np.testing.assert_allclose(in_order(grey.get_offsets().data), in_order(self.z[::4, :2]))

    def test_words_are_classes(self):
        """Labels from a table are often words, with gaps."""
        ax = plots.latent_map(self.z, ["oak", None] * 100)
        assert legend_of(ax) == ["oak", "no label"]

    def test_a_quantity_gets_a_colour_bar(self):
        """Floats as classes would be two hundred of them."""
        values = np.linspace(0, 5, 200)
        values[3] = np.nan
        ax = plots.latent_map(self.z, values)
        assert ax.get_legend() is None
        assert len(ax.figure.axes) == 2
        assert ax.collections[-1].get_clim() == (0.0, 5.0)
        draw(ax)

    def test_rows_that_are_not_finite_are_left_out_with_their_labels(self):
        """Labels that stay behind would shift against the rows."""
        z = self.z.copy()
        z[0, 0] = np.nan
        z[1, 1] = np.inf
        z[2, 2] = np.nan
        labels = np.zeros(200, dtype=int)
        labels[:2] = 1
        ax = plots.latent_map(z, labels, label_names=["kept", "lost"])
        np.testing.assert_allclose(points_of(ax), in_order(z[2:, :2]))
        colours = np.concatenate([c.get_facecolors() for c in ax.collections if len(c.get_offsets())])
        assert len(np.unique(colours, axis=0)) == 1

    def test_one_latent_is_a_strip_for_each_class(self):
        """A map needs two directions; a strip shows the same overlap with one."""
        labels = np.arange(200) % 3
        ax = plots.latent_map(self.z[:, :1], labels, label_names=["a", "b", "c"], axis_labels=["size"])
        assert ax.get_xlabel() == "size"
        assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b", "c"]
        for code in range(3):
            places = ax.collections[code].get_offsets().data
            np.testing.assert_allclose(np.sort(places[:, 0]), np.sort(self.z[labels == code, 0]))
            assert (np.abs(places[:, 1] - code) < 0.5).all()
            assert ax.lines[code].get_xdata()[0] == np.median(self.z[labels == code, 0])

    def test_one_latent_without_labels_is_a_histogram_of_all_rows(self):
        """The bars must count each row once."""
        ax = plots.latent_map(self.z[:, :1])
        assert sum(patch.get_height() for patch in ax.patches) == 200

    @pytest.mark.parametrize("labels", [np.arange(200) % 40, np.arange(200) % 3 - 1, np.linspace(0, 1, 200)])
    def test_one_latent_draws_with_any_labels(self, labels):
        """Strips of many classes, of rows without one, and a quantity take other paths."""
        draw(plots.latent_map(self.z[:, :1], labels))

    def test_axes_are_labelled(self):
        """Unlabelled latent axes are read as features."""
        ax = plots.latent_map(self.z, dims=(0, 2))
        assert ax.get_xlabel() == "posterior mean of $z_{1}$"
        assert ax.get_ylabel() == "posterior mean of $z_{3}$"
        ax = plots.latent_map(self.z, axis_labels=["left", "up"])
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("left", "up")

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({"z": np.zeros(5)}, r"z has shape \(5,\)"),
            ({"z": np.zeros((0, 2))}, r"shape \(0, 2\)"),
            ({"z": np.full((5, 2), np.nan)}, "none of them is finite"),
            ({"z": np.zeros((5, 2)), "labels": np.zeros(4, dtype=int)}, r"labels of shape \(4,\) for 5 rows"),
            ({"z": np.zeros((5, 2)), "labels": [0, 1, 2, 3, 3], "label_names": ["a", "b"]}, "go up to 3"),
            ({"z": np.zeros((5, 2)), "dims": (0, 2)}, "from 0 to 1"),
            ({"z": np.zeros((5, 2)), "dims": (-1, 0)}, "from 0 to 1"),
            ({"z": np.zeros((5, 2)), "axis_labels": ["only one"]}, "1 entries: expected 2"),
        ],
    )
    def test_what_does_not_fit_is_said_in_one_line(self, arguments, says):
        """NumPy's own message would name neither the argument nor the cure."""
        with pytest.raises(DataError, match=says) as caught:
            plots.latent_map(**arguments)
        assert "\n" not in str(caught.value)
