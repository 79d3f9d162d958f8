"""Curves of a training: what the axes hold is read back from them and compared with the history."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from pyro_lvm import plots
from pyro_lvm.errors import DataError
from pyro_lvm.history import History


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

    def test_steps_of_em_are_no_means(self):
        """A record of EM is of one step; on its way to the last digits the axis has to stay readable."""
        history = History()
        for step in range(9):
            history.add(step=step, epoch=step, lr=None, elbo=-20.0 - 0.1 * 10.0**-step)
        ax = plots.elbo_curve(history, optimum=-20.0)
        draw(ax)
        assert "ELBO of the training rows" in legend_of(ax)
        assert max(len(label.get_text()) for label in ax.get_yticklabels()) <= 8

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
