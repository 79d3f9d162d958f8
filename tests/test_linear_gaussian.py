"""The exact algebra against answers found another way: 60-digit arithmetic, SciPy, scikit-learn, integration."""

import math

import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, FactorAnalysis
from torch.distributions import Independent, MultivariateNormal, Normal
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_lvm import linear_gaussian
from pyro_lvm.errors import DataError
from pyro_lvm.linear_gaussian import gaussian_kl, log_evidence, maximum_likelihood, posterior, principal_angle

NAN = math.nan


def problem(num_rows, data_dim, latent_dim, *, missing=0.0, noise=1.0, scale=1.0, isotropic=False, seed=0):
    """Rows drawn from a random model, with entries missing at random, and the model's parameters."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(data_dim, latent_dim)) * scale
    mean = rng.normal(size=data_dim) * scale
    noise_variance = (1.0 if isotropic else rng.uniform(0.5, 2.0, data_dim)) * noise * scale**2
    noise_variance = np.broadcast_to(noise_variance, data_dim).copy()
    x = mean + rng.normal(size=(num_rows, latent_dim)) @ loadings.T
    x = x + rng.normal(size=x.shape) * np.sqrt(noise_variance)
    x[rng.random(x.shape) < missing] = NAN
    return tuple(torch.from_numpy(value) for value in (x, loadings, mean, noise_variance))


def brute_force(x, loadings, mean, noise_variance, exact=False):
    """Evidence and posterior moments from the joint covariance of (x, z), conditioned by the textbook formula."""
    x, loadings, mean = (value.double().numpy() for value in (x, loadings, mean))
    noise_variance = np.broadcast_to(torch.as_tensor(noise_variance).double().numpy(), len(mean))
    latent_dim = loadings.shape[1]
    answers = []
    for row in x:
        seen = np.flatnonzero(~np.isnan(row))
        if not len(seen):
            answers.append((0.0, np.zeros(latent_dim), np.eye(latent_dim)))
        elif exact:
            with mpmath.workdps(60):
                weights = mpmath.matrix(loadings[seen].tolist())
                covariance = weights * weights.T + mpmath.diag(noise_variance[seen].tolist())
                residual = mpmath.matrix(row[seen].tolist()) - mpmath.matrix(mean[seen].tolist())
                inverse = covariance**-1
                square = (residual.T * inverse * residual)[0]
                evidence = -(len(seen) * mpmath.log(2 * mpmath.pi) + mpmath.log(mpmath.det(covariance)) + square) / 2
                loc, spread = weights.T * inverse * residual, mpmath.eye(latent_dim) - weights.T * inverse * weights
                to_float = [np.array(value.tolist(), dtype=float) for value in (loc, spread)]
            answers.append((float(evidence), to_float[0][:, 0], to_float[1]))
        else:
            weights = loadings[seen]
            covariance = weights @ weights.T + np.diag(noise_variance[seen])
            evidence = scipy.stats.multivariate_normal(mean[seen], covariance).logpdf(row[seen])
            gain = np.linalg.solve(covariance, weights).T
            answers.append((evidence, gain @ (row[seen] - mean[seen]), np.eye(latent_dim) - gain @ weights))
    return tuple(np.array(values) for values in zip(*answers, strict=True))


def check_against_brute_force(x, *parameters, exact=False, tolerance=1e-10, evidence_tolerance=1e-10):
    evidence, loc, covariance = brute_force(x, *parameters, exact=exact)
    ours = posterior(x, *parameters)
    np.testing.assert_allclose(
        log_evidence(x, *parameters), evidence, rtol=evidence_tolerance, atol=evidence_tolerance, err_msg="evidence"
    )
    np.testing.assert_allclose(ours.mean, loc, rtol=tolerance, atol=tolerance, err_msg="posterior mean")
    np.testing.assert_allclose(ours.covariance_matrix, covariance, rtol=tolerance, atol=tolerance, err_msg="covariance")
    factor = ours.scale_tril
    assert torch.equal(factor, factor.tril()), "the factor isn't lower triangular"
    assert (factor.diagonal(dim1=-2, dim2=-1) > 0).all(), "the factor's diagonal isn't positive"


@pytest.fixture(scope="module")
def digits():
    return torch.from_numpy(load_digits().data / 16)


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize(("data_dim", "latent_dim"), [(6, 2), (9, 4), (3, 5), (1, 1)])
def test_evidence_and_posterior_equal_the_conditioned_joint(data_dim, latent_dim, isotropic, missing):
    """Else the truth that guides are graded against is wrong: both routes of factoring, any mask, more z than x."""
    x, *parameters = problem(40, data_dim, latent_dim, missing=missing, isotropic=isotropic)
    check_against_brute_force(x, *parameters)


@pytest.mark.parametrize("scale", [1.0, 1e8, 1e-8])
@pytest.mark.parametrize("noise", [1e-3, 1e-6, 1e-10])
def test_tiny_noise_and_extreme_units_lose_no_digits(noise, scale):
    """Else an almost noiseless model, or data in odd units, is graded with rounding error for truth."""
    x, *parameters = problem(12, 6, 3, missing=0.5, noise=noise, scale=scale)
    check_against_brute_force(x, *parameters, exact=True)


def test_noise_at_the_edge_of_float64_is_as_good_as_the_data():
    """Else fits that collapse die in a Cholesky error, or get a wrong number: here x itself is only good to 1e-6."""
    x, *parameters = problem(12, 6, 3, missing=0.5, noise=1e-20)
    check_against_brute_force(x, *parameters, exact=True, tolerance=1e-5, evidence_tolerance=1e-5)


def test_far_rows_and_offsets_keep_their_evidence():
    """Else outliers 1e6 standard deviations out, or a mean of 1e8, cancel catastrophically."""
    x, *parameters = problem(8, 5, 2, missing=0.2)
    check_against_brute_force(1e6 * x, *parameters, exact=True)
    x, loadings, mean, noise_variance = x + 1e8, parameters[0], parameters[1] + 1e8, parameters[2]
    check_against_brute_force(x, loadings, mean, noise_variance, exact=True)


def test_rows_with_little_observed():
    """Else an empty row has evidence other than 0 or a posterior other than the prior, or one entry is mishandled."""
    x = torch.tensor([[NAN, NAN, NAN], [NAN, 2.0, NAN]])
    loadings, mean = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0]]), torch.ones(3)
    evidence, q = log_evidence(x, loadings, mean, 0.5), posterior(x, loadings, mean, 0.5)
    assert evidence[0] == 0
    assert torch.equal(q.mean[0], torch.zeros(2).double())
    assert torch.equal(q.scale_tril[0], torch.eye(2).double())
    assert evidence[1].item() == pytest.approx(scipy.stats.norm(1, math.sqrt(25.5)).logpdf(2), rel=1e-14)
    np.testing.assert_allclose(q.mean[1], np.array([3, 4]) / 25.5, rtol=1e-14)


def test_evidence_equals_the_integral_over_z():
    """Else the evidence isn't the integral of p(x | z) p(z): one latent dimension, by quadrature."""
    x, loadings, mean, noise_variance = problem(4, 3, 1, missing=0.3, noise=0.3, seed=3)
    for row, evidence in zip(x.numpy(), log_evidence(x, loadings, mean, noise_variance).tolist(), strict=True):
        seen = ~np.isnan(row)

        def joint(z, row=row, seen=seen):
            at = mean.numpy() + loadings.numpy()[:, 0] * z
            density = scipy.stats.norm(at[seen], np.sqrt(noise_variance.numpy()[seen])).pdf(row[seen])
            return density.prod() * scipy.stats.norm.pdf(z)

        integral = scipy.integrate.quad(joint, -10, 10, epsabs=0, epsrel=1e-11, limit=200)[0]
        assert evidence == pytest.approx(math.log(integral), rel=1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    num_rows=st.integers(0, 12),
    data_dim=st.integers(1, 17),
    latent_dim=st.integers(1, 6),
    missing=st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0]),
    noise=st.sampled_from([1e-3, 1.0, 1e3]),
    isotropic=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_odd_shapes_and_masks(num_rows, data_dim, latent_dim, missing, noise, isotropic, seed):
    """Else some shape or mask (no rows, widths beside a multiple of 8, all missing) is packed or placed wrongly."""
    x, *parameters = problem(
        num_rows, data_dim, latent_dim, missing=missing, noise=noise, isotropic=isotropic, seed=seed
    )
    if num_rows:
        check_against_brute_force(x, *parameters, tolerance=1e-9, evidence_tolerance=1e-9)
    else:
        assert log_evidence(x, *parameters).shape == (0,)
        assert posterior(x, *parameters).batch_shape == (0,)


