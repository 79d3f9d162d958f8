"""The size of a model chosen on data, as the command line does it: load, compare, keep the curve."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pyro_lvm import catalogue, data
from pyro_lvm.data.writing import check_new_file, replacing, write_table
from pyro_lvm.em import SelectionCurve, select
from pyro_lvm.errors import DataError, PairError, PyroLvmError
from pyro_lvm.plots import selection_curve
from pyro_lvm.plots.files import DPI
from pyro_lvm.source import DataSource

CURVE, PICTURE = "curve.csv", "curve.png"


def select_size(
    reference: str,
    source: DataSource,
    candidates: Sequence[int],
    *,
    criterion: str = "evidence",
    parameter: str = "n_components",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> SelectionCurve:
    """Compare numbers of latent dimensions, or of mixture components, by the estimator of a pair.

    Args:
        reference: Name of the pair.
        source: The data.
        candidates: Numbers to compare.
        criterion: ``"evidence"``, ``"imputation"``, ``"bic"`` or ``"laplace"``; see :func:`pyro_lvm.em.select`.
        parameter: What they are numbers of, ``"n_components"`` or ``"n_mixtures"``.
        options: Other arguments of the estimator.
        seed: Of folds and starts.
        progress: Show how far it is.

    Returns:
        The curve. Evidence and BIC are of the data in their own units, however they were scaled for the fits; the
        Laplace evidence is up to a constant.

    Raises:
        PyroLvmError: Anything given is unusable.
    """
    spec = catalogue.find(reference)
    if spec.estimator is None:
        raise PairError(f"pair '{reference}' has no estimator to compare by: expected one that has, as ppca")
    known = [name for name in inspect.signature(spec.estimator).parameters if name not in (parameter, "random_state")]
    unknown = [name for name in options or {} if name not in known]
    if unknown:
        raise PairError(
            f"the estimator of '{reference}' has no option '{unknown[0]}': its options are {', '.join(known)}"
        )
    dataset, stream = source.load(256, seed)
    if stream is not None:
        raise DataError(f"'{source.reference}' doesn't fit in memory: select on a part of its rows")
    scaling = data.Scaling.fit(dataset.rows, source.scale)
    estimator = spec.estimator(**{"random_state": seed, **(options or {})})
    try:
        curve = select(
            estimator,
            dataclasses.replace(dataset, rows=scaling.transform(dataset.rows)),
            candidates,
            parameter=parameter,
            criterion=criterion,
            random_state=seed,
            verbose=progress,
        )
    except PyroLvmError:
        raise
    except ValueError as error:
        # scikit-learn's own, of several lines.
        raise DataError(" ".join(str(error).split())) from error
    log_jacobian = float(scaling.row_log_jacobian(dataset.rows).sum())
    shift = {"evidence": -log_jacobian / dataset.num_rows, "bic": 2 * log_jacobian}.get(criterion, 0.0)
    return dataclasses.replace(curve, scores=tuple(score + shift for score in curve.scores))


def check_curve_folder(out: Path, *, force: bool) -> None:
    """Check that a curve can be kept, to be asked before the work is done.

    Raises:
        DataError: One is there and ``force`` is off, or it can't be written.
    """
    for name in (CURVE, PICTURE):
        check_new_file(out / name, force=force)


def save_curve(curve: SelectionCurve, out: Path) -> list[Path]:
    """Write a curve as a table and as a picture.

    Args:
        curve: The curve.
        out: The folder.

    Returns:
        The files.

    Raises:
        DataError: They can't be written.
    """
    figure = Figure(figsize=(7.0, 4.3), layout="constrained")
    selection_curve(curve, ax=figure.add_subplot())
    write_table(out / CURVE, [curve.to_frame()])
    with replacing(out / PICTURE) as beside:
        figure.savefig(beside, dpi=DPI, bbox_inches="tight")
    return [out / CURVE, out / PICTURE]
