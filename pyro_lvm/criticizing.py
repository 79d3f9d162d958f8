"""Predictive checks of a saved run: p-values, draws for ArviZ, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_lvm import em, plots
from pyro_lvm.data.writing import replacing
from pyro_lvm.errors import DataError
from pyro_lvm.pair import HasEstimator, acceptable
from pyro_lvm.plots.files import write_figures
from pyro_lvm.predictive import PredictiveCheck, Replication, check, posterior_predictive, to_arviz
from pyro_lvm.reading import LoadedRun, load_own, load_run
from pyro_lvm.seeding import derived_seed, some_rows
from pyro_lvm.source import DataSource

# Entries of a table that is checked where nobody says how many rows, and its rows at least and at most: in some tens of
# seconds, more rows would only find smaller faults.
_ENTRIES, _LEAST_ROWS, _MOST_ROWS = 2**19, 1000, 10_000
# Entries that a refit may draw where nobody asks for refits: a few seconds for all of them.
_REFITTED_ENTRIES = 2**19
# Draws that are handed to ArviZ, and their entries: 64 MiB a group.
_ARVIZ_DRAWS, _ARVIZ_ENTRIES = 100, 2**24
_IMAGES, _REPLICATES = 6, 7


@dataclass(frozen=True)
class RunCheck:
    """What predictive checks of a run found.

    Attributes:
        rows: Which rows: ``"training"`` or ``"held-out"``, as others that are given are too.
        total_rows: How many there are, of which ``check.num_rows`` were looked at.
        check: The statistics.
        pareto_k: Of the rows that were handed to ArviZ, shape (rows,); None where rows share latents.
        effective_share: Of their draws, by their importance weights: effective sample size / draws, shape (rows,);
            None likewise.
        written: The files.
    """

    rows: str
    total_rows: int
    check: PredictiveCheck
    pareto_k: Tensor | None
    effective_share: Tensor | None
    written: list[Path]

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        known = None if self.pareto_k is None else self.pareto_k[~self.pareto_k.isnan()]
        return {
            "rows": self.rows,
            "total_rows": self.total_rows,
            **self.check.to_json(),
            "pareto_k_above_0.7": None if known is None or not len(known) else float((known > 0.7).double().mean()),
            "written": [path.name for path in self.written],
        }


def ppc_run(
    run: str | Path | LoadedRun,
    source: DataSource | None = None,
    *,
    statistics: Sequence[str] | None = None,
    num_draws: int = 400,
    num_rows: int | None = None,
    replication: Replication = "mixed",
    refits: int | None = None,
    refit_steps: int = 1000,
    out: str | Path | None = None,
    root: str | None = None,
    pair: str | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
) -> RunCheck:
    """Check whether a saved run's model describes rows, and write ``draws.nc`` for ArviZ and pictures.

    Args:
        run: Folder of a run.
        source: Other rows; None for the run's held-out ones, if it has any, else those of its training.
        statistics: Names of :data:`pyro_lvm.predictive.STATISTICS`, or ``FILE.py:FUNCTION``; None for the usual ones.
        num_draws: Replicates.
        num_rows: As many rows at random; None for all, of large data for as many as take some tens of seconds.
        replication: Where the replicates' latents come from; see :func:`pyro_lvm.predictive.check`.
        refits: Fits that the replicates are spread over, 0 for none; None for the usual ones on the run's held-out rows
            where they take a few seconds: PPCA and factor analysis of complete rows, not too many.
        refit_steps: Steps of a refit where the model has no estimator.
        out: Folder for what is written; None for ``ppc`` in the run's.
        root: Folder of the run's own named data set.
        pair: The pair's file, ``FILE.py:MODEL,GUIDE``, where it was defined in one.
        device: Where to compute.
        seed: Of the choice of rows and of the draws.
        progress: Show how far it is.

    Returns:
        The figures.

    Raises:
        PyroLvmError: Anything given is unusable.
    """
    if num_rows is not None and num_rows < 2:
        raise DataError(f"rows={num_rows}: expected a whole number from 2 up")
    loaded = load_run(run, source, root=root, pair=pair, device=device)
    folder = Path(loaded.name) / "ppc" if out is None else Path(out)
    # Before the work, not after it.
    write_figures(folder, {})
    which, rows = loaded.judged()
    own = loaded.given_its_own
    held_out = which != "training"
    total = len(rows)
    if num_rows is None:
        num_rows = min(_MOST_ROWS, max(_LEAST_ROWS, _ENTRIES // rows.shape[1]))
    random = np.random.default_rng(derived_seed(seed))
    rows = some_rows(rows, num_rows, random)
    x = loaded.scaling.transform(rows)
    if refits and not held_out and (own or len(rows) < total):
        raise DataError(
            f"refits={refits} on a part of the rows of the training: expected all {total:,} of them (--rows), without "
            "--data, since a refit is to rows like all of them"
        )
    wanted = 0 if refits is None and replication != "mixed" else refits
    trained_on = _trained_on(loaded, x, wanted) if held_out else None
    found = check(
        loaded.pair,
        x,
        statistics,
        held_out=held_out,
        num_draws=num_draws,
        replication=replication,
        trained_on=trained_on,
        refits=refits or None,
        refit_steps=refit_steps,
        in_units=loaded.scaling.inverse,
        feature_names=loaded.dataset.feature_names,
        seed=seed,
        progress=progress,
    )
    drawn = _drawn(loaded, x, num_draws, replication, random, seed)
    with replacing(folder / "draws.nc") as beside:
        drawn.to_netcdf(str(beside))
    figures: dict[str, Figure | None] = {
        "statistics": plots.statistic_checks(found),
        "densities": plots.density_overlay(drawn, seed=seed),
        "pit": plots.pit_plot(drawn, seed=seed),
        "replicates": _replicates(loaded, x, seed),
    }
    try:
        written = write_figures(folder, figures)
    finally:
        for name in ("densities", "pit"):
            plt.close(figures[name])
    k = share = None
    # Rows that share latents have no weights of their own.
    if "sample_stats" in drawn and "pareto_k" in drawn["sample_stats"]:
        k = torch.from_numpy(drawn["sample_stats"]["pareto_k"].values)
        log_weights = torch.from_numpy(drawn["sample_stats"]["log_weight"].values)[0]
        share = (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp() / len(log_weights)
    return RunCheck(which, total, found, k, share, [folder / "draws.nc", *written])


def _trained_on(loaded: LoadedRun, x: Tensor, refits: int | None) -> Tensor | None:
    """The run's own rows to refit on, as its pair sees them; None where there are to be no refits."""
    if refits == 0 or (refits is None and (loaded.given or not isinstance(loaded.pair.model, HasEstimator))):
        return None
    own = loaded
    if loaded.given:
        own = replace(loaded, dataset=load_own(loaded.name, loaded.artifact, loaded.source), given=False)
    rows = own.scaling.transform(own.parts()[0])
    if refits is None:
        quick = isinstance(loaded.pair.model.to_estimator(), (em.PPCA, em.FactorAnalysis)) and not rows.isnan().any()
        return rows if quick and rows.numel() + 100 * x.numel() <= _REFITTED_ENTRIES else None
    return rows


