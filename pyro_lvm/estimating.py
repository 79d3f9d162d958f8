"""Fitting a pair by the estimator of its family: the maximum of the likelihood by EM or in closed form."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from sklearn.base import clone
from torch import Tensor

from pyro_lvm.batches import StreamBatches
from pyro_lvm.data import Dataset, RowStream
from pyro_lvm.errors import DataError, PairError, PyroLvmError, TrainingError
from pyro_lvm.fitting import FitResult, choose_device, hold_out
from pyro_lvm.history import History
from pyro_lvm.pair import HasEstimator, Matches, Pair

EM_OPTIONS = ("tol", "n_init", "noise_floor")
"""Arguments of estimators that can be given as options of a pair; its size is the model's."""


def fit_by_estimator(
    pair: Pair,
    rows: Tensor | RowStream,
    *,
    method: Literal["em", "closed"] = "em",
    options: Mapping[str, Any] | None = None,
    feature_names: Sequence[str] | None = None,
    steps: int | None = None,
    validation: float | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = True,
) -> FitResult:
    """Put a pair's model at the maximum of the likelihood, and its guide at the model's exact posterior.

    Args:
        pair: Its model has ``to_estimator`` and ``from_estimator``, its guide ``match``.
        rows: Training rows, shape (rows, D), NaN where missing; or a stream of them, read once for each step.
        method: ``"em"``, or ``"closed"`` for the closed form where the family has one.
        options: The estimator's options, of those in :data:`EM_OPTIONS`.
        feature_names: What errors and warnings call the features of rows in memory; None for their numbers.
        steps: Steps of EM at most; None for the estimator's own limit.
        validation: The fraction of rows to hold out at random.
        device: Where EM computes; ``"auto"`` takes CUDA where there is one.
        seed: Of EM's start and of the rows that are held out.
        progress: Show how far EM is.

    Returns:
        The pair and the record of EM: its ``elbo`` is the mean log-evidence, which the ELBO is at the exact posterior.

    Raises:
        PairError: The model has no estimator, or the guide can't be matched to it.
        TrainingError: The family has no such method, or fewer components are left than the pair has.
        DataError: The maximum doesn't exist for these rows.
    """
    model, guide = pair.model, pair.guide
    if not isinstance(model, HasEstimator):
        raise PairError(
            f"method '{method}' needs an estimator, and the model {type(model).__name__} has none: use method 'svi'"
        )
    if not isinstance(guide, Matches):
        raise PairError(
            f"the guide {type(guide).__name__} can't be put at an exact posterior: use another guide, or method 'svi'"
        )
    train_rows, _, held_out = hold_out(rows, validation, seed)
    target = choose_device(device)
    estimator = clone(model.to_estimator()).set_params(**dict(options or {}))
    estimator.set_params(random_state=seed, device=str(target), verbose=progress)
    if steps is not None:
        estimator.set_params(max_iter=steps)
    if "method" in estimator.get_params():
        estimator.set_params(method=method)
    elif method == "closed":
        raise TrainingError(f"{type(estimator).__name__} has no closed form: use method 'em'")
    began = time.perf_counter()
    if isinstance(train_rows, RowStream):
        table: Any = _Sweeps(train_rows)
    elif feature_names is not None:
        table = Dataset(train_rows, feature_names=tuple(feature_names))
    else:
        table = train_rows
    try:
        estimator.fit(table)
    except PyroLvmError:
        raise
    except ValueError as error:
        # scikit-learn's own, of several lines.
        raise DataError(" ".join(str(error).split())) from error
    seconds = time.perf_counter() - began
    _take_over(model, estimator)
    here = StreamBatches(train_rows, torch.device("cpu")).sample if isinstance(train_rows, RowStream) else train_rows
    pair.start(here, torch.Generator().manual_seed(seed))
    pair.to(target)
    return FitResult(
        pair=pair,
        history=_history(estimator),
        stopped=_why_stopped(estimator, method, steps),
        steps=estimator.n_iter_,
        seconds=seconds,
        num_rows=train_rows.num_rows if isinstance(train_rows, RowStream) else len(train_rows),
        device=str(target),
        validation_rows=held_out,
    )


class _Sweeps:
    """A stream that gives the same batches whenever it is iterated: EM must see the same sums again."""

    def __init__(self, stream: RowStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Tensor]:
        return self._stream.epoch(0)


def _take_over(model: Any, estimator: Any) -> None:
    """Give the model the estimator's parameters; the model keeps what else it was built with."""
    fitted = type(model).from_estimator(estimator)
    try:
        model.load_state_dict(fitted.state_dict())
    except RuntimeError as error:
        raise TrainingError(
            f"{type(estimator).__name__} kept fewer components than the model has: give the pair fewer"
        ) from error


def _history(estimator: Any) -> History:
    path = estimator.log_likelihood_path_.tolist()
    first = estimator.n_iter_ - len(path) + 1
    return History(
        [
            {"step": first + i, "epoch": first + i, "lr": None, "elbo": value, "validation_elbo": None}
            for i, value in enumerate(path)
        ]
    )


def _why_stopped(estimator: Any, method: str, steps: int | None) -> str:
    if method == "closed":
        return "closed form"
    if estimator.converged_:
        return "converged"
    return "budget" if steps is not None else "not converged"
