"""The contract that a model and a guide have to keep, checked site by site."""

from pyro_lvm.checking.check import check_pair, quick_check
from pyro_lvm.checking.findings import CODES, CONTRACT, CheckResult, Finding

__all__ = ["CODES", "CONTRACT", "CheckResult", "Finding", "check_pair", "quick_check"]
