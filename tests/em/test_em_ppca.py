"""Probabilistic PCA: the closed form, EM that reaches it, and scikit-learn's conventions."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.decomposition._pca import _assess_dimension

from pyro_lvm.em import PPCA
from pyro_lvm.em.dimension import laplace_evidence
from pyro_lvm.errors import DataError

NAN = math.nan


def test_closed_form_on_digits(digits):
    """Else the published maximum for the default data moved, or the path doesn't hold the score of the fit."""
    model = PPCA(8).fit(digits)
    assert model.score(digits) == pytest.approx(14.2097883, abs=1e-7)
    assert model.log_likelihood_path_ == pytest.approx([model.score(digits)], abs=1e-10)
    assert model.noise_variance_ == pytest.approx(0.0273294, abs=5e-8)
    assert model.converged_
    assert model.n_iter_ == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_em_reaches_the_closed_form(digits, seed):
    """Else EM stops early, or somewhere else: default settings, started from random axes."""
    best = PPCA(8).fit(digits)
    model = PPCA(8, method="em", random_state=seed).fit(digits)
    assert model.converged_
    assert best.score(digits) - model.score(digits) < 1e-8
    assert model.noise_variance_ == pytest.approx(best.noise_variance_, rel=1e-5)
    np.testing.assert_allclose(model.loadings_, best.loadings_, atol=1e-3)
    assert model.log_likelihood_path_[0] < best.score(digits) - 0.01, "it started at the answer"


@pytest.mark.parametrize(("num_rows", "data_dim", "latent_dim"), [(30, 200, 3), (500, 6, 1), (40, 20, 12), (41, 20, 3)])
def test_em_reaches_the_closed_form_for_other_shapes(planted, num_rows, data_dim, latent_dim):
    """Else wide rows, rows just narrow enough to be replaced by equivalent ones, or many latents end elsewhere."""
    x = planted(num_rows, data_dim, latent_dim)
    closed, model = PPCA(latent_dim).fit(x), PPCA(latent_dim, method="em", random_state=0).fit(x)
    assert closed.score(x) - model.score(x) < 1e-8
    np.testing.assert_allclose(model.mean_, x.mean(0), atol=1e-10)
    assert np.diff(model.log_likelihood_path_).min() > -1e-10


def test_attributes_are_those_of_scikit_learn(digits):
    """Else axes, their signs up to convention, variances over N or the covariance differ from PCA's."""
    model, peer = PPCA(8).fit(digits), PCA(8, svd_solver="full").fit(digits)
    correction = (len(digits) - 1) / len(digits)
    flip = np.sign((model.components_ * peer.components_).sum(1, keepdims=True))
    np.testing.assert_allclose(model.components_, flip * peer.components_, atol=1e-9)
    np.testing.assert_allclose(model.explained_variance_, correction * peer.explained_variance_, rtol=1e-10)
    np.testing.assert_allclose(model.explained_variance_ratio_, peer.explained_variance_ratio_, rtol=1e-10)
    np.testing.assert_allclose(model.get_covariance(), correction * peer.get_covariance(), atol=1e-10)
    np.testing.assert_allclose(model.get_precision() @ model.get_covariance(), np.eye(64), atol=1e-8)
    np.testing.assert_allclose(model.components_ @ model.components_.T, np.eye(8), atol=1e-12)
    scales = np.sqrt(model.explained_variance_ - model.noise_variance_)
    np.testing.assert_allclose(model.loadings_, model.components_.T * scales, atol=1e-12)
    largest = np.abs(model.components_).argmax(1)
    assert (model.components_[range(8), largest] > 0).all()
    assert (np.diff(model.explained_variance_) <= 0).all()


def test_evidence_at_scikit_learn_s_parameters(digits):
    """Else the evidence differs from PCA.score_samples at the same parameters."""
    peer = PCA(8, svd_solver="full").fit(digits)
    model = PPCA(8).fit(digits)
    model.mean_, model.noise_variance_ = peer.mean_, float(peer.noise_variance_)
    model.loadings_ = peer.components_.T * np.sqrt(peer.explained_variance_ - peer.noise_variance_)
    np.testing.assert_allclose(model.score_samples(digits), peer.score_samples(digits), rtol=1e-9)
    assert model.score(digits) == pytest.approx(peer.score(digits), abs=1e-9)
    np.testing.assert_allclose(model.get_precision(), peer.get_precision(), rtol=1e-7, atol=1e-7)


def test_transform_is_the_posterior_mean_and_shrinks(digits):
    """Else the latents aren't M^-1 W^T (x - mu), or a row isn't W z + mu of them."""
    model = PPCA(4).fit(digits)
    w, s2 = model.loadings_, model.noise_variance_
    expected = np.linalg.solve(w.T @ w + s2 * np.eye(4), w.T @ (digits - model.mean_).T).T
    np.testing.assert_allclose(model.transform(digits), expected, atol=1e-10)
    np.testing.assert_allclose(model.inverse_transform(expected), expected @ w.T + model.mean_, atol=1e-12)
    posterior = model.posterior(digits)
    np.testing.assert_allclose(posterior.mean, expected, atol=1e-10)
    np.testing.assert_allclose(posterior.covariance[7], s2 * np.linalg.inv(w.T @ w + s2 * np.eye(4)), atol=1e-12)
    assert posterior.covariance.shape == (len(digits), 4, 4)


