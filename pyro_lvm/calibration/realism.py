"""How far real rows are from those that a model makes, on which its guide was tested."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from scipy.stats import ks_2samp, mannwhitneyu
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from pyro_lvm.calibration.bands import Array
from pyro_lvm.calibration.simulating import Simulator, check_counts
from pyro_lvm.checking.sites import samples
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.evidence.observing import rows_first
from pyro_lvm.evidence.placing import quiet
from pyro_lvm.evidence.weights import chunk_limit
from pyro_lvm.pair import Pair
from pyro_lvm.progress import Reporter
from pyro_lvm.seeding import derived_seed, seeded

# From fewer rows nothing can be told; from fewer simulated ones none is as rare as 1 in 100; folds of the
# cross-validation.
_LEAST_ROWS, _LEAST_SIMULATIONS, _FOLDS = 20, 100, 5
# The guide's draws that are averaged where one depends on another.
_DRAWS = 16
# A row is outlying where so few of the model's own are as far out.
_OUTLYING = 0.01
# Trees, of which more change little where rows are this few.
_TREES = 60
# Up to these AUCs of the summaries, and shares of outlying rows, real rows are called like the model's own, or alike.
_LIKE, _ALIKE = (0.6, 0.03), (0.8, 0.1)
# Standard errors that the AUC can be off by.
_ERRORS = 2.0


@dataclass(frozen=True)
class TwoSample:
    """How well a classifier tells real rows from simulated ones that it wasn't trained on.

    Attributes:
        auc: Probability that it finds a real row more real than a simulated one; 1/2 where there is no telling.
        auc_error: Its standard error.
        accuracy: Share of rows that it tells rightly, of both kinds as much.
        accuracy_error: Its standard error.
        p_value: That it does so well by chance.
    """

    auc: float
    auc_error: float
    accuracy: float
    accuracy_error: float
    p_value: float

    def to_json(self) -> dict[str, float]:
        """The figures as plain JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class Realism:
    """Real rows among those of the model's own.

    Attributes:
        distances: Mahalanobis distance of the guide's summary of each real row from those of simulated rows, (rows,).
        row_p_values: Share of simulated rows that are as far out, (rows,).
        distance_p_value: That real and simulated rows are as far out, by Kolmogorov and Smirnov's test.
        rows: A classifier's telling of the rows themselves.
        summaries: Of the guide's summaries of them: what its posterior makes of the row.
        num_simulations: Simulated rows.
    """

    distances: Array
    row_p_values: Array
    distance_p_value: float
    rows: TwoSample
    summaries: TwoSample
    num_simulations: int

    @property
    def outlying(self) -> float:
        """Share of real rows that are farther out than 99 in 100 of the model's own."""
        return float((self.row_p_values <= _OUTLYING).mean())

    @property
    def told(self) -> bool:
        """Whether real rows can be told from the model's own, by any of the tests, at the level 0.01."""
        return 3 * min(self.distance_p_value, self.rows.p_value, self.summaries.p_value) < 0.01

    @property
    def carries_over(self) -> bool | None:
        """Whether what holds on simulated rows can be expected of the real ones; None where in part, or not known.

        It is the guide's summaries that count: what its network makes of a row. Rows that aren't told from the model's
        own are like them only if they are enough to have been told.
        """
        auc, outlying = self.summaries.auc, self.outlying
        alike = outlying <= _ALIKE[1]
        if not self.told:
            return True if alike and auc + _ERRORS * self.summaries.auc_error <= _ALIKE[0] else None
        if auc <= _LIKE[0] and outlying <= _LIKE[1]:
            return True
        return None if alike and auc <= _ALIKE[0] else False

    @property
    def sentence(self) -> str:
        """What it comes to."""
        figures = (
            f"a classifier tells the guide's summaries of real rows from those of simulated ones with AUC "
            f"{self.summaries.auc:.2f} (rows: {self.rows.auc:.2f}), and {self.outlying:.1%} of real rows lie farther "
            "out than 99% of simulated ones"
        )
        verdict = {
            True: "real rows are like the model's own, so that what was found on simulated rows carries over",
            None: (
                "real rows differ from the model's own: take what was found on simulated rows as an indication"
                if self.told
                else "too few rows to tell whether real rows are like the model's own"
            ),
            False: "real rows are unlike the model's own: what was found on simulated rows says little of them",
        }[self.carries_over]
        return f"{verdict} ({figures})"

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        return {
            "carries_over": self.carries_over,
            "sentence": self.sentence,
            "outlying": self.outlying,
            "distance_p_value": self.distance_p_value,
            "rows": self.rows.to_json(),
            "summaries": self.summaries.to_json(),
            "num_rows": len(self.distances),
            "num_simulations": self.num_simulations,
        }


