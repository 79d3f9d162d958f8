"""The gradient of a bound by every way that there is, side by side.

:func:`compare` measures bias, variance, signal-to-noise and cost of the :data:`ESTIMATORS` on any pair, as it is;
:class:`GradientEstimator` is one of them by itself, to be stepped on.
"""

from pyro_lvm.gradients.comparison import ALL, GUIDE, MODEL, GradientComparison, Measured, compare
from pyro_lvm.gradients.estimators import ESTIMATORS, EstimatorSpec, GradientEstimator, admitted
from pyro_lvm.gradients.reference import Reference, exact_gradient

__all__ = [
    "ALL",
    "ESTIMATORS",
    "GUIDE",
    "MODEL",
    "EstimatorSpec",
    "GradientComparison",
    "GradientEstimator",
    "Measured",
    "Reference",
    "admitted",
    "compare",
    "exact_gradient",
]
