"""How close the default fits of the pairs for factors, holes and mixtures come to EM and to the exact posterior.

    python benchmarks/pairs.py [--seeds 3] [--oil FOLDER] [--quick]

Digits: factor analysis on standardised features that vary; PPCA with 30% and 60% of the entries missing; a mixture of
ten PPCAs; Bayesian PCA with 60 columns offered, against the best PPCA of a sweep on the same held-out rows. Planted
data: Bayesian PCA with 5 directions among 20 columns offered. ``--oil`` names the folder of the oil-flow files. Gap:
nats a row below EM's maximum, for a mixture below where EM gets from the same start (negative where training found a
better one).
"""

import argparse
import copy
import platform
from typing import Any

import torch
from torch import Tensor

from pyro_lvm import data, em, fit, grade
from pyro_lvm.guides import MixtureOfExperts, ProductOfExperts, SharedLoadings
from pyro_lvm.models import PPCA, BayesianPCA, FactorAnalysis, MixturePPCA
from pyro_lvm.pair import Pair

ESTIMATORS = ("enumerate", "score", "baseline")


def report(name: str, seed: int, fitted: Any, gap: float, kl: float | None, remark: str = "") -> None:
    shown = "" if kl is None else f"{kl:9.2e}"
    figures = f"{fitted.steps:7d} {fitted.seconds:8.1f} {gap:10.2e} {shown:>9s}"
    print(f"{name:34s} {seed:4d} {figures}  {fitted.stopped}{remark}", flush=True)


def single(name: str, model: Any, x: Tensor, latent_dim: int, seed: int) -> None:
    fitted = fit(model, ProductOfExperts(x.shape[1], latent_dim), x, seed=seed, progress=False)
    graded = grade(fitted.pair, x)
    assert graded.gap is not None
    report(name, seed, fitted, graded.gap, graded.kl_to_exact)


def mixture(name: str, x: Tensor, num_components: int, latent_dim: int, seed: int, estimator: Any) -> None:
    model = MixturePPCA(x.shape[1], latent_dim, num_components)
    guide = MixtureOfExperts(x.shape[1], latent_dim, num_components, estimator)
    Pair(model, guide).start(x, torch.Generator().manual_seed(seed))
    from_here = copy.deepcopy(model).to_estimator().set_params(warm_start=True, max_iter=3000)
    best = from_here.fit(x.double().numpy()).score(x.double().numpy())
    fitted = fit(model, guide, x, seed=seed, progress=False)
    graded = grade(fitted.pair, x)
    assert graded.log_evidence is not None
    alive = int((model.weights.detach() > 0.01).sum())
    remark = f"; {alive} of {num_components} alive, {graded.gap:.1e} below the nearest maximum"
    report(f"{name}, {estimator}", seed, fitted, best - graded.log_evidence, graded.kl_to_exact, remark)


def bayesian(name: str, train: Tensor, held_out: Tensor, latent_dim: int, seed: int, sweep: range) -> None:
    pair = BayesianPCA(train.shape[1], latent_dim), SharedLoadings(train.shape[1], latent_dim)
    fitted = fit(*pair, train, seed=seed, progress=False)
    plug_in = grade(fitted.pair, held_out, train_rows=train).plug_in_evidence
    assert plug_in is not None
    rows = train.double().numpy(), held_out.double().numpy()
    best = max(em.PPCA(d).fit(rows[0]).score(rows[1]) for d in sweep)
    report(name, seed, fitted, best - plug_in, None, f"; {int(pair[1].kept.sum())} of {latent_dim} columns kept")


def planted(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(5, 30, generator=generator)
    return torch.randn(800, 5, generator=generator) @ w + 0.7 * torch.randn(800, 30, generator=generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--oil", help="folder of the oil-flow files")
    parser.add_argument("--quick", action="store_true", help="leave out the mixtures on digits")
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(f"{'pair':34s} {'seed':>4s} {'steps':>7s} {'seconds':>8s} {'gap':>10s} {'KL':>9s}  stopped")
    digits = data.load("digits").rows
    varying = digits[:, digits.std(0) > 0]
    standard = (varying - varying.mean(0)) / varying.std(0, correction=0)
    for seed in range(given.seeds):
        single("factor analysis, d = 8", FactorAnalysis(61, 8), standard, 8, seed)
        for missing in (0.3, 0.6):
            holes = torch.rand(digits.shape, generator=torch.Generator().manual_seed(5)) < missing
            single(f"PPCA, {missing:.0%} missing, d = 8", PPCA(64, 8), digits.masked_fill(holes, torch.nan), 8, seed)
        x = planted(seed)
        bayesian("Bayesian PCA, planted", x[:500], x[500:], 20, seed, range(5, 6))
        order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
        bayesian("Bayesian PCA, digits", digits[order[:1400]], digits[order[1400:]], 60, seed, range(2, 62, 2))
        for estimator in ESTIMATORS:
            if given.oil is not None:
                mixture("oil, K = 5, d = 2", data.load("oil-flow", root=given.oil).rows, 5, 2, seed, estimator)
            if not given.quick:
                mixture("digits, K = 10, d = 4", digits, 10, 4, seed, estimator)


if __name__ == "__main__":
    main()
