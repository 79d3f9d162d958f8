import pytest
import torch
from torch import Tensor

from pyro_lvm import em, evidence, fit, grade
from pyro_lvm.elbo import elbo_draws
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.models import PPCA
from pyro_lvm.pair import Pair

X = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) @ torch.tensor([[1.0, 2, 0, 1], [0, 1, 1, -1]])
X = X + 0.5 * torch.randn(200, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def trained() -> Pair:
    return fit(PPCA(4, 2), LinearGaussian(4, 2), X, steps=1500, progress=False).pair


def shifted(pair: Pair, *, loc: float = 0.0, scale: float = 1.0) -> Pair:
    bad = Pair(PPCA(4, 2), LinearGaussian(4, 2))
    bad.load_state_dict({name: value.clone() for name, value in pair.state_dict().items()})
    with torch.no_grad():
        bad.guide.offset += loc
    bad.guide.scale_tril = bad.guide.scale_tril.detach() * scale
    return bad


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (0.5, 1.0), (0.0, 0.5), (0.2, 2.0)])
def test_kl_and_elbo_say_how_wrong_a_guide_is(trained: Pair, loc: float, scale: float) -> None:
    # Wrong: a shifted or too narrow posterior would pass. Both figures come from different code.
    graded = grade(shifted(trained, loc=loc, scale=scale), X)
    assert graded.elbo_exact == pytest.approx(graded.log_evidence - graded.kl_to_exact)  # type: ignore[operator]
    assert abs(graded.elbo - graded.elbo_exact) < 6 * graded.elbo_standard_error + 1e-4  # type: ignore[operator]
    assert graded.elbo_agrees
    if (loc, scale) == (0.0, 0.5):
        # Two dimensions, half as wide: 2 (log 2 + 1/8 - 1/2).
        assert graded.kl_to_exact == pytest.approx(2 * (0.693147 + 0.125 - 0.5), abs=0.01)


def test_wrong_exact_answer_is_noticed(trained: Pair) -> None:
    # Wrong: a pair whose own log_evidence is mistaken would be graded against the mistake.
    class Lying(PPCA):
        def log_evidence(self, x: Tensor) -> Tensor:
            return super().log_evidence(x) + 0.5

    model = Lying(4, 2)
    model.load_state_dict(trained.model.state_dict())
    assert grade(Pair(model, trained.guide), X).elbo_agrees is False


def test_the_maximum_of_the_likelihood_is_the_training_rows(trained: Pair) -> None:
    # Wrong: held-out rows would be compared with a model that was fitted to them.
    held_out = X[:50] + 0.1
    against_training = grade(trained, held_out, train_rows=X)
    against_itself = grade(trained, held_out)
    best = trained.model.maximum_likelihood(X)
    assert against_training.log_evidence_ml == pytest.approx(float(best.log_evidence(held_out).mean()), abs=1e-9)
    assert against_itself.log_evidence_ml > against_training.log_evidence_ml  # type: ignore[operator]


def test_best_model_has_no_gap(trained: Pair) -> None:
    best = trained.model.maximum_likelihood(X)
    graded = grade(Pair(best.float(), trained.guide), X)
    assert graded.gap == pytest.approx(0, abs=1e-6)
    assert graded.principal_angle_deg == pytest.approx(0, abs=1e-2)
    assert graded.noise_variance == pytest.approx(graded.noise_variance_ml, rel=1e-5)


def test_pair_that_knows_no_truth_gets_its_elbo_alone() -> None:
    class Opaque:
        def __init__(self, half: object) -> None:
            self.half = half

        def __call__(self, x: Tensor) -> None:
            self.half(x)  # type: ignore[operator]

    graded = grade(Pair(Opaque(PPCA(4, 2)), Opaque(LinearGaussian(4, 2))), X)
    figures = graded.to_json()
    assert {name for name, value in figures.items() if value is not None} == {"num_rows", "elbo", "elbo_standard_error"}
    assert graded.elbo_agrees is None


def test_rows_with_holes_are_graded_against_the_maximum_that_em_finds(trained: Pair) -> None:
    # Wrong: a fit to rows with holes would be judged by nothing, or by the maximum of other rows.
    holes = X.clone()
    holes[::3, 0] = torch.nan
    best = em.PPCA(2, random_state=3).fit(holes.double().numpy())
    graded = grade(Pair(trained.model, trained.guide), X, train_rows=holes)
    assert graded.log_evidence_ml == pytest.approx(best.score(X.double().numpy()), abs=1e-6)
    assert graded.gap == pytest.approx(graded.log_evidence_ml - graded.log_evidence)  # type: ignore[operator]


def test_posteriors_are_compared_in_parts_as_at_once(trained: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = grade(trained, X)
    monkeypatch.setattr("pyro_lvm.grading._CHUNK_ENTRIES", 28)
    assert grade(trained, X).kl_to_exact == pytest.approx(whole.kl_to_exact, abs=1e-12)


def test_grading_changes_nothing(trained: Pair) -> None:
    # Wrong: grading would move a batch norm's statistics or the caller's random numbers, and so the next grade.
    class Normed(LinearGaussian):
        def __init__(self) -> None:
            super().__init__(4, 2)
            self.norm = torch.nn.BatchNorm1d(4)

        def encode(self, x: Tensor) -> object:  # type: ignore[override]
            return super().encode(self.norm(x))

    pair = Pair(trained.model, Normed())
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    state = torch.get_rng_state()
    first = grade(pair, X)
    assert grade(pair, X) == first
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())


def test_neighbouring_seeds_share_no_draws() -> None:
    """Wrong: the ELBO of seed 1 is that of seed 0 but for one draw, so that repeating it tells nothing of its error."""
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    pair = Pair(PPCA(5, 2), LinearGaussian(5, 2))
    draws = torch.stack([elbo_draws(pair, x, 8, seed=seed) for seed in range(4)])
    assert len(draws.unique()) == 4 * 8


def test_what_is_printed_is_to_be_read() -> None:
    """Wrong: a result, printed or left on the last line of a cell, is pages of tensors, or the ELBO lacks its error."""
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    result = fit(PPCA(5, 2), LinearGaussian(5, 2), x, steps=2, progress=False)
    assert str(result).startswith("budget: 2 steps on 300 rows")
    graded = str(grade(result.pair, x)).splitlines()
    assert graded[0].startswith("graded on 300 rows")
    assert "±" in next(line for line in graded if line.split()[0] == "elbo")
    elbo, iwae = evidence.bounds(result.pair, x, k=10)
    gap = evidence.take_apart(result.pair, x[:3])
    for one in (result, elbo, iwae, gap, evidence.elbo_terms(result.pair, x)):
        assert len(str(one)) < 200
        assert "tensor" not in repr(one)
    assert "10 draws a row" in str(iwae)
