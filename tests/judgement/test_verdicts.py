"""What is made of figures: levels, contradictions, and whose fault it is. Each case says by itself what is right."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_lvm.calibration import Calibration, Quantity, Realism, TwoSample
from pyro_lvm.evidence import Estimate, Gap, LatentUnits, Sandwich, Terms
from pyro_lvm.grading import Grade
from pyro_lvm.judgement import Judgement, Level, Verdict, by_nats
from pyro_lvm.judgement.blaming import blame
from pyro_lvm.judgement.losses import Known, evidence_verdict, gap_verdicts, posterior_verdict
from pyro_lvm.judgement.signs import calibration_verdict, latents_verdict, realism_verdict, weights_verdict
from pyro_lvm.plots import pareto_k_histogram
from pyro_lvm.predictive import RowWeights

ROWS = 20


def estimate(mean: float, error: float = 0.01, kind: str = "elbo") -> Estimate:
    """Of rows that are all alike, the error that of their mean."""
    ones = torch.ones(ROWS, dtype=torch.float64)
    return Estimate(kind, mean * ones, error * math.sqrt(ROWS) * ones, 16)


def known(exact: float | None = None, width: float | None = 0.02, ais: float | None = -1.02) -> Known:
    return Known(
        elbo=estimate(-1.5),
        iwae=estimate(-1.1, kind="iwae"),
        exact=None if exact is None else estimate(exact, 0.0, "exact"),
        ais=None if ais is None else estimate(ais, kind="ais"),
        sandwich=None if width is None else Sandwich(estimate(-1.0), estimate(-1.0 + width, kind="reverse")),
        missing="" if width is not None else "the model can't be simulated",
    )


@pytest.mark.parametrize(
    ("loss", "error", "level"),
    [
        (0.004, 0.001, "good"),
        (-0.3, 0.02, "good"),
        (0.05, 0.001, "look"),
        # As large, and not sure to be there: it may as well be much more.
        (0.05, 0.05, "unknown"),
        (0.6, 0.02, "bad"),
        (0.6, 0.1, "look"),
        # Without an error nothing is certain.
        (3.0, math.nan, "unknown"),
        (math.nan, 0.1, "unknown"),
    ],
)
def test_a_loss_is_judged_by_what_of_it_is_certain(loss: float, error: float, level: Level) -> None:
    assert by_nats(loss, error) == level


def test_the_evidence_is_the_models_word_unless_a_bound_contradicts_it() -> None:
    """Wrong: a log_evidence that isn't the model's is the measure of everything."""
    right = known(exact=-1.0)
    assert right.best is right.exact
    assert evidence_verdict(right, torch.zeros(ROWS)).level == "good"
    wrong = known(exact=-1.3)
    assert wrong.best is wrong.ais
    verdict = evidence_verdict(wrong, torch.zeros(ROWS))
    assert verdict.level == "bad"
    assert "a lower bound is -1.1" in verdict.found
    # In the pair's units both are higher by as much.
    assert evidence_verdict(right, torch.full((ROWS,), 2.0)).figures["exact"] == pytest.approx(-3.0)


def test_an_upper_bound_contradicts_as_well() -> None:
    above = Known(
        estimate(-1.5),
        estimate(-1.1, kind="iwae"),
        exact=estimate(-1.0, 0.0, "exact"),
        exact_of_own=estimate(-0.5, 0.0, "exact"),
        sandwich=Sandwich(estimate(-1.0), estimate(-0.9, kind="reverse")),
    )
    assert above.contradiction is not None
    assert "upper" in above.contradiction


@pytest.mark.parametrize(
    ("width", "evidence_level", "small"),
    [(0.02, "good", "good"), (0.7, "look", "unknown"), (None, "unknown", "unknown")],
)
def test_small_beside_a_bound_is_not_shown_to_be_small(
    width: float | None, evidence_level: Level, small: Level
) -> None:
    """Wrong: a family is acquitted because annealing stopped as far below the evidence as it does."""
    bounded = known(width=width)
    assert evidence_verdict(bounded, torch.zeros(ROWS)).level == evidence_level
    gap = Gap(bounded.best, estimate(-1.5), estimate(-1.021), None, torch.full((ROWS,), 0.01), 1.0)
    family, encoder, overfitting = gap_verdicts(bounded, gap, None)
    assert family.level == small
    # What the encoder misses isn't measured from the evidence.
    assert (encoder.level, overfitting.level) == ("look", "unknown")
    assert encoder.figures["loss"] == pytest.approx(0.479)
    assert "at least" in posterior_verdict(bounded, None).found


def test_a_best_q_above_the_bound_says_that_the_bound_is_poor() -> None:
    short = known(ais=-4.0, width=0.02)
    gap = Gap(estimate(-4.0, kind="ais"), estimate(-1.5), estimate(-1.1), None, torch.full((ROWS,), 0.01), 1.0)
    family = gap_verdicts(short, gap, None)[0]
    assert family.level == "unknown"
    assert "above what bounds" in family.found


def test_an_encoder_that_knows_its_rows_by_heart() -> None:
    sure = known(exact=-1.0)
    training = Gap(sure.best, estimate(-1.1), estimate(-1.0), None, torch.full((ROWS,), 0.01), 1.0)
    held_out = Gap(sure.best, estimate(-2.1), estimate(-1.0), None, torch.full((ROWS,), 0.01), 1.0)
    overfitting = gap_verdicts(sure, training, held_out)[2]
    assert overfitting.level == "bad"
    assert overfitting.figures["loss"] == pytest.approx(1.0)
    assert "stop earlier" in overfitting.advice


def test_one_row_of_a_kind_does_not_say_how_far_rows_differ() -> None:
    """Wrong: what differs between any two rows is called overfitting, with an error of 0."""
    sure = known(exact=-1.0)
    training = Gap(sure.best, estimate(-1.1), estimate(-1.0), None, torch.full((ROWS,), 0.01), 1.0)
    one = Gap(*map(first_row, (sure.best, estimate(-9.0), estimate(-1.0))), None, torch.full((1,), 0.01), 1.0)
    for gaps in ((training, one), (one, training)):
        overfitting = gap_verdicts(sure, *gaps)[2]
        assert overfitting.level == "unknown"
        assert "single row" in overfitting.found
    width = Sandwich(first_row(estimate(-2.6)), first_row(estimate(-1.0, kind="reverse")))
    told = evidence_verdict(dataclasses.replace(known(), sandwich=width), torch.zeros(ROWS)).found
    assert "the two bounds are 1.6 apart" in told


def first_row(one: Estimate) -> Estimate:
    return dataclasses.replace(one, per_row=one.per_row[:1], particle_errors=one.particle_errors[:1])


@pytest.mark.parametrize(("finished", "encoder_level", "least"), [(0.95, "good", False), (0.5, "unknown", True)])
def test_a_search_that_did_not_end_acquits_no_encoder(finished: float, encoder_level: Level, least: bool) -> None:
    """Wrong: a q that wasn't climbed far enough above the encoder's says that there is nothing above it."""
    sure = known(exact=-1.0)
    gap = Gap(sure.best, estimate(-1.3), estimate(-1.3), None, torch.full((ROWS,), 0.001), finished)
    family, encoder, _ = gap_verdicts(sure, gap, None)
    assert encoder.level == encoder_level
    assert ("at least" in encoder.found, "at most" in family.found) == (least, least)


def test_the_best_q_bounds_the_kl_as_well() -> None:
    """Wrong: a poor bound hides a KL that the family's best q shows. Oracle: -1 is at most log p, -1.5 the ELBO."""
    poor = dataclasses.replace(known(ais=-1.45, width=0.3), iwae=estimate(-1.5, kind="iwae"))
    gap = Gap(poor.best, estimate(-1.5), estimate(-1.0), None, torch.full((ROWS,), 0.01), 1.0)
    assert posterior_verdict(poor, None).figures["kl"] == pytest.approx(0.05)
    assert posterior_verdict(poor, None, gap).figures["kl"] == pytest.approx(0.5)
    exact = dataclasses.replace(poor, exact=estimate(-1.4, 0.0, "exact"), ais=None, sandwich=None)
    assert posterior_verdict(exact, None, gap).figures["kl"] == pytest.approx(0.1)


