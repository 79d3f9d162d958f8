"""Factor analysis: against scikit-learn, against a direct maximisation of the likelihood, and across units."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from sklearn.datasets import load_diabetes, load_iris, load_wine
from sklearn.decomposition import FactorAnalysis as PeerFactorAnalysis

from pyro_lvm.em import FactorAnalysis, varimax
from pyro_lvm.errors import DataError

NAN = math.nan


def standardised(x):
    return (x - x.mean(0)) / x.std(0)


def concentrated_maximum(x, num_factors, floor=1e-6):
    """The maximum by Joreskog's route: L-BFGS over the noise variances, loadings solved for by eigenvectors."""
    correlation = x.T @ x / len(x)
    size = len(correlation)

    def loss(log_psi):
        psi = np.exp(log_psi)
        scale = np.sqrt(psi)
        values, vectors = np.linalg.eigh(correlation / np.outer(scale, scale))
        values, vectors = values[::-1], vectors[:, ::-1]
        kept = np.maximum(values[:num_factors], 1)
        loadings = scale[:, None] * vectors[:, :num_factors] * np.sqrt(kept - 1)
        inverse = np.linalg.inv(loadings @ loadings.T + np.diag(psi))
        total = (
            np.log(psi).sum() + np.log(kept).sum() + (values[:num_factors] / kept).sum() + values[num_factors:].sum()
        )
        gradient = np.diag(inverse - inverse @ correlation @ inverse) * psi
        return (total + size * math.log(2 * math.pi)) / 2, gradient / 2

    starts = np.log(np.random.default_rng(0).uniform(0.05, 0.95, (5, size)))
    bounds = [(math.log(floor), 0.5)] * size
    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9}
    return -min(minimize(loss, s, jac=True, method="L-BFGS-B", bounds=bounds, options=options).fun for s in starts)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_reach_the_reference(standardised_digits, seed):
    """Else a fit with default settings is worse than the published one, -73.4473, which is a local maximum only."""
    model = FactorAnalysis(8, random_state=seed).fit(standardised_digits)
    assert model.converged_
    assert model.score(standardised_digits) > -73.4473361 - 1e-6
    assert (model.noise_variance_ > 1e-2).all(), "a floor binds"


@pytest.mark.parametrize(
    ("load", "num_factors"), [(load_wine, 1), (load_wine, 2), (load_wine, 3), (load_diabetes, 2), (load_iris, 2)]
)
@pytest.mark.filterwarnings("ignore:.*fell to its floor")
def test_the_likelihood_is_that_of_a_direct_maximisation(load, num_factors):
    """Else EM stops short of the maximum, Heywood cases (diabetes, iris) included, or below scikit-learn's."""
    x = standardised(load().data)
    model = FactorAnalysis(num_factors, random_state=0).fit(x)
    peer = PeerFactorAnalysis(num_factors, tol=1e-8, max_iter=5000, svd_method="lapack").fit(x)
    assert model.score(x) > concentrated_maximum(x, num_factors) - 1e-6
    assert model.score(x) > peer.score(x) - 1e-6


