"""Scaling: what it makes of the data, that it can be undone, and what it does to densities."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from pyro_lvm.data import Scaling
from pyro_lvm.errors import DataError

NAN = float("nan")
KINDS = ("none", "standard", "unit")


def some_rows() -> torch.Tensor:
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1e-3, 1e4, 5.0]) + 7.0
    rows[3, 0] = rows[10:20, 2] = NAN
    return rows


@pytest.mark.parametrize(("kind", "peer"), [("standard", StandardScaler()), ("unit", MinMaxScaler())])
def test_agrees_with_scikit_learn(kind: Any, peer: Any) -> None:
    """Missing entries must not enter a mean, a spread or a range."""
    rows = some_rows()
    expected = peer.fit_transform(rows.double().numpy())
    np.testing.assert_allclose(Scaling.fit(rows, kind).transform(rows), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_constant_feature_keeps_its_unit(kind: Any) -> None:
    """Its computed sd is a rounding error, and dividing by that would blow it up."""
    rows = torch.full((1000, 2), 0.1, dtype=torch.float64)
    rows[1:, 1] = NAN
    scaling = Scaling.fit(rows, kind)
    assert scaling.divisor == (1.0, 1.0)
    assert scaling.transform(rows).nan_to_num().abs().max() <= 0.1
    assert scaling.log_jacobian == 0.0


@settings(max_examples=60, deadline=None)
@given(
    values=hnp.arrays(
        np.float32,
        st.tuples(st.integers(2, 8), st.integers(1, 5)),
        elements=st.floats(-(2.0**60), 2.0**60, width=32),
    ),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_inverse_undoes_transform(values: np.ndarray, kind: Any, dtype: torch.dtype) -> None:
    """A person sees reconstructions in the data's units: they must be the data's."""
    rows = torch.from_numpy(values).to(dtype)
    scaling = Scaling.fit(rows, kind)
    back = scaling.inverse(scaling.transform(rows))
    assert back.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps * rows.abs().amax(0)
    assert ((back - rows).abs() <= tolerance).all()


def test_arithmetic_is_in_float64() -> None:
    """In float32, subtracting a large mean from large numbers would double their rounding error."""
    rows = (1e6 + torch.arange(16.0) / 16)[:, None]
    expected = (rows.double() - rows.double().mean()) / rows.double().std(correction=0)
    assert torch.equal(Scaling.fit(rows, "standard").transform(rows), expected.float())


@pytest.mark.parametrize("kind", KINDS)
def test_log_density_of_the_original_data(kind: Any) -> None:
    """Evidence is reported in the data's units; with the wrong sign, models of scaled data would seem better."""
    rows = some_rows()[20:].double()
    scaling = Scaling.fit(rows, kind)
    scaled = scaling.transform(rows)
    mean, sd = scaled.mean(0).numpy(), scaled.std(0).numpy()
    original = stats.norm.logpdf(rows, scaling.inverse(scaled.mean(0)), sd * np.array(scaling.divisor)).sum(1)
    expected = stats.norm.logpdf(scaled, mean, sd).sum(1) - scaling.log_jacobian
    np.testing.assert_allclose(original, expected, rtol=1e-9)


def test_missing_entries_have_no_density() -> None:
    """A row's log-density is that of its observed entries, and so is its Jacobian."""
    rows = torch.tensor([[1.0, 10.0], [3.0, NAN], [NAN, NAN], [NAN, 50.0]])
    scaling = Scaling.fit(rows, "unit")
    expected = [math.log(2) + math.log(40), math.log(2), 0.0, math.log(40)]
    assert scaling.row_log_jacobian(rows).tolist() == pytest.approx(expected)
    assert scaling.row_log_jacobian(rows)[0].item() == pytest.approx(scaling.log_jacobian)


@pytest.mark.parametrize("kind", KINDS)
def test_json_keeps_every_bit(kind: Any) -> None:
    """A saved model must see the very numbers it was trained on."""
    scaling = Scaling.fit(some_rows() / 3, kind)
    assert Scaling.from_config(json.loads(json.dumps(scaling.to_config()))) == scaling


def test_leading_dimensions_are_draws() -> None:
    """Predictions come as (draws, rows, features)."""
    rows = some_rows()
    scaling = Scaling.fit(rows, "standard")
    draws = torch.randn(5, 3, 4)
    assert torch.equal(scaling.inverse(draws)[2], scaling.inverse(draws[2]))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, ["'shift'"]),
        ({"kind": "unit", "shift": None, "divisor": [1.0]}, ["'shift'"]),
        ({"kind": "unit", "shift": ["a"], "divisor": [1.0]}, ["lists of numbers"]),
        ({"kind": "robust", "shift": [0.0], "divisor": [1.0]}, ["'robust'", "none, standard, unit"]),
        ({"kind": "unit", "shift": [0.0], "divisor": [1.0, 1.0]}, ["1 shift", "2 divisors"]),
        ({"kind": "unit", "shift": [], "divisor": []}, ["0 shifts"]),
        ({"kind": "unit", "shift": [0.0], "divisor": [0.0]}, ["positive"]),
        ({"kind": "unit", "shift": [NAN], "divisor": [1.0]}, ["finite"]),
    ],
)
def test_damaged_config(config: dict[str, Any], words: list[str]) -> None:
    """A config comes from a file that anyone may have edited."""
    with pytest.raises(DataError) as caught:
        Scaling.from_config(config)
    assert [word for word in words if word not in str(caught.value)] == []


def test_what_cannot_be_scaled() -> None:
    """Rows of another width belong to other data."""
    with pytest.raises(DataError, match=r"'max'.*none, standard, unit"):
        Scaling.fit(some_rows(), "max")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least 2 rows"):
        Scaling.fit(torch.zeros(1, 2), "unit")
    with pytest.raises(DataError, match=r"\(3, 5\).*\(\.\.\., 4\)"):
        Scaling.fit(some_rows(), "unit").transform(torch.zeros(3, 5))
    with pytest.raises(DataError, match="int64"):
        Scaling.fit(some_rows(), "unit").inverse(torch.zeros(3, 4, dtype=torch.int64))
