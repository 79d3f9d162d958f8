"""A guide against the truth on rows that its model makes, of latents that are known."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from pyro_lvm.calibration.diagnosing import diagnose
from pyro_lvm.calibration.quantities import Described, Own, Quantities, shares
from pyro_lvm.calibration.ranks import effect, rank, tied_p_value, uniformity_p_value
from pyro_lvm.calibration.results import Calibration, Quantity, holm
from pyro_lvm.calibration.simulating import Block, Simulator, check_counts
from pyro_lvm.pair import Pair
from pyro_lvm.progress import Reporter
from pyro_lvm.seeding import derived_seed

# From fewer, hardly anything can be told.
_LEAST_SIMULATIONS, _LEAST_DRAWS = 20, 9


def calibrate(
    pair: Pair,
    like: Tensor,
    simulations: int = 1000,
    draws: int = 99,
    *,
    quantities: Own | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Calibration:
    r"""Test a guide on rows whose latents are known, because its model made them.

    .. math:: z_n \sim p(z), \qquad x_n \sim p(x \mid z_n), \qquad z_n^1, \dots, z_n^L \sim q(z \mid x_n)

    If q is the posterior, :math:`z_n` is one more draw of it, and the rank of any :math:`f(z_n, x_n)` among the
    :math:`f(z_n^l, x_n)` is uniform on 0 to L. No closed form is needed, and any pair that can be simulated can be
    tested: of any shapes, with discrete latents, several latents, constrained supports and missing entries. A latent
    that the guide leaves to enumeration is drawn from its exact conditional.

    Looked at are each coordinate of the latents (some of very many), sums of them with random signs, which correlations
    show in, their norms, for discrete ones how much the guide believes in their values, log p(x, z), log p(x | z),
    without which a guide that is the prior would pass, log q(z | x), whose ranks are the coverage of regions of highest
    density, the distance to a random point (TARP), and a person's own quantities. p-values are adjusted for their
    number (Holm), so that of guides which are right at most 1 in 100 is flagged.

    What is tested is the posterior of the model as it is, on rows like the model's own: whether real rows are like
    these, :func:`realism` says. A model's parameters count as known, those of its prior too.

    Args:
        pair: Any pair whose latents are a row's own.
        like: Rows, shape (rows, ...), of which shape, type and device matter, and where entries are missing: a
            simulated row lacks what one of them lacks.
        simulations: Rows N.
        draws: The guide's draws L of each.
        quantities: One's own by name, each ``f(latents, x)``, which takes each latent, by site, shape (rows, ...), and
            the rows, and gives a number a row.
        seed: Of everything random; the caller's random state is left as it was.
        progress: Show how far it is.

    Returns:
        Ranks, p-values, effects and what they mean.

    Raises:
        DataError: There are no rows, a count is too small, or a quantity of one's own gives no number a row.
        PairError: The model can't be simulated or shares latents between rows, naming the site; the guide lacks a
            latent, is not amortized, or can't take missing entries; a density is NaN.

    Sources: Talts et al. 2018, "Validating Bayesian inference algorithms with simulation-based calibration"; Modrák et
    al. 2023, "Simulation-based calibration checking for Bayesian computation: the choice of test quantities shapes
    sensitivity", Bayesian Analysis; Säilynoja, Bürkner & Vehtari 2022; Lemos et al. 2023, "Sampling-based accuracy
    testing of posterior estimators for general inference", ICML.
    """
    check_counts(simulations=(simulations, _LEAST_SIMULATIONS), draws=(draws, _LEAST_DRAWS))
    simulator = Simulator(pair, like)
    chosen: Quantities | None = None
    found: list[_Ranked] = []
    done = 0
    with Reporter("calibration", enabled=progress) as reporter:
        for block in simulator.blocks(simulations, seed):
            if chosen is None:
                chosen = Quantities(
                    block.truth, simulator.spread(block), simulator.discrete, quantities or {}, derived_seed(seed)
                )
            found.append(_rank_block(simulator, chosen, block, draws))
            done += len(block.rows)
            reporter.update(done, simulations, "simulations")
    assert chosen is not None
    described = chosen.described + [
        Described(f"confidence of {one.name}", "confidence", one.latent)
        for one in chosen.described
        if one.kind == "discrete"
    ]
    made = _quantities(described, _Ranked.together(found), draws)
    return Calibration(made, simulations, draws, diagnose(made, chosen.sizes), _notes(simulator, chosen), seed)


@dataclass(frozen=True)
class _Ranked:
    """Ranks of rows, and what draws of each row come to, shape (rows, quantities) each.

    Attributes:
        ranks: How many draws are below the truth.
        mean: Of the draws.
        variance: Of the draws.
        truth: The truth.
        ranges: Largest minus smallest, of the draws and the truth.
    """

    ranks: Tensor
    mean: Tensor
    variance: Tensor
    truth: Tensor
    ranges: Tensor

    @staticmethod
    def together(parts: list[_Ranked]) -> _Ranked:
        return _Ranked(*(torch.cat([getattr(part, one.name) for part in parts]) for one in fields(_Ranked)))


def _rank_block(simulator: Simulator, chosen: Quantities, block: Block, draws: int) -> _Ranked:
    reference = _references(simulator, chosen, block) if chosen.continuous else None
    parts = [chosen.measure(block.truth, block.rows, reference)[None]]
    for latents, rows in simulator.draws(block, draws):
        copies = len(rows) // len(block.rows)
        points = None if reference is None else reference.repeat(copies, 1)
        parts.append(chosen.measure(latents, rows, points).unflatten(0, (copies, len(block.rows))))
    values = torch.cat(parts)
    tolerance = chosen.tolerance(values)
    discrete = [place for place, one in enumerate(chosen.described) if one.kind == "discrete"]
    values = torch.cat([values, shares(values[:, :, discrete])], 2)
    tolerance = torch.cat([tolerance, torch.zeros_like(tolerance[:, : len(discrete)])], 1)
    truth, drawn = values[0], values[1:]
    generator = torch.Generator().manual_seed(derived_seed(block.seed, 2))
    return _Ranked(
        rank(truth, drawn, generator, tolerance).cpu(),
        drawn.mean(0).cpu(),
        drawn.var(0).cpu(),
        truth.cpu(),
        (values.amax(0) - values.amin(0)).cpu(),
    )


def _references(simulator: Simulator, chosen: Quantities, block: Block) -> Tensor:
    """A point for each row that has to do with none of its latents: those of another row."""
    points = chosen.points(block.truth)
    if len(points) > 1:
        return points.roll(1, 0)
    return chosen.points(next(simulator.blocks(1, derived_seed(block.seed, 3))).truth)


def _quantities(described: list[Described], ranked: _Ranked, draws: int) -> tuple[Quantity, ...]:
    columns = zip(described, *(getattr(ranked, one.name).unbind(1) for one in fields(_Ranked)), strict=True)
    found = [_tested(one, _Ranked(*column), draws) for one, *column in columns]
    adjusted = holm([one.p_value for one in found])
    return tuple(replace(one, adjusted_p_value=p) for one, p in zip(found, adjusted, strict=True))


def _tested(one: Described, own: _Ranked, draws: int) -> Quantity:
    """A quantity by its column of ranks; its p-value is not adjusted yet."""
    num_rows, ranks = len(own.ranks), own.ranks.numpy()
    p_value = uniformity_p_value(ranks, draws)
    within = float(own.variance.mean())
    between = float(own.mean.var()) - within / draws
    location, location_error, scale, scale_error = effect(ranks, draws)
    if one.kind in ("discrete", "confidence"):
        excess = own.mean - own.truth
        among = draws / (draws + 1)
        # Of the draws and the truth together.
        variance = among * (own.variance * (draws - 1) / draws + excess.square() / (draws + 1))
        p_value = min(1.0, 2 * min(p_value, tied_p_value(*(v.numpy() for v in (among * excess, variance, own.ranges)))))
        unit = 1.0 if one.kind == "confidence" else math.sqrt(within)
        location, location_error = (
            float(v) / unit if unit > 0 else math.nan for v in (excess.mean(), excess.std() / math.sqrt(num_rows))
        )
        scale, scale_error = math.nan, math.nan
    slope, slope_error = _slope(own, between)
    return Quantity(
        one.name,
        one.kind,
        one.latent,
        own.ranks,
        draws,
        p_value=p_value,
        adjusted_p_value=p_value,
        location=location,
        location_error=location_error,
        scale=scale,
        scale_error=scale_error,
        slope=slope,
        slope_error=slope_error,
        dependence=between / (between + within) if between + within > 0 else math.nan,
        dependence_error=math.sqrt(2 / num_rows) / draws,
    )


def _slope(own: _Ranked, between: float) -> tuple[float, float]:
    """Slope of the truth on the guide's mean, and its error; ``between``: the mean's variance without that of draws."""
    mean, truth = own.mean - own.mean.mean(), own.truth - own.truth.mean()
    if not between > 0 or not bool((mean.isfinite() & truth.isfinite()).all()):
        return math.nan, math.nan
    slope = float((mean * truth).mean()) / between
    return slope, float((truth - slope * mean).std() * mean.std()) / (between * math.sqrt(len(mean)))


def _notes(simulator: Simulator, chosen: Quantities) -> tuple[str, ...]:
    notes = [f"{name}: {few} of its {all_} coordinates" for name, (all_, few) in chosen.sizes.items() if few < all_]
    if simulator.summed_out:
        notes.append(
            f"{', '.join(simulator.summed_out)}: left to enumeration by the guide, drawn from the exact conditional"
        )
    if not simulator.has_guide_density:
        notes.append("no coverage of regions of highest density: the guide's density of the latents isn't to be had")
    if not chosen.continuous:
        notes.append("no distances to random points: no latent is continuous")
    return tuple(notes)
