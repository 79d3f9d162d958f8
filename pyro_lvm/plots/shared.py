"""What the pictures share: colours, dots, axes, text, and arrays read from whatever holds them."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from pyro_lvm.errors import DataError

FloatArray = npt.NDArray[np.float64]

# Okabe and Ito 2008, told apart with any kind of colour vision; yellow comes late because it is faint on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
UNLABELLED = "#BBBBBB"
HALO = [withStroke(linewidth=3, foreground="white")]
_MAX_NAME = 28


def own_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes that were given, or those of a new figure of this size in inches."""
    if ax is not None:
        return ax
    made: Axes = plt.subplots(figsize=size, layout="constrained")[1]
    return made


def dot_style(count: int) -> dict[str, Any]:
    """Smaller and fainter the more there are, so that density shows as depth of colour."""
    crowd = math.log10(max(count, 10)) - 2
    return {
        "s": float(np.clip(26 / 10 ** (0.35 * crowd), 2, 30)),
        "alpha": float(np.clip(0.85 / 10 ** (0.1 * crowd), 0.4, 0.85)),
        "linewidths": 0,
        "rasterized": True,
    }


def as_numbers(values: Any) -> npt.NDArray[Any]:
    """A tensor, with or without its graph, or anything else as an array."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(values)


def as_matrix(values: Any, name: str, expected: str) -> FloatArray:
    """Rows of numbers, each flattened; ``name`` and ``expected`` are for the error's one line."""
    array = as_numbers(values)
    if array.ndim < 2 or 0 in array.shape or array.dtype.kind not in "biuf":
        raise DataError(f"{name} has shape {array.shape} and holds {array.dtype}: expected numbers of shape {expected}")
    return array.reshape(len(array), -1).astype(np.float64)


def minus(text: str) -> str:
    """A number's text with the minus sign that matplotlib sets on its axes."""
    return text.replace("-", "−")


def short(name: str) -> str:
    """A name cut in its middle: names that are alike begin alike, and often end differently."""
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 13]}…{name[-12:]}"
