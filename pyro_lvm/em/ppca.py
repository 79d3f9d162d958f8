"""Probabilistic PCA as a scikit-learn estimator."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_lvm.em.base import LEAST_SQUARES
from pyro_lvm.em.dimension import laplace_evidence
from pyro_lvm.em.dimension import latent_dim as checked_latent_dim
from pyro_lvm.em.moments import Moments
from pyro_lvm.em.parameters import NoiseModel, Parameters
from pyro_lvm.em.rotation import canonical, ordered
from pyro_lvm.em.single import MakeRows, SingleComponent
from pyro_lvm.em.stepwise import Stepwise
from pyro_lvm.em.table import Table
from pyro_lvm.em.units import common_unit, warn_of_scales
from pyro_lvm.errors import DataError
from pyro_lvm.linear_gaussian import PPCAParameters, maximum_likelihood, maximum_likelihood_of_covariance

_METHODS = ("auto", "closed", "em")
# Rows that show the scales of the features well enough for a warning.
_SAMPLE = 1000


class PPCA(SingleComponent):
    r"""Probabilistic PCA: a few latent coordinates mapped linearly into the data, plus noise of one variance.

    .. math:: z \sim N(0, I_d), \qquad x \mid z \sim N(W z + \mu, \sigma^2 I_D)

    Missing entries (NaN) are integrated out, in fitting as in everything else. Complete rows are fitted in closed form,
    others by EM. The fit doesn't depend on the unit of the data, nor on rotations of them, but it does on features'
    units relative to each other: put them on one scale, or use :class:`FactorAnalysis`.

    Args:
        n_components: number of latent dimensions d, at least 1 and below the rank of the centred data; "mle" for the
            one with the highest Laplace evidence (complete rows only); None for 2, or 1 where the data have no room
            for 2.
        method: "closed", "em", or "auto", which is closed wherever rows are complete.
        noise_floor: least noise variance in EM, relative to the mean variance of the features.
        tol: EM has converged when five steps gain less than this together, in nats a row.
        max_iter: steps of EM at most.
        n_init: starts of EM; the likeliest after a few steps is continued.
        warm_start: begin EM with the parameters of the fit before.
        random_state: seed or generator, of the starts and of draws.
        device: "auto" for CUDA where there is one, else the CPU; or a device of PyTorch.
        verbose: whether to show a bar where EM takes long.

    Attributes:
        components_: (n_components, n_features), orthonormal principal axes, the most explained variance first, the
            largest entry of each positive.
        explained_variance_: (n_components,), variance of x along each axis under the model, over N and not N - 1.
        explained_variance_ratio_: (n_components,), the same over the variance along all axes.
        loadings_: W, (n_features, n_components), the axes in columns times sqrt(explained_variance_ - noise_variance_).
        mean_: mu, (n_features,).
        noise_variance_: sigma^2, a number.
        n_components_: d.
        n_features_in_: number of features; ``feature_names_in_`` are their names, if they have any.
        log_likelihood_path_: mean log-evidence of the rows in nats, at the start of EM and after each step, never
            falling; the one value of the maximum where it is in closed form.
        n_iter_: steps taken.
        converged_: whether the evidence had stopped rising.

    Sources: Tipping & Bishop 1999a, "Probabilistic principal component analysis", J. R. Statist. Soc. B 61; Roweis
    1998, "EM algorithms for PCA and SPCA", NIPS 10.

    >>> import numpy as np
    >>> x = np.array([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, np.nan]])
    >>> model = PPCA(1, method="em", random_state=0).fit(x[:3])
    >>> model.impute(x)[3].round(3)
    array([-2.,  1.])
    """

    def __init__(
        self,
        n_components: int | str | None = None,
        *,
        method: str = "auto",
        noise_floor: float = 1e-10,
        tol: float = 1e-9,
        max_iter: int = 1000,
        n_init: int = 1,
        warm_start: bool = False,
        random_state: Any = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.method = method
        self.noise_floor = noise_floor
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.warm_start = warm_start
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def _check_options(self) -> None:
        super()._check_options()
        if self.method not in _METHODS:
            raise DataError(f"method={self.method!r}: expected one of {', '.join(map(repr, _METHODS))}")

    def _fit_table(self, table: Table) -> None:
        x = table.whole
        # NaN where an entry is missing, and out of the range where squares are beyond float64.
        if x is None or self.method == "em" or not LEAST_SQUARES < x.ravel().dot(x.ravel()) < math.inf:
            super()._fit_table(table)
            return
        some = x[:: max(1, len(x) // _SAMPLE)]
        warn_of_scales(some.amin(0), some.amax(0), self._names)
        rows = x.to(self._device())
        self._fit_closed(lambda latent_dim: maximum_likelihood(rows, latent_dim), *rows.shape)

    def _fit_moments(self, moments: Moments) -> None:
        if self.method == "em":
            self._run_em(moments, self._equivalent(moments))
            return
        warn_of_scales(moments.low, moments.high, self._names)
        assert moments.scatter is not None
        covariance, num_rows = moments.scatter / moments.num_rows, moments.num_rows
        self._fit_closed(
            lambda latent_dim: maximum_likelihood_of_covariance(covariance, moments.means, num_rows, latent_dim),
            num_rows,
            len(covariance),
        )

    def _fit_closed(self, fit: Callable[[int], PPCAParameters], num_rows: int, num_features: int) -> None:
        """Fit in closed form, by a function of the number of latent dimensions."""
        by_evidence = self.n_components == "mle"
        latent_dim = checked_latent_dim(1 if by_evidence else self.n_components, num_rows, num_features)
        try:
            best = fit(latent_dim)
            if by_evidence:
                best = fit(int(laplace_evidence(best.eigenvalues, num_rows, num_features).argmax()) + 1)
        except DataError as error:
            raise DataError(str(error).replace("latent_dim", "n_components")) from None
        loadings, mean, noise_variance, eigenvalues = best
        noise = noise_variance.expand(num_features)
        self._accept(Parameters(mean.new_ones(1), mean[None], loadings[None], noise[None]), noise)
        evidence = closed_form_evidence(eigenvalues[: loadings.shape[1]], noise_variance, num_features)
        self.log_likelihood_path_ = np.array([evidence])
        self.n_iter_ = 1
        self.converged_ = True

    def _run_em(self, moments: Moments, make_rows: MakeRows) -> Stepwise:
        missing = moments.num_rows * len(moments.counts) - int(moments.counts.sum())
        if self.method == "closed":
            reason = f"{missing} entries of X are missing" if missing else f"X has {len(moments.counts)} features"
            raise DataError(
                f"method='closed': {reason}; the closed form needs complete rows, and their covariance where they are "
                "read in batches: use method='auto' or 'em'"
            )
        if self.n_components == "mle":
            raise DataError(
                "n_components='mle' needs the spectrum of complete rows, and X goes through EM: give a number, or "
                "choose one by pyro_lvm.em.select with held-out evidence"
            )
        warn_of_scales(moments.low, moments.high, self._names)
        return super()._run_em(moments, make_rows)

    def _latent_dim(self, moments: Moments) -> int:
        return checked_latent_dim(self.n_components, moments.num_rows - moments.num_empty, len(moments.counts))

    def _units(self, moments: Moments) -> tuple[Tensor, NoiseModel]:
        unit = common_unit(moments)
        return unit, NoiseModel(isotropic=True, floor=torch.full_like(unit, self.noise_floor))

    def _accept(self, model: Parameters, unit: Tensor) -> None:
        loadings = ordered(canonical(model.loadings[0], torch.ones_like(unit)), torch.ones_like(unit))
        variances = loadings.square().sum(0)
        noise_variance = model.noise_variance[0, 0]
        total = variances.sum() + len(unit) * noise_variance
        # A column of zeros, where all eigenvalues tie, has no axis of its own.
        axes = loadings / variances.sqrt().clamp(min=torch.finfo(torch.float64).tiny)
        self.n_components_ = loadings.shape[1]
        self.components_ = axes.mT.cpu().numpy().copy()
        self.loadings_ = loadings.cpu().numpy().copy()
        self.mean_ = model.means[0].cpu().numpy().copy()
        self.noise_variance_ = float(noise_variance)
        self.explained_variance_ = (variances + noise_variance).cpu().numpy()
        self.explained_variance_ratio_ = self.explained_variance_ / float(total)

    def _warn_of_floor(self, binding: Tensor) -> None:
        if bool(binding.any()):
            warnings.warn(
                f"the noise variance fell to its floor, {self.noise_floor:g} of the features' mean variance: with "
                f"n_components={self.n_components_} the likelihood may have no maximum; choose fewer",
                stacklevel=5,
            )

    def _stepwise(self, moments: Moments) -> Stepwise:
        if self.method == "closed":
            raise DataError("method='closed': entries of this batch are missing; use method='auto' or 'em'")
        return super()._stepwise(moments)

    def _num_parameters(self) -> int:
        num_features, latent_dim = self.loadings_.shape
        return int(num_features * latent_dim - latent_dim * (latent_dim - 1) // 2 + num_features + 1)


def closed_form_evidence(eigenvalues: Tensor, noise_variance: Tensor, data_dim: int) -> float:
    """Mean log-evidence of rows at the closed-form maximum, in nats a row.

    ::

        -1/2 [ D log 2 pi + sum_{i <= d} log lambda_i + (D - d) log sigma^2 + D ]

    Args:
        eigenvalues: the d leading ones of the 1/N covariance, (d,).
        noise_variance: sigma^2, ().
        data_dim: D.

    Source: Tipping & Bishop 1999a.
    """
    rest = (data_dim - len(eigenvalues)) * noise_variance.log()
    return -0.5 * float(data_dim * (math.log(2 * math.pi) + 1) + eigenvalues.log().sum() + rest)
