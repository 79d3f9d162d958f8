"""A drop-in for :class:`pyro.infer.SVI` at the speed of a hand-written compiled step, for anyone's model and guide."""

from pyro_lvm.compiled.averaging import PolynomialAverage
from pyro_lvm.compiled.report import Report
from pyro_lvm.compiled.svi import SVI

__all__ = ["SVI", "PolynomialAverage", "Report"]
