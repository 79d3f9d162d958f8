"""How close the default fits of the pairs for factors, holes and mixtures come to EM and to the exact posterior.

    python benchmarks/pairs.py [--seeds 3] [--oil FOLDER] [--only TEXT]

Digits: factor analysis on standardised features that vary; PPCA with 30% and 60% of the entries missing; a mixture of
ten PPCAs from the pair's own start; Bayesian PCA, offered a column less than the data's rank. Planted data: Bayesian
PCA with 5 directions among 20 columns offered. ``--oil`` names the folder of the oil-flow files, whose mixtures go on
from one k-means start and one step of EM, as the pair's own start is already at a maximum there; ``--only`` rows whose
name contains a text.

Gap: nats a row below EM's maximum, for a mixture below where EM gets from the same start (negative where training found
a better one); then how far below the maximum that EM reaches from the trained model, and how far above the median of
five fits of EM with starts of their own. Of Bayesian PCA, averaged over its loadings: on held-out rows below the PPCA
that is best of a sweep on validation rows, fitted again to all rows of the training.
"""

import argparse
import copy
import functools
import platform
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from pyro_lvm import data, em, fit, grade
from pyro_lvm.guides import MixtureOfExperts, ProductOfExperts, SharedLoadings
from pyro_lvm.models import PPCA, BayesianPCA, FactorAnalysis, MixturePPCA
from pyro_lvm.pair import Pair

ESTIMATORS = ("enumerate", "score", "baseline")
# Of the mixtures: components and latents.
SIZES = {"oil": (5, 2), "digits": (10, 4)}
DATASETS: dict[str, Tensor] = {}


def report(name: str, seed: int, fitted: Any, gap: float, kl: float | None, remark: str = "") -> None:
    shown = "" if kl is None else f"{kl:9.2e}"
    figures = f"{fitted.steps:7d} {fitted.seconds:8.1f} {gap:10.2e} {shown:>9s}"
    print(f"{name:34s} {seed:4d} {figures}  {fitted.stopped}{remark}", flush=True)


def single(name: str, model: Any, x: Tensor, latent_dim: int, seed: int) -> None:
    fitted = fit(model, ProductOfExperts(x.shape[1], latent_dim), x, seed=seed, progress=False)
    graded = grade(fitted.pair, x)
    assert graded.gap is not None
    report(name, seed, fitted, graded.gap, graded.kl_to_exact)


@functools.cache
def restarts(dataset: str, num_components: int, latent_dim: int) -> float:
    """Median evidence of EM from five starts, nats a row."""
    x = DATASETS[dataset].double().numpy()
    fits = [em.MixturePPCA(num_components, latent_dim, n_init=1, random_state=seed).fit(x) for seed in range(5)]
    return statistics.median(float(fitted.score(x)) for fitted in fits)


