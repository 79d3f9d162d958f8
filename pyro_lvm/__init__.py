"""Latent-variable models in Pyro whose amortized guides are graded against the truth."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_lvm.artifact import Artifact, load, save
    from pyro_lvm.checking import check_pair
    from pyro_lvm.errors import ArtifactError, DataError, PairError, PyroLvmError, TrainingError
    from pyro_lvm.fitting import FitResult, fit
    from pyro_lvm.grading import Grade, grade
    from pyro_lvm.judgement import Judgement, judge
    from pyro_lvm.pair import Pair
    from pyro_lvm.plate import data_plate, observe

__all__ = [
    "Artifact",
    "ArtifactError",
    "DataError",
    "FitResult",
    "Grade",
    "Judgement",
    "Pair",
    "PairError",
    "PyroLvmError",
    "TrainingError",
    "check_pair",
    "data_plate",
    "fit",
    "grade",
    "judge",
    "load",
    "observe",
    "save",
]

# What is offered, by the module that it is from.
_HOMES = {
    "artifact": ("Artifact", "load", "save"),
    "checking": ("check_pair",),
    "errors": ("ArtifactError", "DataError", "PairError", "PyroLvmError", "TrainingError"),
    "fitting": ("FitResult", "fit"),
    "grading": ("Grade", "grade"),
    "judgement": ("Judgement", "judge"),
    "pair": ("Pair",),
    "plate": ("data_plate", "observe"),
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import what is asked for when it is asked for: it takes seconds, which `pyro-lvm --help` needs none of."""
        for home, offered in _HOMES.items():
            if name in offered:
                return getattr(importlib.import_module(f"pyro_lvm.{home}"), name)
        try:
            return importlib.import_module(f"pyro_lvm.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"pyro_lvm.{name}":
                raise
            raise AttributeError(f"module 'pyro_lvm' has no attribute {name!r}") from None