@pytest.mark.parametrize("chunk", [1, 64, 500])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_chunks_change_nothing(chunk, missing, monkeypatch):
    """Else results depend on how much fits in memory: rows, patterns, the Gram sums, the KL and the covariance."""
    x, *parameters = problem(60, 10, 3, missing=missing, seed=1)
    complete = x.nan_to_num(0.0)

    def everything():
        q = posterior(x, *parameters)
        kl = gaussian_kl(q, MultivariateNormal(torch.zeros(3), torch.eye(3)))
        fitted = maximum_likelihood(complete, 2), maximum_likelihood(complete[:7], 2)
        return log_evidence(x, *parameters), q.mean, q.scale_tril, kl, *fitted[0], *fitted[1]

    monkeypatch.setattr(linear_gaussian, "_SVD_WORK", 0)
    whole = everything()
    monkeypatch.setattr(linear_gaussian, "_CHUNK", chunk)
    for expected, got in zip(whole, everything(), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


def test_rows_with_the_same_pattern_share_one_factor(monkeypatch):
    """Else complete data cost a factorization or a factor's memory for each row, and holes all patterns a chunk."""
    x, *parameters = problem(50, 4, 2)
    factored = []
    original = linear_gaussian._covariance_factors

    def counting(masks, whitened):
        factored.append(len(masks))
        return original(masks, whitened)

    monkeypatch.setattr(linear_gaussian, "_covariance_factors", counting)
    q = posterior(x, *parameters)
    assert factored == [1]
    assert q.scale_tril.shape == (50, 2, 2)
    assert q.scale_tril.untyped_storage().nbytes() == 4 * 8
    x[::2, 1] = NAN
    q = posterior(x, *parameters)
    assert factored == [1, 2]
    assert torch.equal(q.scale_tril[0], q.scale_tril[2])
    monkeypatch.setattr(linear_gaussian, "_CHUNK", 40)
    posterior(x, *parameters)
    assert factored[2:] == [1, 1, 2, 1, 1], "chunks of 10 rows aren't sorted by pattern"
    check_against_brute_force(x, *parameters)


def test_float32_input_is_computed_in_float64():
    """Else float32 data silently gets float32 truth."""
    x, *parameters = (value.float() for value in problem(30, 6, 2, missing=0.3, noise=1e-4))
    assert log_evidence(x, *parameters).dtype == torch.float64
    check_against_brute_force(x, *parameters)
    exact = maximum_likelihood(x.nan_to_num(0.0).double(), 2)
    for single, double in zip(maximum_likelihood(x.nan_to_num(0.0), 2), exact, strict=True):
        np.testing.assert_allclose(single, double, rtol=1e-12, atol=1e-14)


def test_one_noise_value_equals_the_same_value_for_every_entry():
    """Else a float, a scalar tensor and a vector mean different models."""
    x, loadings, mean, _ = problem(5, 4, 2, missing=0.2)
    expected = log_evidence(x, loadings, mean, torch.full((4,), 0.3).double())
    for noise_variance in (0.3, torch.tensor(0.3).double()):
        np.testing.assert_allclose(log_evidence(x, loadings, mean, noise_variance), expected, rtol=1e-7)


@pytest.mark.parametrize("noise", [1.0, 1e-6])
def test_gradients_are_those_of_finite_differences(noise):
    """Else whoever climbs the exact evidence climbs something else; the small noise goes through the QR route."""
    x, *parameters = problem(6, 4, 2, missing=0.3, noise=noise, seed=2)
    parameters = [value.requires_grad_() for value in parameters]
    direction = [torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).double() for value in parameters]
    direction[2] = direction[2] * noise
    total = log_evidence(x, *parameters).sum() + posterior(x, *parameters).entropy().sum()
    slope = sum((g * d).sum() for g, d in zip(torch.autograd.grad(total, parameters), direction, strict=True))

    def along(step):
        moved = [value.detach() + step * d for value, d in zip(parameters, direction, strict=True)]
        return (log_evidence(x, *moved).sum() + posterior(x, *moved).entropy().sum()).item()

    step = 1e-5 * math.sqrt(noise)
    assert slope.item() == pytest.approx((along(step) - along(-step)) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_nothing_of_size_data_dim_squared_is_built(missing):
    """Else 20000 genes or pixels take gigabytes: D x D would be 4e8 numbers."""

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    self.numel = max(self.numel, leaf.numel())
            return result

    data_dim = 20000
    x, *parameters = problem(8, data_dim, 3, missing=missing)
    with Largest() as largest:
        log_evidence(x, *parameters)
        posterior(x, *parameters)
        maximum_likelihood(x.nan_to_num(0.0), 3)
    assert 8 * data_dim <= largest.numel < data_dim**2 / 100


def test_digits_reference(digits):
    """Else the published truth for the default data moved."""
    fitted = maximum_likelihood(digits, 8)
    assert log_evidence(digits, *fitted[:3]).mean().item() == pytest.approx(14.2097883, abs=1e-7)
    assert fitted.noise_variance.item() == pytest.approx(0.0273294, abs=5e-8)


def test_scikit_learn_agrees_on_its_own_parameters(digits):
    """Else our evidence differs from PCA.score and FactorAnalysis.score for the same parameters."""
    pca = PCA(8).fit(digits.numpy())
    loadings = pca.components_.T * np.sqrt(pca.explained_variance_ - pca.noise_variance_)
    ours = log_evidence(digits, torch.from_numpy(loadings), torch.from_numpy(pca.mean_), pca.noise_variance_)
    np.testing.assert_allclose(ours, pca.score_samples(digits.numpy()), rtol=1e-9, atol=1e-9)
    assert ours.mean().item() == pytest.approx(pca.score(digits.numpy()), rel=1e-9)

    varied = digits[:, digits.std(0) > 0]
    fa = FactorAnalysis(4, max_iter=30, tol=1.0).fit(varied.numpy())
    parameters = fa.components_.T.copy(), fa.mean_, fa.noise_variance_
    ours = log_evidence(varied, *(torch.from_numpy(value) for value in parameters))
    np.testing.assert_allclose(ours, fa.score_samples(varied.numpy()), rtol=1e-6)


@pytest.mark.parametrize("shape", [(200, 12), (20, 100)])
@pytest.mark.parametrize("route", ["svd", "gram"])
def test_maximum_likelihood_equals_the_eigenvectors_of_the_covariance(shape, route, monkeypatch):
    """Else W W^T, sigma^2 or the spectrum is wrong, for tall, wide or partly constant data, by either route."""
    monkeypatch.setattr(linear_gaussian, "_SVD_WORK", 5e9 if route == "svd" else 0)
    x = problem(*shape, 4, noise=0.1)[0]
    x[:, 3] = 7.3
    fitted = maximum_likelihood(x, 3)
    values, vectors = np.linalg.eigh(np.cov(x.numpy().T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    noise_variance = values[3:].sum() / (shape[1] - 3)
    np.testing.assert_allclose(fitted.eigenvalues, values[: min(shape)], rtol=1e-9, atol=1e-11)
    assert fitted.eigenvalues.shape == (min(shape),)
    assert fitted.noise_variance.item() == pytest.approx(noise_variance, rel=1e-10)
    expected = vectors[:, :3] @ np.diag(values[:3] - noise_variance) @ vectors[:, :3].T
    np.testing.assert_allclose(fitted.loadings @ fitted.loadings.T, expected, atol=1e-9)
    np.testing.assert_allclose(fitted.mean, x.numpy().mean(0), rtol=1e-12)
    norms = fitted.loadings.norm(dim=0)
    assert torch.equal(norms, norms.sort(descending=True).values), "columns aren't ordered by explained variance"
    assert (fitted.loadings.gather(0, fitted.loadings.abs().argmax(0)[None]) > 0).all(), "signs aren't canonical"


@pytest.mark.parametrize("shape", [(60, 8), (15, 40)])
def test_maximum_likelihood_is_a_maximum(shape):
    """Else some other parameters explain the data better: random moves of all three, and of each alone."""
    x = problem(*shape, 3, noise=0.3)[0]
    loadings, mean, noise_variance, _ = maximum_likelihood(x, 3)
    best = log_evidence(x, loadings, mean, noise_variance).mean()
    generator = torch.Generator().manual_seed(0)
    for size in (1e-3, 1e-1):
        for moved in [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)] * 5:
            noise = [torch.randn(value.shape, generator=generator).double() for value in (loadings, mean, mean[0])]
            steps = [size * on * value for on, value in zip(moved, noise, strict=True)]
            other = loadings + steps[0], mean + steps[1], noise_variance * steps[2].exp()
            assert log_evidence(x, *other).mean() < best


def test_the_two_routes_agree(digits, monkeypatch):
    """Else the answer depends on the size of the data."""
    for x in (digits, digits[:40]):
        monkeypatch.setattr(linear_gaussian, "_SVD_WORK", 5e9)
        by_svd = maximum_likelihood(x, 8)
        monkeypatch.setattr(linear_gaussian, "_SVD_WORK", 0)
        for svd, gram in zip(by_svd, maximum_likelihood(x, 8), strict=True):
            np.testing.assert_allclose(gram, svd, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("route", ["svd", "gram"])
def test_large_offsets_leave_the_covariance_alone(route, monkeypatch):
    """Else data far from 0 (times, coordinates) lose their structure: a few units in the last place around 1e8."""
    monkeypatch.setattr(linear_gaussian, "_SVD_WORK", 5e9 if route == "svd" else 0)
    steps = torch.from_numpy(np.random.default_rng(0).integers(-9, 9, (101, 5)) * 2.0**-26)
    plain, offset = maximum_likelihood(steps, 2), maximum_likelihood(steps + 1e8, 2)
    np.testing.assert_allclose(offset.eigenvalues, plain.eigenvalues, rtol=1e-13)
    np.testing.assert_allclose(offset.loadings, plain.loadings, rtol=1e-10)
    np.testing.assert_allclose(offset.mean, plain.mean + 1e8, rtol=1e-15)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("route", ["svd", "gram"])
def test_rank_does_not_depend_on_units(scale, route, monkeypatch):
    """Else the same data are refused or accepted by their units: 6 columns, a constant and a sum among them."""
    monkeypatch.setattr(linear_gaussian, "_SVD_WORK", 5e9 if route == "svd" else 0)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 6))) * scale
    x[:, 4], x[:, 5] = 0.1 * scale, x[:, 0] - 2 * x[:, 1]
    fitted = maximum_likelihood(x, 3)
    assert (fitted.eigenvalues > 0).sum() == 4
    assert fitted.noise_variance > 0
    with pytest.raises(DataError, match=r"latent_dim is 4 .* rank 4; .*choose latent_dim <= 3"):
        maximum_likelihood(x, 4)


