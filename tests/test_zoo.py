import pytest
import torch
from pyro import poutine

from pyro_lvm.catalogue import build, find, names
from pyro_lvm.errors import PairError
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.models import PPCA
from pyro_lvm.pair import Pair


def brute_force(model: PPCA) -> torch.distributions.MultivariateNormal:
    w, mu = model.loadings.detach().double(), model.mean.detach().double()
    covariance = w @ w.T + float(model.noise_variance) * torch.eye(len(mu), dtype=torch.float64)
    return torch.distributions.MultivariateNormal(mu, covariance)


def test_ppca_evidence_and_its_pyro_density_are_those_of_the_joint_gaussian() -> None:
    # Wrong: the pair would be graded against the truth of another model.
    torch.manual_seed(0)
    x = torch.randn(50, 4) @ torch.randn(4, 5) + 3
    model = PPCA(5, 2)
    model.start(x, torch.Generator().manual_seed(0))
    assert torch.allclose(model.log_evidence(x), brute_force(model).log_prob(x.double()), rtol=1e-10)
    z = torch.randn(50, 2)
    trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x)
    joint = sum(trace.nodes[name]["fn"].log_prob(trace.nodes[name]["value"]) for name in ("z", "x"))
    posterior = model.exact_posterior(x)
    assert torch.allclose(joint.double(), model.log_evidence(x) + posterior.log_prob(z.double()), atol=1e-4)


@pytest.mark.parametrize(("factor", "shift"), [(1e-6, 0.0), (1e5, 3e6), (1.0, -50.0)])
def test_start_and_fit_follow_the_datas_scale(factor: float, shift: float) -> None:
    # Wrong: a learning rate that suits grey values would fail on dollars.
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) @ torch.tensor(
        [[2.0, 1, 0, 1], [0, 1, 2, 0], [0.1, 0, 0, 0.3]]
    )
    plain, scaled = PPCA(4, 2), PPCA(4, 2)
    plain.start(x, torch.Generator().manual_seed(0))
    scaled.start(x * factor + shift, torch.Generator().manual_seed(0))
    assert torch.allclose(scaled.loadings, plain.loadings * factor, rtol=1e-2)
    assert torch.allclose(scaled.noise_scale, plain.noise_scale * factor, rtol=1e-2)


def test_constant_features_do_not_break_the_start() -> None:
    x = torch.zeros(20, 3)
    x[:, 0] = torch.arange(20.0)
    for rows in (x, torch.ones(20, 3)):
        pair = Pair(PPCA(3, 1), LinearGaussian(3, 1))
        pair.start(rows)
        assert torch.isfinite(pair.model.log_evidence(rows)).all()
        assert torch.isfinite(pair.guide.encode(rows).mean).all()


@pytest.mark.parametrize(("data_dim", "latent_dim"), [(3, 3), (3, 0), (1, 1), (3, 7)])
def test_ppca_refuses_what_has_no_residual(data_dim: int, latent_dim: int) -> None:
    with pytest.raises(PairError, match=f"latent_dim={latent_dim} with {data_dim} features"):
        PPCA(data_dim, latent_dim)


def test_guide_forms() -> None:
    x = torch.randn(6, 4)
    full, diagonal = LinearGaussian(4, 2).encode(x), LinearGaussian(4, 2, "diagonal").encode(x)
    assert full.batch_shape == diagonal.batch_shape == (6,)
    assert full.event_shape == diagonal.event_shape == (2,)
    with pytest.raises(PairError, match="covariance='band': expected 'full' or 'diagonal'"):
        LinearGaussian(4, 2, "band")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", names())
def test_every_installed_pair_builds_for_odd_sizes(name: str) -> None:
    options = {"latent_dim": 1} if "latent_dim" in find(name).options() else {}
    for data_dim in (2, 5, 64):
        pair = build(name, {"data_dim": data_dim, "image_shape": None}, options=options)
        pair.materialize(torch.randn(3, data_dim))
