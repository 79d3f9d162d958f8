"""What the estimators have in common: options, reading, evidence, imputation, and what a run of EM reports."""

from __future__ import annotations

import contextlib
import math
import numbers
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyro_lvm.data.checks import column_names, quoted
from pyro_lvm.em import evaluation
from pyro_lvm.em.climb import Climb, Report
from pyro_lvm.em.moments import Moments, moments_of, sum_moments
from pyro_lvm.em.parameters import Parameters
from pyro_lvm.em.table import Table, read_table
from pyro_lvm.errors import DataError
from pyro_lvm.progress import Reporter

Array = NDArray[np.float64]

# Below this, sums of squares have lost digits, or the noise floor's fraction of them has.
LEAST_SQUARES = 1e-280


class LinearGaussianEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The part of a scikit-learn estimator that is the same for PPCA, factor analysis and mixtures."""

    # Options that are positive whole numbers, for the check.
    _counts: ClassVar[tuple[str, ...]] = ("max_iter", "n_init")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        return tags

    def score_samples(self, X: Any) -> Array:
        """Exact log-evidence of each row, in nats; of a row with missing entries that of its observed part.

        Args:
            X: (n_samples, n_features), NaN where missing.

        Returns:
            (n_samples,); 0 for a row with nothing observed.
        """
        return self._evaluate(X, lambda x, model: evaluation.joint_log_evidence(x, model).logsumexp(1))

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of :meth:`score_samples`, in nats per row.

        Args:
            X: (n_samples, n_features), NaN where missing.
            y: ignored.
        """
        return float(self.score_samples(X).mean())

    def impute(self, X: Any, draws: int | None = None, random_state: Any = None) -> Array:
        """Fill missing entries from their distribution given the observed ones of the row, which stay as they are.

        Args:
            X: (n_samples, n_features), NaN where missing.
            draws: None for the conditional mean, or how many draws from the exact joint conditional distribution.
            random_state: seed or generator of the draws; the estimator's own without it.

        Returns:
            (n_samples, n_features), or (draws, n_samples, n_features).

        Raises:
            DataError: ``draws`` isn't a positive whole number.
        """
        if draws is None:
            return self._evaluate(X, evaluation.impute)
        self._check_count("draws", draws)
        rng = self._random_state(random_state)
        return self._evaluate(X, lambda x, model: evaluation.draw_missing(x, model, draws, rng), axis=1)

    @property
    def _n_features_out(self) -> int:
        raise NotImplementedError

    def _model(self) -> Parameters:
        """The fitted parameters in the data's units, on the device."""
        raise NotImplementedError

    def _evaluate(self, X: Any, function: Callable[[Tensor, Parameters], Tensor], axis: int = 0) -> Array:
        """Apply a function of rows and parameters batch by batch, and join what it returns along ``axis``."""
        check_is_fitted(self)
        model = self._model()
        table = read_table(self, X, reset=False)
        parts = [function(batch.to(model.means.device), model).cpu().numpy() for batch in table.batches()]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)

    def _posterior(self, X: Any) -> tuple[Array, Array]:
        """Means and covariances of each row and component; rows share one covariance where that is all there is."""
        check_is_fitted(self)
        model = self._model()
        table = read_table(self, X, reset=False)
        means, covariances = [], []
        for batch in table.batches():
            mean, covariance = (
                part.cpu().numpy() for part in evaluation.posterior(batch.to(model.means.device), model)
            )
            means.append(mean)
            covariances.append(np.broadcast_to(covariance, (len(mean), *covariance.shape[1:])))
        if len(means) == 1:
            return means[0], covariances[0]
        return np.concatenate(means), np.concatenate(covariances)

    def _read(self, X: Any, *, reset: bool = True) -> Table:
        self._check_options()
        least = 2 if reset else 1
        return read_table(self, X, reset=reset, min_rows=least, min_features=least)

    def _check_options(self) -> None:
        for name in self._counts:
            self._check_count(name, getattr(self, name))
        for name, fits, expected in (
            ("tol", lambda value: value >= 0, "a number from 0 up"),
            ("noise_floor", lambda value: 0 < value < math.inf, "a finite number above 0"),
        ):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) or not fits(value):
                raise DataError(f"{name}={value!r}: expected {expected}")

    @staticmethod
    def _check_count(name: str, value: Any) -> None:
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
            raise DataError(f"{name}={value!r}: expected a whole number from 1 up")

    def _device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except (RuntimeError, TypeError):
            device = None
        if device is None or device.type not in ("cpu", "cuda"):
            raise DataError(f"device={self.device!r}: expected 'cpu', 'cuda' or 'auto', which have float64")
        if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
            raise DataError(f"device={self.device!r}: PyTorch finds no such device; use 'cpu' or 'auto'")
        return device

    def _random_state(self, given: Any = None) -> np.random.RandomState:
        return generator_of(self.random_state if given is None else given)

    def _names(self, which: Tensor) -> str:
        """The features at the positions where ``which``, (n_features,), is True, for a message."""
        names = column_names(len(which), getattr(self, "feature_names_in_", None))
        chosen = which.nonzero().flatten().tolist()
        return f"feature{'s' if len(chosen) > 1 else ''} {quoted(str(names[index]) for index in chosen)}"

    def _gather(self, table: Table, *, scatter: bool) -> Moments:
        """One sweep over the rows."""
        device = self._device()
        return sum_moments(moments_of(batch.to(device), scatter=scatter) for batch in table.batches())

    def _check_moments(self, moments: Moments) -> None:
        never = moments.counts == 0
        if bool(never.any()):
            raise DataError(f"{self._names(never)} of X: no entry is observed; leave out what was never measured")
        varied, squares = moments.high > moments.low, moments.squares
        lost = ~squares.isfinite() | (varied & (squares < LEAST_SQUARES))
        if bool(lost.any()):
            raise DataError(
                f"{self._names(lost)} of X: the squares of entries between {moments.low[lost].min():.1e} and "
                f"{moments.high[lost].max():.1e} are beyond float64; expected deviations from the mean between 1e-140 "
                "and 1e150: change the unit"
            )

    @contextlib.contextmanager
    def _progress(self, moments: Moments, unit: Tensor) -> Iterator[Report]:
        """Reports EM's steps, with the evidence in the data's units and over all rows."""
        in_units = _evidence_in_units(moments, unit)
        with Reporter(type(self).__name__, enabled=bool(self.verbose)) as reporter:
            yield lambda step, nats: reporter.update(step, self.max_iter, f"{in_units(nats):.6f} nats/row")

    def _record(self, result: Climb, moments: Moments, unit: Tensor) -> None:
        """Set what is known of EM's run, in the data's units and over all rows."""
        self.log_likelihood_path_ = np.array([*map(_evidence_in_units(moments, unit), result.path)])
        self.n_iter_ = max(1, len(result.path) - 1)
        self.converged_ = result.converged
        if not result.converged:
            warnings.warn(
                f"{type(self).__name__} stopped after max_iter={self.max_iter} steps, still rising by "
                f"{result.path[-1] - result.path[max(-6, -len(result.path))]:.1e} nats a row in the last few: raise "
                "max_iter, or tol if that is near enough",
                ConvergenceWarning,
                stacklevel=4,
            )