def test_equal_eigenvalues_leave_no_loadings():
    """Else rounding makes the square root of lambda_d - sigma^2 a NaN where the data are spherical."""
    for data_dim in range(4, 40):
        axes = 0.1 * torch.eye(data_dim).double()
        np.testing.assert_allclose(maximum_likelihood(torch.cat([axes, -axes]), 2).loadings, 0, atol=1e-7)


REFUSED_DATA = [
    (torch.zeros(1, 4), 1, "x has 1 rows and latent_dim is 1; expected 2 rows"),
    (torch.zeros(0, 4), 1, "x has 0 rows"),
    (torch.randn(9, 4), 0, "latent_dim is 0; expected 2 rows and latent_dim 1"),
    (torch.tensor([[1.0, NAN], [0.0, 1.0]]), 1, "x has 1 missing entries; expected complete rows: fit by EM"),
    (torch.tensor([[1.0, math.inf], [0.0, NAN]]), 1, "x holds infinite entries"),
    (torch.randn(9), 1, r"x has shape \(9,\); expected \(num_rows, data_dim\)"),
    (torch.ones(9, 4) * 0.1, 1, "latent_dim is 1 and the centred data have rank 0; .*vary in at least two directions"),
    (torch.arange(9.0)[:, None], 1, "rank 1; .*infinite"),
    (torch.from_numpy(np.random.default_rng(0).normal(size=(5, 30))), 4, "rank 4; .*choose latent_dim <= 3"),
    (torch.from_numpy(np.random.default_rng(0).normal(size=(30, 5))), 5, "rank 5; .*choose latent_dim <= 4"),
    (
        torch.from_numpy(np.random.default_rng(0).normal(size=(30, 5))),
        9,
        "latent_dim is 9 and .*choose latent_dim <= 4",
    ),
]


