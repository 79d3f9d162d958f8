"""The variational autoencoder as a pair: its contract, its linear case and the closed form, units, holes, saving."""

import math
from typing import ClassVar

import pytest
import torch
from pyro import poutine
from torch import Tensor

import pyro_lvm
from pyro_lvm import data, fit, grade
from pyro_lvm.catalogue import build, find
from pyro_lvm.elbo import row_elbo
from pyro_lvm.errors import ArtifactError, DataError, PairError, TrainingError
from pyro_lvm.guides import GaussianEncoder, MaskedGaussianEncoder
from pyro_lvm.history import History
from pyro_lvm.models import PPCA, VAE
from pyro_lvm.pair import Half, Pair
from pyro_lvm.testing import PairContract

SHAPE = (4, 4)


def rows(missing: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(90, 16, generator=generator)
    return x.masked_fill(torch.rand(90, 16, generator=generator) < missing, math.nan)


def linear_rows(num_rows: int = 1797, data_dim: int = 64, latent_dim: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(num_rows, latent_dim, generator=generator) * torch.linspace(1, 0.4, latent_dim)
    x = 0.5 * z @ torch.randn(latent_dim, data_dim, generator=generator)
    return x + 3 + 0.7 * torch.randn(num_rows, data_dim, generator=generator)


class _Contract(PairContract):
    num_rows = 500
    options: ClassVar[dict[str, object]] = {}
    guide = "diagonal"

    def make_rows(self) -> Tensor:
        return rows(0.2 if self.guide == "masked" else 0.0)

    def make_pair(self) -> tuple[Half, Half]:
        x = self.make_rows()
        facts = {"data_dim": 16, "image_shape": list(SHAPE)}
        pair = build("vae", facts, guide=self.guide, options={"hidden": [8], **self.options})
        pair.start(x, torch.Generator().manual_seed(0))
        return pair.model, pair.guide


_Contract.__test__ = False


class TestGaussian(_Contract):
    pass


class TestDecodedScalesWithHoles(_Contract):
    guide = "masked"
    options: ClassVar[dict[str, object]] = {"likelihood": "gaussian-decoded", "prior_scale": [1.0, 3.0]}


class TestConvolutionsAndFullCovariance(_Contract):
    guide = "full"
    options: ClassVar[dict[str, object]] = {"channels": [3, 2], "likelihood": "continuous-bernoulli", "latent_dim": 3}


class TestBernoulliWithHoles(_Contract):
    guide = "masked"
    options: ClassVar[dict[str, object]] = {"channels": [3], "likelihood": "bernoulli", "activation": "relu"}

    def make_rows(self) -> Tensor:
        return rows(0.2).round()


def test_a_linear_one_has_the_density_of_probabilistic_pca() -> None:
    # Wrong: the bridge to the closed form would lead to another model.
    x = linear_rows(50, 6, 2)
    model = VAE(6, 2, hidden=[])
    model.start(x, torch.Generator().manual_seed(0))
    ppca = model.as_ppca()
    z = torch.randn(50, 2)
    log_joint = [
        poutine.trace(poutine.condition(half, {"z": z})).get_trace(x).log_prob_sum().detach() for half in (model, ppca)
    ]
    torch.testing.assert_close(*log_joint)
    w, mu = ppca.loadings.detach().double(), ppca.mean.detach().double()
    covariance = w @ w.T + float(ppca.noise_variance) * torch.eye(6, dtype=torch.float64)
    expected = torch.distributions.MultivariateNormal(mu, covariance).log_prob(x.double())
    torch.testing.assert_close(ppca.log_evidence(x).detach(), expected, rtol=1e-8, atol=1e-8)


def test_the_linear_vae_reaches_the_closed_form_evidence() -> None:
    # Lucas et al. 2019: its ELBO has no other maximum than that of the likelihood of probabilistic PCA.
    x = linear_rows(400, 12, 2)
    guide = GaussianEncoder(12, 2, hidden=[], covariance="full")
    trained = fit(VAE(12, 2, hidden=[]), guide, x, steps=500, progress=False).pair
    graded = grade(Pair(trained.model.as_ppca(), trained.guide), x)
    assert graded.gap is not None
    assert graded.kl_to_exact is not None
    # The closed form is 1.8 nats above the best that doesn't use the latents, and the start is further down yet.
    assert 0 <= graded.gap < 0.01
    assert 0 <= graded.kl_to_exact < 0.02
    assert graded.elbo_agrees


@pytest.mark.parametrize("factor", [1e-5, 1e6])
@pytest.mark.parametrize("image_shape", [None, SHAPE])
def test_start_follows_the_datas_scale(factor: float, image_shape: tuple[int, int] | None) -> None:
    # Wrong: a learning rate that suits grey values would fail on dollars.
    x = rows()
    pairs = [Pair(VAE(16, 3, image_shape=image_shape), GaussianEncoder(16, 3, image_shape=image_shape)) for _ in "ab"]
    for pair, given in zip(pairs, (x, factor * x), strict=True):
        pair.start(given, torch.Generator().manual_seed(0))
    plain, scaled = row_elbo(pairs[0], x, 2), row_elbo(pairs[1], factor * x, 2)
    torch.testing.assert_close(scaled, plain - 16 * math.log(factor), rtol=0, atol=2e-3)


def test_prior_scale_is_only_another_unit_of_the_latents() -> None:
    # Wrong: a wide prior would saturate the decoder, and the guide would start far from it.
    x = rows()
    plain = Pair(VAE(16, 2), GaussianEncoder(16, 2))
    wide = Pair(VAE(16, 2, prior_scale=[0.1, 50.0]), GaussianEncoder(16, 2))
    for pair in (plain, wide):
        pair.start(x, torch.Generator().manual_seed(0))
    torch.testing.assert_close(row_elbo(wide, x, 2), row_elbo(plain, x, 2), rtol=0, atol=1e-3)
    torch.testing.assert_close(wide.guide.encode(x).mean, plain.guide.encode(x).mean * torch.tensor([0.1, 50.0]))


def test_a_full_covariance_is_one() -> None:
    guide = GaussianEncoder(16, 3, covariance="full")
    guide.start(rows())
    q = guide.encode(rows())
    draws = q.sample((20_000,))[:, 0]
    torch.testing.assert_close(torch.cov(draws.T), q.covariance_matrix[0].detach(), rtol=0.05, atol=0.05)
    assert float(q.covariance_matrix[0, 0, 1].abs()) > 1e-3


def test_what_is_missing_changes_nothing_but_the_mask() -> None:
    x = rows(0.3)
    guide = MaskedGaussianEncoder(16, 2)
    guide.start(x)
    missing = torch.isnan(x)
    q = guide.encode(x)
    at_mean = guide.encode(torch.where(missing, x.nanmean(0), x))
    assert torch.isfinite(q.mean).all()
    # An entry at the mean is not the same as one that nobody saw.
    assert not torch.allclose(q.mean[missing.any(1)], at_mean.mean[missing.any(1)])
    torch.testing.assert_close(q.mean[~missing.any(1)], at_mean.mean[~missing.any(1)])
    assert find("vae").default_guide(missing=True) == "masked"
    assert find("vae").default_guide() == "diagonal"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim=0 with 16 features"),
        ({"latent_dim": 17}, "latent_dim=17 with 16 features: .* needs 1 <= latent_dim <= 16"),
        ({"prior_scale": -1.0}, "prior_scale=-1.0 for 2 latent coordinates: expected a positive number"),
        ({"prior_scale": [1.0]}, r"prior_scale=\[1.0\] for 2 latent coordinates"),
        ({"channels": [4, 4, 4]}, "3 convolutions can't halve images of 4 x 4"),
        ({"hidden": "200"}, "hidden='200': expected a list"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(PairError, match=message) as refused:
        build("vae", {"data_dim": 16, "image_shape": list(SHAPE)}, options=options)
    assert "\n" not in str(refused.value)


def test_what_is_no_ppca_does_not_pass_for_one() -> None:
    for options in ({}, {"hidden": [], "likelihood": "bernoulli"}, {"hidden": [], "prior_scale": 2.0}):
        with pytest.raises(PairError, match=r"no probabilistic PCA|prior is not N"):
            VAE(16, 2, **options).as_ppca()  # type: ignore[arg-type]
    assert isinstance(VAE(16, 2, hidden=[], likelihood="gaussian-fixed", noise_scale=0.5).as_ppca(), PPCA)


def test_grey_rows_are_refused_in_training_and_in_grading() -> None:
    pair = Pair(VAE(16, 2, "bernoulli"), GaussianEncoder(16, 2))
    with pytest.raises(DataError, match="grey values"):
        fit(pair.model, pair.guide, rows(), steps=1, progress=False)
    pair.start(rows().round())
    # Wrong: nats of grey values under a Bernoulli would be compared with those of zeros and ones.
    with pytest.raises(DataError, match="grey values"):
        grade(pair, rows())


def test_a_run_comes_back_and_refuses_weights_of_another_architecture(tmp_path) -> None:
    x = rows()
    facts = {"data_dim": 16, "image_shape": list(SHAPE)}
    pair = build("vae", facts, guide="full", options={"hidden": [8, 4], "channels": [3], "latent_dim": 3})
    pair.start(x)
    pyro_lvm.save(tmp_path / "run", pair, config={}, history=History(), metrics={})
    loaded = pyro_lvm.load(tmp_path / "run").pair
    assert torch.equal(row_elbo(loaded, x), row_elbo(pair, x))
    other = build("vae", facts, guide="full", options={"hidden": [8, 5], "channels": [3], "latent_dim": 3})
    with pytest.raises(ArtifactError, match=r"the saved weights don't fit this pair: '.*' has shape"):
        other.load_state_dict(pair.state_dict())


def test_without_a_budget_rows_are_held_out_and_the_rate_falls_along_a_cosine() -> None:
    # Wrong: a network that learns its rows by heart would train on them for ever.
    model, guide = VAE(16, 2, hidden=[4]), GaussianEncoder(16, 2, hidden=[4])
    result = fit(model, guide, rows(), max_steps=40, progress=False)
    assert result.validation_rows is not None
    assert len(result.validation_rows) == 9
    rates = [record["lr"] for record in result.history.records]
    assert rates == pytest.approx([2e-3 * (1 + math.cos(math.pi * t / 40)) / 2 for t in range(40)])
    budget = fit(model, guide, rows(), steps=20, decay="exponential", progress=False)
    assert budget.validation_rows is None
    assert budget.history.records[-1]["lr"] == pytest.approx(2e-3 * 0.001 ** (19 / 20))
    with pytest.raises(TrainingError, match="decay='linear': expected one of exponential, cosine"):
        fit(model, guide, rows(), steps=1, decay="linear", progress=False)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_linear_vae_of_digits_size_reaches_the_closed_form() -> None:
    x = linear_rows()
    guide = GaussianEncoder(64, 8, hidden=[], covariance="full")
    trained = fit(VAE(64, 8, hidden=[]), guide, x, steps=4000, progress=False).pair
    graded = grade(Pair(trained.model.as_ppca(), trained.guide), x)
    assert graded.gap is not None
    assert 0 <= graded.gap < 0.005


@pytest.mark.slow
def test_digits_in_two_dimensions_beat_pca_by_far(digits: Tensor) -> None:
    # The claim of the README: 5-nearest-neighbour accuracy from z at least ten points above 2-D PCA's.
    from sklearn.decomposition import PCA
    from sklearn.model_selection import cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    labels = data.load("digits").labels.numpy()  # type: ignore[union-attr]
    result = fit(VAE(64, image_shape=(8, 8)), GaussianEncoder(64, image_shape=(8, 8)), digits, progress=False)
    with result.pair.evaluating():
        z = result.pair.guide.encode(digits).mean.numpy()
    accuracy = [
        cross_val_score(KNeighborsClassifier(5), some, labels, cv=5).mean()
        for some in (z, PCA(2).fit_transform(digits.numpy()))
    ]
    assert accuracy[0] > accuracy[1] + 0.1