def mixture(dataset: str, num_components: int, latent_dim: int, seed: int, estimator: Any) -> None:
    x = DATASETS[dataset]
    if dataset == "oil":
        barely = em.MixturePPCA(num_components, latent_dim, n_init=1, max_iter=1, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = MixturePPCA.from_estimator(barely.fit(x.double().numpy()))
    else:
        model = MixturePPCA(x.shape[1], latent_dim, num_components)
    guide = MixtureOfExperts(x.shape[1], latent_dim, num_components, estimator)
    Pair(model, guide).start(x, torch.Generator().manual_seed(seed))
    from_here = copy.deepcopy(model).to_estimator().set_params(warm_start=True, max_iter=3000)
    best = from_here.fit(x.double().numpy()).score(x.double().numpy())
    fitted = fit(model, guide, x, seed=seed, progress=False)
    graded = grade(fitted.pair, x)
    assert graded.log_evidence is not None
    alive = int((model.weights.detach() > 0.01).sum())
    above = graded.log_evidence - restarts(dataset, num_components, latent_dim)
    remark = (
        f"; {alive} of {num_components} alive, {graded.gap:.1e} below the nearest maximum, {above:+.2f} to restarts"
    )
    name = f"{dataset}, K = {num_components}, d = {latent_dim}, {estimator}"
    report(name, seed, fitted, best - graded.log_evidence, graded.kl_to_exact, remark)


def bayesian(name: str, train: Tensor, held_out: Tensor, latent_dim: int, seed: int, sweep: range) -> None:
    pair = BayesianPCA(train.shape[1], latent_dim), SharedLoadings(train.shape[1], latent_dim)
    fitted = fit(*pair, train, seed=seed, progress=False)
    graded = grade(fitted.pair, held_out, train_rows=train)
    assert graded.predictive_evidence is not None
    assert graded.plug_in_evidence is not None
    rows, unseen = train.double().numpy(), held_out.double().numpy()
    # What a person without Bayesian PCA does: choose on a part of the training rows, then fit to all of them.
    part, validation = np.split(rows, [4 * len(rows) // 5])
    chosen = max(sweep, key=lambda d: em.PPCA(d).fit(part).score(validation))
    by_validation = em.PPCA(chosen).fit(rows).score(unseen)
    looking = max(em.PPCA(d).fit(rows).score(unseen) for d in sweep)
    remark = (
        f"; with the loadings at their means {by_validation - graded.plug_in_evidence:.1e}; PPCA has d = {chosen}, and "
        f"{looking - by_validation:.1e} more if chosen by looking at these rows; {int(pair[1].kept.sum())} of "
        f"{latent_dim} columns kept"
    )
    report(name, seed, fitted, by_validation - graded.predictive_evidence, None, remark)


def planted(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(5, 30, generator=generator)
    return torch.randn(800, 5, generator=generator) @ w + 0.7 * torch.randn(800, 30, generator=generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--oil", help="folder of the oil-flow files")
    parser.add_argument("--only", default="", help="rows of the table whose name contains this text")
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(f"{'pair':34s} {'seed':>4s} {'steps':>7s} {'seconds':>8s} {'gap':>10s} {'KL':>9s}  stopped")
    digits = DATASETS["digits"] = data.load("digits").rows
    if given.oil is not None:
        DATASETS["oil"] = data.load("oil-flow", root=given.oil).rows
    varying = digits[:, digits.std(0) > 0]
    standard = (varying - varying.mean(0)) / varying.std(0, correction=0)

    def factors(seed: int) -> None:
        single("factor analysis, d = 8", FactorAnalysis(61, 8), standard, 8, seed)

    def holes(share: float, seed: int) -> None:
        missing = torch.rand(digits.shape, generator=torch.Generator().manual_seed(5)) < share
        single(f"PPCA, {share:.0%} missing, d = 8", PPCA(64, 8), digits.masked_fill(missing, torch.nan), 8, seed)

    def columns_planted(seed: int) -> None:
        x = planted(seed)
        bayesian("Bayesian PCA, planted", x[:500], x[500:], 20, seed, range(5, 6))

    def columns_of_digits(seed: int) -> None:
        order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
        train = digits[order[:1400]]
        # From the rank on nothing is left for noise, and the likelihood has no bound; nor in what a sweep sees.
        seen = train[: 4 * len(train) // 5].double()
        rank = int(torch.linalg.matrix_rank(seen - seen.mean(0)))
        bayesian("Bayesian PCA, digits", train, digits[order[1400:]], rank - 1, seed, range(2, rank))

    rows: dict[str, Callable[..., None]] = {
        "factor analysis": factors,
        "PPCA, 30% missing": functools.partial(holes, 0.3),
        "PPCA, 60% missing": functools.partial(holes, 0.6),
        "Bayesian PCA, planted": columns_planted,
        "Bayesian PCA, digits": columns_of_digits,
    }
    for dataset, sizes in SIZES.items():
        if dataset in DATASETS:
            for estimator in ESTIMATORS:
                row = functools.partial(mixture, dataset, *sizes, estimator=estimator)
                rows[f"mixture, {dataset}, {estimator}"] = row
    for name, run in rows.items():
        for seed in range(given.seeds) if given.only in name else ():
            run(seed=seed)


if __name__ == "__main__":
    main()
