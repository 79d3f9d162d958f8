"""Rows in any form: arrays, frames, sparse matrices, memory maps, iterables and iterators of batches."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from torch.utils.data import DataLoader, TensorDataset

from pyro_lvm.data import as_rows, stream
from pyro_lvm.em import PPCA, FactorAnalysis, MixturePPCA
from pyro_lvm.em.moments import equivalent_rows, moments_of, sum_moments
from pyro_lvm.em.table import read_table
from pyro_lvm.errors import DataError
from pyro_lvm.linear_gaussian import maximum_likelihood, maximum_likelihood_of_covariance

NAN = math.nan

ESTIMATORS = [
    PPCA(2, random_state=0),
    PPCA(2, method="em", random_state=0),
    FactorAnalysis(2, n_init=4, random_state=0),
    MixturePPCA(2, 1, random_state=0),
]


class Batches:
    """Starts anew whenever it is iterated."""

    def __init__(self, x, sizes):
        self.parts = np.split(x, np.cumsum(sizes))

    def __iter__(self):
        return iter(self.parts)


def forms(x, folder):
    """The same rows in all forms that fit() takes."""
    path = folder / "x.npy"
    np.save(path, x)
    yield "list of batches", np.split(x, [10, 60])
    yield "tuple of tensors", tuple(torch.from_numpy(x).split(33))
    yield "iterable", Batches(x, [20, 1, 50])
    yield "generator", (part for part in np.split(x, [20, 21, 71]))
    yield "memory map", np.load(path, mmap_mode="r")
    yield "tensor", torch.from_numpy(x)
    yield "frame", pd.DataFrame(x, columns=[f"c{j}" for j in range(x.shape[1])])
    yield "loader", DataLoader(TensorDataset(torch.from_numpy(x)), batch_size=30)
    if not np.isnan(x).any():
        yield "sparse", scipy.sparse.csr_array(x)
    else:
        yield "masked", np.ma.masked_invalid(x)


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize(
    "model", ESTIMATORS, ids=lambda model: f"{type(model).__name__}-{getattr(model, 'method', '')}"
)
def test_every_form_of_the_same_rows_gives_the_same_fit(model, missing, planted, tmp_path, monkeypatch):
    """Else what is read in batches is fitted, scored or filled in differently from the same rows in memory."""
    monkeypatch.setattr("pyro_lvm.em.table._BATCH", 6 * 25)
    x = planted(110, 6, 2, missing=missing)
    x[:40] += 6
    whole = clone(model).fit(x)
    for name, form in forms(x, tmp_path):
        other = clone(model).fit(form)
        assert other.score(x) == pytest.approx(whole.score(x), abs=1e-6), name
        assert other.log_likelihood_path_[-1] == pytest.approx(other.score(x), abs=1e-9), name
        if name == "generator":
            continue
        if name == "memory map":
            form = np.load(tmp_path / "x.npy", mmap_mode="r")
        np.testing.assert_allclose(other.score_samples(form), other.score_samples(x), atol=1e-9, err_msg=name)
        np.testing.assert_allclose(other.impute(form), other.impute(x), atol=1e-9, err_msg=name)
        np.testing.assert_allclose(other.posterior(form).covariance, other.posterior(x).covariance, atol=1e-9)


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "float16", "float32", "bool", object])
def test_every_number_type_is_read_exactly(dtype):
    """Else integers wrap around, or half precision is what the fit is computed in."""
    x = np.random.default_rng(0).integers(0, 2, (60, 5)) * 100
    model, exact = PPCA(1).fit(x.astype(dtype)), PPCA(1).fit(x.astype(dtype).astype(float))
    np.testing.assert_array_equal(model.loadings_, exact.loadings_)
    assert model.loadings_.dtype == model.transform(x.astype(dtype)).dtype == np.float64


def test_the_package_s_own_data(planted, tmp_path):
    """Else a Dataset, or a RowStream of a file that doesn't fit in memory, can't be fitted to."""
    x = planted(200, 4, 1, missing=0.1).astype(np.float32)
    model = PPCA(1, random_state=0).fit(as_rows(pd.DataFrame(x, columns=list("abcd"))))
    assert list(model.feature_names_in_) == list("abcd")
    np.save(tmp_path / "x.npy", x)
    rows = stream(tmp_path / "x.npy", 32, seed=0)
    streamed = PPCA(1, random_state=0).fit(rows)
    np.testing.assert_allclose(streamed.get_covariance(), model.get_covariance(), atol=1e-4)


def test_a_memory_map_is_never_read_whole(tmp_path, monkeypatch):
    """Else N is bounded by memory and not by the disk."""
    monkeypatch.setattr("pyro_lvm.em.table._BATCH", 400)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(1000, 4)))
    table = read_table(PPCA(), np.load(tmp_path / "x.npy", mmap_mode="r"), reset=True)
    assert table.whole is None
    assert [len(batch) for batch in table.batches()] == [100] * 10
    generator = (np.ones((300, 4)) * k for k in range(3))
    table = read_table(PPCA(), generator, reset=True)
    assert table.whole is None
    assert [len(batch) for batch in table.batches()] == [100] * 9
    assert len(list(table.batches())) == 9, "it can be read only once"


def ragged():
    yield np.ones((5, 4))
    yield np.ones((5, 3))


REFUSED = [
    (ragged(), "batch 1 of X has 3 features and those before it 4: expected the same columns in every batch"),
    ([np.ones((5, 4)), np.ones((5, 3))], "batch 1 of X has 3 features and those before it 4"),
    (iter([]), "X has no rows: expected a batch at least; the iterator is used up"),
    (Batches(np.ones((0, 3)), []), "X has no rows: expected a batch at least; an iterable must start anew"),
    (
        [pd.DataFrame({"a": [1.0], "b": [2.0]}), pd.DataFrame({"b": [2.0], "a": [1.0]})],
        "batch 1 of X has a column 'b' where those before it have 'a': expected the same columns in the same order",
    ),
    (np.eye(4) * 1e200, r"features '0', '1', '2', '3' of X: the squares of entries .* are beyond float64"),
    (np.eye(4) * 1e-200, r"features '0', '1', '2', '3' of X: the squares of entries .* are beyond float64"),
    (iter([np.array([[1.0, math.inf]])]), "Input batch 0 of X contains infinity"),
    (np.ones((5, 4)) * 1j, "Complex data not supported"),
    (np.ones(5), "Expected 2D array, got 1D array instead"),
]


@pytest.mark.parametrize(("data", "message"), REFUSED)
def test_refuses(data, message):
    """Else batches that don't fit together, or no numbers at all, are fitted to."""
    with pytest.raises((ValueError, TypeError), match=message):
        PPCA(1).fit(data)


