"""Mixtures of probabilistic PCAs: planted components, one component, collapse, and units."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score

from pyro_lvm.em import PPCA, MixturePPCA
from pyro_lvm.em.climb import climb
from pyro_lvm.em.collapse import Reviver
from pyro_lvm.em.expectation import expect
from pyro_lvm.em.parameters import Parameters
from pyro_lvm.em.rows import MemoryRows
from pyro_lvm.errors import DataError

NAN = math.nan


@pytest.fixture(scope="module")
def three_planes():
    """600 rows on three planes in five dimensions, with their labels: 300, 200 and 100 of them."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [300, 200, 100])
    maps, centres = rng.normal(size=(3, 2, 5)), 6 * rng.normal(size=(3, 5))
    x = np.stack([z @ maps[k] + centres[k] for k, z in zip(labels, rng.normal(size=(600, 2)), strict=True)])
    return x + 0.2 * rng.normal(size=x.shape), labels


def test_planted_components_are_found(three_planes):
    """Else weights, noise, planes or labels aren't those that the rows were drawn from."""
    x, labels = three_planes
    model = MixturePPCA(3, 2, random_state=0).fit(x)
    assert adjusted_rand_score(labels, model.predict(x)) == 1
    np.testing.assert_allclose(model.weights_, [1 / 2, 1 / 3, 1 / 6], atol=1e-6)
    np.testing.assert_allclose(model.noise_variance_, 0.04, rtol=0.2)
    for k in range(3):
        own = PPCA(2).fit(x[labels == k])
        np.testing.assert_allclose(model.loadings_[k], own.loadings_, atol=1e-3)
        np.testing.assert_allclose(model.components_[k], own.components_, atol=1e-3)
        np.testing.assert_allclose(model.explained_variance_[k], own.explained_variance_, rtol=1e-4)
        np.testing.assert_allclose(model.means_[k], own.mean_, atol=1e-4)
    np.testing.assert_allclose(model.responsibilities(x).sum(1), 1)
    assert model.converged_


def test_holes_hardly_matter_where_components_are_apart(three_planes):
    """Else missing entries mislead the start or the fit."""
    x, labels = three_planes
    holes = np.where(np.random.default_rng(1).random(x.shape) < 0.2, NAN, x)
    model = MixturePPCA(3, 2, random_state=0).fit(holes)
    assert adjusted_rand_score(labels, model.predict(x)) > 0.99
    error = ((model.impute(holes) - x)[np.isnan(holes)] ** 2).mean()
    single = ((PPCA(2).fit(holes).impute(holes) - x)[np.isnan(holes)] ** 2).mean()
    assert error < single / 4


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_one_component_is_ppca(planted, missing):
    """Else a mixture of one differs from the model that it is then."""
    x = planted(120, 6, 2, missing=missing)
    one, plain = MixturePPCA(1, 2, tol=1e-10, random_state=0).fit(x), PPCA(2, random_state=0).fit(x)
    assert one.score(x) == pytest.approx(plain.score(x), abs=1e-8)
    np.testing.assert_allclose(one.get_covariance(), plain.get_covariance(), atol=1e-4)
    np.testing.assert_allclose(one.transform(x)[:, 1:], plain.transform(x), atol=1e-3)
    np.testing.assert_array_equal(one.transform(x)[:, 0], 1)


def test_latents_keep_what_they_say(three_planes):
    """Else transform isn't (q, q E[z]) of each component, or inverse_transform not the mean of W_t z + mu_t."""
    x, _ = three_planes
    model = MixturePPCA(3, 2, random_state=0).fit(x)
    posterior = model.posterior(x)
    latent = model.transform(x).reshape(len(x), 3, 3)
    np.testing.assert_allclose(latent[:, :, 0], posterior.responsibilities, atol=1e-12)
    np.testing.assert_allclose(latent[:, :, 1:], posterior.responsibilities[:, :, None] * posterior.mean, atol=1e-12)
    expected = sum(
        posterior.responsibilities[:, k, None] * (posterior.mean[:, k] @ model.loadings_[k].T + model.means_[k])
        for k in range(3)
    )
    np.testing.assert_allclose(model.inverse_transform(model.transform(x)), expected, atol=1e-10)
    assert list(model.get_feature_names_out()[:2]) == ["mixtureppca0", "mixtureppca1"]
    with pytest.raises(DataError, match="X has 2 columns: expected 9, as transform gives them"):
        model.inverse_transform(np.zeros((1, 2)))


