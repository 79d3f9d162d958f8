"""What a saved run makes of a table: missing entries filled, rows embedded."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from pyro_lvm import data
from pyro_lvm.artifact import Artifact
from pyro_lvm.data.cells import Cells
from pyro_lvm.data.files import TEXT_ENDINGS, ending_of
from pyro_lvm.data.writing import check_new_file, replacing, write_table
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.imputation import imputed_draws, imputed_mean
from pyro_lvm.mixture_posterior import MixturePosterior
from pyro_lvm.pair import Encodes, HasEstimator, HasExactPosterior, Pair, refuse_holes
from pyro_lvm.progress import Reporter
from pyro_lvm.reading import load_own, read_run
from pyro_lvm.source import DataSource

FloatArray = npt.NDArray[np.float64]

PosteriorKind = Literal["exact", "guide"]
"""Whose posterior: the model's exact one, or what the guide says it is."""

# Rows between two reports of progress.
_BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Imputed:
    """What was filled.

    Attributes:
        num_rows: rows of the table.
        num_filled: entries that were missing and are filled.
        num_rows_filled: rows with such an entry.
        num_rows_unobserved: rows of which nothing was observed, filled from the model alone.
        draws: how many draws; None for the conditional mean.
    """

    num_rows: int
    num_filled: int
    num_rows_filled: int
    num_rows_unobserved: int
    draws: int | None


def impute_run(
    run: str | Path,
    table: str | Path,
    out: str | Path,
    *,
    draws: int | None = None,
    seed: int = 0,
    force: bool = False,
    pair: str | None = None,
    progress: bool = True,
) -> Imputed:
    """Fill the missing entries of a table from their distribution given the observed ones of the row.

    That is exact where the model has an estimator; else it is drawn by a Markov chain for each row
    (:class:`pyro_lvm.imputation.ImputationChain`). Columns, their order and every cell that isn't missing stay as they
    are, those of columns that the run doesn't use too. A row of which nothing is observed is filled with the model's
    mean, or with draws from the model.

    Args:
        run: Folder of a run.
        table: A text, Parquet or NPY file with the columns that the run was fitted to.
        out: The file to write, of the same kind.
        draws: None for the conditional mean; else how many draws from the joint conditional distribution, written one
            after the other with a column ``draw`` in front, 1 to ``draws``; in NPY along a first dimension.
        seed: Of the draws.
        force: Replace a file that is there.
        pair: The pair's file, ``FILE.py:MODEL,GUIDE``, where it was defined in one.
        progress: Show how far it is.

    Returns:
        What was filled.

    Raises:
        PyroLvmError: Anything given is unusable; what was there before is as it was.
    """
    table, out = Path(table), Path(out)
    if ending_of(out.name) != ending_of(table.name):
        raise DataError(f"'{out}' can't be written from '{table}': expected a file of the same ending")
    if draws is not None and draws < 1:
        raise DataError(f"draws={draws}: expected 1 or more, or none for the conditional mean")
    if not 0 <= seed < 2**32:
        raise DataError(f"seed={seed}: expected 0 or more, and less than 2^32")
    check_new_file(out, force=force)
    saved, _, scaling = read_run(run, pair=pair)
    cells = Cells.read(table)
    columns = _columns(cells, saved)
    rows = cells.numbers(columns)
    missing = np.isnan(rows)
    done = Imputed(
        num_rows=len(rows),
        num_filled=int(missing.sum()),
        num_rows_filled=int(missing.any(1).sum()),
        num_rows_unobserved=int(missing.all(1).sum()),
        draws=draws,
    )
    if not done.num_filled and draws is None:
        with replacing(out) as beside:
            shutil.copyfile(table, beside)
        return done
    scaled = scaling.transform(torch.from_numpy(rows)).numpy()
    model = saved.pair.model
    if isinstance(model, HasEstimator):
        tables = _imputed_exactly(model.to_estimator(), scaled, draws, seed, progress)
    else:
        tables = _imputed_by_chain(saved.pair, scaled, draws, seed, progress)
    values = (scaling.inverse(torch.from_numpy(table)).numpy() for table in tables)
    cells.write(out, (cells.filled(columns, value, missing) for value in values), draws=draws)
    return done


