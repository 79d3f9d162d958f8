"""The library of statistics against NumPy and SciPy, with holes and without."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_lvm.errors import DataError, PyroLvmError
from pyro_lvm.predictive import STATISTICS
from pyro_lvm.predictive.statistics import choose, largest_correlation, quantile, spectrum

RANDOM = np.random.default_rng(0)
COMPLETE = RANDOM.gamma(2.0, size=(3, 40, 5)) @ RANDOM.normal(size=(5, 5))
HOLES = np.where(RANDOM.random(COMPLETE.shape) < 0.2, np.nan, COMPLETE)
HOLES[1, :7, 2] = 0.0


def by_numpy(name: str, x: np.ndarray) -> np.ndarray:
    """One table's statistic of each feature, by another library."""
    if name == "zeros":
        return np.array([np.mean(c[~np.isnan(c)] == 0) for c in x.T])
    functions = {
        "mean": lambda c: np.mean(c),
        "variance": lambda c: np.var(c),
        "skewness": lambda c: stats.skew(c),
        "kurtosis": lambda c: stats.kurtosis(c, fisher=False),
    }
    return np.array([functions[name](c[~np.isnan(c)]) for c in x.T])


@pytest.mark.parametrize("tables", [COMPLETE, HOLES], ids=["complete", "holes"])
@pytest.mark.parametrize("name", ["mean", "variance", "skewness", "kurtosis", "zeros"])
def test_moments(name: str, tables: np.ndarray) -> None:
    """Wrong: a hole counts, a batch of tables is taken for one, or the mean over features is of something else."""
    expected = np.stack([by_numpy(name, table) for table in tables])
    np.testing.assert_allclose(STATISTICS[f"feature-{name}"].function(torch.from_numpy(tables)), expected, rtol=1e-8)
    overall = STATISTICS[name].function(torch.from_numpy(tables))
    np.testing.assert_allclose(overall, expected.mean(1), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("tables", [COMPLETE, HOLES], ids=["complete", "holes"])
def test_order_statistics(tables: np.ndarray) -> None:
    """Wrong: missing entries are sorted in among the others."""
    x = torch.from_numpy(tables)
    for level in (0.05, 0.5, 0.95):
        np.testing.assert_allclose(quantile(x, level), np.nanquantile(tables, level, axis=1), rtol=1e-10)
    np.testing.assert_allclose(STATISTICS["smallest"].function(x), np.nanmin(tables, (1, 2)))
    np.testing.assert_allclose(STATISTICS["largest"].function(x), np.nanmax(tables, (1, 2)))


def test_second_order() -> None:
    """Wrong: eigenvalues in another order or of another matrix; a constant feature makes a correlation of NaN."""
    x = torch.from_numpy(COMPLETE)
    correlation = np.abs(np.corrcoef(COMPLETE[0].T) - np.eye(5)).max()
    assert float(largest_correlation(x)[0]) == pytest.approx(correlation)
    values = np.linalg.eigvalsh(np.cov(COMPLETE[0].T, bias=True))[::-1]
    np.testing.assert_allclose(spectrum(x)[0], values, atol=1e-10)
    wide = torch.randn(12, 30, dtype=torch.float64)
    values = np.linalg.eigvalsh(np.cov(wide.numpy().T, bias=True))[::-1]
    np.testing.assert_allclose(spectrum(wide), [*values[:10], values[10:].sum()], atol=1e-10)
    # Holes: of each two features the rows that have both.
    pair = torch.from_numpy(HOLES[:1, :, :2])
    both = ~np.isnan(HOLES[0, :, :2]).any(1)
    centred = HOLES[0, :, :2] - np.nanmean(HOLES[0, :, :2], 0)
    covariance = (centred[both, 0] * centred[both, 1]).mean()
    expected = abs(covariance) / np.sqrt(np.nanvar(HOLES[0, :, 0]) * np.nanvar(HOLES[0, :, 1]))
    assert float(largest_correlation(pair)[0]) == pytest.approx(expected)
    constant = torch.cat([x, torch.ones(3, 40, 1)], -1)
    assert bool(largest_correlation(constant).isfinite().all())
    assert float(STATISTICS["feature-kurtosis"].function(constant)[0, -1]) == 0


def test_choice(tmp_path: Path) -> None:
    """Wrong: a misspelled name is passed over, or a person's file is not run."""
    (tmp_path / "own.py").write_text("def longest(x):\n    return len(x)\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    assert choose([f"{tmp_path}/own.py:longest"])[0].name == "longest"
    assert choose([lambda x: 0.0])[0].own
    for wrong, said in (
        (["means"], "statistic 'means'"),
        (["mean", "mean"], "each once"),
        ([], "expected one at least"),
        ([f"{tmp_path}/own.py:shortest"], "has no function 'shortest'"),
        ([f"{tmp_path}/nowhere.py:f"], "there is no file"),
    ):
        with pytest.raises(DataError, match=said):
            choose(wrong)
    with pytest.raises(PyroLvmError, match="ZeroDivisionError"):
        choose([f"{tmp_path}/broken.py:f"])
