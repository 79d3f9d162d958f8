"""Missing entries, for all three estimators, held against joint Gaussians written out in full."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_lvm.em import PPCA, FactorAnalysis, MixturePPCA
from pyro_lvm.em.expectation import expect, sum_statistics
from pyro_lvm.em.parameters import Parameters
from pyro_lvm.em.rows import MemoryRows

NAN = math.nan


def components_of(model):
    """(weight, mean, loadings, noise variances) of each component."""
    if isinstance(model, MixturePPCA):
        noise = np.broadcast_to(model.noise_variance_[:, None], model.means_.shape)
        return list(zip(model.weights_, model.means_, model.loadings_, noise, strict=True))
    noise = np.broadcast_to(model.noise_variance_, model.mean_.shape)
    return [(1.0, model.mean_, model.loadings_, noise)]


def estimators(random_state=0):
    return [
        PPCA(2, random_state=random_state),
        FactorAnalysis(2, random_state=random_state),
        MixturePPCA(3, 2, random_state=random_state),
    ]


def named(models):
    return pytest.mark.parametrize("model", models, ids=lambda model: type(model).__name__)


@pytest.fixture
def holes(planted):
    x = planted(150, 7, 2, missing=0.3, seed=4)
    x[3], x[4, 1:] = NAN, NAN
    return x


@named(estimators())
def test_evidence_equals_the_marginal_gaussian(model, holes, oracle):
    """Else the evidence of rows with holes isn't that of their observed part, summed over components."""
    model.fit(holes)
    joint = [
        [
            math.log(w) + oracle.log_density(row, mean, v @ v.T + np.diag(noise))
            for w, mean, v, noise in components_of(model)
        ]
        for row in holes
    ]
    np.testing.assert_allclose(model.score_samples(holes), logsumexp(joint, axis=1), rtol=1e-10, atol=1e-10)
    assert model.score_samples(holes)[3] == pytest.approx(0, abs=1e-12)
    assert model.log_likelihood_path_[-1] == pytest.approx(model.score(holes), abs=1e-10)
    if isinstance(model, MixturePPCA):
        expected = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        np.testing.assert_allclose(model.responsibilities(holes), expected, atol=1e-10)
        np.testing.assert_array_equal(model.predict(holes), expected.argmax(1))
        np.testing.assert_allclose(expected[3], model.weights_, atol=1e-12)


@named(estimators())
def test_posterior_equals_the_conditioned_joint(model, holes, oracle):
    """Else the latents' posterior isn't the joint Gaussian of (x, z) given the observed x."""
    posterior = model.fit(holes).posterior(holes)
    for k, (_, mean, loadings, noise) in enumerate(components_of(model)):
        joint = oracle.joint_with_latents(mean, loadings, noise)
        for n, row in enumerate(holes):
            padded = np.concatenate([row, [NAN, NAN]])
            loc, covariance = oracle.condition(padded, *joint)
            at = (n, k) if isinstance(model, MixturePPCA) else (n,)
            np.testing.assert_allclose(posterior.mean[at], loc[7:], atol=1e-10)
            np.testing.assert_allclose(posterior.covariance[at], covariance[7:, 7:], atol=1e-10)


@named(estimators())
def test_imputation_equals_the_conditional_mean(model, holes, oracle):
    """Else missing entries aren't filled with their expectation given the observed ones, or these were touched."""
    filled = model.fit(holes).impute(holes)
    shares = model.responsibilities(holes) if isinstance(model, MixturePPCA) else np.ones((len(holes), 1))
    expected = sum(
        shares[:, k, None] * np.array([oracle.condition(row, mean, v @ v.T + np.diag(noise))[0] for row in holes])
        for k, (_, mean, v, noise) in enumerate(components_of(model))
    )
    seen = ~np.isnan(holes)
    np.testing.assert_array_equal(filled[seen], holes[seen])
    np.testing.assert_allclose(filled[~seen], expected[~seen], atol=1e-10)
    np.testing.assert_allclose(model.inverse_transform(model.transform(holes))[~seen], filled[~seen], atol=1e-10)


