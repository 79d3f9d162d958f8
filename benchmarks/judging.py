"""Of guides that are wrong in known ways, how many are found to be; and of exact ones, how many are taken for wrong.

    python benchmarks/judging.py [--seeds 20] [--simulations 1000] [--budget quick|full] [--guides TEXT ...]

Each seed makes a problem of its own: a PPCA or a factor analysis of 2 to 8 latents, or a mixture of 2 to 4 PPCAs whose
components overlap. Its guide is the exact posterior, then spoilt in one way. What finds it is simulation alone: no
closed form is used (``calibrate``; with ``--budget`` all of ``judge``, where a line about the posterior counts that is
``bad``, and calibration at any size that its tests find).
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
from pyro.distributions import Categorical, MultivariateNormal
from pyro.infer import Trace_ELBO
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pyro_lvm import Pair, data_plate, judge
from pyro_lvm.calibration import calibrate
from pyro_lvm.evidence import simulate
from pyro_lvm.guides import GaussianEncoder, LinearGaussian, MixtureOfExperts
from pyro_lvm.models import PPCA, FactorAnalysis, MixturePPCA

# Rows that an encoder learns by heart, and how long it does.
FEW_ROWS, STEPS = 20, 1500
# Lines of a judgement that are about the guide.
ABOUT_THE_GUIDE = ("posterior", "family", "encoder", "weights", "calibration")


def linear(seed: int) -> tuple[Pair, Tensor]:
    """PPCA or factor analysis with its exact posterior as the guide, and rows of the model's own."""
    torch.manual_seed(seed)
    latent_dim = 2 + seed % 7
    data_dim = latent_dim + 3 + seed % 4
    model = (PPCA if seed % 2 else FactorAnalysis)(data_dim, latent_dim)
    with torch.no_grad():
        # Along one direction they have in common: their posterior is correlated.
        model.relative_loadings.copy_(torch.randn(data_dim, latent_dim) + torch.randn(data_dim, 1))
        model.relative_mean.copy_(torch.randn(data_dim))
        model.relative_noise_scale = 0.5 + torch.rand_like(model.relative_noise_scale)
    guide = LinearGaussian(data_dim, latent_dim)
    pair = Pair(model, guide)
    rows, _ = simulate(pair, torch.zeros(1000, data_dim), seed=seed)
    guide.start(rows, model)
    guide.match(model)
    return pair, rows


def mixture(seed: int) -> tuple[Pair, Tensor]:
    """A mixture with its exact posterior as the guide, and rows of the model's own."""
    torch.manual_seed(seed)
    latent_dim, num_components = 1 + seed % 3, 2 + seed % 3
    data_dim = latent_dim + 3
    model, guide = (kind(data_dim, latent_dim, num_components) for kind in (MixturePPCA, MixtureOfExperts))
    with torch.no_grad():
        model.relative_loadings.copy_(torch.randn(num_components, data_dim, latent_dim))
        model.relative_means.copy_(1.5 * torch.randn(num_components, data_dim))
        model.relative_noise_scales = 0.5 + torch.rand(num_components)
    guide.match(model)
    pair = Pair(model, guide)
    return pair, simulate(pair, torch.zeros(1000, data_dim), seed=seed)[0]


def spread(guide: LinearGaussian) -> Tensor:
    return guide.scale_tril.square().sum(1).sqrt()


def shifted(pair: Pair, x: Tensor) -> Pair:
    pair.guide.offset += 0.5 * spread(pair.guide)
    return pair


def biased(pair: Pair, x: Tensor) -> Pair:
    pair.guide.offset[0] += 0.3 * spread(pair.guide)[0]
    return pair


def narrow(pair: Pair, x: Tensor) -> Pair:
    pair.guide.scale_tril = pair.guide.scale_tril / 2
    return pair


def wide(pair: Pair, x: Tensor) -> Pair:
    pair.guide.scale_tril = pair.guide.scale_tril * 1.5
    return pair


def ignoring(pair: Pair, x: Tensor) -> Pair:
    pair.guide.relative_slope.zero_()
    pair.guide.offset.zero_()
    pair.guide.scale_tril = torch.eye(len(pair.guide.offset))
    return pair


def swapped(pair: Pair, x: Tensor) -> Pair:
    pair.guide.relative_slope[[0, 1]] = pair.guide.relative_slope[[1, 0]].clone()
    return pair


def wrong_sign(pair: Pair, x: Tensor) -> Pair:
    factor = pair.guide.scale_tril
    correlations = factor @ factor.T
    correlations = correlations / spread(pair.guide) / spread(pair.guide)[:, None]
    # Of the coordinate that is correlated most.
    sign = torch.ones(len(factor))
    sign[correlations.square().sum(1).argmax()] = -1
    pair.guide.scale_tril = sign[:, None] * factor * sign
    return pair


