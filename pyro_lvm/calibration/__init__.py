"""Whether a guide is calibrated, on rows that its model makes, and how far real rows are from these."""

from pyro_lvm.calibration.calibrating import calibrate
from pyro_lvm.calibration.realism import Realism, TwoSample, realism
from pyro_lvm.calibration.refining import Refined, refine
from pyro_lvm.calibration.results import Calibration, Coverage, Quantity

__all__ = ["Calibration", "Coverage", "Quantity", "Realism", "Refined", "TwoSample", "calibrate", "realism", "refine"]
