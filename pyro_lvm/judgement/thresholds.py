"""Where good ends and bad begins, in sizes of effects: what is only significant isn't yet worth mending."""

from __future__ import annotations

import math

from pyro_lvm.evidence.gap import CERTAIN_ERRORS, GOOD_NATS
from pyro_lvm.judgement.verdicts import Level

# KL, nats a row: a Gaussian posterior shifted by a whole standard deviation, or too narrow by 2.4. What is read off it
# is another answer. Pinsker: no probability is off by more than the root of half the KL, here 0.5, at GOOD_NATS 0.07.
BAD_NATS = 0.5
# A loss of which it is not sure that it is below this is not called good.
SURE_NATS = 0.1
# Bounds on the evidence that are further apart than this leave every loss that is measured from it that uncertain.
WIDE_NATS = 0.1
# Standard errors by which a lower bound may lie above what it bounds: the worst of some twenty comparisons.
CONTRADICTING_ERRORS = 5.0
# What float32 loses in a row's sums, relative to 1 + |log p(x)|.
ROUNDING = 1e-5

# Importance weights of a row are of no use above this k (Vehtari et al. 2024, JMLR 25). Where nearly all draws count,
# they hardly matter, whatever the shape of their tail. A few such rows there always are; of one in five, averages err.
NEARLY_ALL = 0.9
FEW_ROWS, MANY_ROWS = 0.05, 0.2

# By which the probability of an interval may be wrong: what a bias of 0.13 of a posterior's standard deviation makes of
# it, or a width that is wrong by a fifth. With simulations enough, a test finds effects of any size.
SMALL_MISCALIBRATION = 0.05
# AUC of a classifier from which on rows are plainly not the model's.
TOLD_APART_AUC = 0.8


def by_nats(loss: float, error: float) -> Level:
    """The level of a loss, nats a row, with its standard error: by what of it is certain."""
    if not (math.isfinite(loss) and math.isfinite(error)):
        return "unknown"
    spread = CERTAIN_ERRORS * error
    if loss - spread > BAD_NATS:
        return "bad"
    if loss - spread > GOOD_NATS:
        return "look"
    return "good" if loss + spread < SURE_NATS else "unknown"