def _imputed_exactly(
    estimator: Any, rows: FloatArray, draws: int | None, seed: int, progress: bool
) -> Iterator[FloatArray]:
    """The rows filled by the conditional mean, or ``draws`` times, of which only one need be in memory."""
    # One generator for all blocks.
    random_state = np.random.RandomState(seed)
    times = 1 if draws is None else draws
    with Reporter("imputing", enabled=progress) as reporter:
        for done in range(times):
            table = np.empty_like(rows)
            for start in range(0, len(rows), _BLOCK_ROWS):
                block = slice(start, start + _BLOCK_ROWS)
                if draws is None:
                    table[block] = estimator.impute(rows[block])
                else:
                    table[block] = estimator.impute(rows[block], draws=1, random_state=random_state)[0]
                reporter.update(done * len(rows) + min(block.stop, len(rows)), times * len(rows), "rows")
            yield table


def _imputed_by_chain(
    pair: Pair, rows: FloatArray, draws: int | None, seed: int, progress: bool
) -> Iterator[FloatArray]:
    """The same for a model that knows no conditional distribution, by Monte Carlo."""
    x = torch.from_numpy(rows).float()
    # Parameters that appear when the pair first runs must not do so on what is missing.
    pair.materialize(x[:2].nan_to_num())
    if draws is None:
        tables: Iterable[Tensor] = [imputed_mean(pair, x, seed=seed, progress=progress)]
    else:
        tables = imputed_draws(pair, x, draws, seed=seed, progress=progress)
    for table in tables:
        yield table.double().numpy()


