"""From an estimator to a pair and back, and guides at a fitted model's posterior; oracles are joint Gaussians."""

import math

import numpy as np
import pytest
import torch

from pyro_lvm import em, fit, grade
from pyro_lvm.errors import PairError
from pyro_lvm.estimating import fit_by_estimator
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.models import PPCA
from pyro_lvm.pair import Pair


def planted(num_rows: int = 300, data_dim: int = 6, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_rows, 2)) @ rng.normal(size=(2, data_dim)) + 0.4 * rng.normal(size=(num_rows, data_dim))
    return torch.from_numpy(x * scale + shift)


def gaussian_posterior(model: PPCA, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """E[z | x] and Cov[z | x] from the joint covariance of (x, z)."""
    w, mu = model.loadings.detach().double().numpy(), model.mean.detach().double().numpy()
    gain = w.T @ np.linalg.inv(w @ w.T + float(model.noise_variance.detach()) * np.eye(len(mu)))
    return (x.double().numpy() - mu) @ gain.T, np.eye(w.shape[1]) - gain @ w


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-8, 0.0), (1e7, -3e7)])
@pytest.mark.parametrize("holes", [False, True])
def test_model_at_an_estimator_says_what_the_estimator_says(scale: float, shift: float, holes: bool) -> None:
    # Wrong: training would go on from another model than the one that EM found.
    x = planted(scale=scale, shift=shift)
    if holes:
        x[::3, 1] = math.nan
    estimator = em.PPCA(2, random_state=0).fit(x)
    model = PPCA.from_estimator(estimator, torch.float64)
    assert bool(model.started)
    np.testing.assert_allclose(model.log_evidence(x).detach(), estimator.score_samples(x), rtol=0, atol=1e-9)
    np.testing.assert_allclose(model.exact_posterior(x).mean.detach(), estimator.transform(x), atol=1e-8)
    # In float32 the optimum is flat: what rounding moves the parameters by is lost squared.
    rounded = PPCA.from_estimator(estimator)
    assert rounded.loadings.dtype == torch.float32
    assert float(rounded.log_evidence(x).detach().mean()) == pytest.approx(estimator.score(x), abs=1e-6)


def test_estimator_of_a_model_has_its_evidence_and_turned_axes() -> None:
    # Wrong: imputation and embedding of a trained run would be those of another model.
    torch.manual_seed(0)
    x = planted()
    model = PPCA(6, 3).to(torch.float64)
    model.start(x)
    with torch.no_grad():
        model.relative_loadings.normal_()
        model.relative_mean.normal_()
    estimator = model.to_estimator()
    np.testing.assert_allclose(estimator.score_samples(x), model.log_evidence(x).detach(), atol=1e-9)
    assert np.allclose(estimator.loadings_ @ estimator.loadings_.T, (model.loadings @ model.loadings.T).detach())
    # Canonical: orthogonal columns, the longest first, the largest entry of each positive.
    gram = estimator.loadings_.T @ estimator.loadings_
    assert np.allclose(gram, np.diag(np.diag(gram)))
    assert (np.diff(np.diag(gram)) <= 0).all()
    assert (estimator.loadings_.max(0) >= -estimator.loadings_.min(0)).all()
    # The coordinates differ by one rotation for all rows.
    rotation = np.linalg.lstsq(model.loadings.detach().numpy(), estimator.loadings_, rcond=None)[0]
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-10)
    np.testing.assert_allclose(
        model.exact_posterior(x).mean.detach().numpy() @ rotation, estimator.transform(x), atol=1e-9
    )
    again = PPCA.from_estimator(estimator, torch.float64)
    assert torch.allclose(again.log_evidence(x), model.log_evidence(x), atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e5])
def test_guide_matches_the_joint_gaussians_posterior(scale: float) -> None:
    # Wrong: a pair started at the truth would have to find it again.
    x = planted(scale=scale, shift=2 * scale)
    model = PPCA.from_estimator(em.PPCA(2).fit(x))
    turned = PPCA.from_estimator(em.PPCA(2).fit(x))
    with torch.no_grad():
        turned.relative_loadings.copy_(turned.relative_loadings @ torch.tensor([[0.6, -0.8], [0.8, 0.6]]))
    for each in (model, turned):
        mean, covariance = gaussian_posterior(each, x)
        full, diagonal = LinearGaussian(6, 2), LinearGaussian(6, 2, "diagonal")
        for guide in (full, diagonal):
            Pair(each, guide).start(x.float())
            np.testing.assert_allclose(guide.encode(x.float()).mean.detach(), mean, atol=2e-5)
        np.testing.assert_allclose(full.encode(x[:1].float()).covariance_matrix[0].detach(), covariance, atol=1e-6)
        # The minimum over diagonal Gaussians of KL(q || p).
        expected = 1 / np.sqrt(np.diag(np.linalg.inv(covariance)))
        np.testing.assert_allclose(diagonal.encode(x[:1].float()).stddev[0].detach(), expected, rtol=1e-5)


def test_only_a_model_that_was_fitted_before_is_matched() -> None:
    # Wrong: the guide of a fresh pair, or one that is to be trained alone, would be handed the answer.
    x = planted().float()
    fresh = LinearGaussian(6, 2)
    Pair(PPCA(6, 2), fresh).start(x)
    alone = LinearGaussian(6, 2)
    Pair(PPCA.from_estimator(em.PPCA(2).fit(x)), alone).start(x, train="guide")
    for guide in (fresh, alone):
        assert torch.equal(guide.encode(x).mean, torch.zeros(300, 2))


def test_training_goes_on_from_an_estimator() -> None:
    x = planted().float()
    model = PPCA.from_estimator(em.PPCA(2).fit(x))
    result = fit(model, LinearGaussian(6, 2), x, steps=10, lr=1e-4, progress=False)
    graded = grade(result.pair, x)
    assert graded.gap == pytest.approx(0, abs=1e-4)
    assert graded.kl_to_exact == pytest.approx(0, abs=1e-4)


def test_fit_by_estimator_needs_both_halves_to_take_part() -> None:
    x = planted().float()
    with pytest.raises(PairError, match="has none"):
        fit_by_estimator(Pair(lambda x: None, LinearGaussian(6, 2)), x)
    with pytest.raises(PairError, match="can't be put at an exact posterior"):
        fit_by_estimator(Pair(PPCA(6, 2), lambda x: None), x)