def realism(pair: Pair, x: Tensor, *, simulations: int = 1000, seed: int = 0, progress: bool = True) -> Realism:
    """Ask how far real rows are from those that the model makes.

    Calibration on simulated rows says how good the guide is there. Of real rows it says so only as far as these are
    like them: a network can be right on what it has seen, and wrong beside it. Two tests compare real rows with as many
    simulated ones, which lack entries as they do: the Mahalanobis distance of the guide's summary of a row, its
    posterior mean, from those of simulated rows; and a classifier (gradient-boosted trees, cross-validated), which is
    given rows, and then summaries. A classifier's p-value is that of the Mann-Whitney test on each fold, which its
    training hasn't seen, put together by e times their geometric mean, which no dependence of the folds can make too
    small.

    Args:
        pair: As for :func:`calibrate`.
        x: Real rows, shape (rows, ...), NaN where missing; 20 at least.
        simulations: Simulated rows, and real ones at most, that the classifier is given; 100 at least.
        seed: Of everything random; the caller's random state is left as it was.
        progress: Show how far it is.

    Returns:
        The tests and what they mean.

    Raises:
        DataError: There are fewer than 20 rows, or too few simulations.
        PairError: As for :func:`calibrate`.

    Sources: Lopez-Paz & Oquab 2017, "Revisiting classifier two-sample tests", ICLR; Vovk & Wang 2020, "Combining
    p-values via averaging", Biometrika 107; Schmitt et al. 2023, "Detecting model misspecification in amortized
    Bayesian inference with neural networks".
    """
    check_counts(simulations=(simulations, _LEAST_SIMULATIONS))
    if len(x) < _LEAST_ROWS:
        raise DataError(f"{len(x)} rows: expected {_LEAST_ROWS} at least, to compare with those that the model makes")
    simulator = Simulator(pair, x)
    with Reporter("realism", enabled=progress) as reporter:
        # Distances are from one half of the simulated rows, and compared with those of the other.
        made = torch.cat([block.rows for block in simulator.blocks(2 * simulations, derived_seed(seed, 0))])
        simulated, unit = _summaries(pair, made, derived_seed(seed, 1))
        real, _ = _summaries(pair, x, derived_seed(seed, 2))
        reporter.update(1, 3, "summaries")
        # Shrunk: what the guide makes nothing of hardly varies, and is not to decide.
        fitted = LedoitWolf().fit(simulated[:simulations] / unit)
        distances, own = (np.sqrt(fitted.mahalanobis(some / unit)) for some in (real, simulated[simulations:]))
        chosen = np.sort(np.random.default_rng(seed).permutation(len(x))[:simulations])
        on_summaries = tell(real[chosen], simulated[simulations:], seed=seed)
        reporter.update(2, 3, "summaries told apart")
        on_rows = tell(_as_table(x)[chosen], _as_table(made[simulations:]), seed=seed)
    farther = len(own) - np.searchsorted(np.sort(own), distances, side="left")
    return Realism(
        distances,
        (farther + 1) / (len(own) + 1),
        float(ks_2samp(distances, own).pvalue),
        on_rows,
        on_summaries,
        simulations,
    )