@named(estimators())
def test_draws_have_the_conditional_s_moments(model, holes, oracle):
    """Else draws miss the noise, the latents' spread or the choice of component: 5 standard errors of 5000 draws."""
    model.fit(holes)
    rows = holes[[3, 4, 0, 1]]
    draws = model.impute(rows, draws=5_000, random_state=0)
    assert draws.shape == (5_000, 4, 7)
    seen = ~np.isnan(rows)
    assert (draws[:, seen] == rows[seen]).all()
    shares = model.responsibilities(rows) if isinstance(model, MixturePPCA) else np.ones((4, 1))
    for n, row in enumerate(rows):
        given = [oracle.condition(row, mean, v @ v.T + np.diag(noise)) for _, mean, v, noise in components_of(model)]
        mean = sum(w * loc for w, (loc, _) in zip(shares[n], given, strict=True))
        second = sum(w * (c + np.outer(loc, loc)) for w, (loc, c) in zip(shares[n], given, strict=True))
        covariance = second - np.outer(mean, mean)
        spread = np.sqrt(np.diag(covariance).clip(0))
        assert (np.abs(draws[:, n].mean(0) - mean) <= 5 * spread / math.sqrt(5_000) + 1e-9).all()
        np.testing.assert_allclose(np.cov(draws[:, n].T), covariance, atol=0.06 * np.outer(spread, spread).max() + 1e-9)
    np.testing.assert_array_equal(model.impute(rows, draws=2, random_state=0), draws[:2][:, :, :])


