"""Entries of rows among those of replicates, drawn by ArviZ: their distribution, and where each one falls."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.figure import Figure

from pyro_lvm.errors import DataError
from pyro_lvm.plots.shared import PALETTE, FloatArray, short

# Features that have a panel each.
_MAX_PANELS = 9
# Entries that make a density or a histogram: with more it doesn't change.
_MAX_ENTRIES = 2000
_MAX_CURVES = 50


def density_overlay(data: Any, *, seed: int = 0) -> Figure:
    """Draw the distribution of the rows' entries over those of replicates, by ArviZ: features apart, pixels together.

    Densities; where replicates are whole numbers, which a density would smear, cumulative shares. Entries beyond the
    central 99% of the rows' and of the replicates' are drawn at its ends, so that a heavy tail leaves the rest to be
    seen.

    Args:
        data: What :func:`pyro_lvm.predictive.to_arviz` gave.
        seed: Of the choice of entries, where they are many.

    Returns:
        A figure: ArviZ's ``plot_ppc`` for an ``InferenceData``, its ``plot_ppc_dist`` for a ``DataTree``.

    Raises:
        DataError: ``data`` lacks a group, no entry is observed, or ArviZ isn't there for its form.
    """
    panels, title = _panels_of(data, seed)
    counted = any(_is_whole(replicates) for _, replicates in panels.values())
    by_name = _as_arviz({name: _shown(*values) for name, values in panels.items()}, data)
    made = _made(data)
    title = f"Entries of the rows, and of {made}{title}"
    if isinstance(data, xr.DataTree):
        kind = "ecdf" if counted else "kde"
        return _of_collection(
            _arviz_plots().plot_ppc_dist(by_name, kind=kind, num_samples=_MAX_CURVES, **_collected(len(panels))), title
        )
    figure, axes = _panels(len(panels))
    draws = by_name.posterior_predictive.sizes["draw"]
    with warnings.catch_warnings():
        # Of a feature that never varies: its panel has no curve of the rows.
        warnings.filterwarnings("ignore", "Your data appears to have a single value")
        importlib.import_module("arviz").plot_ppc(
            by_name,
            kind="cumulative" if counted else "kde",
            ax=axes,
            num_pp_samples=min(_MAX_CURVES, draws),
            random_seed=seed,
            colors=[PALETTE[0], "black", PALETTE[1]],
            show=False,
            textsize=8,
        )
    for legend in [ax.get_legend() for ax in axes[1:]]:
        # Of shares there is one legend, of densities one a panel.
        if legend is not None:
            legend.remove()
    said = {"Observed": "rows", "Posterior predictive": made, "Posterior predictive mean": "all of them together"}
    for text in axes[0].get_legend().get_texts():
        text.set_text(said.get(text.get_text(), text.get_text()))
    if counted:
        figure.supylabel("share of entries that are no greater", fontsize=9)
    figure.suptitle(title)
    return figure


def pit_plot(data: Any, *, seed: int = 0) -> Figure:
    """Draw where entries fall among their replicates (probability integral transform), by ArviZ.

    Flat if the model is right and the rows were held out, under ``replication="mixed"``; heaped in the middle where the
    model's rows are wider than the data's, at the ends where they are narrower. Replicates of a row's own posterior
    have seen the row and heap in the middle anyway. Of entries that equal some of their replicates, as counts do, the
    place among these is drawn at random: else a right model of them wouldn't be flat.

    Args:
        data: What :func:`pyro_lvm.predictive.to_arviz` gave.
        seed: Of the choice of entries, where they are many, and of what breaks ties.

    Returns:
        A figure: ArviZ's ``plot_bpv(kind="u_value")`` for an ``InferenceData``, its ``plot_ppc_pit`` for a
        ``DataTree``.

    Raises:
        DataError: ``data`` lacks a group, no entry is observed, or ArviZ isn't there for its form.
    """
    panels, title = _panels_of(data, seed)
    random = np.random.default_rng(seed)
    by_name = _as_arviz({name: _untied(*values, random) for name, values in panels.items()}, data)
    title = f"Where entries fall among their {_made(data)}{title}"
    if isinstance(data, xr.DataTree):
        return _of_collection(_arviz_plots().plot_ppc_pit(by_name, **_collected(len(panels))), title)
    figure, axes = _panels(len(panels))
    importlib.import_module("arviz").plot_bpv(by_name, kind="u_value", ax=axes, show=False, textsize=8)
    figure.suptitle(title)
    return figure


def _panels_of(data: Any, seed: int) -> tuple[dict[str, tuple[FloatArray, FloatArray]], str]:
    """The entries of each panel, shape (entries,), with their replicates, (chains, draws, entries), and what is shown.

    What is missing is left out, which ArviZ can't draw.
    """
    try:
        observed, drawn = data["observed_data"], data["posterior_predictive"]
        names = [name for name in observed.data_vars if name in drawn.data_vars]
    except (KeyError, AttributeError) as error:
        raise DataError(f"data lacks {error}: expected what to_arviz gave") from error
    panels: dict[str, tuple[FloatArray, FloatArray]] = {}
    shown = total = 0
    for name in names:
        values, replicates = observed[name].values, drawn[name].values
        flat, repeated = values.reshape(len(values), -1), replicates.reshape(*replicates.shape[:3], -1)
        if observed[name].dims[1:] != ("feature",):
            panels[name] = (flat.reshape(-1), repeated.reshape(*repeated.shape[:2], -1))
            continue
        # Spread over all, where they are many.
        chosen = np.unique(np.linspace(0, flat.shape[1] - 1, min(flat.shape[1], _MAX_PANELS)).round().astype(int))
        shown, total = shown + len(chosen), total + flat.shape[1]
        for i in chosen:
            panels[str(observed["feature"].values[i])] = (flat[:, i], repeated[..., i])
    random = np.random.default_rng(seed)
    known = {}
    for name, (values, replicates) in panels.items():
        places = np.flatnonzero(np.isfinite(values))
        if len(places):
            places = np.sort(random.choice(places, min(len(places), _MAX_ENTRIES), replace=False))
            known[short(name)] = (values[places], replicates[..., places])
    if not known:
        raise DataError("no entry of the rows is observed: expected some to draw")
    return known, f": {shown} of {total} features" if shown < total else ""


def _as_arviz(panels: dict[str, tuple[FloatArray, FloatArray]], like: Any) -> Any:
    """The panels as data of the same form, a variable each."""
    observed, drawn = {}, {}
    for place, (name, (values, replicates)) in enumerate(panels.items()):
        observed[name] = ((f"entry_{place}",), values)
        drawn[name] = (("chain", "draw", f"entry_{place}"), replicates)
    groups = {"observed_data": xr.Dataset(observed), "posterior_predictive": xr.Dataset(drawn)}
    if isinstance(like, xr.DataTree):
        counted = {
            name: group.assign_coords({dim: np.arange(size) for dim, size in group.sizes.items()})
            for name, group in groups.items()
        }
        return xr.DataTree.from_dict(counted)
    return importlib.import_module("arviz").InferenceData(**groups)


def _made(data: Any) -> str:
    """What the replicates are, in words."""
    return f"{data['posterior_predictive'].attrs.get('replication', '')} replicates".strip()


def _is_whole(values: FloatArray) -> bool:
    return bool((values == np.round(values)).all())


def _shown(values: FloatArray, replicates: FloatArray) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Both, what is far out at the ends of what is drawn; as integers, which ArviZ draws in steps, where they are."""
    ends = [np.quantile(some, (0.005, 0.995), method="nearest") for some in (values, replicates)]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    kind = np.int64 if _is_whole(replicates) and _is_whole(values) else np.float64
    return values.clip(low, high).astype(kind), replicates.clip(low, high).astype(kind)