def embed_run(
    run: str | Path,
    out: str | Path,
    table: str | None = None,
    *,
    root: str | None = None,
    posterior: PosteriorKind | None = None,
    force: bool = False,
    pair: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Write the posterior of each row's latent coordinates: means ``z1`` to ``zd``, then ``z1_sd`` to ``zd_sd``.

    The coordinates are the model's own; of a run by EM or in closed form they are in order of the variance that they
    explain. A mixture has a column ``qk`` for the probability of each component and its coordinates as ``tk_zi``. In
    front stand the columns of the table that the run doesn't use, a label or a row's name among them.

    Args:
        run: Folder of a run.
        out: The file to write: text or Parquet.
        table: A file with the columns that the run was fitted to, or the name of a data set; None for the run's own.
        root: Folder of a named data set's files.
        posterior: ``"exact"`` or ``"guide"``; None for exact where the model has it, else the guide's.
        force: Replace a file that is there.
        pair: The pair's file, ``FILE.py:MODEL,GUIDE``, where it was defined in one.
        progress: Show how far it is.

    Returns:
        What was written.

    Raises:
        PyroLvmError: Anything given is unusable; what was there before is as it was.
    """
    out = Path(out)
    if ending_of(out.name) not in (*TEXT_ENDINGS, ".parquet"):
        raise DataError(f"'{out}' has an ending that isn't known: expected {', '.join(TEXT_ENDINGS)} or .parquet")
    check_new_file(out, force=force)
    saved, own, scaling = read_run(run, pair=pair)
    source = own if table is None else DataSource(table)
    root = own.root if root is None else root
    if table is None:
        load_own(run, saved, replace(own, root=root))
    others, rows = _rows_of(saved, source, root)
    scaled = scaling.transform(torch.from_numpy(rows)).float()
    encode = _encoder(saved.pair, posterior, scaled)
    with saved.pair.evaluating():
        parts = [_summary(encode(torch.from_numpy(block))) for block in _blocks(scaled.numpy(), "embedding", progress)]
    latent = pd.concat(parts, ignore_index=True)
    twice = [name for name in latent.columns if name in others.columns]
    if twice:
        raise DataError(f"'{source.reference}' has a column '{twice[0]}' already: rename it")
    whole = pd.concat([others.reset_index(drop=True), latent], axis=1)
    write_table(out, [whole], delimiter="\t" if (ending_of(out.name) or "").startswith(".tsv") else ",")
    return whole


def _rows_of(saved: Artifact, source: DataSource, root: str | None) -> tuple[pd.DataFrame, FloatArray]:
    """The columns that a run doesn't use, and the rows that it does."""
    path = Path(source.reference)
    if not path.is_file() and root is not None:
        path = Path(root) / source.reference
    if path.is_file() and ending_of(path.name) != ".npz":
        cells = Cells.read(path)
        columns = _columns(cells, saved)
        return cells.frame.drop(columns=columns), cells.numbers(columns)
    dataset = data.load(source.reference, root=root, **source.options)
    expected = saved.config["data"]["shape"][1]
    if dataset.data_dim != expected:
        raise DataError(
            f"'{source.reference}' has {dataset.data_dim} features, but the run was fitted to {expected}: give rows of "
            "the same features"
        )
    others = pd.DataFrame(index=range(dataset.num_rows))
    if dataset.labels is not None:
        codes = dataset.labels.numpy()
        known = dataset.label_names
        others["label"] = codes if known is None else [known[code] if code >= 0 else "" for code in codes]
    return others, dataset.rows.double().numpy()


def _columns(cells: Cells, saved: Artifact) -> list[str]:
    return cells.columns(saved.config.get("features"), saved.config["data"]["shape"][1])


def _blocks(rows: FloatArray, title: str, progress: bool) -> Iterator[FloatArray]:
    with Reporter(title, enabled=progress) as reporter:
        for start in range(0, len(rows), _BLOCK_ROWS):
            yield rows[start : start + _BLOCK_ROWS]
            reporter.update(min(start + _BLOCK_ROWS, len(rows)), len(rows), "rows")


def _encoder(pair: Pair, posterior: str | None, rows: Tensor) -> Callable[[Tensor], Any]:
    """What gives the posterior of rows, the exact one if it is to be had and no other was asked for."""
    exact = isinstance(pair.model, HasExactPosterior)
    chosen = posterior or ("exact" if exact else "guide")
    if chosen == "exact":
        if not isinstance(pair.model, HasExactPosterior):
            raise PairError(f"the model {type(pair.model).__name__} has no exact posterior: take the guide's")
        return pair.model.exact_posterior
    if not isinstance(pair.guide, Encodes):
        raise PairError(f"the guide {type(pair.guide).__name__} has no encode(x): its posterior can't be read")
    refuse_holes(pair, rows)
    return pair.guide.encode


def _summary(posterior: Any, prefix: str = "") -> pd.DataFrame:
    """Means and standard deviations, a column each; of a mixture those of each component, after its probability."""
    if isinstance(posterior, MixturePosterior):
        shares = posterior.responsibilities.double().numpy()
        names = [f"q{k + 1}" for k in range(shares.shape[1])]
        each = [_summary(latents, f"t{k + 1}_") for k, latents in enumerate(posterior.latents)]
        return pd.concat([pd.DataFrame(shares, columns=names), *each], axis=1)
    mean, deviation = getattr(posterior, "mean", None), getattr(posterior, "stddev", None)
    if not (isinstance(mean, Tensor) and isinstance(deviation, Tensor) and mean.ndim == 2):
        raise PairError(
            f"the posterior is a {type(posterior).__name__}: expected the distribution of one vector a row, with mean "
            "and standard deviation"
        )
    names = [f"{prefix}z{i + 1}" for i in range(mean.shape[1])]
    columns = [*names, *(f"{name}_sd" for name in names)]
    return pd.DataFrame(torch.cat([mean, deviation.expand_as(mean)], dim=1).double().numpy(), columns=columns)
