"""The benchmark's miscalibrated guides are found, at a small size; its full one is `benchmarks/judging.py`."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_lvm.calibration import calibrate


def _load() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "judging.py"
    spec = importlib.util.spec_from_file_location("benchmarks_judging", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


JUDGING = _load()


@pytest.mark.parametrize("name", list(JUDGING.CASES))
def test_each_wrong_guide_is_flagged_and_no_exact_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong: a kind of miscalibration has become invisible, or an exact guide is cried out."""
    # Few steps overfit enough for the latents of these seeds.
    monkeypatch.setattr(JUDGING, "STEPS", 250)
    case = JUDGING.CASES[name]
    for seed in (3, 4):
        with torch.no_grad():
            pair, x = case.make(seed)
            pair = case.spoil(pair, x)
        assert calibrate(pair, x, 500, 49, seed=seed, progress=False).flagged is case.wrong