def test_exact_answers_that_disagree_are_said() -> None:
    graded = Grade(9, elbo=-3.0, elbo_standard_error=0.01, log_evidence=-1.0, kl_to_exact=0.001, elbo_exact=-1.001)
    assert posterior_verdict(known(exact=-1.0), graded).level == "bad"
    assert posterior_verdict(None, None).level == "unknown"


def weights(log_weights: Tensor) -> Verdict:
    return weights_verdict(RowWeights(log_weights))


def test_weights_that_no_reweighting_mends() -> None:
    """Oracle: weights with tails of a Pareto distribution whose k is known."""
    torch.manual_seed(0)
    uniform = torch.rand(4000, 30, dtype=torch.float64)
    assert weights(torch.zeros(100, 30)).level == "good"
    assert weights(-0.2 * uniform.log()).level == "good"
    heavy = weights(-1.2 * uniform.log())
    assert heavy.level == "bad"
    assert heavy.figures["median_k"] == pytest.approx(1.2, abs=0.15)
    assert weights(torch.zeros(3, 30)).level == "unknown"
    ax = pareto_k_histogram(RowWeights(-1.2 * uniform.log()))
    assert sum(patch.get_height() for container in ax.containers for patch in container) == 30


def test_dimensions_that_say_nothing() -> None:
    def terms(variances: list[float]) -> Terms:
        zeros = torch.zeros(ROWS)
        return Terms(zeros, zeros, {}, {}, (LatentUnits("z", None, torch.tensor(variances)),))

    assert latents_verdict(terms([0.9, 0.5])).level == "good"
    part = latents_verdict(terms([0.9, 1e-5]))
    assert (part.level, "z2" in part.found, "fewer" in part.advice) == ("look", True, True)
    assert latents_verdict(terms([1e-4, 1e-5])).level == "bad"
    assert latents_verdict(terms([math.nan])).level == "unknown"


