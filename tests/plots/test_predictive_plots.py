"""Pictures of predictive checks hold what they say, and refuse what can't be drawn."""

import numpy as np
import pytest
import torch
import xarray as xr
from arviz import InferenceData
from matplotlib.figure import Figure

from pyro_lvm import Pair, plots
from pyro_lvm.errors import DataError
from pyro_lvm.guides import ProductOfExperts
from pyro_lvm.models import PPCA
from pyro_lvm.predictive import PredictiveCheck, StatisticCheck, check, posterior_predictive, to_arviz

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def pair() -> Pair:
    return Pair(PPCA(6, 2), ProductOfExperts(6, 2))


@pytest.fixture
def found(pair: Pair) -> PredictiveCheck:
    return check(pair, X, ("mean", "zeros", "spectrum", "feature-mean"), held_out=True, num_draws=200)


def test_a_single_number(found: PredictiveCheck) -> None:
    """Wrong: the line isn't at the rows' statistic, or a constant breaks the histogram."""
    ax = plots.statistic_check(found["mean"])
    lines = [line.get_xdata()[0] for line in ax.get_lines()]
    assert lines == pytest.approx([float(found["mean"].observed[0])])
    assert sum(patch.get_height() for patch in ax.patches) == 200
    assert len(plots.statistic_check(found["zeros"]).get_lines()) == 2


def test_several_numbers(found: PredictiveCheck) -> None:
    """Wrong: dots belong to other labels, or what strays most is left out of many."""
    ax = plots.statistic_check(found["spectrum"])
    np.testing.assert_allclose(ax.get_lines()[-1].get_ydata(), found["spectrum"].observed)
    assert [text.get_text() for text in ax.get_xticklabels()] == list(found["spectrum"].labels)
    assert ax.get_yscale() == "log"
    replicated = torch.randn(50, 100, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    observed = torch.zeros(100, dtype=torch.float64)
    observed[77] = 40.0
    many = plots.statistic_check(StatisticCheck("t", tuple(f"n{i}" for i in range(100)), observed, replicated))
    shown = [text.get_text() for text in many.get_xticklabels()]
    assert len(shown) == 40
    assert "n77" in shown


def test_all_in_one_figure(found: PredictiveCheck) -> None:
    """Wrong: a statistic is missing, or the rows are said to be others."""
    figure = plots.statistic_checks(found)
    titles = [ax.get_title().split(":")[0] for ax in figure.axes]
    assert titles == ["mean", "zeros", "spectrum", "feature-mean"]
    assert "40 held-out rows against 200 mixed replicates" in figure.get_suptitle()


def test_images_beside_replicates(pair: Pair) -> None:
    """Wrong: a replicate stands beside another row."""
    drawn = posterior_predictive(pair, X, 3)
    panels = plots.replicate_images(X, drawn, (2, 3), count=4)
    assert panels.shape == (4, 4)
    low, high = float(X[:4].min()), float(X[:4].max())
    shown = panels[2, 1].get_images()[0].get_array()[..., 0]
    expected = ((drawn[0, 2].reshape(2, 3) - low) / (high - low)).clamp(0, 1)
    np.testing.assert_allclose(shown, expected, atol=1e-6)
    with pytest.raises(DataError, match="replicates of shape"):
        plots.replicate_images(X, drawn[:, :5], (2, 3))


@pytest.mark.parametrize("image_shape", [None, (2, 3)])
def test_arviz_draws_rows_with_holes(pair: Pair, image_shape: tuple[int, int] | None) -> None:
    """Wrong: a hole ends the picture, features of different units share an axis, or pixels have a panel each."""
    x = X.clone()
    x[4, 1] = torch.nan
    x[:, 5] = torch.nan
    data = to_arviz(pair, x, num_draws=20, replication="mixed", image_shape=image_shape)
    panels = 5 if image_shape is None else 1
    for figure in (plots.density_overlay(data), plots.pit_plot(data)):
        assert isinstance(figure, Figure)
        assert len([ax for ax in figure.axes if ax.get_lines()]) == panels
    with pytest.raises(DataError, match="no entry"):
        plots.pit_plot(to_arviz(pair, torch.full_like(x, torch.nan), num_draws=5))
    del data.posterior_predictive
    with pytest.raises(DataError, match="expected what to_arviz gave"):
        plots.density_overlay(data)


def test_arviz_of_the_other_line(pair: Pair) -> None:
    """Wrong: a DataTree can't be drawn where arviz-plots is there, or its absence is a traceback."""
    data = to_arviz(pair, X, num_draws=20, form="DataTree")
    try:
        import arviz_plots  # noqa: F401
    except ImportError:
        with pytest.raises(DataError, match="arviz-plots isn't installed"):
            plots.density_overlay(data)
        return
    assert isinstance(plots.density_overlay(data), Figure)
    assert isinstance(plots.pit_plot(data), Figure)


@pytest.fixture(scope="module")
def counts() -> InferenceData:
    """Replicates of counts by the model that made them, a few far out, and features more than panels."""
    random = np.random.default_rng(0)
    rates = np.linspace(0.3, 3.0, 12)
    drawn = random.poisson(rates, size=(1, 100, 400, 12)).astype(float)
    drawn[0, :3, 0] = 5000.0
    groups = {"observed_data": drawn[0, -1], "posterior_predictive": drawn[:, :-1]}
    dims = {"observed_data": ("row", "feature"), "posterior_predictive": ("chain", "draw", "row", "feature")}
    names = {"feature": [f"kind {i}" for i in range(12)]}
    datasets = {name: xr.Dataset({"x": (dims[name], values)}, coords=names) for name, values in groups.items()}
    datasets["posterior_predictive"].attrs["replication"] = "mixed"
    return InferenceData(**datasets)


def test_pit_of_counts_is_flat(counts: InferenceData) -> None:
    """Wrong: ties among counts, which all count as below, heap a right model's entries at the upper end."""
    figure = plots.pit_plot(counts)
    curves = [ax.get_lines()[0].get_ydata() for ax in figure.axes]
    assert len(curves) == 9
    # 400 uniform numbers, smoothed; with all ties counted as below, the lowest fifth would be empty of the rarest.
    assert all(np.abs(curve - 1).max() < 0.5 for curve in curves)
    assert figure.get_suptitle() == "Where entries fall among their mixed replicates: 9 of 12 features"


def test_distribution_of_counts(counts: InferenceData) -> None:
    """Wrong: counts are smeared, a replicate far out takes the axis, or features that aren't shown aren't spoken of."""
    figure = plots.density_overlay(counts)
    assert figure.get_suptitle() == "Entries of the rows, and of mixed replicates: 9 of 12 features"
    shares = counts.observed_data["x"].values
    for ax, kind in zip(figure.axes, np.linspace(0, 11, 9).round().astype(int), strict=True):
        (rows,) = (line for line in ax.get_lines() if line.get_label() in ("Observed", "rows"))
        values, heights = rows.get_xdata(), rows.get_ydata()
        assert rows.get_drawstyle() == "steps-pre"
        assert values.max() < 20
        assert ax.get_xlim()[1] < 20
        assert heights[values == 0].max() == pytest.approx((shares[:, kind] == 0).mean(), abs=0.01)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert {"rows", "mixed replicates"} < set(legend)