def test_samples_have_the_model_s_moments(digits):
    """Else sample() draws from something else: means within 5 standard errors, covariances near."""
    model = PPCA(5).fit(digits)
    draws = model.sample(200_000, random_state=0)
    errors = np.sqrt(np.diag(model.get_covariance()) / len(draws))
    assert (np.abs(draws.mean(0) - model.mean_) < 5 * errors).all()
    np.testing.assert_allclose(np.cov(draws.T), model.get_covariance(), atol=5e-3)
    np.testing.assert_array_equal(model.sample(3, random_state=1), model.sample(3, random_state=1))


def test_laplace_evidence_is_minka_s(planted):
    """Else the evidence differs from scikit-learn's on some spectrum, or the choice from PCA(n_components="mle")."""
    for seed, shape in enumerate([(100, 8), (1000, 15), (60, 30)]):
        x = planted(*shape, 3, seed=seed)
        spectrum = np.linalg.eigvalsh(np.cov(x.T))[::-1].copy()
        ours = laplace_evidence(torch.from_numpy(spectrum), len(x), shape[1])
        theirs = [_assess_dimension(spectrum, d, len(x)) for d in range(1, shape[1])]
        np.testing.assert_allclose(ours[:-1], theirs, rtol=1e-10)
        assert PPCA("mle").fit(x).n_components_ == PCA("mle", svd_solver="full").fit(x).n_components_


def test_laplace_evidence_where_directions_are_empty(planted):
    """Else constant or duplicate features make the choice a dimension without noise, which has no likelihood."""
    x = planted(200, 6, 2)
    x = np.hstack([x, x[:, :2], np.ones((200, 2))])
    assert PPCA("mle").fit(x).n_components_ < 6
    assert PPCA("mle").fit(planted(20, 60, 3, noise=0.01)).n_components_ == 3


@pytest.mark.parametrize("method", ["closed", "em"])
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_one_unit_for_all_features_changes_nothing_but_the_unit(planted, scale, method):
    """Else the fit depends on whether data come in metres or nanometres: W, sigma^2 and the evidence's Jacobian."""
    x = planted(80, 6, 2)
    plain = PPCA(2, method=method, random_state=0).fit(x)
    other = PPCA(2, method=method, random_state=0).fit(scale * x)
    np.testing.assert_allclose(other.loadings_, scale * plain.loadings_, rtol=1e-6)
    assert other.noise_variance_ == pytest.approx(scale**2 * plain.noise_variance_, rel=1e-9)
    assert other.score(scale * x) == pytest.approx(plain.score(x) - 6 * math.log(scale), abs=1e-9)
    assert other.log_likelihood_path_[-1] == pytest.approx(other.score(scale * x), abs=1e-9)


def test_rotations_change_nothing(planted):
    """Else EM prefers some directions, in which case the noise isn't isotropic."""
    x = planted(80, 6, 2, missing=0.0)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    plain, turned = (PPCA(2, method="em", random_state=0).fit(rows) for rows in (x, x @ turn))
    assert turned.score(x @ turn) == pytest.approx(plain.score(x), abs=1e-9)
    np.testing.assert_allclose(turn.T @ plain.get_covariance() @ turn, turned.get_covariance(), atol=1e-6)


def test_wildly_different_scales_draw_a_warning(planted, digits):
    """Else nobody hears that features on the small scale don't count; pixels that are hardly ever on are no such."""
    x = planted(50, 4, 1) * [1e-8, 1.0, 1.0, 1.0]
    for method in ("closed", "em"):
        with pytest.warns(
            UserWarning, match=r"feature '\d' of X ranges over .* and feature '0' over .*e-08.*standardise"
        ):
            PPCA(1, method=method, random_state=0).fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PPCA(2).fit(digits)


def test_partial_fit_of_complete_batches_is_the_fit(digits):
    """Else batches are forgotten, counted twice, or weighed by their order."""
    model = PPCA(8)
    for part in np.split(digits, [300, 310, 1000]):
        model.partial_fit(part)
    whole = PPCA(8).fit(digits)
    assert model.score(digits) == pytest.approx(whole.score(digits), abs=1e-10)
    np.testing.assert_allclose(model.loadings_, whole.loadings_, atol=1e-9)
    np.testing.assert_allclose(model.mean_, whole.mean_, atol=1e-12)
    model.fit(digits[:200]).partial_fit(digits)
    np.testing.assert_allclose(model.loadings_, whole.loadings_, atol=1e-9, err_msg="fit's rows were kept")


