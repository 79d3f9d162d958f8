"""Pictures of a calibration show the ranks, bands and shares that were found."""

import numpy as np
import pytest
import torch

from pyro_lvm import plots
from pyro_lvm.calibration.quantities import DISTANCE, GUIDE
from pyro_lvm.calibration.results import Calibration, Quantity


def quantity(name: str, ranks: np.ndarray, p_value: float) -> Quantity:
    kind = "distance" if name == DISTANCE else "density" if name == GUIDE else "coordinate"
    return Quantity(name, kind, "z", torch.from_numpy(ranks), 9, p_value, p_value, *[0.0] * 8)


def calibration(names: tuple[str, ...]) -> Calibration:
    random = np.random.default_rng(0)
    made = [quantity(name, random.integers(0, 10, 400), 0.5 if i else 1e-9) for i, name in enumerate(names)]
    return Calibration(tuple(made), 400, 9, (), (), 0)


def test_ranks_are_drawn_less_the_uniforms_within_their_band() -> None:
    """Wrong: the curve is not the ECDF's, or the band not that of as many ranks."""
    one = calibration(("z[0]",)).quantities[0]
    ax = plots.rank_ecdf(one)
    places, curve = ax.lines[-1].get_data()
    np.testing.assert_allclose(places, np.arange(1, 10) / 10)
    np.testing.assert_allclose(curve, [(one.ranks < i).double().mean() - i / 10 for i in range(1, 10)])
    lower, upper = one.band()
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx((lower - places).min())
    assert band.max() == pytest.approx((upper - places).max())


def test_every_quantity_has_a_panel_and_those_flagged_a_colour() -> None:
    """Wrong: panels are left out, or none stands out; of very many, those that stray least are shown."""
    figure = plots.rank_ecdfs(calibration(("z[0]", "z[1]", "norm of z", DISTANCE, GUIDE)))
    titled = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title().split(":")[0] for ax in titled] == ["z[0]", "z[1]", "norm of z", DISTANCE, GUIDE]
    assert [ax.title.get_color() == "black" for ax in titled] == [False, True, True, True, True]
    figure.canvas.draw()
    many = plots.rank_ecdfs(calibration(tuple(f"z[{i}]" for i in range(60))))
    assert len(many.axes) == 24
    assert many.axes[0].get_title().startswith("z[0]")


def test_coverage_is_drawn_for_what_there_is() -> None:
    """Wrong: a curve of another level, or a crash where there is no density."""
    found = calibration(("z[0]", DISTANCE, GUIDE))
    ax = plots.coverage_curves(found)
    assert found.coverage is not None
    assert found.tarp is not None
    np.testing.assert_allclose(ax.lines[1].get_ydata(), found.coverage.empirical)
    np.testing.assert_allclose(ax.lines[2].get_ydata(), found.tarp.empirical)
    assert "no region" in plots.coverage_curves(calibration(("t",))).texts[0].get_text()