def overfitted(pair: Pair, x: Tensor) -> Pair:
    guide = GaussianEncoder(x.shape[1], len(pair.guide.offset), hidden=(64, 64), covariance="full")
    guide.start(x, pair.model)
    optimizer = torch.optim.Adam(guide.parameters(), 3e-3)
    with torch.enable_grad():
        for _ in range(STEPS):
            optimizer.zero_grad()
            Trace_ELBO().differentiable_loss(pair.model, guide, x[:FEW_ROWS]).backward()
            optimizer.step()
    return Pair(pair.model, guide)


def mode_dropping(pair: Pair, x: Tensor) -> Pair:
    pair.guide.log_weights[0] -= 20
    return pair


def wrong_t(pair: Pair, x: Tensor) -> Pair:
    """q(t | x) of two components swapped; q(z | x, t) as it is right for the t that is drawn."""
    right = pair.guide

    def guide(x: Tensor) -> None:
        pyro.module("right", right)
        posterior = right.encode(x)
        loc = torch.stack([own.loc for own in posterior.latents], 1)
        factor = torch.stack([own.scale_tril.expand(len(x), -1, -1) for own in posterior.latents], 1)
        logits = posterior.component.logits
        logits = torch.cat([logits[:, [1, 0]], logits[:, 2:]], 1)
        row = torch.arange(len(x))
        with data_plate(x):
            t = pyro.sample("t", Categorical(logits=logits))
            pyro.sample("z", MultivariateNormal(loc[row, t], scale_tril=factor[row, t]))

    return Pair(pair.model, guide)


@dataclass(frozen=True)
class Case:
    """A way to be wrong, or not, and how many seeds of 20 it must be flagged in."""

    make: Callable[[int], tuple[Pair, Tensor]]
    spoil: Callable[[Pair, Tensor], Pair] = lambda pair, x: pair
    wrong: bool = True


CASES = {
    "shifted by 0.5 sd": Case(linear, shifted),
    "too narrow by 2": Case(linear, narrow),
    "ignores x": Case(linear, ignoring),
    "two coordinates swapped": Case(linear, swapped),
    "too wide by 1.5": Case(linear, wide),
    "wrong covariance sign": Case(linear, wrong_sign),
    "mode dropped (mixture)": Case(mixture, mode_dropping),
    "overfitted encoder": Case(linear, overfitted),
    "wrong t (mixture)": Case(mixture, wrong_t),
    "biased by 0.3 sd, one coordinate": Case(linear, biased),
    "exact (PPCA, factor analysis)": Case(linear, wrong=False),
    "exact (mixture)": Case(mixture, wrong=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="problems of each kind (default: 20)")
    parser.add_argument("--simulations", type=int, default=1000, help="rows that are simulated (default: 1000)")
    parser.add_argument("--budget", choices=["quick", "full"], help="have all of judge decide, with this budget")
    parser.add_argument("--guides", nargs="*", help="those whose names contain one of these texts; else all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title=f"flagged of {options.seeds} seeds")
    for heading in ("guide", "flagged", "wanted", "median p", "s/seed", "what it is called, most often"):
        table.add_column(heading, justify="left" if heading in ("guide", "what it is called, most often") else "right")
    for name, case in CASES.items():
        if options.guides and not any(text in name for text in options.guides):
            continue
        flags, p_values, said = [], [], Counter[str]()
        seconds = 0.0
        for seed in range(options.seeds):
            with torch.no_grad():
                pair, x = case.make(seed)
                pair = case.spoil(pair, x)
            begin = time.perf_counter()
            if options.budget:
                judged = judge(pair, x[:500], x[500:], budget=options.budget, seed=seed, progress=False)
                found = judged.calibration
                lines = [verdict for verdict in judged.verdicts if verdict.name in ABOUT_THE_GUIDE]
                off = found is not None and found.flagged
                flags.append(off or any(verdict.level == "bad" for verdict in lines))
            else:
                found = calibrate(pair, x, options.simulations, seed=seed, progress=False)
                flags.append(found.flagged)
            seconds += time.perf_counter() - begin
            if found is not None:
                p_values.append(found.p_value)
                said.update(found.diagnosis[:1])
        wanted = -(-19 * options.seeds // 20) if case.wrong else options.seeds // 20
        met = sum(flags) >= wanted if case.wrong else sum(flags) <= wanted
        table.add_row(
            name,
            f"{sum(flags)}" if met else f"[red]{sum(flags)}[/red]",
            f"{'≥' if case.wrong else '≤'} {wanted}",
            f"{statistics.median(p_values):.1g}" if p_values else "",
            f"{seconds / options.seeds:.1f}",
            said.most_common(1)[0][0] if said else "",
        )
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
