"""Factor analysis as a scikit-learn estimator."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from pyro_lvm.em.dimension import latent_dim
from pyro_lvm.em.moments import Moments
from pyro_lvm.em.parameters import NoiseModel, Parameters
from pyro_lvm.em.rotation import canonical, ordered, varimax
from pyro_lvm.em.single import SingleComponent
from pyro_lvm.em.units import own_units
from pyro_lvm.errors import DataError


class FactorAnalysis(SingleComponent):
    r"""Factor analysis: a few latent factors mapped linearly into the data, plus noise of each feature's own variance.

    .. math:: z \sim N(0, I_d), \qquad x \mid z \sim N(W z + \mu, \mathrm{diag}(\psi))

    Missing entries (NaN) are integrated out, in fitting as in everything else. The fit follows the units of the
    features: a feature times c has loadings and mean times c, noise variance times c^2, evidence less log c, and the
    same factors.

    The likelihood of factor analysis can have several maxima, and no finite one where a feature's noise variance goes
    to 0 (a Heywood case); a floor then makes it finite, and a warning names the feature. A constant feature is such a
    case: its noise has the floor times its squared magnitude (or 1, if it is 0) for a variance.

    Args:
        n_components: number of factors d, at least 1 and below the number of features; None for 2, or 1 where the data
            have no room for 2.
        rotation: None for independent posteriors, W^T Psi^-1 W diagonal; "varimax" for few large loadings in each
            factor, in units of the features' standard deviations.
        noise_floor: least noise variance, relative to the feature's variance.
        tol: EM has converged when five steps gain less than this together, in nats a row.
        max_iter: steps of EM at most.
        n_init: starts of EM; the likeliest after a few steps is continued.
        warm_start: begin EM with the parameters of the fit before.
        random_state: seed or generator, of the starts and of draws.
        device: "auto" for CUDA where there is one, else the CPU; or a device of PyTorch.
        verbose: whether to show a bar where EM takes long.

    Attributes:
        components_: W^T, (n_components, n_features); the factor that explains most first, the largest loading of each
            positive, both in units of the features' standard deviations.
        loadings_: W, (n_features, n_components).
        explained_variance_: (n_components,), sum of a factor's squared loadings in units of the features' standard
            deviations; n_features is all of the variance.
        mean_: mu, (n_features,).
        noise_variance_: psi, (n_features,).
        n_components_: d.
        n_features_in_: number of features; ``feature_names_in_`` are their names, if they have any.
        log_likelihood_path_: mean log-evidence of the rows in nats, at the start of EM and after each step, never
            falling.
        n_iter_: steps taken.
        converged_: whether the evidence had stopped rising.

    Sources: Rubin & Thayer 1982, "EM algorithms for ML factor analysis", Psychometrika 47; Ghahramani & Hinton 1996,
    "The EM algorithm for mixtures of factor analyzers", CRG-TR-96-1.

    >>> import numpy as np
    >>> z = np.random.RandomState(0).normal(size=(500, 1))
    >>> x = z * [1.0, 100.0, 0.01] + np.random.RandomState(1).normal(size=(500, 3)) * [0.5, 50.0, 0.02]
    >>> np.abs(FactorAnalysis(1, random_state=0).fit(x).components_).round(2)
    array([[1.040e+00, 9.413e+01, 1.000e-02]])
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        rotation: str | None = None,
        noise_floor: float = 1e-6,
        tol: float = 1e-9,
        max_iter: int = 1000,
        n_init: int = 10,
        warm_start: bool = False,
        random_state: Any = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.rotation = rotation
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
        if self.rotation not in (None, "varimax"):
            raise DataError(f"rotation={self.rotation!r}: expected 'varimax' or None")

    def _fit_moments(self, moments: Moments) -> None:
        self._run_em(moments, self._equivalent(moments))

    def _latent_dim(self, moments: Moments) -> int:
        return latent_dim(self.n_components, moments.num_rows - moments.num_empty, len(moments.counts))

    def _units(self, moments: Moments) -> tuple[Tensor, NoiseModel]:
        unit = own_units(moments)
        return unit, NoiseModel(isotropic=False, floor=torch.full_like(unit, self.noise_floor))

    def _accept(self, model: Parameters, unit: Tensor) -> None:
        noise_variance = model.noise_variance[0]
        loadings = canonical(model.loadings[0], noise_variance.sqrt())
        if self.rotation == "varimax":
            loadings = varimax(loadings / unit.unsqueeze(1)) * unit.unsqueeze(1)
        loadings = ordered(loadings, unit)
        self.n_components_ = loadings.shape[1]
        self.loadings_ = loadings.cpu().numpy().copy()
        self.components_ = self.loadings_.T.copy()
        self.mean_ = model.means[0].cpu().numpy().copy()
        self.noise_variance_ = noise_variance.cpu().numpy().copy()
        self.explained_variance_ = (loadings / unit.unsqueeze(1)).square().sum(0).cpu().numpy()

    def _warn_of_floor(self, binding: Tensor) -> None:
        if bool(binding.any()):
            warnings.warn(
                f"{self._names(binding)} of X: the noise variance fell to its floor, {self.noise_floor:g} of the "
                "variance, as where a factor takes over a feature (a Heywood case) or the feature is constant: choose "
                "fewer factors, leave the feature out, or raise noise_floor",
                stacklevel=5,
            )

    def _num_parameters(self) -> int:
        num_features, num_factors = self.loadings_.shape
        return int(num_features * num_factors - num_factors * (num_factors - 1) // 2 + 2 * num_features)
