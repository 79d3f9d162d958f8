"""Plots are drawn without a screen, without a warning, and closed after each test."""

import warnings
from collections.abc import Iterator

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    # Of tests elsewhere that came before in this process.
    plt.close("all")
    with warnings.catch_warnings():
        # matplotlib says so when text doesn't fit, a limit is singular or a glyph is missing.
        warnings.simplefilter("error", UserWarning)
        yield
    plt.close("all")
