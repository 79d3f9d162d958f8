"""What a comparison measures, on pairs whose gradient is known."""

import json
import math
from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_lvm import Pair
from pyro_lvm.errors import DataError, PairError, TrainingError
from pyro_lvm.gradients import ALL, ESTIMATORS, GUIDE, MODEL, EstimatorSpec, GradientEstimator, compare, exact_gradient
from pyro_lvm.gradients.moments import Moments
from pyro_lvm.guides import LinearGaussian, MixtureOfExperts
from pyro_lvm.models import PPCA, MixturePPCA


class WithoutTheFactor(Trace_ELBO):
    """The notes' gradient: n times log p(x | z), and once the divergence from the prior."""

    def _get_trace(self, model, guide, args, kwargs):
        traces = super()._get_trace(model, guide, args, kwargs)
        (plate,) = traces[0].nodes["x"]["cond_indep_stack"]
        factor = plate.size / plate.full_size
        for trace in traces:
            site = trace.nodes["z"]
            site["log_prob"] = site["log_prob"] * factor
            site["log_prob_sum"] = site["log_prob_sum"] * factor
            if "score_parts" in site:
                parts = site["score_parts"]
                site["score_parts"] = parts._replace(entropy_term=parts.entropy_term * factor)
        return traces


@pytest.fixture(scope="module")
def wide() -> Pair:
    """PPCA with four latents that matter, and a guide somewhere beside its posterior."""
    torch.manual_seed(0)
    model, guide = PPCA(8, 4), LinearGaussian(8, 4)
    with torch.no_grad():
        model.relative_loadings.normal_()
        guide.relative_slope.normal_(0, 0.5)
    model.relative_noise_scale = torch.tensor(0.5)
    guide.scale_tril = 0.4 * torch.eye(4)
    return Pair(model, guide)


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    return 2 * torch.randn(60, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def compared(wide, rows):
    return compare(wide.model, wide.guide, rows, draws=80, pair=wide, progress=False)


def noise(comparison, half=GUIDE):
    frame = comparison.to_frame()
    return frame[frame["parameter"] == half].set_index("estimator")["variance"]


class TestOnPPCA:
    def test_every_estimator_is_within_its_error_of_the_closed_form(self, compared):
        """One that isn't trains the pair to something else than the ELBO's maximum."""
        assert [m.estimator for m in compared.measured] == [
            "reparameterization",
            "analytic KL",
            "score",
            "score+average",
            "score+network",
        ]
        assert {m.reference.how for m in compared.measured} == {"closed form"}
        frame = compared.to_frame()
        assert compared.biased() == []
        assert (frame["p_value"] > 1e-3).all()
        # Not by errors so large that anything would pass: the whole gradient is seen well above them.
        whole = frame[frame["parameter"] == ALL]
        assert (whole["bias"] < 2.5 * whole["standard_error"]).all()
        assert (whole["standard_error"] < 0.3 * whole["signal"]).all()

    def test_the_score_function_is_far_noisier_and_baselines_give_it_back(self, compared):
        """The comparison's whole story."""
        variance = noise(compared)
        assert variance["score"] > 30 * variance["reparameterization"]
        assert variance["score+average"] < variance["score"] / 5
        assert variance["score+network"] < variance["score"] / 5
        # The model's gradient doesn't pass through the draws.
        model = noise(compared, MODEL)
        np.testing.assert_allclose(model / model["reparameterization"], 1, rtol=0.3)

    def test_minibatches_stay_unbiased_and_the_notes_gradient_is_caught(self, rows, monkeypatch):
        """A divergence that counts once instead of N/B times lets the guide drift from the prior: a planted bias."""
        torch.manual_seed(0)
        faint = Pair(PPCA(8, 4), LinearGaussian(8, 4))
        faint.model.relative_noise_scale = torch.tensor(2.0)
        faint.guide.scale_tril = 0.4 * torch.eye(4)
        wrong = EstimatorSpec("notes", "without the factor", WithoutTheFactor, "pathwise")
        monkeypatch.setitem(ESTIMATORS, "notes", wrong)
        names = ["reparameterization", "score", "score+average", "notes"]
        found = compare(faint.model, faint.guide, rows, names, draws=100, batch_size=12, pair=faint, progress=False)
        assert found.biased() == ["notes"]
        assert found.batch_size == 12
        # The batch's own noise is in it.
        assert noise(found)["reparameterization"] > 0

    def test_several_draws_a_row_divide_the_noise(self, wide, rows):
        names = ["reparameterization", "reparameterization:4"]
        variance = noise(compare(wide.model, wide.guide, rows, names, draws=80, pair=wide, progress=False))
        assert variance["reparameterization:4"] * 4 == pytest.approx(variance["reparameterization"], rel=0.25)

    def test_an_estimators_figures_depend_on_nothing_but_the_seed(self, wide, rows, compared):
        """Beside others, or alone, in any order: otherwise two tables could not be laid side by side."""
        alone = compare(wide.model, wide.guide, rows, ["score"], draws=80, pair=wide, progress=False)
        both = (m for c in (compared, alone) for m in c.measured if m.estimator == "score")
        first, second = both
        for name in first.mean:
            assert torch.equal(first.mean[name], second.mean[name]), name


def test_the_mixtures_closed_form_and_its_estimators_agree():
    """Discrete and continuous latents together, enumerated, mixed and all by the score function."""
    torch.manual_seed(1)
    pair = Pair(MixturePPCA(4, 1, 3), MixtureOfExperts(4, 1, 3))
    x = torch.cat([torch.randn(15, 4) + 2, torch.randn(15, 4) - 2])
    pair.start(x, torch.Generator().manual_seed(0))
    with torch.no_grad():
        pair.guide.log_weights.add_(torch.tensor([0.5, 0.0, -0.5]))
        pair.guide.log_precisions.add_(0.3)
    names = ["enumeration", "mixed", "mixed+average", "score"]
    found = compare(pair.model, pair.guide, x, names, draws=120, pair=pair, progress=False)
    assert {m.reference.exact for m in found.measured} == {True}
    assert found.biased() == []
    variance = noise(found)
    assert variance["enumeration"] < variance["mixed"] < variance["score"]


def test_without_a_closed_form_a_long_run_is_the_reference_and_says_how_sure_it_is(discrete_pair):
    x = torch.tensor([-2.0, 0.1, 0.4, 1.7, 3.0])
    found = compare(discrete_pair.model, discrete_pair.guide, x, ["score", "score+average"], draws=50, progress=False)
    reference = found.measured[0].reference
    assert not reference.exact
    assert reference.how == "a long run of enumeration, 400 draws"
    # Enumeration draws nothing, so that the run is exact but for rounding.
    assert reference.relative_error < 1e-6
    assert found.biased() == []
    assert reference.gradient.keys() == {"store.logits", "store.shift", "store.slope"}


def test_the_importance_weighted_bound_has_a_reference_of_its_own(wide, rows):
    """Held against the ELBO's gradient it would look biased, and is not."""
    names = ["reparameterization", "importance-weighted:2"]
    found = compare(wide.model, wide.guide, rows, names, draws=40, pair=wide, progress=False)
    elbo, weighted = (m.reference for m in found.measured)
    assert elbo.bound == "ELBO"
    assert weighted.bound == "importance-weighted bound, k = 2"
    assert not weighted.exact
    assert 0 < weighted.relative_error < 0.2
    assert found.biased() == []


class TestWhatIsGiven:
    def test_the_pair_is_left_as_it_was(self, make_ppca, ppca_rows, monkeypatch):
        for name in ("score+average", "score+network"):
            monkeypatch.setitem(ESTIMATORS, name, replace(ESTIMATORS[name], warm_up=2))
        pair = make_ppca()
        state = {name: t.clone() for name, t in pair.state_dict().items()}
        pair.guide.offset.grad = torch.ones(2)
        torch.manual_seed(7)
        random = torch.get_rng_state()
        compare(
            pair.model, pair.guide, ppca_rows, ["score+average", "score+network"], draws=2, pair=pair, progress=False
        )
        assert torch.equal(torch.get_rng_state(), random)
        assert torch.equal(pair.guide.offset.grad, torch.ones(2))
        assert pair.model.relative_loadings.grad is None
        assert not list(pyro.get_param_store().keys())
        for name, value in pair.state_dict().items():
            assert torch.equal(value, state[name]), name

    def test_missing_entries_and_double_precision_go_through(self):
        torch.manual_seed(0)
        pair = Pair(MixturePPCA(4, 1, 2).double(), MixtureOfExperts(4, 1, 2).double())
        x = torch.randn(20, 4).double()
        x[::3, 1] = torch.nan
        found = compare(
            pair.model, pair.guide, x, ["enumeration", "score+network"], draws=20, pair=pair, progress=False
        )
        assert found.measured[0].reference.exact
        assert found.biased() == []
        assert math.isfinite(GradientEstimator("score+network", pair, x).backward(x))

    @pytest.mark.parametrize(
        ("options", "kind", "message"),
        [
            ({"draws": 1}, TrainingError, "expected 2 or more"),
            ({"batch_size": 13}, TrainingError, "of 12 rows"),
            ({"estimators": []}, PairError, "no estimator was given"),
            ({"estimators": ["enumeration"]}, PairError, "needs a discrete latent"),
        ],
    )
    def test_what_cannot_be_is_refused(self, make_ppca, ppca_rows, options, kind, message):
        pair = make_ppca()
        with pytest.raises(kind, match=message):
            compare(pair.model, pair.guide, ppca_rows, progress=False, pair=pair, **options)

    def test_rows_with_holes_are_refused_for_a_guide_that_cannot_take_them(self, make_ppca, ppca_rows):
        pair, x = make_ppca(), ppca_rows.clone()
        x[0, 0] = torch.nan
        with pytest.raises(PairError, match="missing entries"):
            compare(pair.model, pair.guide, x, progress=False, pair=pair)
        with pytest.raises(DataError, match="at least 1 row"):
            compare(pair.model, pair.guide, x[:0], progress=False, pair=pair)

    def test_a_gradient_that_is_not_finite_is_named(self, make_ppca, ppca_rows):
        pair = make_ppca()
        calls = iter(range(1000))
        # Later than the check of the pair looks.
        pair.model.relative_mean.register_hook(lambda g: g * torch.nan if next(calls) > 30 else g)
        with pytest.raises(PairError, match=r"'score' gave a gradient of 'model.relative_mean' that is not finite at"):
            compare(pair.model, pair.guide, ppca_rows, ["score"], draws=60, progress=False, pair=pair)


class TestReport:
    def test_frame_and_json_hold_every_estimator_and_parameter(self, compared):
        frame = compared.to_frame()
        groups = set(frame["parameter"])
        assert {ALL, MODEL, GUIDE, "model.relative_loadings", "guide.scale_tril_unconstrained"} <= groups
        assert (frame.groupby("estimator")["size"].max() == 32 + 8 + 1 + 32 + 4 + 16).all()
        parts = frame[frame["parameter"].str.contains(".", regex=False)]
        whole = frame[frame["parameter"] == ALL].set_index("estimator")["variance"]
        np.testing.assert_allclose(parts.groupby("estimator")["variance"].sum().loc[whole.index], whole)
        read = json.loads(json.dumps(compared.to_json(), allow_nan=False))
        assert len(read["estimates"]) == len(frame)
        assert read["references"][0]["exact"] is True

    def test_the_table_names_every_estimator_and_the_reference_in_eighty_columns(self, compared):
        text = str(compared)
        for name in ("reparameterization", "analytic KL", "score+network", "closed form"):
            assert name in text
        assert max(map(len, text.splitlines())) <= 140
        widest = max(len(line.rstrip()) for line in text.splitlines() if line.strip())
        assert widest <= 80


def test_moments_are_those_of_the_draws():
    """Against NumPy, far from zero, where a sum of squares would lose its digits."""
    values = 1e6 + np.random.default_rng(0).normal(size=(50, 3))
    moments = Moments({"a": torch.zeros(3)})
    for value in values:
        moments.add({"a": torch.from_numpy(value)})
    np.testing.assert_allclose(moments.mean["a"], values.mean(0), rtol=1e-14)
    np.testing.assert_allclose(moments.variance["a"], values.var(0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(moments.standard_error["a"], values.std(0, ddof=1) / math.sqrt(50), rtol=1e-6)


def test_a_model_alone_with_its_methods_is_enough_for_the_closed_form(wide, rows):
    """Chunks of rows add up to all of them."""
    whole = exact_gradient(wide, rows)
    parts = [exact_gradient(wide, part) for part in rows.split(20)]
    assert whole is not None
    for name, gradient in whole.items():
        mean = sum(part[name] for part in parts if part is not None) / 3
        torch.testing.assert_close(mean, gradient, rtol=1e-9, atol=1e-9)