def test_samples_and_moments_agree(three_planes):
    """Else get_covariance isn't the covariance of what sample() draws, or labels aren't drawn by the weights."""
    model = MixturePPCA(3, 2, random_state=0).fit(three_planes[0])
    x, labels = model.sample(200_000, random_state=0)
    np.testing.assert_allclose(np.bincount(labels) / len(labels), model.weights_, atol=5e-3)
    covariance = model.get_covariance()
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.01 * np.diag(covariance).max())
    np.testing.assert_allclose(model.get_precision() @ covariance, np.eye(5), atol=1e-8)
    for k in range(3):
        own = model.loadings_[k] @ model.loadings_[k].T + model.noise_variance_[k] * np.eye(5)
        np.testing.assert_allclose(np.cov(x[labels == k].T), own, atol=0.02 * np.diag(own).max())


def test_plain_em_agrees(digits, monkeypatch):
    """Else acceleration leads elsewhere than EM itself, from the same start."""
    fast = MixturePPCA(5, 2, n_init=1, random_state=1).fit(digits)
    monkeypatch.setattr("pyro_lvm.em.acceleration.Accelerator.propose", lambda self, point, image: None)
    slow = MixturePPCA(5, 2, n_init=1, random_state=1, tol=1e-9).fit(digits)
    assert fast.score(digits) == pytest.approx(slow.score(digits), abs=1e-5)
    assert fast.n_iter_ < slow.n_iter_
    assert (np.diff(fast.log_likelihood_path_) > -1e-10).all()


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_one_unit_for_all_features_changes_nothing_but_the_unit(three_planes, scale):
    """Else the floor, the start or the path depends on the unit of the data."""
    x, _ = three_planes
    plain, other = (MixturePPCA(3, 2, random_state=0).fit(rows) for rows in (x, scale * x))
    assert other.score(scale * x) == pytest.approx(plain.score(x) - 5 * math.log(scale), abs=1e-6)
    np.testing.assert_allclose(other.means_, scale * plain.means_, rtol=1e-5)


def test_more_starts_are_no_worse(digits):
    """Else the best of several starts isn't the one that is continued."""
    scores = [MixturePPCA(8, 2, n_init=n, random_state=0).fit(digits).score(digits) for n in (1, 4)]
    assert scores[1] > scores[0] + 0.1


def test_of_many_starts_the_most_are_given_up_early(digits, monkeypatch):
    """Else twenty starts cost twenty short runs, or the one that goes on isn't the best of them."""
    ended = []

    def recorded(rows, start, noise, *, max_steps, **options):
        ended.append((max_steps, climb(rows, start, noise, max_steps=max_steps, **options)))
        return ended[-1][1]

    monkeypatch.setattr("pyro_lvm.em.climb.climb", recorded)
    with pytest.warns(ConvergenceWarning):
        model = MixturePPCA(5, 2, n_init=20, max_iter=30, random_state=0).fit(digits[::3])
    assert [steps for steps, _ in ended] == [5] * 20 + [15] * 5 + [10]
    first, second = ([one.path[-1] for steps, one in ended if steps == length] for length in (5, 15))
    assert sorted(one.path[0] for steps, one in ended if steps == 15) == pytest.approx(sorted(first)[-5:])
    assert ended[-1][1].path[0] == pytest.approx(max(second))
    assert model.n_iter_ == 30


