"""The curve of a selection: what the axes hold is read back from them."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from pyro_lvm import plots
from pyro_lvm.em import SelectionCurve
from pyro_lvm.errors import DataError


def curve(
    scores: tuple[float, ...], errors: tuple[float, ...] = (0.1, 0.1, 0.1), higher: bool = True
) -> SelectionCurve:
    return SelectionCurve("n_components", "evidence" if higher else "bic", (3, 1, 2), scores, errors, higher)


@pytest.mark.parametrize("higher", [True, False])
def test_scores_in_order_and_the_best_marked(higher: bool) -> None:
    """Otherwise another size than the chosen one would be read off the picture."""
    drawn = curve((1.0, 5.0, 3.0), higher=higher)
    ax = plots.selection_curve(drawn)
    line, best = ax.lines[0], next(line for line in ax.lines if "best" in str(line.get_label()))
    np.testing.assert_allclose(line.get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(line.get_ydata(), [5, 3, 1])
    assert list(best.get_xdata()) == [drawn.best] == [1 if higher else 3]
    ax.figure.canvas.draw()


def test_the_axis_is_named_within_a_small_panel() -> None:
    """Otherwise which way is better would be cut off."""
    figure = Figure(figsize=(16, 4), layout="constrained")
    for criterion, ax in zip(("evidence", "imputation", "bic", "laplace"), figure.subplots(1, 4), strict=True):
        plots.selection_curve(SelectionCurve("n_components", criterion, (1, 2), (1.0, 2.0), (0.1, 0.1), True), ax=ax)
        figure.draw_without_rendering()
        assert ax.yaxis.label.get_window_extent().height < figure.bbox.height, criterion


def test_what_is_not_finite_is_left_out() -> None:
    ax = plots.selection_curve(curve((-np.inf, 5.0, 3.0), (0.0, 0.0, 0.0)))
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [1, 2])
    with pytest.raises(DataError, match="none of the 3 scores is finite"):
        plots.selection_curve(curve((np.nan, np.nan, np.nan)))
