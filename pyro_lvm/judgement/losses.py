"""Verdicts in nats: what is known of the evidence, and who loses how much of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from pyro_lvm.evidence import Estimate, Gap, Sandwich
from pyro_lvm.evidence.gap import BETTER_ENCODER, CORRELATED_FAMILY, GOOD_NATS, LESS_BY_HEART, RICHER_FAMILY
from pyro_lvm.grading import Grade
from pyro_lvm.judgement.thresholds import CONTRADICTING_ERRORS, ROUNDING, WIDE_NATS, by_nats
from pyro_lvm.judgement.verdicts import Level, Verdict
from pyro_lvm.wording import plus_minus

_MORE_ANNEALING = "anneal for longer, with the full budget or evidence.sandwich(..., temperatures=10_000)"
_MORE_ROWS = "look at more rows, or with the full budget"
# Of the rows, whose best q the search has to have found.
_NEARLY_ALL_ENDED = 0.9
_KINDS = {"iwae": "importance-weighted", "ais": "annealed", "elbo": "ELBO", "exact": "exact"}


@dataclass(frozen=True)
class Known:
    """What is known of log p(x) of the rows that are judged.

    Attributes:
        elbo: The guide's.
        iwae: The importance-weighted bound.
        exact: What the model says.
        exact_of_own: What it says of the rows of the sandwich.
        ais: The bound by annealing; None where there is none.
        sandwich: Both bounds on rows that the model made; None where there are none.
        missing: Why there are none.
    """

    elbo: Estimate
    iwae: Estimate
    exact: Estimate | None = None
    exact_of_own: Estimate | None = None
    ais: Estimate | None = None
    sandwich: Sandwich | None = None
    missing: str = ""

    @property
    def contradiction(self) -> str | None:
        """A bound that what the model says of its evidence contradicts."""
        pairs = [(self.exact, one, False) for one in (self.elbo, self.iwae, self.ais)]
        if self.sandwich is not None:
            pairs += [(self.exact_of_own, self.sandwich.lower, False), (self.exact_of_own, self.sandwich.upper, True)]
        for said, bound, upper in pairs:
            if said is None or bound is None:
                continue
            beyond = (said.mean - bound.mean) * (1 if upper else -1)
            allowed = CONTRADICTING_ERRORS * bound.particle_standard_error + ROUNDING * (1 + abs(said.mean))
            if beyond > allowed:
                side = "an upper bound" if upper else "a lower bound"
                return f"log_evidence says {said.mean:.4f} nats a row, and {side} is {bound.mean:.4f}"
        return None

    @property
    def best(self) -> Estimate:
        """The evidence, or the highest bound from below."""
        if self.exact is not None and self.contradiction is None:
            return self.exact
        return max((one for one in (self.ais, self.iwae, self.elbo) if one is not None), key=lambda one: one.mean)

    @property
    def is_exact(self) -> bool:
        """Whether that is what the model says."""
        return self.best is self.exact

    @property
    def slack(self) -> float:
        """By how much the best may be too low, nats a row; infinite where nothing bounds it from above."""
        if self.is_exact:
            return 0.0
        return math.inf if self.sandwich is None else max(0.0, self.sandwich.width)


def evidence_verdict(known: Known, log_jacobian: Tensor) -> Verdict:
    """Whether log p(x) is known well enough to measure anything from it.

    Args:
        known: What is known, in the pair's own units.
        log_jacobian: To be taken from each row's, for the units that a person sees, shape (rows,).
    """
    shift = float(log_jacobian.mean())
    best, both = known.best, known.sandwich
    figures = {
        name: None if one is None else one.mean - shift
        for name, one in (("exact", known.exact), ("ais", known.ais), ("iwae", known.iwae), ("elbo", known.elbo))
    }
    figures |= {"width": None if both is None else both.width}
    if known.contradiction is not None:
        advice = "one of the two is not of this model: mend log_evidence(x); until then its bounds are used"
        return Verdict("evidence", "bad", known.contradiction, advice, figures)
    if known.is_exact:
        found = f"log p(x) = {best.mean - shift:.4f} nats a row, exactly, and no bound contradicts it"
    else:
        found = f"log p(x) is at least {best.mean - shift:.3f} ± {best.particle_standard_error:.2g} nats a row"
        found += f" ({_KINDS[best.kind]})"
    if both is None:
        level: Level = "good" if known.is_exact else "unknown"
        return Verdict("evidence", level, f"{found}; from above it isn't bounded: {known.missing}", "", figures)
    width = plus_minus(both.width, both.standard_error)
    found += f"; on rows that the model makes, the two bounds are {width} apart"
    if known.is_exact or both.width < WIDE_NATS:
        return Verdict("evidence", "good", found, "", figures)
    advice = f"each loss below that is measured from it may be larger by as much: {_MORE_ANNEALING}"
    return Verdict("evidence", "look", found, advice, figures)


def posterior_verdict(known: Known | None, graded: Grade | None, gap: Gap | None = None) -> Verdict:
    """How far the guide is from the posterior: KL(q || p(z | x)), exactly where the model knows it.

    Args:
        known: What is known of the evidence.
        graded: Exact answers.
        gap: Of the same rows: the ELBO of the best q of the guide's family bounds log p(x) from below as well.
    """
    exactly = None if graded is None else graded.kl_to_exact
    advice = "averages over its draws are off accordingly; the lines below say whose fault it is"
    if graded is not None and graded.elbo_agrees is False:
        found = f"log-evidence less KL is {graded.elbo_exact:.4f} nats a row, and the ELBO by draws {graded.elbo:.4f}"
        mend = "one of the exact answers isn't this pair's: mend log_evidence, exact_posterior or encode"
        return Verdict("posterior", "bad", found, mend, {"kl": exactly})
    if exactly is not None:
        level = by_nats(exactly, 0.0)
        found = f"KL(q || posterior) = {exactly:.2g} nats a row, exactly"
        return Verdict("posterior", level, found, "" if level == "good" else advice, {"kl": exactly, "error": 0.0})
    if known is None:
        return Verdict("posterior", "unknown", "the evidence isn't known, from which the KL would be measured")
    kl = known.best.mean - known.elbo.mean
    error = math.hypot(known.elbo.particle_standard_error, known.best.particle_standard_error)
    if gap is not None and not known.is_exact and float(gap.amortization.mean()) > kl:
        kl, error = float(gap.amortization.mean()), gap.amortization_standard_error
    bounded = "" if known.is_exact else "at least "
    found = f"KL(q || posterior) is {bounded}{max(kl, 0.0):.2g} ± {error:.1g} nats a row"
    return _with_slack("posterior", kl, error, known, found, advice, {"kl": kl, "error": error})


def gap_verdicts(known: Known | None, training: Gap, held_out: Gap | None) -> list[Verdict]:
    """Whose fault the KL is: the family's, or the encoder's, and whether the encoder knows its rows by heart."""
    assert known is not None
    judged = training if held_out is None else held_out
    lacking, error = float(judged.approximation.mean()), judged.approximation_standard_error
    ended = judged.finished >= _NEARLY_ALL_ENDED
    early = "" if ended else f"; the search for the best q had not ended in {1 - judged.finished:.0%} of the rows"
    found = f"the guide's family lacks {'' if ended else 'at most '}{lacking:.2g} ± {error:.1g} nats a row"
    found += "" if ended or known.is_exact else " of the bound on the evidence"
    found += early
    if judged.gained_by_full is not None and judged.correlations_suffice and judged.gained_by_full > GOOD_NATS:
        found += f", {judged.gained_by_full:.2g} of which correlations would give"
    remedy = CORRELATED_FAMILY if judged.correlations_suffice else RICHER_FAMILY
    figures = {"loss": lacking, "error": error, "gained_by_full": judged.gained_by_full}
    if lacking < -3 * error - WIDE_NATS:
        found = f"the best ELBO of a row is {-lacking:.2g} nats above what bounds its evidence from below"
        family = Verdict("family", "unknown", found, _MORE_ANNEALING, figures)
    else:
        family = _with_slack("family", lacking, error, known, found, remedy, figures)
    missing, error = float(judged.amortization.mean()), judged.amortization_standard_error
    least = "" if ended else "at least "
    found = f"the encoder misses {least}{missing:.2g} ± {error:.1g} nats a row that its family has{early}"
    figures = {"loss": missing, "error": error, "finished": judged.finished}
    encoder = _by_nats("encoder", missing, error, found, BETTER_ENCODER, figures)
    if encoder.level == "good" and not ended:
        encoder = Verdict("encoder", "unknown", found, "", figures)
    return [family, encoder, _overfitting(training, held_out)]


def model_verdict(gap: float) -> Verdict:
    """What the model lacks of the best of its kind."""
    level = by_nats(gap, 0.0)
    found = f"the model lacks {max(gap, 0.0):.2g} nats a row that the maximum of the likelihood has"
    advice = "" if level == "good" else "train longer, or fit it by its estimator: --method em"
    return Verdict("model", level, found, advice, {"loss": gap})


def _overfitting(training: Gap, held_out: Gap | None) -> Verdict:
    if held_out is None:
        found = "no rows were held out: whether the encoder knows its training rows by heart can't be seen"
        return Verdict("overfitting", "unknown", found, "give held-out rows, or fit with --validation 0.2")
    lost = float(held_out.amortization.mean()) - float(training.amortization.mean())
    side = "more" if lost > 0 else "less"
    if min(len(gap.amortization) for gap in (training, held_out)) < 2:
        found = f"the encoder misses {abs(lost):.2g} nats a row {side} on held-out rows than on training rows; "
        found += "from a single row there is no saying how far rows differ"
        return Verdict("overfitting", "unknown", found, _MORE_ROWS, {"loss": lost, "error": None})
    # Over rows: the two are not the same.
    errors = [gap.amortization.std() / math.sqrt(len(gap.amortization)) for gap in (training, held_out)]
    error = math.hypot(*map(float, errors))
    found = f"the encoder misses {abs(lost):.2g} ± {error:.1g} nats a row {side} on held-out rows than on training rows"
    return _by_nats("overfitting", lost, error, found, LESS_BY_HEART, {"loss": lost, "error": error})


def _with_slack(
    name: str, loss: float, error: float, known: Known, found: str, advice: str, figures: dict[str, float | None]
) -> Verdict:
    """A loss measured from the evidence: where that is only bounded, being small isn't being shown to be small."""
    if by_nats(loss, error) == "good" and by_nats(loss + known.slack, error) not in ("good", "look"):
        reason = "nothing bounds it from above" if math.isinf(known.slack) else f"by up to {known.slack:.2g} more"
        return Verdict(name, "unknown", f"{found}; {reason}", _MORE_ANNEALING, figures)
    return _by_nats(name, loss, error, found, advice, figures)


def _by_nats(
    name: str, loss: float, error: float, found: str, advice: str, figures: dict[str, float | None]
) -> Verdict:
    level = by_nats(loss, error)
    if level == "unknown":
        return Verdict(name, level, f"{found}: too uncertain to tell", _MORE_ROWS, figures)
    return Verdict(name, level, found, "" if level == "good" else advice, figures)