def test_duplicates_are_reported():
    """Else a component that sits on copies of one row counts as the best of all models."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(100, 4)), np.tile(rng.normal(size=4) + 3, (40, 1))])
    with pytest.warns(UserWarning, match=r"components with 40\.\d rows have collapsed: their noise is at its floor"):
        model = MixturePPCA(2, 1, random_state=0).fit(x)
    assert np.isfinite(model.score_samples(x)).all()


def test_components_without_rows_are_revived_and_then_left_out():
    """Else an empty component stays for ever, or revival never ends."""
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(100, 3)))
    parameters = Parameters(
        torch.tensor([0.9, 0.1]).double(),
        torch.tensor([[0.0] * 3, [50.0] * 3]).double(),
        torch.tensor([[[1.0], [0.0], [0.0]]] * 2).double(),
        torch.ones(2, 3).double(),
    )
    rows, reviver = MemoryRows(x, 1000), Reviver(1)
    revived = reviver.repair(parameters, expect(rows, parameters))
    assert revived is not None
    np.testing.assert_allclose(revived.weights, 0.5)
    np.testing.assert_allclose(revived.means[:, 0], [0.5, -0.5])
    assert reviver.repair(revived, expect(rows, revived)) is None
    left = reviver.repair(parameters, expect(rows, parameters))
    assert left is not None
    np.testing.assert_array_equal(left.weights, [1.0])
    np.testing.assert_array_equal(left.means, parameters.means[:1])
    assert reviver.repair(left, expect(rows, left)) is None


def test_more_components_than_rows_can_hold():
    """Else a mixture of nearly as many components as rows ends in an error, or keeps components of one row."""
    x = np.random.default_rng(0).normal(size=(12, 3))
    with pytest.warns(UserWarning, match=r"\d of 8 components lost their rows, even after they had been revived"):
        model = MixturePPCA(8, 1, random_state=0).fit(x)
    assert model.n_mixtures_ == len(model.weights_) < 8
    assert model.transform(x).shape == (12, 2 * model.n_mixtures_)
    assert np.isfinite(model.score_samples(x)).all()


def test_warm_start_continues(three_planes):
    """Else a second fit begins from k-means again."""
    x, _ = three_planes
    model = MixturePPCA(3, 2, warm_start=True, random_state=0).fit(x)
    first = model.score(x)
    model.fit(x)
    assert model.log_likelihood_path_[0] == pytest.approx(first, abs=1e-9)


def test_partial_fit_approaches_the_fit(three_planes):
    """Else a stream of batches leads elsewhere than the whole: 30 passes of batches of 100, with holes."""
    x, _ = three_planes
    rng = np.random.default_rng(2)
    holes = np.where(rng.random(x.shape) < 0.1, NAN, x)
    model = MixturePPCA(3, 2, random_state=0)
    order = rng.permutation(len(x))
    model.partial_fit(holes[order[:300]])
    for _ in range(30):
        for part in np.split(rng.permutation(len(x)), 6):
            model.partial_fit(holes[part])
    whole = MixturePPCA(3, 2, random_state=0).fit(holes)
    assert model.score(holes) == pytest.approx(whole.score(holes), abs=0.01)


def test_refuses(planted):
    """Else options without a meaning are taken."""
    x = planted(9, 4, 1)
    for model, message in [
        (MixturePPCA(0), "n_mixtures=0: expected a whole number from 1 up"),
        (MixturePPCA(10, 1), "n_mixtures=10 with 9 rows: expected at most one for each row"),
        (MixturePPCA(2, 4), "n_components=4 with n_samples=9 and n_features=4"),
        (MixturePPCA(noise_floor=0.0), "noise_floor=0.0: expected a finite number above 0"),
    ]:
        with pytest.raises(DataError, match=message):
            model.fit(x)


def test_rows_beyond_all_components_are_refused(planted):
    """Else their responsibilities, latents and imputations are NaN, although their evidence is right."""
    model = MixturePPCA(2, 1, random_state=0).fit(planted(60, 4, 1))
    far = np.full((1, 4), 1e200)
    assert model.score_samples(far)[0] == -math.inf
    for method in (model.responsibilities, model.transform, model.impute):
        with pytest.raises(DataError, match=r"X has 1 rows with entries of up to 1.0e\+200, too far from every"):
            method(far)


def test_evidence_of_complete_rows_is_a_sum_over_components(three_planes, oracle):
    """Else the mixture's density isn't the weighted sum of its components'."""
    x, _ = three_planes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = MixturePPCA(3, 2, random_state=0).fit(x)
    covariances = [w @ w.T + s * np.eye(5) for w, s in zip(model.loadings_, model.noise_variance_, strict=True)]
    parts = zip(model.weights_, model.means_, covariances, strict=True)
    joint = np.array([[math.log(w) + oracle.log_density(row, *rest) for row in x] for w, *rest in parts])
    np.testing.assert_allclose(model.score_samples(x), logsumexp(joint, axis=0), rtol=1e-10)
