"""Data: loading, checking, scaling and streaming the rows that a model is fitted to."""

from pyro_lvm.data.binarization import BinarizationKind, GreyRows, binarize, redraw
from pyro_lvm.data.checks import check_rows
from pyro_lvm.data.dataset import Dataset, as_rows
from pyro_lvm.data.files import FILE_ENDINGS
from pyro_lvm.data.scaling import Scaling, ScalingKind
from pyro_lvm.data.sources import DATASET_NAMES, load
from pyro_lvm.data.streaming import RowStream, fits_in_memory, stream

__all__ = [
    "DATASET_NAMES",
    "FILE_ENDINGS",
    "BinarizationKind",
    "Dataset",
    "GreyRows",
    "RowStream",
    "Scaling",
    "ScalingKind",
    "as_rows",
    "binarize",
    "check_rows",
    "fits_in_memory",
    "load",
    "redraw",
    "stream",
]