def test_warm_start_continues(digits):
    """Else a second fit begins from scratch, or ends elsewhere."""
    model = PPCA(8, method="em", warm_start=True, random_state=0).fit(digits)
    steps, score = model.n_iter_, model.score(digits)
    model.fit(digits)
    assert model.n_iter_ < steps / 2
    assert model.score(digits) == pytest.approx(score, abs=1e-9)
    assert model.fit(digits[:, :20]).loadings_.shape == (20, 8), "parameters of other data were kept"


def test_default_number_of_dimensions():
    """Else PPCA() fails on narrow data, or doesn't make two dimensions of others."""
    x = np.random.default_rng(0).normal(size=(30, 5))
    assert PPCA().fit(x).n_components_ == 2
    assert PPCA().fit(x[:, :2]).n_components_ == 1


REFUSED = [
    (
        PPCA(3),
        np.ones((9, 3)) * np.arange(9)[:, None],
        "n_components=3 with n_samples=9 and n_features=3: expected a wh",
    ),
    (PPCA(5), np.random.default_rng(0).normal(size=(5, 20)), "from 1 to 3, so that the noise has a direction left"),
    (PPCA(2), np.arange(30.0).reshape(10, 3), "n_components is 2 and the centred data have rank 1"),
    (PPCA(1), np.ones((5, 3)), "n_components is 1 and the centred data have rank 0"),
    (PPCA(1, method="em"), np.ones((5, 3)), "every feature of X is constant"),
    (PPCA(0), np.eye(4), "n_components=0 with n_samples=4"),
    (PPCA(1.5), np.eye(4), "n_components=1.5 with"),
    (PPCA("all"), np.eye(4), "n_components='all' with"),
    (PPCA(1), np.eye(2), "n_samples=2 and n_features=2: expected 3 rows and 2 features"),
    (PPCA(1, method="exact"), np.eye(4), "method='exact': expected one of 'auto', 'closed', 'em'"),
    (PPCA(1, tol=-1.0), np.eye(4), "tol=-1.0: expected a number from 0 up"),
    (PPCA(1, max_iter=0), np.eye(4), "max_iter=0: expected a whole number from 1 up"),
    (PPCA(1, n_init=1.5), np.eye(4), "n_init=1.5: expected a whole number"),
    (PPCA(1, noise_floor=math.inf), np.eye(4), "noise_floor=inf: expected a finite number above 0"),
    (PPCA(1, device="mps"), np.eye(4), "device='mps': expected 'cpu', 'cuda' or 'auto', which have float64"),
    (PPCA(1, device="gpu"), np.eye(4), "device='gpu': expected 'cpu', 'cuda' or 'auto'"),
    (PPCA(1, device="cuda:99"), np.eye(4), "device='cuda:99': PyTorch finds no such device"),
    (
        PPCA(1, method="closed"),
        np.array([[1, NAN, 2], [3, 4, 5], [6, 7, 1], [0, 0, 1.0]]),
        "method='closed': 1 entries",
    ),
    (PPCA("mle"), np.array([[1, NAN, 2], [3, 4, 5], [6, 7, 1], [0, 0, 1.0]]), "n_components='mle' needs the spectrum"),
    (PPCA(1), np.array([[1, NAN, 2], [3, NAN, 5], [6, NAN, 1]]), "feature '1' of X: no entry is observed"),
    (PPCA(1), np.array([[1, math.inf], [3, 4.0], [0, 0]]), "Input X contains infinity"),
]


@pytest.mark.parametrize(("model", "x", "message"), REFUSED)
def test_refuses(model, x, message):
    """Else data or options without an answer get a number, or an error that doesn't say what to do."""
    with pytest.raises(ValueError, match=message) as caught:
        model.fit(x)
    assert isinstance(caught.value, DataError) == ("Input X" not in message)
    assert "\n" not in str(caught.value)


def test_refuses_after_the_fit(digits):
    """Else latents of the wrong width, or a number of draws that is none, end in a NumPy error."""
    model = PPCA(2).fit(digits)
    with pytest.raises(DataError, match="X has 3 columns: expected the 2 latents"):
        model.inverse_transform(np.zeros((1, 3)))
    with pytest.raises(DataError, match="draws=0: expected a whole number"):
        model.impute(digits, draws=0)
    with pytest.raises(DataError, match="n_samples=True"):
        model.sample(True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_gives_the_same_answer(digits):
    """Else results depend on where they are computed."""
    holes = np.where(np.random.default_rng(0).random(digits.shape) < 0.3, NAN, digits)
    for x in (digits, holes):
        here, there = (PPCA(4, method="auto", device=device, random_state=0).fit(x) for device in ("cpu", "cuda"))
        assert there.score(x) == pytest.approx(here.score(x), abs=1e-8)
        np.testing.assert_allclose(there.impute(x), here.impute(x), atol=1e-4)
