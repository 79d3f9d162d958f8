"""The pictures of a judgement: what there is to be drawn, the rest left out."""

from __future__ import annotations

from matplotlib.figure import Figure

from pyro_lvm import plots
from pyro_lvm.calibration import Calibration
from pyro_lvm.judgement import Judgement


def judgement_figures(found: Judgement) -> dict[str, Figure | None]:
    """Figures of a judgement, by the names of their files; None for what couldn't be found out.

    Args:
        found: The judgement.
    """
    calibration = found.calibration
    return {
        "gap": _gap(found),
        "weights": _weights(found),
        "ranks": None if calibration is None else plots.rank_ecdfs(calibration),
        "coverage": None if calibration is None else _coverage(calibration),
    }


def _gap(found: Judgement) -> Figure | None:
    gaps = {name: gap for name, gap in (("training", found.training), ("held-out", found.held_out)) if gap is not None}
    if not gaps:
        return None
    figure = Figure(figsize=(1.8 + 1.3 * max(2, len(gaps)), 4.2), layout="constrained")
    plots.gap_bars(gaps, figure.add_subplot())
    return figure


def _weights(found: Judgement) -> Figure | None:
    if found.weights is None or bool(found.weights.pareto_k.isnan().all()):
        return None
    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    plots.pareto_k_histogram(found.weights, figure.add_subplot())
    return figure


def _coverage(found: Calibration) -> Figure | None:
    if found.coverage is None and found.tarp is None:
        return None
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    plots.coverage_curves(found, figure.add_subplot())
    return figure
