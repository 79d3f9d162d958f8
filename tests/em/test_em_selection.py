"""Choosing the number of latent dimensions and of components."""

import warnings

import numpy as np
import pytest

from pyro_lvm.em import PPCA, FactorAnalysis, MixturePPCA, SelectionCurve, select
from pyro_lvm.errors import DataError


@pytest.fixture(scope="module")
def three_dimensional():
    rng = np.random.default_rng(0)
    return rng.normal(size=(300, 3)) @ (1.5 * rng.normal(size=(3, 9))) + rng.normal(size=(300, 9))


@pytest.mark.parametrize("criterion", ["evidence", "bic", "laplace"])
def test_every_criterion_finds_the_planted_number(criterion, three_dimensional):
    """Else the curve is measured on other data, other candidates, or read the wrong way round."""
    curve = select(PPCA(random_state=0), three_dimensional, [1, 2, 3, 6, 8], criterion=criterion)
    assert curve.best == 3
    frame = curve.to_frame()
    assert list(frame.columns) == ["n_components", "score", "standard_error"]
    assert list(frame["n_components"]) == [1, 2, 3, 6, 8]
    assert (frame["standard_error"] > 0).all() == (criterion == "evidence")


def test_imputation_error_falls_up_to_the_planted_number(three_dimensional):
    """Else held-out entries aren't hidden: then more dimensions would always fill them in better."""
    curve = select(PPCA(random_state=0), three_dimensional, [1, 2, 3, 6, 8], criterion="imputation")
    errors, at_best = np.array(curve.scores), curve.candidates.index(curve.best)
    assert errors[0] > 1.1 * errors[1] > 1.1**2 * errors[2]
    assert errors[2] < errors[at_best] + curve.standard_errors[at_best]
    assert (errors[3:] > 0.97 * errors[2]).all()


def test_holes_are_no_obstacle(three_dimensional):
    """Else missing entries count as hidden ones, or the criteria refuse them."""
    holes = np.where(np.random.default_rng(1).random(three_dimensional.shape) < 0.2, np.nan, three_dimensional)
    for criterion in ("evidence", "imputation"):
        curve = select(PPCA(random_state=0), holes, [1, 3, 7], criterion=criterion, n_folds=3)
        assert curve.best == 3


def test_imputation_error_is_in_units_of_variance(three_dimensional):
    """Else features on a large scale decide alone: 1 is the error of the mean, 0 that of the truth."""
    units = 10.0 ** np.arange(9)
    plain = select(FactorAnalysis(random_state=0), three_dimensional, [1, 3], criterion="imputation")
    scaled = select(FactorAnalysis(random_state=0), three_dimensional * units, [1, 3], criterion="imputation")
    np.testing.assert_allclose(scaled.scores, plain.scores, rtol=1e-3)
    assert 0.1 < plain.scores[1] < plain.scores[0] < 1


def test_bic_counts_the_free_parameters(three_dimensional):
    """Else the penalty isn't that of the model: rotations aren't parameters, noise variances and weights are."""
    x = three_dimensional
    num_rows, data_dim = x.shape
    for model, count in [
        (PPCA(3), 3 * 9 - 3 + 9 + 1),
        (FactorAnalysis(3, random_state=0), 3 * 9 - 3 + 9 + 9),
        (MixturePPCA(2, 3, random_state=0), 2 * (3 * 9 - 3 + 9 + 1) + 1),
    ]:
        fitted = model.fit(x)
        curve = select(model, x, [3], criterion="bic")
        expected = -2 * fitted.score(x) * num_rows + count * np.log(num_rows)
        assert curve.scores[0] == pytest.approx(expected, rel=1e-6)
    assert data_dim == 9


def test_number_of_mixture_components():
    """Else select is for latent dimensions only."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(80, 4)) + 8 * centre for centre in rng.normal(size=(3, 4))])
    for criterion in ("evidence", "bic"):
        curve = select(
            MixturePPCA(n_components=1, random_state=0), x, [1, 2, 3], parameter="n_mixtures", criterion=criterion
        )
        assert curve.best == 3
        assert curve.parameter == "n_mixtures"


def test_ties_go_to_the_smaller_candidate():
    """Else equal evidence buys dimensions."""
    assert SelectionCurve("n_components", "evidence", (3, 1, 2), (1.0, 1.0, 0.0), (0.0,) * 3, True).best == 1
    assert SelectionCurve("n_components", "bic", (3, 1, 2), (1.0, 1.0, 0.0), (0.0,) * 3, False).best == 2


def test_refuses(three_dimensional):
    """Else a wrong name is ignored, or a criterion is applied to a model that it isn't for."""
    x, rare = three_dimensional, three_dimensional.copy()
    rare[1:, 3] = np.nan
    for arguments, message in [
        ({"candidates": []}, r"candidates=\(\): expected whole numbers, at least one"),
        ({"candidates": [1, 2.5]}, r"candidates=\(1, 2.5\): expected whole numbers"),
        ({"criterion": "aic"}, "criterion='aic': expected 'evidence', 'imputation', 'bic' or 'laplace'"),
        ({"parameter": "n_mixtures"}, "PPCA has no parameter 'n_mixtures'"),
        ({"n_folds": 1}, "n_folds=1 and hidden_share=0.1 for 300 rows"),
        ({"criterion": "laplace", "candidates": [9]}, "expected numbers from 1 to 8 for n_components"),
        ({"X": rare, "random_state": 1}, "feature '3' of X: all observed entries are in rows of one of 5 folds"),
        ({"X": x[:9], "criterion": "imputation", "hidden_share": 1e-6}, "no entry is hidden in a fold of 2 rows"),
        ({"X": iter([x])}, "X isn't in memory"),
        ({"criterion": "laplace", "X": np.where(x > 5, np.nan, x)}, "criterion='laplace' is for PPCA of complete rows"),
        ({"criterion": "laplace", "estimator": FactorAnalysis()}, "criterion='laplace' is for PPCA"),
    ]:
        with pytest.raises(DataError, match=message):
            select(**{"estimator": PPCA(), "X": x, "candidates": [1], **arguments})


def test_many_fits_that_warn_are_one_warning():
    """A curve over ten candidates in five folds would print the same line fifty times."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(60, 1)), 3, 1) + [[0.0, 0.0, 1.0]] * rng.normal(size=(60, 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        select(FactorAnalysis(random_state=0), x, [1, 2])
    assert len(caught) == 1
    assert "fits with n_components=1, 2, the first of them: features '0', '1'" in str(caught[0].message)