class Once:
    """Pretends to start anew whenever it is iterated, and doesn't."""

    def __init__(self, parts):
        self.parts = iter(parts)

    def __iter__(self):
        return self.parts


def test_what_can_be_iterated_only_once_is_read_whole_or_refused(planted):
    """Else the batch that was looked at first is missing from the fit, and nobody hears of it."""
    x, holes = planted(60, 5, 1), planted(60, 5, 1, missing=0.2)
    assert PPCA(1).fit(Once(np.split(x, 3))).score(x) == pytest.approx(PPCA(1).fit(x).score(x), abs=1e-9)
    with pytest.raises(DataError, match="X gave 60 rows when it was iterated first, and 0 later: expected the same"):
        PPCA(1).fit(Once(np.split(holes, 3)))


@pytest.mark.parametrize("form", [list, iter])
def test_batches_of_a_frame_keep_their_names(form, planted):
    """Else a CSV file read in chunks loses its columns' names, or an empty chunk ends the stream."""
    x = planted(60, 3, 1, missing=0.1)
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    model = PPCA(1, random_state=0).fit(form([frame[:20], frame[20:20], frame[20:]]))
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    assert model.score(frame) == pytest.approx(PPCA(1, random_state=0).fit(x).score(x), abs=1e-8)


def test_missing_values_of_pandas_are_missing(planted):
    """Else a column of objects with pandas' own missing value is refused, or counted as something."""
    x = planted(40, 4, 1, missing=0.2)
    frame = pd.DataFrame(x).astype(object).where(~np.isnan(x), pd.NA)
    model, whole = PPCA(1, random_state=0).fit(frame), PPCA(1, random_state=0).fit(x)
    np.testing.assert_array_equal(model.loadings_, whole.loadings_)


