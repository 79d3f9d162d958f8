"""Latent-variable models in Pyro whose amortized guides are graded against the truth."""

from pyro_lvm.artifact import Artifact, load, save
from pyro_lvm.checking import check_pair
from pyro_lvm.errors import ArtifactError, DataError, PairError, PyroLvmError, TrainingError
from pyro_lvm.fitting import FitResult, fit
from pyro_lvm.grading import Grade, grade
from pyro_lvm.pair import Pair
from pyro_lvm.plate import data_plate, observe

__all__ = [
    "Artifact",
    "ArtifactError",
    "DataError",
    "FitResult",
    "Grade",
    "Pair",
    "PairError",
    "PyroLvmError",
    "TrainingError",
    "check_pair",
    "data_plate",
    "fit",
    "grade",
    "load",
    "observe",
    "save",
]
