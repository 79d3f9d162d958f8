"""How many latent dimensions, or mixture components: a curve over candidates, by a criterion of one's choice."""

from __future__ import annotations

import dataclasses
import math
import numbers
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import KFold

from pyro_lvm.em.base import Array, generator_of
from pyro_lvm.em.dimension import laplace_evidence
from pyro_lvm.em.moments import moments_of
from pyro_lvm.em.ppca import PPCA
from pyro_lvm.em.table import read_table
from pyro_lvm.errors import DataError
from pyro_lvm.linear_gaussian import maximum_likelihood
from pyro_lvm.progress import Reporter


@dataclasses.dataclass(frozen=True)
class SelectionCurve:
    """A criterion over candidates.

    Attributes:
        parameter: what the candidates are values of.
        criterion: what was measured.
        candidates: the values.
        scores: of each candidate.
        standard_errors: of each score over the folds, 0 for a criterion without folds.
        higher_is_better: which way the criterion points.
    """

    parameter: str
    criterion: str
    candidates: tuple[int, ...]
    scores: tuple[float, ...]
    standard_errors: tuple[float, ...]
    higher_is_better: bool

    @property
    def best(self) -> int:
        """The candidate with the best score, the smaller one of two that tie."""
        sign = -1 if self.higher_is_better else 1
        return min(zip((sign * score for score in self.scores), self.candidates, strict=True))[1]

    def to_frame(self) -> pd.DataFrame:
        """One row a candidate: the candidate under the parameter's name, ``score`` and ``standard_error``."""
        columns = {self.parameter: self.candidates, "score": self.scores, "standard_error": self.standard_errors}
        return pd.DataFrame(columns)


class _Fold(NamedTuple):
    train: NDArray[np.intp]
    test: NDArray[np.intp]
    hidden: NDArray[np.bool_]  # of the test rows' entries


def select(
    estimator: BaseEstimator,
    X: Any,
    candidates: Iterable[int],
    *,
    parameter: str = "n_components",
    criterion: str = "evidence",
    n_folds: int = 5,
    hidden_share: float = 0.1,
    random_state: Any = 0,
    verbose: bool = False,
) -> SelectionCurve:
    """Compare numbers of latent dimensions, or of mixture components.

    Criteria:

    - ``"evidence"``: held-out log-evidence over folds, nats per row; higher is better.
    - ``"imputation"``: mean squared error of imputing held-out entries over folds, in units of each feature's variance;
      lower is better. Rows are held out too, and ``hidden_share`` of their observed entries hidden.
    - ``"bic"``: Schwarz 1978, -2 log p(X) + (number of parameters) log N; lower is better.
    - ``"laplace"``: Minka 2000, log p(X | d) for PPCA of complete rows, in nats; higher is better.

    Args:
        estimator: a :class:`PPCA`, :class:`FactorAnalysis` or :class:`MixturePPCA`, of which copies are fitted.
        X: (n_samples, n_features) in memory, NaN where missing.
        candidates: numbers to try.
        parameter: what they are numbers of: "n_components" or "n_mixtures".
        criterion: one of the above.
        n_folds: for the first two criteria.
        hidden_share: of the observed entries of held-out rows, for "imputation".
        random_state: seed or generator of the folds and of the hidden entries.
        verbose: whether to show a bar.

    Returns:
        The curve.

    Raises:
        DataError: a candidate, the criterion or the parameter doesn't fit.
    """
    given = tuple(candidates)
    if not given or not all(isinstance(value, numbers.Integral) for value in given):
        raise DataError(f"candidates={given}: expected whole numbers, at least one, such as range(1, 10)")
    values = tuple(int(value) for value in given)
    if parameter not in estimator.get_params():
        raise DataError(
            f"{type(estimator).__name__} has no parameter {parameter!r}: expected n_components or n_mixtures"
        )
    if criterion not in ("evidence", "imputation", "bic", "laplace"):
        raise DataError(f"criterion={criterion!r}: expected 'evidence', 'imputation', 'bic' or 'laplace'")
    reader = clone(estimator)
    table = read_table(reader, X, reset=True, min_rows=2)
    if table.whole is None:
        raise DataError("X isn't in memory: select compares fits to parts of it; pass an array, or a part of the rows")
    x: Array = table.whole.numpy()
    if criterion == "laplace":
        scores = _laplace(estimator, x, values, parameter)
        return SelectionCurve(parameter, criterion, values, scores, (0.0,) * len(values), True)

    folds = _folds(x, n_folds, hidden_share, generator_of(random_state), reader._names)
    names = getattr(reader, "feature_names_in_", None)

    def named(rows: Array) -> Any:
        """Rows that errors and warnings call by their columns' names."""
        return rows if names is None else pd.DataFrame(rows, columns=names)

    measure: Callable[[BaseEstimator], tuple[float, float]] = {
        "evidence": lambda model: _over(folds, lambda fold: model.fit(named(x[fold.train])).score(named(x[fold.test]))),
        "imputation": lambda model: _over(folds, lambda fold: _imputation_error(model, x, fold, named)),
        "bic": lambda model: (_bic(model.fit(named(x)), named(x)), 0.0),
    }[criterion]
    results: dict[int, tuple[float, float]] = {}
    with Reporter(f"select {parameter}", enabled=verbose) as reporter, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warned = []
        # The largest first: one that is too large for the data says so before the others are fitted.
        for value in sorted(set(values), reverse=True):
            already = len(caught)
            results[value] = measure(clone(estimator).set_params(**{parameter: value}))
            reporter.update(len(results), len(values), f"{parameter}={value}: {results[value][0]:.4f}")
            warned += [value] * (len(caught) > already)
    if caught:
        # One word for what each of many fits would say again.
        sizes = ", ".join(map(str, reversed(warned)))
        warnings.warn(
            f"{len(caught)} warnings from fits with {parameter}={sizes}, the first of them: {caught[0].message}",
            caught[0].category,
            stacklevel=2,
        )
    means, errors = zip(*(results[value] for value in values), strict=True)
    return SelectionCurve(parameter, criterion, values, means, errors, criterion == "evidence")