@pytest.mark.parametrize(("x", "latent_dim", "message"), REFUSED_DATA)
@pytest.mark.parametrize("route", ["svd", "gram"])
def test_maximum_likelihood_refuses(x, latent_dim, message, route, monkeypatch):
    """Else data without a finite maximum get a number, or an error that doesn't say what to do."""
    monkeypatch.setattr(linear_gaussian, "_SVD_WORK", 5e9 if route == "svd" else 0)
    with pytest.raises(DataError, match=message) as caught:
        maximum_likelihood(x, latent_dim)
    assert "\n" not in str(caught.value)


GOOD = {"x": torch.zeros(2, 3), "loadings": torch.ones(3, 1), "mean": torch.zeros(3), "noise_variance": 1.0}
REFUSED_PARAMETERS = [
    ({"x": torch.zeros(3)}, r"x has shape \(3,\); expected \(num_rows, data_dim\)"),
    ({"x": torch.tensor([[0.0, NAN, -math.inf]])}, "x holds infinite entries"),
    ({"x": torch.zeros(2, 4)}, r"x has 4 columns .*expected loadings \(4, latent_dim\)"),
    ({"loadings": torch.ones(3)}, r"'loadings': \(3,\).*expected loadings \(3, latent_dim\)"),
    ({"loadings": torch.ones(3, 0)}, r"'loadings': \(3, 0\).*expected loadings \(3, latent_dim\)"),
    ({"mean": torch.zeros(1)}, r"'mean': \(1,\).*mean \(3,\)"),
    ({"noise_variance": torch.ones(2)}, r"'noise_variance': \(2,\).*noise_variance \(\) or \(3,\)"),
    ({"noise_variance": 0.0}, "noise_variance is 0 at its least; expected > 0"),
    ({"noise_variance": torch.tensor([1.0, -2.0, 1.0])}, "noise_variance is -2 at its least"),
    ({"noise_variance": math.inf}, "noise_variance holds NaN or infinite entries"),
    ({"loadings": torch.full((3, 1), NAN)}, "loadings holds NaN or infinite entries"),
    ({"mean": torch.full((3,), math.inf)}, "mean holds NaN or infinite entries"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED_PARAMETERS)
@pytest.mark.parametrize("function", [log_evidence, posterior])
def test_evidence_and_posterior_refuse(function, change, message):
    """Else arguments that don't fit broadcast into a wrong truth, or a diverged fit is graded."""
    with pytest.raises(DataError, match=message) as caught:
        function(**(GOOD | change))
    assert "\n" not in str(caught.value)


def gaussians(num_rows=3, latent_dim=2):
    rng = np.random.default_rng(0)
    loc, scale, full = (torch.from_numpy(rng.normal(size=(num_rows, latent_dim, k))) for k in (1, 1, latent_dim))
    diagonal = Independent(Normal(loc[..., 0], scale[..., 0].exp()), 1)
    return diagonal, MultivariateNormal(loc[..., 0] + 0.5, full @ full.mT + torch.eye(latent_dim))


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_kl_equals_the_closed_form(first, second):
    """Else a guide's distance to the truth is wrong for some mix of diagonal and full covariances, or its order."""
    q, p = gaussians()[first], gaussians()[second].expand((3,))
    q_mean, p_mean, q_cov, p_cov = (
        q.mean,
        p.mean + 0,
        *(d.covariance_matrix if isinstance(d, MultivariateNormal) else d.variance.diag_embed() for d in (q, p)),
    )
    expected = []
    for m, n, s, t in zip(*(value.numpy() for value in (q_mean, p_mean, q_cov, p_cov)), strict=True):
        inverse = np.linalg.inv(t)
        square = (n - m) @ inverse @ (n - m)
        expected.append((np.trace(inverse @ s) + square - 2 + math.log(np.linalg.det(t) / np.linalg.det(s))) / 2)
    np.testing.assert_allclose(gaussian_kl(q, p), expected, rtol=1e-12, atol=1e-14)


def test_kl_equals_its_monte_carlo_estimate():
    """Else the closed form isn't the mean of log q - log p under q: within 4 standard errors of 200000 draws."""
    torch.manual_seed(0)
    q, p = gaussians()
    z = q.sample((200_000,))
    draws = q.log_prob(z) - p.log_prob(z)
    assert ((draws.mean(0) - gaussian_kl(q, p)).abs() < 4 * draws.std(0) / math.sqrt(len(draws))).all()


def test_kl_to_a_shared_prior_and_in_float64():
    """Else float32 guides are graded in float32, or one prior has to be repeated for every row."""
    q = Independent(Normal(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.ones(2, 2)), 1)
    kl = gaussian_kl(q, MultivariateNormal(torch.zeros(2), torch.eye(2)))
    assert kl.dtype == torch.float64
    assert kl.tolist() == [0.5, 0.0]


def test_the_gap_between_evidence_and_elbo_is_the_kl():
    """Else evidence, posterior and KL contradict each other: ELBO of a wrong q, its terms by hand, with missing x."""
    x, loadings, mean, noise_variance = problem(6, 5, 2, missing=0.3)
    q = Independent(Normal(torch.full((6, 2), 0.3).double(), torch.full((6, 2), 0.7).double()), 1)
    fitted, spread = mean + q.mean @ loadings.T, q.variance @ loadings.square().T
    terms = -0.5 * (torch.log(2 * math.pi * noise_variance) + ((x - fitted).square() + spread) / noise_variance)
    prior_kl = 0.5 * (q.variance + q.mean.square() - 1 - q.variance.log()).sum(-1)
    gap = log_evidence(x, loadings, mean, noise_variance) - (terms.nansum(-1) - prior_kl)
    np.testing.assert_allclose(gaussian_kl(q, posterior(x, loadings, mean, noise_variance)), gap, rtol=1e-10)


@pytest.mark.parametrize(
    ("q", "p", "message"),
    [
        (
            Normal(torch.zeros(3), 1.0),
            gaussians()[1],
            r"q has batch and event shape \(3,\) and \(\), p \(3,\) and \(2,\)",
        ),
        (gaussians()[0], gaussians(num_rows=4)[1], r"\(3,\) and \(2,\), p \(4,\) and \(2,\); expected \(num_rows,\)"),
        (gaussians()[0], gaussians(latent_dim=3)[1], r"p \(3,\) and \(3,\); expected"),
        (
            gaussians()[1],
            Independent(torch.distributions.Laplace(torch.zeros(3, 2), 1.0), 1),
            "Independent was asked for; expected MultivariateNormal",
        ),
    ],
)
def test_kl_refuses(q, p, message):
    """Else rows or latents that don't match are broadcast, or an unknown kind ends in a NotImplementedError."""
    with pytest.raises(DataError, match=message) as caught:
        gaussian_kl(q, p)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("angle", [0.0, 1e-5, 30.0, 90.0])
def test_principal_angle_of_planes_a_known_turn_apart(angle):
    """Else the angle is the smallest, in radians, or depends on the basis of the plane."""
    turn = math.radians(angle)
    a = torch.eye(4)[:, :2].double()
    b = torch.tensor([[1.0, 0.0], [0.0, math.cos(turn)], [0.0, math.sin(turn)], [0.0, 0.0]], dtype=torch.float64)
    mixed = b @ torch.tensor([[2.0, 1.0], [-5.0, 3.0]]).double()
    assert principal_angle(a, mixed) == pytest.approx(angle, abs=1e-12)
    assert principal_angle(mixed.float(), a) == pytest.approx(angle, abs=1e-4)


def test_a_collapsed_column_is_ninety_degrees():
    """Else a fit that lost a direction is called aligned with the truth."""
    a = torch.eye(4)[:, :2]
    assert principal_angle(a, a * torch.tensor([1.0, 0.0])) == 90.0
    assert principal_angle(a, a[:, :1]) == 90.0


@pytest.mark.parametrize(
    ("a", "b"),
    [(torch.ones(3), torch.ones(3, 1)), (torch.ones(3, 1), torch.ones(4, 1)), (torch.full((3, 1), NAN),) * 2],
)
def test_principal_angle_refuses(a, b):
    """Else loadings of different data, or diverged ones, get an angle."""
    with pytest.raises(DataError, match="expected two finite matrices with as many rows: compare"):
        principal_angle(a, b)