@pytest.mark.parametrize("model", ESTIMATORS, ids=lambda model: type(model).__name__)
def test_both_kinds_of_random_generator(model, planted):
    """Else NumPy's newer generator is refused, or doesn't go on where it was."""
    x = planted(60, 5, 2, missing=0.2)
    fitted = clone(model).set_params(random_state=np.random.default_rng(0)).fit(x)
    first, second = (fitted.impute(x, draws=1) for _ in range(2))
    assert not np.array_equal(first, second)
    given = (fitted.impute(x, draws=1, random_state=np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(*given)


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("model", ESTIMATORS, ids=lambda model: type(model).__name__)
def test_a_batch_may_miss_whole_features_or_be_empty(model, missing, planted):
    """Else a feature must be observed in every batch of a stream, although it was in those before."""
    x = planted(200, 5, 2, missing=missing)
    x[:, 0] += np.where(np.arange(200) % 2, 8, 0)
    rest = planted(50, 5, 2, seed=1)
    rest[:, 3] = NAN
    fitted = clone(model).partial_fit(x).partial_fit(rest)
    covariance = fitted.get_covariance()
    assert np.isfinite(fitted.score(x))
    fitted.partial_fit(np.full((4, 5), NAN))
    np.testing.assert_allclose(fitted.get_covariance(), covariance, rtol=1e-9)


@pytest.mark.parametrize("model", ESTIMATORS, ids=lambda model: type(model).__name__)
def test_a_batch_that_is_refused_changes_nothing(model, planted):
    """Else one corrupt batch turns a long stream's parameters into NaN."""
    x = planted(80, 5, 2, missing=0.2)
    fitted = clone(model).partial_fit(x)
    score = fitted.score(x)
    with pytest.raises(DataError, match=r"the squares of entries .* are beyond float64"):
        fitted.partial_fit(1e200 * x)
    assert fitted.score(x) == score
    assert np.isfinite(fitted.partial_fit(x).score(x))


def test_a_stream_keeps_to_the_closed_form_where_it_was_asked_for(planted):
    """Else method="closed" becomes EM behind one's back."""
    model = PPCA(1, method="closed").partial_fit(planted(40, 4, 1))
    with pytest.raises(DataError, match="method='closed': entries of this batch are missing"):
        model.partial_fit(planted(40, 4, 1, missing=0.2))


@pytest.mark.filterwarnings("ignore:.*fell to its floor")
def test_the_noise_floor_follows_the_stream(planted):
    """Else a feature that is constant in the first batch has a noise variance of its squared magnitude for ever."""
    x = planted(2000, 5, 1, missing=0.1)
    x[:, 2] += 1e6
    x[:50, 2] = 1e6
    model = FactorAnalysis(1, random_state=0)
    for part in np.split(x, 40):
        model.partial_fit(part)
    assert model.noise_variance_[2] < np.nanvar(x[:, 2])
    assert FactorAnalysis(1, random_state=0).fit(x).score(x) - model.score(x) < 0.05


def test_partial_fit_refuses_other_widths(planted):
    """Else a batch of another table is mixed in."""
    model = PPCA(1).partial_fit(planted(20, 4, 1))
    with pytest.raises(ValueError, match="X has 3 features, but PPCA is expecting 4 features as input"):
        model.partial_fit(planted(20, 3, 1))


@pytest.mark.parametrize("model", [PPCA(2, random_state=0), FactorAnalysis(2, random_state=0)])
def test_partial_fit_goes_on_where_entries_begin_to_miss(model, planted):
    """Else the first missing entry ends the stream, throws away the complete rows so far, or leads elsewhere."""
    x = planted(3000, 6, 2, noise=0.3)
    rng = np.random.default_rng(0)
    holes = np.where(rng.random(x.shape) < 0.2, NAN, x)
    holes[:500] = x[:500]
    for part in np.split(holes, 30):
        model.partial_fit(part)
    whole = clone(model).fit(holes)
    assert whole.score(holes) - model.score(holes) < 0.01
    assert model.n_iter_ > 25
    again = pickle.loads(pickle.dumps(model)).partial_fit(holes[:100])
    assert again.n_iter_ == model.n_iter_ + 1


def test_a_stream_with_holes_from_its_first_batch(planted):
    """Else the first batch must be complete."""
    x = planted(2000, 5, 1, missing=0.3)
    model = PPCA(1, random_state=0)
    for part in np.split(x, 20):
        model.partial_fit(part)
    assert PPCA(1, random_state=0).fit(x).score(x) - model.score(x) < 0.02
    with pytest.raises(DataError, match="feature '2' of X: no entry is observed"):
        PPCA(1).partial_fit(np.where(np.arange(5) == 2, NAN, x[:50]))


def test_moments_add_up(planted):
    """Else one pass over batches isn't the mean and covariance of all rows: also far from 0, and with holes."""
    x = planted(70, 5, 2)
    shifted = x + 1e8 * np.arange(5)
    for rows in (x, shifted):
        whole = sum_moments(moments_of(torch.from_numpy(part), scatter=True) for part in np.split(rows, [1, 30]))
        scale = np.cov(x.T, bias=True)
        np.testing.assert_allclose(whole.scatter / 70, np.cov((rows - rows[0]).T, bias=True), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(whole.variances, np.diag(scale), rtol=1e-6)
    holes = np.where(np.random.default_rng(0).random(x.shape) < 0.3, NAN, x)
    holes[5] = NAN
    parts = sum_moments(moments_of(torch.from_numpy(part), scatter=True) for part in np.split(holes, [10, 30]))
    np.testing.assert_allclose(parts.means, np.nanmean(holes, axis=0), rtol=1e-12)
    np.testing.assert_allclose(parts.variances, np.nanvar(holes, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(parts.low, np.nanmin(holes, axis=0))
    np.testing.assert_array_equal(parts.high, np.nanmax(holes, axis=0))
    assert parts.scatter is None
    assert not parts.complete
    assert parts.num_empty == np.isnan(holes).all(1).sum() >= 1


def test_equivalent_rows_have_the_same_moments(planted):
    """Else EM on them isn't EM on the data: mean and 1/N covariance, for a singular covariance too."""
    x = planted(200, 6, 2)
    x[:, 5] = x[:, 0] - x[:, 1]
    unit = torch.from_numpy(x.std(0))
    moments = moments_of(torch.from_numpy(x), scatter=True)
    rows = equivalent_rows(moments, moments.means, unit).numpy() * x.std(0) + x.mean(0)
    assert rows.shape == (7, 6)
    np.testing.assert_allclose(rows.mean(0), x.mean(0), atol=1e-12)
    np.testing.assert_allclose(np.cov(rows.T, bias=True), np.cov(x.T, bias=True), atol=1e-12)


def test_closed_form_of_a_covariance_is_that_of_its_rows(planted):
    """Else a stream's maximum likelihood differs from the rows', or wide data are taken for full rank."""
    for shape in [(200, 6), (10, 30)]:
        x = torch.from_numpy(planted(*shape, 2))
        covariance = torch.from_numpy(np.cov(x.numpy().T, bias=True))
        of_rows, of_covariance = (
            maximum_likelihood(x, 3),
            maximum_likelihood_of_covariance(covariance, x.mean(0), len(x), 3),
        )
        for wanted, got in zip(of_rows, of_covariance, strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-7)
    with pytest.raises(DataError, match="latent_dim is 9 and the centred data have rank 9"):
        maximum_likelihood_of_covariance(covariance, x.mean(0), 10, 9)
