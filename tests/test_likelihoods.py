"""Likelihoods: densities against SciPy and integration, in the data's units, floored, and their supports."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from pyro_lvm.errors import DataError, PairError
from pyro_lvm.likelihoods import LIKELIHOODS, make_likelihood

OUTPUTS = torch.tensor([[0.3, -1.2, 2.0, -0.4, 0.7, 0.1]])


def made(name: str, data_dim: int = 3):
    return make_likelihood(name, data_dim, 0.4 if name == "gaussian-fixed" else None).double()


def rows(name: str) -> torch.Tensor:
    x = torch.rand(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x.round() if name == "bernoulli" else x


def test_gaussians_are_those_of_scipy() -> None:
    x = rows("gaussian") * torch.tensor([1.0, 10.0, 0.1]) + 5
    mean, unit = x.mean(0).numpy(), x.std(0, correction=0).numpy()
    for name in ("gaussian", "gaussian-fixed", "gaussian-decoded"):
        likelihood = made(name)
        likelihood.start(x, one_unit=False)
        outputs = OUTPUTS.double()[:, : 3 * likelihood.planes]
        loc = mean + unit * outputs[0, :3].numpy()
        scale: object = 0.4
        if name == "gaussian":
            scale = np.sqrt((unit**2).mean() * (1 + 1e-6))
        elif name == "gaussian-decoded":
            scale = unit * np.sqrt(np.log1p((math.e - 1) * np.exp(outputs[0, 3:].numpy())) ** 2 + 1e-3)
        density = likelihood(outputs).log_prob(x[0]).detach()
        np.testing.assert_allclose(density[0], stats.norm.logpdf(x[0].numpy(), loc, scale), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["bernoulli", "continuous-bernoulli"])
def test_densities_on_the_unit_interval_add_up_to_one(name: str) -> None:
    # Wrong: nats of grey values would be those of no density at all, as binary cross-entropy's are.
    likelihood = made(name)
    likelihood.start(rows(name), one_unit=True)
    density = likelihood(OUTPUTS.double()[:, :3])
    if name == "bernoulli":
        total = sum(density.log_prob(torch.full((3,), value)).exp() for value in (0.0, 1.0))[0]
    else:
        total = [
            integrate.quad(lambda v, j=j: float(density.log_prob(torch.full((1, 3), v).double())[0, j].exp()), 0, 1)[0]
            for j in range(3)
        ]
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("name", ["gaussian", "gaussian-decoded"])
@pytest.mark.parametrize("one_unit", [True, False])
def test_gaussians_follow_the_datas_units(name: str, one_unit: bool) -> None:
    # Wrong: a start that suits grey values would be far off for dollars.
    x = rows(name)
    plain, scaled = made(name), made(name)
    plain.start(x, one_unit=one_unit)
    scaled.start(1000 * x - 7, one_unit=one_unit)
    outputs = OUTPUTS.double()[:, : 3 * plain.planes]
    before, after = plain(outputs).log_prob(x), scaled(outputs).log_prob(1000 * x - 7)
    torch.testing.assert_close(after, before - math.log(1000), atol=1e-6, rtol=0)


def test_scales_have_a_floor() -> None:
    # Wrong: a constant pixel has an infinite likelihood, and its gradient is NaN.
    x = rows("gaussian-decoded")
    decoded = made("gaussian-decoded")
    decoded.start(x, one_unit=False)
    scale = decoded(torch.full((1, 6), -1e4, dtype=torch.float64)).scale[0]
    torch.testing.assert_close(scale, x.std(0, correction=0) * math.sqrt(1e-3))
    learned = made("gaussian")
    learned.start(torch.ones(5, 3), one_unit=True)
    with torch.no_grad():
        learned.relative_log_scale.fill_(-1e3)
    assert float(learned.noise_scale.detach()) == pytest.approx(1e-3)


def test_pixels_that_never_vary_have_a_start() -> None:
    for name in LIKELIHOODS:
        likelihood = made(name)
        for value in (0.0, 1.0):
            x = torch.full((50, 3), value)
            likelihood.start(x, one_unit=True)
            assert torch.isfinite(likelihood(torch.zeros(1, 3 * likelihood.planes).double()).log_prob(x)).all()
    # One row in 52 is what Laplace's rule makes of 50 rows without a one.
    bernoulli = made("bernoulli")
    bernoulli.start(torch.zeros(50, 3), one_unit=True)
    torch.testing.assert_close(bernoulli(torch.zeros(1, 3)).mean, torch.full((1, 3), 1 / 52, dtype=torch.float64))


def test_missing_entries_are_no_part_of_the_start() -> None:
    x = rows("gaussian")
    holes = torch.cat([x, torch.full((40, 3), math.nan)])
    for name in LIKELIHOODS:
        whole, part = made(name), made(name)
        whole.start(x, one_unit=False)
        part.start(holes, one_unit=False)
        for a, b in zip(whole.buffers(), part.buffers(), strict=True):
            torch.testing.assert_close(a, b)


def test_rows_outside_the_support_are_refused_with_the_ways_out() -> None:
    grey, hole = torch.tensor([[0.0, 0.25, 1.0]]), torch.tensor([[0.0, math.nan, 1.0]])
    made("bernoulli").check(hole)
    made("continuous-bernoulli").check(torch.cat([grey, hole]))
    made("gaussian").check(1e6 * grey)
    with pytest.raises(DataError, match=r"1 grey values such as 0.25, .*\(static\).*\(dynamic\).*continuous-bernoulli"):
        made("bernoulli").check(grey)
    for name in ("bernoulli", "continuous-bernoulli"):
        with pytest.raises(DataError, match=r"outside 0 to 1 such as 255, .* scale the data to the unit interval"):
            made(name).check(255 * grey)


@pytest.mark.parametrize(
    ("name", "noise_scale", "message"),
    [
        ("poisson", None, "likelihood='poisson': expected one of gaussian, gaussian-fixed"),
        ("gaussian-fixed", None, "'gaussian-fixed' needs noise_scale"),
        ("gaussian-fixed", 0.0, "noise_scale=0.0: expected a positive number"),
        ("bernoulli", 0.1, "noise_scale=0.1 with likelihood='bernoulli', which has none to set"),
    ],
)
def test_options_that_contradict_each_other(name: str, noise_scale: float | None, message: str) -> None:
    with pytest.raises(PairError, match=message):
        make_likelihood(name, 3, noise_scale)
