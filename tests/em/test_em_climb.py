"""The climb: monotone whatever is proposed, faster for being extrapolated, and honest about where it stopped."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from pyro_lvm.em import PPCA, FactorAnalysis
from pyro_lvm.em.acceleration import Accelerator
from pyro_lvm.em.parameters import NoiseModel, Parameters, from_vector, to_vector


@pytest.fixture
def slow(planted):
    """Rows on which plain EM takes hundreds of steps: little more latent than noise variance, half of it missing."""
    return planted(150, 8, 3, missing=0.5, noise=1.0, seed=3)


def test_extrapolation_saves_steps_and_ends_at_the_same_place(slow, monkeypatch):
    """Else acceleration is for nothing, or leads to another maximum."""
    fast = PPCA(3, random_state=0).fit(slow)
    monkeypatch.setattr(Accelerator, "propose", lambda self, point, image: None)
    plain = PPCA(3, random_state=0, max_iter=5000).fit(slow)
    assert fast.converged_
    assert fast.score(slow) > plain.score(slow) - 1e-8
    assert fast.n_iter_ < plain.n_iter_ / 3


@pytest.mark.parametrize(
    "model", [PPCA(3, random_state=0, max_iter=60), FactorAnalysis(3, random_state=0, max_iter=60)]
)
@pytest.mark.parametrize("size", [0.01, 1.0, 1e3])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_bad_proposals_are_never_taken(model, size, slow, monkeypatch):
    """Else extrapolation can lose evidence, or end in NaN: random proposals, from near to absurd."""
    generator = torch.Generator().manual_seed(0)

    def random_proposal(self, point, image):
        return image + size * torch.randn(image.shape, generator=generator, dtype=image.dtype)

    monkeypatch.setattr(Accelerator, "propose", random_proposal)
    path = model.fit(slow).log_likelihood_path_
    assert np.isfinite(path).all()
    assert (np.diff(path) > -1e-10).all()
    assert path[-1] == pytest.approx(model.score(slow), abs=1e-9)


def test_anderson_solves_a_linear_iteration():
    """Else the combination of steps isn't the one whose residual vanishes: five dimensions need six steps."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    matrix = torch.from_numpy(basis @ np.diag([0.99, 0.9, 0.7, 0.5, 0.2]) @ basis.T)
    target = torch.from_numpy(rng.normal(size=5))
    accelerator, point = Accelerator(), torch.zeros(5).double()
    for _ in range(7):
        image = target + matrix @ (point - target)
        proposal = accelerator.propose(point, image)
        point = image if proposal is None else proposal
    torch.testing.assert_close(point, target, rtol=0, atol=1e-9)


def test_a_slow_direction_is_followed():
    """Else a variance on its way to 0, whose logarithm falls ever more slowly, takes as long as EM itself."""
    accelerator, point, steps = Accelerator(), torch.tensor([0.0, 1.0]).double(), 0
    while point[0] > -12 and steps < 50:
        image = torch.stack([point[0] - 0.1 * point[0].exp(), 0.5 * point[1]])
        proposal = accelerator.propose(point, image)
        point, steps = image if proposal is None else proposal, steps + 1
    assert steps < 40, "plain EM takes a million"


def test_a_refused_proposal_is_followed_by_smaller_ones():
    """Else the next proposal is as bad as the one that was refused: two steps are combined then, or one stretched."""
    accelerator = Accelerator()
    points = [torch.tensor([float(k), float(k % 3)]).double() for k in range(9)]
    assert accelerator.propose(points[0], points[1]) is None
    for point, image in itertools.pairwise(points[1:5]):
        assert accelerator.propose(point, image) is not None
    accelerator.refused()
    assert accelerator.propose(points[4], points[5]) is None, "the steps that led astray are still in use"
    secant = accelerator.propose(points[5], points[6])
    first, second = points[5] - points[4], points[6] - points[5]
    along = (second @ (second - first)) / ((second - first) @ (second - first))
    torch.testing.assert_close(secant, points[6] - along * (points[6] - points[5]))
    accelerator.refused()
    stretched = accelerator.propose(points[6], points[7])
    torch.testing.assert_close(stretched, points[6] + 2 * (points[7] - points[6]))


def test_vectors_keep_parameters():
    """Else extrapolation mixes up parameters, or leaves noise below the floor or weights that don't add up."""
    rng = np.random.default_rng(0)
    for isotropic in (False, True):
        noise = NoiseModel(isotropic, torch.full((4,), 0.1, dtype=torch.float64))
        variances = torch.from_numpy(rng.uniform(0.2, 1, (2, 1 if isotropic else 4))).expand(2, 4)
        parameters = Parameters(
            torch.tensor([0.3, 0.7]).double(),
            torch.from_numpy(rng.normal(size=(2, 4))),
            torch.from_numpy(rng.normal(size=(2, 4, 3))),
            variances,
        )
        vector = to_vector(parameters, noise)
        assert vector.shape == (2 * (4 * 3 + 4 + (1 if isotropic else 4) + 1),)
        again = from_vector(vector, parameters, noise)
        for name in ("weights", "means", "loadings", "noise_variance"):
            torch.testing.assert_close(getattr(again, name), getattr(parameters, name))
        far = from_vector(vector - 100, parameters, noise)
        assert (far.noise_variance == 0.1).all()
        assert far.weights.sum() == pytest.approx(1)


def test_stopping_early_is_said(slow):
    """Else a fit that ran out of steps passes for converged."""
    with pytest.warns(ConvergenceWarning, match="PPCA stopped after max_iter=4 steps, still rising by .* nats a row"):
        model = PPCA(3, max_iter=4, random_state=0).fit(slow)
    assert not model.converged_
    assert model.n_iter_ == 4
    assert len(model.log_likelihood_path_) == 5


def test_progress_is_shown_only_when_asked(slow, monkeypatch, capsys):
    """Else long fits are silent, or short ones noisy."""
    monkeypatch.setattr("pyro_lvm.progress._QUIET_SECONDS", 0.0)
    monkeypatch.setattr("pyro_lvm.progress._LINE_EVERY_SECONDS", 0.0)
    PPCA(3, random_state=0).fit(slow)
    assert capsys.readouterr().err == ""
    model = PPCA(3, random_state=0, verbose=True).fit(slow)
    shown = capsys.readouterr().err.strip().splitlines()
    assert shown[-1] == f"PPCA: {model.n_iter_}/1000 {model.log_likelihood_path_[-1]:.6f} nats/row"


def test_several_starts_are_followed_to_the_best(standardised_digits):
    """Else n_init isn't heeded: the maxima that single starts find differ, four starts find the best of them."""
    single = [FactorAnalysis(8, n_init=1, random_state=s).fit(standardised_digits) for s in range(4)]
    scores = [model.score(standardised_digits) for model in single]
    several = FactorAnalysis(8, n_init=4, random_state=2).fit(standardised_digits)
    assert max(scores) - min(scores) > 0.03
    assert several.score(standardised_digits) == pytest.approx(max(scores), abs=1e-7)
    assert (np.diff(several.log_likelihood_path_) > -1e-10).all()
