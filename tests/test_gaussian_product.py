"""The product of a normal prior and a message a feature, against conditioned joint Gaussians and quadrature."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from pyro_lvm.gaussian_product import gaussian_product

W = torch.tensor([[1.0, -2.0], [0.5, 0.3], [0.0, 1.0], [3.0, 0.1]], dtype=torch.float64)
PSI = torch.tensor([0.5, 0.1, 2.0, 0.05], dtype=torch.float64)


def every_pattern() -> tuple[Tensor, Tensor]:
    observed = torch.tensor(list(itertools.product([True, False], repeat=4)))
    residual = torch.randn(16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.where(observed, residual, 0.0), observed


def conditioned(residual: Tensor, observed: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of z given what is observed of x, from the joint covariance of the two."""
    w = W[observed].numpy()
    gain = w.T @ np.linalg.inv(w @ w.T + np.diag(PSI[observed].numpy()))
    return gain @ residual[observed].numpy(), np.eye(2) - gain @ w


def test_with_a_models_messages_it_is_the_posterior_of_every_pattern() -> None:
    # Wrong: the guide couldn't hold the exact posterior, and a row with nothing observed would not get the prior.
    residual, observed = every_pattern()
    product = gaussian_product(W, -PSI.log(), residual / PSI, observed)
    q = product.distribution()
    for n in range(16):
        mean, covariance = conditioned(residual[n], observed[n])
        np.testing.assert_allclose(q.mean[n], mean, atol=1e-12)
        np.testing.assert_allclose(q.covariance_matrix[n], covariance, atol=1e-12)
    assert torch.equal(q.mean[-1], torch.zeros(2, dtype=torch.float64))


def test_normalizer_is_the_integral_over_z() -> None:
    # Wrong: a mixture's q(t | x) would weigh its components wrongly.
    u, log_precision, a = 1.7, 0.4, -0.9
    product = gaussian_product(
        torch.tensor([[u]]), torch.tensor([log_precision]), torch.tensor([[a]]), torch.tensor([[True]])
    )
    integral, _ = quad(
        lambda z: (
            math.exp(-0.5 * z * z + a * u * z - 0.5 * math.exp(log_precision) * (u * z) ** 2) / math.sqrt(2 * math.pi)
        ),
        -30,
        30,
    )
    assert float(product.log_normalizer) == pytest.approx(math.log(integral), abs=1e-6)


def test_rows_known_to_be_complete_share_one_factor_and_components_stay_apart() -> None:
    residual = torch.randn(5, 3, 4, dtype=torch.float64)
    directions = torch.stack([W, 2 * W, W.flip(0)])
    log_precisions = torch.stack([-PSI.log(), PSI, PSI.log()])
    everywhere = gaussian_product(directions, log_precisions, residual, torch.ones(5, 4, dtype=torch.bool))
    promised = gaussian_product(directions, log_precisions, residual, None)
    assert promised.scale_tril.shape == (1, 3, 2, 2)
    assert torch.allclose(promised.loc, everywhere.loc)
    assert torch.allclose(promised.log_normalizer, everywhere.log_normalizer)
    for k in range(3):
        alone = gaussian_product(directions[k], log_precisions[k], residual[:, k], None)
        assert torch.allclose(alone.loc, promised.loc[:, k])
        assert torch.allclose(alone.log_normalizer, promised.log_normalizer[:, k])


def test_gradients_are_those_of_finite_differences() -> None:
    # Wrong: the reordered Cholesky factor would train towards something else.
    residual, observed = every_pattern()
    inputs = (W.clone().requires_grad_(), (-PSI.log()).requires_grad_(), residual.requires_grad_())
    assert torch.autograd.gradcheck(lambda u, l, a: gaussian_product(u, l, a, observed), inputs)  # noqa: E741


def test_what_has_diverged_is_nan_and_no_exception() -> None:
    # Wrong: training would end in a traceback of linear algebra instead of its own message and last good state.
    broken = gaussian_product(torch.full((2, 1), math.nan), torch.zeros(2), torch.zeros(1, 2), None)
    assert broken.loc.isnan().all()
