"""Verdicts on what tells of faults without saying how many nats they cost."""

from __future__ import annotations

import math

import numpy as np

from pyro_lvm.calibration import Calibration, Quantity, Realism
from pyro_lvm.checking import CheckResult
from pyro_lvm.evidence import Terms, collapse
from pyro_lvm.judgement.thresholds import (
    FEW_ROWS,
    MANY_ROWS,
    NEARLY_ALL,
    SMALL_MISCALIBRATION,
    TOLD_APART_AUC,
)
from pyro_lvm.judgement.verdicts import Level, Verdict
from pyro_lvm.predictive import RowWeights
from pyro_lvm.predictive.weights import UNRELIABLE

# Sentences of a diagnosis that a line holds.
_TOLD = 3


def contract_verdict(result: CheckResult) -> Verdict:
    """Whether model and guide are a sound pair at all."""
    figures = {"errors": len(result.errors), "warnings": len(result.warnings)}
    told = result.errors or result.warnings
    if not told:
        return Verdict("contract", "good", "model and guide keep the contract of a pair", "", figures)
    at = "" if told[0].site is None else f" at '{told[0].site}'"
    more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
    found = f"{told[0].code}{at}: {told[0].message}{more}"
    if result.errors:
        advice = "mend the pair first, check_pair lists all that is wrong: nothing else was looked at"
        return Verdict("contract", "bad", found, advice, figures)
    return Verdict("contract", "look", found, "check_pair lists all that it warns of", figures)


def weights_verdict(weights: RowWeights) -> Verdict:
    """Whether draws of the guide can be reweighted to the posterior: Pareto k of each row's weights."""
    k, effective = weights.pareto_k, weights.effective_share
    known = ~k.isnan()
    if not bool(known.any()):
        draws = len(weights.log_weights)
        return Verdict("weights", "unknown", f"{draws} draws a row are too few to fit the tail of their weights to")
    unreliable = (k > UNRELIABLE) & (effective < NEARLY_ALL)
    share = float(unreliable[known].double().mean())
    level: Level = "good" if share <= FEW_ROWS else "look" if share <= MANY_ROWS else "bad"
    used = float(effective.mean())
    middle = float(k[known].median())
    found = f"Pareto k above {UNRELIABLE}, and less than {NEARLY_ALL:.0%} of the draws effective, in {share:.0%} of "
    found += f"{int(known.sum())} rows; median k {_shown(middle)}, {used:.0%} of all draws effective"
    advice = (
        "the guide misses a part of these rows' posteriors, and no reweighting brings it back: "
        "calibration.refine(..., hmc_steps=10), or a richer guide"
    )
    figures = {"share_above": share, "effective_share": used, "median_k": middle}
    return Verdict("weights", level, found, "" if level == "good" else advice, figures)


def latents_verdict(terms: Terms) -> Verdict:
    """Which dimensions of the latents say something of a row."""
    units = [unit for unit in terms.units if not math.isnan(float(unit.mean_variance.sum()))]
    if not units:
        found = "no continuous vector latent of a row's own whose mean could be followed over several rows"
        return Verdict("latents", "unknown", found)
    total, active = sum(len(unit.names) for unit in units), sum(unit.num_active for unit in units)
    figures = {"dimensions": total, "active": active}
    said = collapse(units)
    if said is None:
        sites = ", ".join(unit.site for unit in units)
        found = (
            f"the one dimension of {sites} is in use" if total == 1 else f"all {total} dimensions of {sites} are in use"
        )
        return Verdict("latents", "good", found, "", figures)
    found, _, advice = said.partition("; ")
    return Verdict("latents", "look" if active else "bad", found, advice, figures)


def calibration_verdict(found: Calibration) -> Verdict:
    """Whether the guide's probabilities hold on rows whose latents are known, and by how much they don't."""
    off = max((_miscalibration(one) for one in found.quantities if one.flagged), default=0.0)
    figures = {"p_value": found.p_value, "miscalibration": off, "simulations": found.num_simulations}
    looked = f"{len(found.quantities)} quantities of {found.num_simulations} simulated rows"
    notes = "".join(f"; {note}" for note in found.notes)
    if not found.flagged:
        text = f"nothing wrong in {looked}, {_p_value(found.p_value)}{notes}"
        return Verdict("calibration", "good", text, "", figures)
    wrong = "; ".join(found.diagnosis[:_TOLD]) or "the guide's draws are not those of the posterior"
    more = f" (and {len(found.diagnosis) - _TOLD} more)" if len(found.diagnosis) > _TOLD else ""
    text = f"{wrong}{more}; probabilities are off by at least {off:.2g}, {_p_value(found.p_value)} over {looked}{notes}"
    if off <= SMALL_MISCALIBRATION:
        return Verdict("calibration", "look", text, "by little", figures)
    advice = "don't take the guide's intervals as they are: mend the guide, or use calibration.refine"
    return Verdict("calibration", "bad", text, advice, figures)


def realism_verdict(found: Realism) -> Verdict:
    """Whether the rows are like the model's own, of which the verdicts by simulation are."""
    figures = {"auc": found.summaries.auc, "auc_of_rows": found.rows.auc, "outlying": found.outlying}
    text = (
        f"a classifier tells what the guide makes of the rows from what it makes of the model's own with AUC "
        f"{found.summaries.auc:.2f}, and the rows themselves with {found.rows.auc:.2f}; {found.outlying:.1%} of them "
        "lie farther out than 99% of the model's own"
    )
    mend = "pyro-lvm ppc says what the model's rows lack"
    if found.carries_over is None and not found.told:
        return Verdict("realism", "unknown", f"{text}: too few rows to tell", "give more rows", figures)
    if not found.carries_over:
        advice = f"go by the verdicts that are of the rows themselves, not by calibration, and mend the model: {mend}"
        return Verdict("realism", "bad" if found.carries_over is False else "look", text, advice, figures)
    if found.told and found.rows.auc > TOLD_APART_AUC:
        advice = f"the guide makes the same of both, so that calibration may carry over; the model is wrong: {mend}"
        return Verdict("realism", "look", text, advice, figures)
    return Verdict("realism", "good", text, "", figures)


def _miscalibration(one: Quantity) -> float:
    """How far the ranks' distribution is from even, less a standard error: 0.5 / sqrt(N) at most."""
    even = np.arange(1, one.draws + 1) / (one.draws + 1)
    return max(0.0, float(np.abs(one.ecdf - even).max()) - 0.5 / math.sqrt(len(one.ranks)))


def _p_value(p: float) -> str:
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"


def _shown(k: float) -> str:
    return "none: all weights are alike" if k == -math.inf else f"{k:.2f}"