def generator_of(random_state: Any) -> np.random.RandomState:
    """The generator of a seed, None, or either kind of NumPy's generators, which goes on where it is.

    Args:
        random_state: an int, None, ``RandomState`` or ``Generator``.

    Raises:
        ValueError: from scikit-learn: something else, or a seed below 0.
    """
    if isinstance(random_state, np.random.Generator):
        return np.random.RandomState(random_state.bit_generator)
    generator: np.random.RandomState = check_random_state(random_state)
    return generator


def _evidence_in_units(moments: Moments, unit: Tensor) -> Callable[[float], float]:
    """Turns nats per row with something observed, of rows divided by ``unit``, into nats per row of the data."""
    share = (moments.num_rows - moments.num_empty) / moments.num_rows
    log_jacobian = -float(moments.counts @ unit.log()) / moments.num_rows
    return lambda nats: share * nats + log_jacobian


def sample_gaussian(parameters: Parameters, component: NDArray[np.intp], random_state: np.random.RandomState) -> Array:
    """Draw rows of given components.

    Args:
        parameters: of the model.
        component: (num_rows,).
        random_state: draws them.

    Returns:
        (num_rows, data_dim).
    """
    means, loadings, scale = (
        value.cpu().numpy() for value in (parameters.means, parameters.loadings, parameters.noise_variance.sqrt())
    )
    z = random_state.standard_normal((len(component), loadings.shape[-1]))
    x: Array = means[component] + random_state.standard_normal((len(component), means.shape[1])) * scale[component]
    for k in range(len(means)):
        x[component == k] += z[component == k] @ loadings[k].T
    return x