def _drawn(
    loaded: LoadedRun, x: Tensor, num_draws: int, replication: Replication, random: np.random.Generator, seed: int
) -> Any:
    """What ArviZ is given: fewer draws, and of wide rows a part."""
    draws = min(num_draws, _ARVIZ_DRAWS)
    rows = some_rows(_accepted(loaded, x), max(2, _ARVIZ_ENTRIES // (draws * x.shape[1])), random)
    return to_arviz(
        loaded.pair,
        rows,
        num_draws=draws,
        replication=replication,
        feature_names=loaded.dataset.feature_names,
        image_shape=loaded.dataset.image_shape,
        in_units=loaded.scaling.inverse,
        seed=seed,
    )


def _replicates(loaded: LoadedRun, x: Tensor, seed: int) -> Figure | None:
    """Images of rows beside replicates of them."""
    shape = loaded.dataset.image_shape
    if shape is None:
        return None
    rows = _accepted(loaded, x)[:_IMAGES]
    drawn = posterior_predictive(loaded.pair, rows, _REPLICATES, seed=seed)
    layout, size = plots.grid_layout(len(rows) * (1 + _REPLICATES), shape, num_columns=1 + _REPLICATES)
    figure = Figure(figsize=size, layout="compressed")
    plots.replicate_images(
        loaded.scaling.inverse(rows),
        loaded.scaling.inverse(drawn.reshape(*drawn.shape[:2], -1)),
        shape,
        count=len(rows),
        axes=figure.subplots(*layout, squeeze=False),
    )
    figure.suptitle("Rows and replicates of them")
    return figure


def _accepted(loaded: LoadedRun, x: Tensor) -> Tensor:
    """The rows that the guide can take."""
    accepted = x[acceptable(loaded.pair, x)]
    return accepted if len(accepted) else x