def calibration(ranks: Tensor, p_value: float) -> Calibration:
    effects = {one.name: 0.0 for one in dataclasses.fields(Quantity)}
    named = {"name": "z[0]", "kind": "coordinate", "latent": "z", "ranks": ranks, "draws": 99}
    quantity = Quantity(**{**effects, **named, "p_value": p_value, "adjusted_p_value": p_value})
    said = ("z[0] is biased by +1 sd",) if p_value < 0.01 else ()
    return Calibration((quantity,), len(ranks), 99, said, (), 0)


def test_a_miscalibration_of_any_size_is_found_and_a_small_one_is_no_disaster() -> None:
    """Wrong: a million simulations make every guide bad. Oracle: ranks of a shifted normal, whose distance is known."""
    even = torch.arange(100).repeat(500)
    assert calibration_verdict(calibration(even, 0.5)).level == "good"
    # A shift of 0.03 standard deviations moves no probability by more than 0.012; one of 1 moves some by 0.38.
    for shift, level, off in ((0.03, "look", 0.012), (1.0, "bad", 0.383)):
        normal = torch.distributions.Normal(0.0, 1.0)
        moved = (100 * normal.cdf(normal.icdf((even + 0.5) / 100) - shift)).long().clamp(0, 99)
        verdict = calibration_verdict(calibration(moved, 1e-8))
        assert verdict.level == level
        assert verdict.figures["miscalibration"] == pytest.approx(off, abs=0.012)
        assert "biased" in verdict.found
        assert "p < 0.0001" in verdict.found


def test_a_bias_of_a_third_is_bad_on_few_simulations() -> None:
    """Wrong: much is taken off for chance. Oracle: a shift of 0.3 standard deviations moves a probability by 0.119."""
    normal = torch.distributions.Normal(0.0, 1.0)
    even = (torch.arange(100).repeat(5) + 0.5) / 100
    verdict = calibration_verdict(calibration((100 * normal.cdf(normal.icdf(even) - 0.3)).long(), 1e-6))
    assert verdict.level == "bad"
    assert verdict.figures["miscalibration"] == pytest.approx(0.119 - 0.5 / math.sqrt(500), abs=0.01)
    assert "at least" in verdict.found


