"""The estimators keep scikit-learn's contract: its whole public suite, with no check left out."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from pyro_lvm.em import PPCA, FactorAnalysis, MixturePPCA


@parametrize_with_checks([PPCA(), PPCA(1, method="em"), FactorAnalysis(), MixturePPCA()])
def test_scikit_learn_check(estimator, check):
    """Else pipelines, searches, cloning, pickling or error messages differ from every other estimator's."""
    check(estimator)
