"""Whether a model describes the data: replicates, predictive checks, predictions, and their exchange with ArviZ."""

from pyro_lvm.predictive.checks import check
from pyro_lvm.predictive.drawing import Prediction, posterior_predictive, predict, prior_predictive
from pyro_lvm.predictive.exchange import loo, to_arviz
from pyro_lvm.predictive.refitting import Refit
from pyro_lvm.predictive.replicating import Draws, Replication, observed_rows, replicate
from pyro_lvm.predictive.results import PredictiveCheck, StatisticCheck
from pyro_lvm.predictive.statistics import DEFAULT_STATISTICS, STATISTICS, Statistic
from pyro_lvm.predictive.weights import RowWeights, log_likelihood, resample, row_weights

__all__ = [
    "DEFAULT_STATISTICS",
    "STATISTICS",
    "Draws",
    "Prediction",
    "PredictiveCheck",
    "Refit",
    "Replication",
    "RowWeights",
    "Statistic",
    "StatisticCheck",
    "check",
    "log_likelihood",
    "loo",
    "observed_rows",
    "posterior_predictive",
    "predict",
    "prior_predictive",
    "replicate",
    "resample",
    "row_weights",
    "to_arviz",
]