def test_rows_too_few_to_tell_are_not_called_alike() -> None:
    """Wrong: twenty rows that nothing could tell from others are a reason to mend the model, or to trust it."""
    nothing = TwoSample(0.65, 0.12, 0.6, 0.1, 0.5)
    found = Realism(np.ones(20), np.full(20, 0.4), 0.5, nothing, nothing, 20)
    assert found.carries_over is None
    assert realism_verdict(found).level == "unknown"


@pytest.mark.parametrize(
    ("summaries", "rows", "p_value", "level"),
    [(0.52, 0.5, 0.5, "good"), (0.55, 0.98, 1e-9, "look"), (0.7, 0.7, 1e-9, "look"), (0.95, 0.99, 1e-9, "bad")],
)
def test_rows_unlike_the_models_own(summaries: float, rows: float, p_value: float, level: Level) -> None:
    """Wrong: verdicts by simulation are taken for verdicts on rows that are nothing like it."""
    told = [TwoSample(auc, 0.02, auc, 0.02, p_value) for auc in (rows, summaries)]
    verdict = realism_verdict(Realism(np.ones(50), np.full(50, 0.4), 0.5, told[0], told[1], 100))
    assert verdict.level == level
    assert bool(verdict.advice) == (level != "good")


def lines(**levels: tuple[Level, float]) -> list[Verdict]:
    names = ("contract", "evidence", "posterior", "family", "encoder", "model", "calibration", "realism")
    given = {name: levels.get(name, ("good", 0.001)) for name in names}
    return [Verdict(name, level, "", "", {"loss": loss}) for name, (level, loss) in given.items()]


@pytest.mark.parametrize(
    ("levels", "begins"),
    [
        ({}, "The posterior is right"),
        ({"contract": ("bad", 0.0), "encoder": ("bad", 2.0)}, "The pair breaks its contract"),
        (
            {"encoder": ("look", 0.2), "family": ("bad", 0.9)},
            "Most is lost by the guide's family, 0.9 nats a row, then",
        ),
        ({"model": ("bad", 5.0), "encoder": ("bad", 0.9)}, "Most is lost by the model, 5 nats a row, then by the enc"),
        ({"posterior": ("bad", 1.0), "encoder": ("unknown", 0.0)}, "The guide is off, and whether its family"),
        ({"posterior": ("look", 0.012)}, "The guide is off by so little"),
        ({"calibration": ("bad", 0.0)}, "The guide's probabilities don't hold"),
        ({"realism": ("bad", 0.0)}, "The rows are unlike the model's own"),
        ({"posterior": ("unknown", 0.0), "calibration": ("unknown", 0.0)}, "Whether the posterior is right couldn't"),
        ({"posterior": ("unknown", 0.0), "encoder": ("unknown", 0.0)}, "Nothing wrong was seen, but no loss could"),
    ],
)
def test_whose_fault_it_is(levels: dict[str, tuple[Level, float]], begins: str) -> None:
    """Wrong: the smaller culprit is named first, or a pair of which nothing is known is called right."""
    assert blame(lines(**levels)).startswith(begins)


def test_nothing_is_claimed_where_the_contract_could_not_be_checked() -> None:
    assert blame([Verdict("contract", "unknown", "")]).startswith("Whether the posterior is right couldn't")


def test_a_judgement_is_as_bad_as_its_worst_line_and_is_plain_json() -> None:
    verdicts = (Verdict("a", "good", "fine"), Verdict("b", "look", "so so", "mend", {"loss": math.nan, "width": None}))
    found = Judgement(verdicts, "in sum", "training", 9, "quick")
    assert found.level == "look"
    assert found["b"].to_json()["figures"] == {"loss": None, "width": None}
    assert found.to_json()["verdicts"][0]["found"] == "fine"
    assert str(found).splitlines()[-1] == "in sum"
    assert Judgement(verdicts[:1], "", "training", 9, "quick").level == "good"