def _folds(
    x: Array, n_folds: int, hidden_share: float, rng: np.random.RandomState, names: Callable[[torch.Tensor], str]
) -> list[_Fold]:
    if not 2 <= n_folds <= len(x) or not 0 < hidden_share < 1:
        raise DataError(
            f"n_folds={n_folds} and hidden_share={hidden_share} for {len(x)} rows: expected 2 folds to one for each "
            "row, and a share between 0 and 1"
        )
    observed = ~np.isnan(x)
    parts = KFold(n_folds, shuffle=True, random_state=rng).split(x)
    folds = [
        _Fold(train, test, (rng.random_sample((len(test), x.shape[1])) < hidden_share) & observed[test])
        for train, test in parts
    ]
    rare = observed.any(0) & ~np.all([observed[fold.train].any(0) for fold in folds], axis=0)
    if rare.any():
        raise DataError(
            f"{names(torch.from_numpy(rare))} of X: all observed entries are in rows of one of {n_folds} folds; leave "
            "out what was hardly measured, or try another random_state or criterion='bic'"
        )
    return folds


def _over(folds: list[_Fold], score: Callable[[_Fold], float]) -> tuple[float, float]:
    scores = [score(fold) for fold in folds]
    return float(np.mean(scores)), float(np.std(scores, ddof=1) / math.sqrt(len(scores)))


def _imputation_error(model: Any, x: Array, fold: _Fold, named: Callable[[Array], Any]) -> float:
    variance = moments_of(torch.from_numpy(x[fold.train]), scatter=False).variances.numpy()
    scale = np.sqrt(np.where(variance > 0, variance, 1.0))
    test = np.where(fold.hidden, np.nan, x[fold.test])
    if not fold.hidden.any():
        raise DataError(
            f"no entry is hidden in a fold of {len(fold.test)} rows: expected one at least; choose fewer folds, or a "
            "larger hidden_share"
        )
    errors = (model.fit(named(x[fold.train])).impute(named(test)) - x[fold.test]) / scale
    return float(np.mean(errors[fold.hidden] ** 2))


def _bic(model: Any, x: Any) -> float:
    return float(-2 * model.score_samples(x).sum() + model._num_parameters() * math.log(len(x)))


def _laplace(estimator: BaseEstimator, x: Array, values: tuple[int, ...], parameter: str) -> tuple[float, ...]:
    if not isinstance(estimator, PPCA) or parameter != "n_components" or np.isnan(x).any():
        raise DataError("criterion='laplace' is for PPCA of complete rows: expected such, or another criterion")
    num_rows, num_features = x.shape
    if not all(1 <= value < num_features for value in values):
        raise DataError(f"candidates {values}: expected numbers from 1 to {num_features - 1} for n_components")
    eigenvalues = maximum_likelihood(torch.from_numpy(x), 1).eigenvalues
    evidence = laplace_evidence(eigenvalues, num_rows, num_features)
    return tuple(float(evidence[value - 1]) for value in values)
