"""A saved run on one page: what was fitted on what, how good it is, what it looks like, and how to repeat it."""

from pyro_lvm.reporting.page import Figure, Finding, Page, Section
from pyro_lvm.reporting.run import report_run

__all__ = ["Figure", "Finding", "Page", "Section", "report_run"]