def test_attributes_are_those_of_scikit_learn():
    """Else components_, noise_variance_, the covariance or the latents differ from the peer's at the same maximum."""
    x = standardised(load_wine().data)
    model = FactorAnalysis(3, random_state=0).fit(x)
    peer = PeerFactorAnalysis(3, tol=1e-10, max_iter=5000, svd_method="lapack").fit(x)
    np.testing.assert_allclose(model.noise_variance_, peer.noise_variance_, rtol=1e-3)
    np.testing.assert_allclose(model.get_covariance(), peer.get_covariance(), atol=1e-4)
    np.testing.assert_allclose(model.get_precision(), np.linalg.inv(model.get_covariance()), rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(model.components_, model.loadings_.T)
    correlations = np.corrcoef(model.transform(x).T, peer.transform(x).T)[:3, 3:]
    np.testing.assert_allclose(np.abs(correlations).max(1), 1, atol=1e-4)
    model.mean_, model.loadings_, model.noise_variance_ = peer.mean_, peer.components_.T.copy(), peer.noise_variance_
    np.testing.assert_allclose(model.score_samples(x), peer.score_samples(x), rtol=1e-9)


def test_factors_are_canonical():
    """Else the posterior is correlated, the order isn't that of explained variance, or signs are arbitrary."""
    x = load_wine().data
    model = FactorAnalysis(3, random_state=0).fit(x)
    w = model.loadings_
    inner = w.T @ (w / model.noise_variance_[:, None])
    np.testing.assert_allclose(inner, np.diag(np.diag(inner)), atol=1e-8 * inner.max())
    relative = w / x.std(0)[:, None]
    np.testing.assert_allclose((relative**2).sum(0), model.explained_variance_, rtol=1e-10)
    assert (np.diff(model.explained_variance_) < 0).all()
    assert (relative[np.abs(relative).argmax(0), range(3)] > 0).all()
    np.testing.assert_allclose((relative**2).sum(1) + model.noise_variance_ / x.std(0) ** 2, 1, atol=1e-5)


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_units_of_features_change_nothing_but_the_jacobian(planted, missing):
    """Else features on scales of 1e-8 and 1e8 are fitted worse than the same features in other units."""
    x = planted(200, 6, 2, missing=missing, seed=1)
    units = np.array([1e-8, 1e8, 1.0, 3.7e-8, 2.2e5, 1e3])
    plain, other = (FactorAnalysis(2, random_state=0).fit(rows) for rows in (x, units * x))
    jacobian = (~np.isnan(x)) @ np.log(units)
    np.testing.assert_allclose(other.score_samples(units * x), plain.score_samples(x) - jacobian, atol=1e-6)
    np.testing.assert_allclose(other.loadings_, units[:, None] * plain.loadings_, rtol=1e-4)
    np.testing.assert_allclose(other.transform(units * x), plain.transform(x), atol=1e-5)
    assert other.log_likelihood_path_[-1] == pytest.approx(other.score(units * x), abs=1e-9)


def test_heywood_and_constant_features_are_named():
    """Else a noise variance at its floor goes unnoticed, or a constant feature divides by 0."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(100, 1))
    frame = pd.DataFrame(z + rng.normal(size=(100, 4)), columns=["a", "b", "c", "d"])
    frame["exact"], frame["twin"] = z, z
    with pytest.warns(UserWarning, match="features 'exact', 'twin' of X: the noise variance fell to its floor, 1e-06"):
        model = FactorAnalysis(1, random_state=0).fit(frame)
    np.testing.assert_allclose(model.noise_variance_[4:], 1e-6 * frame["exact"].var(ddof=0), rtol=0.02)
    frame["exact"], frame["twin"] = 0.1, 0.0
    with pytest.warns(UserWarning, match="features 'exact', 'twin' of X: the noise variance fell to its floor"):
        model = FactorAnalysis(1, random_state=0).fit(frame)
    np.testing.assert_allclose(model.noise_variance_[4:], [1e-6 * 0.1**2, 1e-6], rtol=1e-6)
    np.testing.assert_allclose(model.loadings_[4:], 0, atol=1e-6)
    assert np.isfinite(model.score_samples(frame)).all()


def test_varimax_of_two_columns_is_the_best_angle():
    """Else the rotation isn't the one with the largest criterion, by trying all angles."""
    loadings = np.random.default_rng(0).normal(size=(12, 2)) * [2.0, 1.0]

    def criterion(w):
        return (w**2).var(0).sum()

    angles = np.linspace(0, math.pi / 2, 20_001)
    turns = [np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]]) for a in angles]
    rotated = varimax(torch.from_numpy(loadings)).numpy()
    assert criterion(rotated) >= max(criterion(loadings @ turn) for turn in turns) - 1e-12
    np.testing.assert_allclose(rotated @ rotated.T, loadings @ loadings.T, atol=1e-12)


def test_varimax_finds_planted_groups():
    """Else features that belong to one factor each don't load on one each, or the fit's likelihood changes."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.eye(3), 4, axis=0)
    x = rng.normal(size=(2000, 3)) @ groups.T * 2 + rng.normal(size=(2000, 12))
    plain, rotated = (FactorAnalysis(3, rotation=rotation, random_state=0).fit(x) for rotation in (None, "varimax"))
    assert rotated.score(x) == pytest.approx(plain.score(x), abs=1e-8)
    relative = np.abs(rotated.components_ / x.std(0))
    assert ((relative > 0.8).sum(0) == 1).all()
    assert ((relative < 0.1).sum(0) == 2).all()
    assert (np.diff(rotated.explained_variance_) <= 0).all()
    pairs = itertools.combinations(range(3), 2)
    turned = torch.from_numpy(rotated.loadings_ / x.std(0)[:, None])
    for p, q in pairs:
        both = turned[:, [p, q]]
        np.testing.assert_allclose(varimax(both).abs().sort().values, both.abs().sort().values, atol=1e-6)


def test_partial_fit_of_complete_batches_is_the_fit(standardised_digits):
    """Else batches are forgotten, counted twice, or a batch in other units breaks the sum."""
    x = standardised_digits[:, :20]
    model = FactorAnalysis(3, random_state=0)
    for part in np.split(x, [100, 900]):
        model.partial_fit(part)
    whole = FactorAnalysis(3, random_state=0).fit(x)
    assert model.score(x) == pytest.approx(whole.score(x), abs=1e-7)
    np.testing.assert_allclose(model.get_covariance(), whole.get_covariance(), atol=1e-4)


def test_refuses(planted):
    """Else an unknown rotation, or more factors than the features can tell apart, are taken."""
    with pytest.raises(DataError, match="rotation='promax': expected 'varimax' or None"):
        FactorAnalysis(rotation="promax").fit(planted(9, 4, 1))
    with pytest.raises(
        DataError, match="n_components=4 with n_samples=9 and n_features=4: expected a whole number from 1"
    ):
        FactorAnalysis(4).fit(planted(9, 4, 1))
    with pytest.raises(DataError, match="every feature of X is constant"):
        FactorAnalysis(1).fit(np.ones((9, 4)))