def per_row_statistics(x, weights, means, loadings, noise):
    """The E-step as a loop over rows and components, with nothing shared."""
    num_components, data_dim, latent_dim = loadings.shape
    size = latent_dim + 1
    total, latent = 0.0, np.zeros((num_components, size, size))
    observed, cross = np.zeros((num_components, data_dim, size, size)), np.zeros((num_components, data_dim, size))
    squares = np.zeros((num_components, data_dim))
    for row in x:
        o = ~np.isnan(row)
        joint, moments = [], []
        for k in range(num_components):
            w, psi, residual = loadings[k][o], noise[k][o], row[o] - means[k][o]
            precision = np.eye(latent_dim) + w.T @ (w / psi[:, None])
            loc = np.linalg.solve(precision, w.T @ (residual / psi))
            covariance = w @ w.T + np.diag(psi)
            fit = residual @ np.linalg.solve(covariance, residual) + np.linalg.slogdet(2 * math.pi * covariance)[1]
            joint.append(math.log(weights[k]) - fit / 2)
            second = np.zeros((size, size))
            second[:latent_dim, :latent_dim] = np.linalg.inv(precision)
            extended = np.append(loc, 1.0)
            moments.append((extended, second + np.outer(extended, extended)))
        total += logsumexp(joint)
        for k, (share, (extended, second)) in enumerate(zip(np.exp(joint - logsumexp(joint)), moments, strict=True)):
            latent[k] += share * second
            observed[k, o] += share * second
            cross[k, o] += share * np.outer(row[o], extended)
            squares[k, o] += share * row[o] ** 2
    return len(x), total, latent, observed, cross, squares


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    num_rows=st.integers(1, 30),
    data_dim=st.integers(1, 10),
    latent_dim=st.integers(1, 4),
    num_components=st.integers(1, 3),
    missing=st.sampled_from([0.0, 0.02, 0.5, 0.9]),
    block=st.sampled_from([1, 7, 100]),
    seed=st.integers(0, 2**20),
)
def test_e_step_equals_a_loop_over_rows(num_rows, data_dim, latent_dim, num_components, missing, block, seed):
    """Else some shape, mask or cut into blocks gets other sums than the definition's."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, data_dim))
    x[rng.random(x.shape) < missing] = NAN
    x[0] = rng.normal(size=data_dim)
    x = np.concatenate([x, x[: num_rows // 2]])
    weights = rng.dirichlet(np.ones(num_components))
    means, noise = rng.normal(size=(num_components, data_dim)), rng.uniform(0.1, 2, (num_components, data_dim))
    loadings = rng.normal(size=(num_components, data_dim, latent_dim))
    given = weights, means, loadings, noise
    ours = expect(MemoryRows(torch.from_numpy(x), block), Parameters(*map(torch.from_numpy, given)))
    expected = per_row_statistics(x[~np.isnan(x).all(1)], *given)
    for got, wanted in zip(ours.fields(), expected, strict=True):
        np.testing.assert_allclose(np.broadcast_to(got, np.shape(wanted)), wanted, rtol=1e-8, atol=1e-8)


def test_statistics_add_up(planted):
    """Else parts of the data, each in its own process, can't be summed: complete parts and parts with holes."""
    x = planted(90, 5, 2, missing=0.3)
    x[:40] = planted(40, 5, 2)
    rng = np.random.default_rng(0)
    parameters = Parameters(
        torch.full((2,), 0.5).double(),
        *(torch.from_numpy(rng.normal(size=shape)) for shape in [(2, 5), (2, 5, 2)]),
        torch.ones(2, 5).double(),
    )
    parts = [expect(MemoryRows(torch.from_numpy(part), 16), parameters) for part in np.split(x, [40, 60])]
    whole = expect(MemoryRows(torch.from_numpy(x), 16), parameters)
    for got, wanted in zip(sum_statistics(parts).fields(), whole.fields(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-10)


@named([PPCA(1, random_state=0), FactorAnalysis(1, random_state=0)])
def test_no_optimizer_improves_on_em(model, planted, oracle):
    """Else EM's end isn't a maximum: L-BFGS on the brute-force marginal likelihood, started there, gains nothing."""
    x = planted(60, 4, 1, missing=0.3, seed=2)
    model.fit(x)
    isotropic = isinstance(model, PPCA)

    def loss(vector):
        mean, loadings, log_noise = vector[:4], vector[4:8, None], vector[8:]
        covariance = loadings @ loadings.T + np.diag(np.broadcast_to(np.exp(log_noise), 4))
        return -np.mean([oracle.log_density(row, mean, covariance) for row in x])

    noise = np.log(np.atleast_1d(model.noise_variance_))
    start = np.concatenate([model.mean_, model.loadings_[:, 0], noise])
    assert len(noise) == (1 if isotropic else 4)
    assert loss(start) == pytest.approx(-model.score(x), abs=1e-10)
    assert loss(start) - minimize(loss, start, method="L-BFGS-B").fun < 1e-8


@pytest.mark.parametrize(("latent_dim", "error"), [(2, 0.473), (5, 0.330), (10, 0.2812)])
def test_breast_cancer_imputation(latent_dim, error, breast_cancer):
    """Else PPCA imputes worse than the reference at convergence, or wasn't converged."""
    x, holes = breast_cancer
    model = PPCA(latent_dim, random_state=0).fit(holes)
    assert model.converged_
    filled = model.impute(holes)
    assert ((filled - x)[np.isnan(holes)] ** 2).mean() == pytest.approx(error, abs=5e-4)


def test_digits_with_holes_are_imputed_and_fitted(digits):
    """Else the error of imputing pixels exceeds what the model itself expects, or the fit that to complete rows."""
    hidden = np.random.default_rng(0).random(digits.shape) < 0.3
    holes = np.where(hidden, NAN, digits)
    model = PPCA(8, random_state=0).fit(holes)
    assert model.converged_
    assert np.diff(model.log_likelihood_path_).min() > -1e-10
    error = ((model.impute(holes) - digits)[hidden] ** 2).mean()
    assert error < 0.6 * ((digits.mean(0) - digits)[hidden] ** 2).mean()
    assert model.score(digits) == pytest.approx(PPCA(8).fit(digits).score(digits), abs=0.5)


@named([*estimators(), PPCA(2, method="em", random_state=0)])
def test_em_is_monotone(model, digits):
    """Else an accepted step lost evidence: digits with holes, and complete ones."""
    x = digits[:400, 10:50]
    holes = np.where(np.random.default_rng(1).random(x.shape) < 0.4, NAN, x)
    for rows in (holes, x):
        path = model.fit(rows).log_likelihood_path_
        assert len(path) == model.n_iter_ + 1 or len(path) == 1
        assert (np.diff(path) > -1e-10).all()
        assert path[-1] == pytest.approx(model.score(rows), abs=1e-9)


@named(estimators())
def test_empty_rows_change_nothing(model, holes):
    """Else rows with nothing observed pull the fit, or aren't counted in the mean evidence."""
    kept = holes[~np.isnan(holes).all(1)]
    padded = np.concatenate([kept, np.full((50, 7), NAN)])
    plain = model.fit(kept).score(kept)
    model.fit(padded)
    assert model.score(kept) == pytest.approx(plain, abs=1e-6)
    assert model.log_likelihood_path_[-1] == pytest.approx(model.score(padded), abs=1e-10)
    assert (model.posterior(padded).mean[-1] == 0).all()


def test_identical_rows_and_few_observations(planted):
    """Else two identical rows, a row with one entry, or a feature seen only once, break the fit."""
    x = planted(30, 5, 1, missing=0.2)
    x[1], x[2, 1:] = x[0], NAN
    x[1:, 4] = NAN
    x[0, 4] = 1.0
    assert np.isfinite(PPCA(1, random_state=0).fit(x).score_samples(x)).all()
    with pytest.warns(UserWarning, match="'4' of X: the noise variance fell to its floor"):
        model = FactorAnalysis(1, random_state=0).fit(x)
    assert np.isfinite(model.score_samples(x)).all()


def test_a_likelihood_without_a_maximum_is_reported():
    """Else noise that vanishes ends in NaN, or nobody hears of it: three directions, and two of them latent."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2)) @ rng.normal(size=(2, 6))
    x[rng.random(x.shape) < 0.2] = NAN
    with pytest.warns(UserWarning, match="the noise variance fell to its floor, 0.001 of the features' mean variance"):
        model = PPCA(2, noise_floor=1e-3, random_state=0).fit(x)
    assert model.noise_variance_ == pytest.approx(1e-3 * np.nanvar(x, axis=0).mean(), rel=1e-6)
    assert (np.diff(model.log_likelihood_path_) > -1e-10).all()


class Largest(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.numel = max(
            [self.numel, *(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))]
        )
        return result


def test_memory_is_that_of_the_rows_and_one_block(planted, monkeypatch):
    """Else a covariance a row is kept (N D^2, N d^2), and data that fit no longer fit with their fit."""
    monkeypatch.setattr("pyro_lvm.em.rows._BLOCK", {"cpu": 2**14})
    monkeypatch.setattr("pyro_lvm.em.evaluation._CHUNK", 2**14)
    x = planted(5000, 30, 10, missing=0.3)
    with Largest() as largest:
        model = PPCA(10, max_iter=3, tol=1.0, random_state=0).fit(x)
        model.transform(x)
        model.impute(x)
    assert x.size <= largest.numel <= 1.01 * x.size


def test_rows_that_share_a_pattern_share_its_factor(monkeypatch):
    """Else each row costs a factorization although only a few patterns of missing entries occur."""
    x = np.random.default_rng(0).normal(size=(1000, 4))
    x[::2, 1], x[::3, 2] = NAN, NAN
    factored = []
    original = torch.linalg.cholesky
    monkeypatch.setattr(torch.linalg, "cholesky", lambda a: (factored.append(a.shape), original(a))[1])
    rows = MemoryRows(torch.from_numpy(x), 10_000)
    one = torch.ones(1, 4).double()
    expect(rows, Parameters(torch.ones(1).double(), 0 * one, torch.ones(1, 4, 2).double(), one))
    assert factored == [(4, 1, 2, 2)]


def test_pipelines_and_searches_take_holes(planted):
    """Else NaN is refused on the way, or the search doesn't rank by held-out evidence."""
    x = planted(200, 8, 2, missing=0.1, noise=0.1)
    pipeline = make_pipeline(StandardScaler(), FactorAnalysis(random_state=0))
    search = GridSearchCV(pipeline, {"factoranalysis__n_components": [1, 2, 3]}, cv=3)
    assert search.fit(x).best_params_ == {"factoranalysis__n_components": 2}
    assert search.best_estimator_.transform(x).shape == (200, 2)