def _untied(values: FloatArray, replicates: FloatArray, random: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Ranks in place of both, equal ones in random order."""
    pooled = np.concatenate([values[None], replicates.reshape(-1, len(values))])
    ranks = np.unique(pooled, return_inverse=True)[1].reshape(pooled.shape) + random.uniform(size=pooled.shape)
    return ranks[0], ranks[1:].reshape(replicates.shape)


def _layout(count: int) -> tuple[int, int, tuple[float, float]]:
    """Lines, columns, and the figure's size in inches."""
    columns = min(3, count)
    lines = -(-count // columns)
    return lines, columns, (3.6 * columns + 0.6, 2.7 * lines + 0.6)


def _panels(count: int) -> tuple[Figure, Any]:
    lines, columns, size = _layout(count)
    figure = plt.figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).reshape(-1)
    for ax in axes[count:]:
        ax.set_axis_off()
    return figure, axes[:count]


def _collected(count: int) -> dict[str, Any]:
    _, columns, size = _layout(count)
    return {"backend": "matplotlib", "col_wrap": columns, "figure_kwargs": {"figsize": size, "layout": "constrained"}}


def _arviz_plots() -> Any:
    try:
        return importlib.import_module("arviz_plots")
    except ImportError as error:
        raise DataError("arviz-plots isn't installed, which draws a DataTree: install it with pip") from error


def _of_collection(collection: Any, title: str) -> Figure:
    figure: Figure = collection.viz["figure"].item()
    figure.suptitle(title)
    return figure
