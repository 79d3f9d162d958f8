"""torchvision's readers, also where its native operators can't load.

The torchvision wheels on PyPI are built against CUDA. Beside a CPU-only torch their native library doesn't load, which
torchvision survives, until its Python code registers what the operators ``nms`` and ``qnms`` do with shapes: those two
are unknown then, and ``import torchvision`` dies with "operator torchvision::nms does not exist". The data sets need
neither, so declaring their signatures, without any implementation, is enough to import them.
"""

import importlib
from types import ModuleType

import torch

from pyro_lvm.errors import DataError

# A torch.library.Library undoes its declarations when it is garbage-collected.
_declared: list[torch.library.Library] = []


def torchvision_mnist() -> ModuleType:
    """Import ``torchvision.datasets.mnist``.

    Returns:
        The module.

    Raises:
        DataError: where torchvision isn't installed or doesn't fit the installed torch.
    """
    try:
        try:
            return importlib.import_module("torchvision.datasets.mnist")
        except RuntimeError as error:
            if _declared or "operator torchvision::" not in str(error):
                raise
            _declare_missing_operators()
            return importlib.import_module("torchvision.datasets.mnist")
    except ModuleNotFoundError as error:
        raise DataError(
            f"the {error.name} package is missing, which reads these images: install torchvision in the release that "
            f"goes with torch {torch.__version__} (for torch 2.13.0: pip install torchvision==0.28.0)"
        ) from error
    except (ImportError, RuntimeError) as error:
        raise DataError(
            f"torchvision doesn't import beside torch {torch.__version__} ({str(error).splitlines()[0]}): install the "
            "release that goes with it (for torch 2.13.0: pip install torchvision==0.28.0)"
        ) from error


def _declare_missing_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
