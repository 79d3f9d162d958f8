"""Errors that a person can act on: one line that says what was given, what was expected, and what to do."""


class PyroLvmError(ValueError):
    """Base of every error that ``pyro_lvm`` raises on purpose; the command line prints it as one line and exits 2."""


class DataError(PyroLvmError):
    """The data cannot be read, or cannot be used the way it was asked for."""


class PairError(PyroLvmError):
    """A model/guide pair is unknown, broken, or cannot be built from what was given."""


class ArtifactError(PyroLvmError):
    """A saved run is missing, damaged, foreign, or of a newer format."""


class TrainingError(PyroLvmError):
    """Training cannot start or cannot go on."""
