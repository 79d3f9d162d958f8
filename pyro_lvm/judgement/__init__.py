"""How wrong a guide is, and whose fault that is: every check that a pair can take, a verdict a line."""

from pyro_lvm.judgement.budgets import BUDGETS, Budget
from pyro_lvm.judgement.judging import judge
from pyro_lvm.judgement.thresholds import by_nats
from pyro_lvm.judgement.verdicts import Judgement, Level, Verdict

__all__ = ["BUDGETS", "Budget", "Judgement", "Level", "Verdict", "by_nats", "judge"]
