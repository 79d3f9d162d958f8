"""Plots: what the axes hold is read back from them and compared with what was given."""

import warnings
from collections.abc import Iterator

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from sklearn.metrics import r2_score

from pyro_lvm import plots
from pyro_lvm.errors import DataError
from pyro_lvm.history import History


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with warnings.catch_warnings():
        # matplotlib says so when text doesn't fit, a limit is singular or a glyph is missing.
        warnings.simplefilter("error", UserWarning)
        yield
    plt.close("all")


def history_of(elbo: list[float], lr: list[float] | None = None, validation: dict[int, float] | None = None) -> History:
    history = History()
    for i, value in enumerate(elbo):
        history.add(step=10 * (i + 1), epoch=i, lr=lr[i] if lr else 0.1, elbo=value)
        if validation and i in validation:
            history.annotate(validation_elbo=validation[i])
    return history


def converging(count: int = 100, optimum: float = -20.0, noise: float = 0.05) -> list[float]:
    rng = np.random.default_rng(0)
    t = np.arange(count)
    return list(optimum - 3000 * np.exp(-t / 3) - 2 * np.exp(-t / 15) + noise * rng.normal(size=count))


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


class TestElboCurve:
    def test_records_are_drawn_relative_to_the_optimum(self):
        """Otherwise the gap that is read off the axis is not the gap."""
        elbo = converging()
        ax = plots.elbo_curve(history_of(elbo), optimum=-20.0)
        np.testing.assert_allclose(ax.lines[0].get_xdata(), 10.0 * np.arange(1, 101))
        np.testing.assert_allclose(ax.lines[0].get_ydata(), np.array(elbo) + 20.0)
        assert ax.get_yscale() == "symlog"
        assert "nats/row" in ax.get_ylabel()
        assert "steps" in ax.get_xlabel()

    def test_the_optimum_is_a_labelled_horizontal_line(self):
        """Without it nobody sees whether training arrived."""
        ax = plots.elbo_curve(history_of(converging()), optimum=-20.0)
        (line,) = [line for line in ax.lines if "optimum" in str(line.get_label())]
        assert list(line.get_ydata()) == [0.0, 0.0]
        assert "−20.000 nats/row" in str(line.get_label())
        assert line.get_label() in legend_of(ax)

    def test_first_steps_and_last_steps_are_both_readable(self):
        """A gap of 1 nat and one of 100 nats must stand far apart on an axis that starts at 3000."""
        ax = plots.elbo_curve(history_of(converging()), optimum=-20.0)
        draw(ax)
        places = [
            ax.transAxes.inverted().transform(ax.transData.transform((500, -gap)))[1] for gap in (1000, 100, 1, 0)
        ]
        assert 0 <= places[0] < places[1] < places[2] < places[3] <= 1
        assert min(np.diff(places)) > 0.1

    def test_records_above_the_optimum_stay_inside_the_axes(self):
        """Minibatch noise puts half of a converged training above the optimum: a plain logarithm would lose it."""
        elbo = converging(noise=0.5)
        assert max(elbo) > -20.0
        ax = plots.elbo_curve(history_of(elbo), optimum=-20.0)
        low, high = ax.get_ylim()
        assert low < min(elbo) + 20
        assert max(elbo) + 20 < high

    def test_no_optimum_leaves_the_beginning_out_and_says_so(self):
        """One record at -3000 would flatten all others to a line."""
        elbo = converging()
        ax = plots.elbo_curve(history_of(elbo))
        low, high = ax.get_ylim()
        assert high - low < 20
        assert high > max(elbo)
        assert f"{sum(e < low for e in elbo)} of 100 records are below the axis" in ax.get_title()
        assert not any("optimum" in text for text in legend_of(ax))

    def test_no_optimum_and_no_steep_beginning_shows_all(self):
        """Cutting what costs no room hides data."""
        elbo = list(np.linspace(-30, -20, 50))
        ax = plots.elbo_curve(history_of(elbo))
        assert ax.get_ylim()[0] < -30
        assert "below" not in ax.get_title()

    def test_running_median_starts_anew_with_each_round(self):
        """Across a restart a median would mix two learning rates into a value that no step had."""
        elbo = [-10.0] * 30 + [-50.0] * 30
        lr = [*np.geomspace(0.1, 1e-4, 30), *np.geomspace(0.1, 1e-4, 30)]
        ax = plots.elbo_curve(history_of(elbo, lr), optimum=-10.0)
        (median,) = [line for line in ax.lines if "median" in str(line.get_label())]
        drawn = np.asarray(median.get_ydata(), dtype=float)
        np.testing.assert_array_equal(drawn[4:30], 0.0)
        assert np.isnan(drawn[30:34]).all()
        np.testing.assert_array_equal(drawn[34:], -40.0)

    def test_restarts_are_marked_where_the_rate_jumps(self):
        """A dip in the curve without its cause looks like a fault."""
        lr = [0.1, 0.01, 0.001, 0.1, 0.01, 0.03, 0.001]
        ax = plots.elbo_curve(history_of([-1.0] * 7, lr))
        marks = [line for line in ax.lines if line.get_linestyle() == ":"]
        assert [mark.get_xdata()[0] for mark in marks] == [30.0, 50.0]
        assert sum("restarted" in text for text in legend_of(ax)) == 1

    def test_held_out_elbo_is_drawn_where_it_was_looked_at(self):
        """Records without it must not break its line, nor be taken for zero."""
        ax = plots.elbo_curve(history_of(converging(20), validation={9: -24.0, 19: -23.0}), optimum=-20.0)
        (line,) = [line for line in ax.lines if "held-out" in str(line.get_label())]
        np.testing.assert_allclose(line.get_xdata(), [100, 200])
        np.testing.assert_allclose(line.get_ydata(), [-4, -3])

    @pytest.mark.parametrize("elbo", [[-500.0], [-20.0], [-20.0, -20.0], [-1e7, -20.0], [float("nan"), -30.0]])
    @pytest.mark.parametrize("optimum", [None, -20.0])
    def test_short_and_odd_histories_draw(self, elbo, optimum):
        """A run of one step, or one exactly at the optimum, has no scale to choose an axis by."""
        draw(plots.elbo_curve(history_of(elbo), optimum=optimum))

    @pytest.mark.parametrize(
        ("history", "optimum", "says"),
        [
            (History(), None, "0 records"),
            (history_of([float("nan")]), None, "no finite ELBO"),
            (history_of([-1.0]), float("nan"), "optimum=nan"),
        ],
    )
    def test_nothing_to_draw_is_said_in_one_line(self, history, optimum, says):
        """An empty picture would pass for a result."""
        with pytest.raises(DataError, match=says) as caught:
            plots.elbo_curve(history, optimum=optimum)
        assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize(
    "call",
    [
        lambda ax: plots.elbo_curve(history_of([-2.0, -1.0]), optimum=0.0, ax=ax),
        lambda ax: plots.latent_map(np.eye(3), [0, 1, 2], ax=ax),
        lambda ax: plots.latent_map(np.eye(3)[:, :1], ax=ax),
        lambda ax: plots.loadings_heatmap(np.eye(3), ax=ax),
        lambda ax: plots.reconstruction_scatter(np.eye(3), np.eye(3), ax=ax),
    ],
)
def test_given_axes_are_used_and_returned(call):
    """A function that opens a figure of its own can't be part of a larger one."""
    figure, (ax, other) = plt.subplots(1, 2)
    assert call(ax) is ax
    assert ax.has_data()
    assert ax.get_title()
    assert not other.has_data()
    assert plt.get_fignums() == [figure.number]


def test_tensors_with_gradients_draw():
    """A model's loadings and posterior means come with their graphs."""
    tensor = torch.rand(6, 2, requires_grad=True)
    plots.latent_map(tensor)
    plots.loadings_images(tensor, (2, 3))
    plots.reconstruction_scatter(tensor, tensor)