def tell(real: Array, simulated: Array, *, seed: int = 0) -> TwoSample:
    """Train a classifier to tell two tables apart, and see how well it does on what it was not trained on.

    Args:
        real: Shape (rows, features), NaN where missing.
        simulated: Likewise.
        seed: Of the folds and the classifier.
    """
    table = np.concatenate([real, simulated])
    label = np.repeat([1, 0], [len(real), len(simulated)])
    score = np.empty(len(table))
    p_values = []
    for train, test in StratifiedKFold(_FOLDS, shuffle=True, random_state=seed).split(table, label):
        trees = HistGradientBoostingClassifier(
            max_iter=_TREES, max_leaf_nodes=8, random_state=seed, early_stopping=False
        )
        # A column that training knows nothing of has no bins, and is to tell nothing.
        known = np.where(np.isnan(table[train]).all(0), 0.0, table)
        score[test] = trees.fit(known[train], label[train]).predict_proba(known[test])[:, 1]
        ours, theirs = score[test][label[test] == 1], score[test][label[test] == 0]
        p_values.append(mannwhitneyu(ours, theirs, alternative="greater").pvalue)
    ours, theirs = score[label == 1], score[label == 0]
    auc = float(mannwhitneyu(ours, theirs).statistic) / (len(ours) * len(theirs))
    # Where there are more of one kind, a score above its share speaks for a row.
    share = len(ours) / len(score)
    right = float(((ours > share).mean() + (theirs <= share).mean()) / 2)
    geometric = math.exp(float(np.mean(np.log(np.maximum(p_values, 1e-300)))))
    return TwoSample(
        auc,
        _auc_error(auc, len(ours), len(theirs)),
        right,
        math.sqrt(right * (1 - right) / 4 * (1 / len(ours) + 1 / len(theirs))),
        min(1.0, math.e * geometric),
    )


def _auc_error(auc: float, ours: int, theirs: int) -> float:
    """Standard error by Hanley & McNeil 1982, "The meaning and use of the area under a ROC curve", Radiology 143."""
    one, two = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    square = auc**2
    variance = auc - square + (ours - 1) * (one - square) + (theirs - 1) * (two - square)
    return math.sqrt(max(variance, 0.0) / (ours * theirs))


def _summaries(pair: Pair, x: Tensor, seed: int) -> tuple[Array, Array]:
    """The guide's mean of each row's latents, shape (rows, dim), and the spread of its draws over all rows, (dim,).

    Of what has a mean by itself, the mean of that over draws of what it depends on; of a discrete latent of few values,
    their probabilities; else the mean of draws.
    """
    means, values = [], []
    with seeded(seed):
        for block in x.split(chunk_limit(x, pair.device)):
            rows = block.to(pair.device)
            with quiet(pair, rows):
                traces: list[Any] = [poutine.trace(pair.run_guide).get_trace(rows) for _ in range(_DRAWS)]
                drawn = [
                    [part for site in samples(own).values() for part in _summary(site, len(rows))] for own in traces
                ]
            if not drawn[0]:
                raise PairError("the guide draws nothing, and so has no summary of a row: expected a latent in it")
            means.append(torch.stack([torch.cat([mean for mean, _ in own], 1) for own in drawn]).mean(0))
            values.append(torch.cat([value for _, value in drawn[0]], 1))
    spread = torch.cat(values).std(0)
    return torch.cat(means).cpu().numpy(), torch.where(spread > 0, spread, 1.0).cpu().numpy()


def _summary(site: Any, num_rows: int) -> list[tuple[Tensor, Tensor]]:
    """Means and draws of a guide's site, shape (rows, dim) each."""
    fn, value = site["fn"], site["value"]
    if fn.support.is_discrete and fn.has_enumerate_support and fn.event_dim == 0:
        every = fn.enumerate_support(expand=False)
        own = [(fn.log_prob(one).exp(), (value == one).double()) for one in every]
    else:
        try:
            mean = fn.mean if bool(fn.mean.isfinite().all()) else value
        except NotImplementedError:
            mean = value
        own = [(mean.expand(value.shape), value)]
    return [
        tuple(rows_first({**site, "value": one}, num_rows).reshape(num_rows, -1).double() for one in both)  # type: ignore[misc]
        for both in own
    ]


def _as_table(x: Tensor) -> Array:
    return x.reshape(len(x), -1).double().cpu().numpy()
