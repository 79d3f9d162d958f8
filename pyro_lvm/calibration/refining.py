"""A guide's draws made into the posterior's: drawn again by their importance weights, then moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.infer import config_enumerate, infer_discrete
from torch import Tensor

from pyro_lvm.calibration.simulating import check_counts
from pyro_lvm.elbo import FIRST_ENUMERATED
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.evidence.annealing import schedule
from pyro_lvm.evidence.density import LatentDensity
from pyro_lvm.evidence.hmc import Steps, move, tune
from pyro_lvm.evidence.placing import quiet
from pyro_lvm.evidence.weights import chunk_limit, refuse_undefined, row_blocks
from pyro_lvm.pair import Pair
from pyro_lvm.predictive import RowWeights, replicate, resample
from pyro_lvm.predictive.weights import UNRELIABLE
from pyro_lvm.progress import Reporter
from pyro_lvm.seeding import derived_seed, seeded

# The guide's draws that are weighed, for each that is wanted, and at least: a Pareto tail needs some.
_PROPOSALS, _LEAST_PROPOSALS = 4, 1000
# Leapfrog steps of a move, at most; chains and temperatures that find out how long they are.
_LEAPFROGS, _PILOT_CHAINS, _PILOT_TEMPERATURES = 5, 16, 60


@dataclass(frozen=True)
class Refined:
    """Draws of each row's posterior.

    Attributes:
        latents: By site, shape (draws, rows, ...), on the CPU.
        pareto_k: Of the guide's importance weights, (rows,): above 0.7 they can't make its draws the posterior's.
        effective_share: Effective sample size of the weights relative to the draws that were weighed, (rows,).
        acceptance: Share of the Hamiltonian moves accepted, (rows,); None where there were none.
        hmc_steps: Hamiltonian moves of each draw.
    """

    latents: Mapping[str, Tensor]
    pareto_k: Tensor
    effective_share: Tensor
    acceptance: Tensor | None
    hmc_steps: int

    @property
    def num_unreliable(self) -> int:
        """Rows whose k is above 0.7: of these only the moves can make draws of the posterior, if they are enough."""
        return int((self.pareto_k > UNRELIABLE).sum())

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        k = self.pareto_k[self.pareto_k.isfinite()]
        return {
            "num_rows": len(self.pareto_k),
            "num_draws": len(next(iter(self.latents.values()))),
            "num_unreliable": self.num_unreliable,
            "largest_finite_pareto_k": float(k.max()) if len(k) else None,
            "effective_share": float(self.effective_share.mean()),
            "hmc_steps": self.hmc_steps,
            "acceptance": None if self.acceptance is None else float(self.acceptance.mean()),
        }


def refine(
    pair: Pair, x: Tensor, num_draws: int = 1000, *, hmc_steps: int = 0, seed: int = 0, progress: bool = True
) -> Refined:
    r"""Make draws of the guide into draws of the posterior, as far as they can be.

    .. math:: z^s \sim q(z \mid x), \qquad w^s = \frac{p(x, z^s)}{q(z^s \mid x)}

    Draws are drawn again by their Pareto-smoothed weights. Where k is below 0.7 that gives draws of the posterior, some
    of them equal; above, it gives what the guide has that is nearest. Each may then go a few Hamiltonian steps that
    leave p(z | x) as it is, from the guide's draws on: a semi-amortized posterior. Discrete latents are summed out of
    these and drawn from their exact conditional at the end.

    Args:
        pair: Any pair whose latents are a row's own.
        x: Rows as the pair sees them, shape (rows, ...), NaN where missing.
        num_draws: Draws a row.
        hmc_steps: Hamiltonian moves, of one to five leapfrog steps each; 0 for none.
        seed: Of everything random; the caller's random state is left as it was.
        progress: Show how far it is.

    Returns:
        The draws, and what says how good they are.

    Raises:
        DataError: There are no rows, or a count is too small.
        PairError: Rows share latents; the guide can't take missing entries; a weight is NaN; or, with moves, no latent
            is continuous or one can't be summed out.

    Sources: Vehtari et al. 2024, "Pareto smoothed importance sampling", JMLR 25; Hoffman 2017, "Learning deep latent
    Gaussian models with Markov chain Monte Carlo", ICML, for moves that begin at a guide's draws.
    """
    check_counts(num_draws=(num_draws, 1), hmc_steps=(hmc_steps, 0))
    if len(x) == 0:
        raise DataError("there are no rows: expected one at least")
    parts: list[Refined] = []
    limit = chunk_limit(x, pair.device)
    with Reporter("refining", enabled=progress) as reporter:
        # Steps are found for many rows at once, which have but few chains then.
        for number, (some, _) in enumerate(row_blocks(pair, x, max(1, limit // _PILOT_CHAINS))):
            steps = _steps(pair, some, derived_seed(seed, number, 0)) if hmc_steps else None
            begin = 0
            for rows in some.split(max(1, limit // max(num_draws, _LEAST_PROPOSALS))):
                done = sum(len(part.pareto_k) for part in parts)
                own = _reweighted(pair, rows, num_draws, done, derived_seed(seed, number, 1, begin))
                if steps is not None:
                    part = Steps(steps.logarithms[-1:, begin : begin + len(rows)])
                    own = _moved(pair, rows, own, part, hmc_steps, done, derived_seed(seed, number, 2, begin))
                parts.append(own)
                begin += len(rows)
                reporter.update(done + len(rows), len(x), "rows")
    accepted = [part.acceptance for part in parts if part.acceptance is not None]
    return Refined(
        {name: torch.cat([part.latents[name] for part in parts], 1) for name in parts[0].latents},
        torch.cat([part.pareto_k for part in parts]),
        torch.cat([part.effective_share for part in parts]),
        torch.cat(accepted) if accepted else None,
        hmc_steps,
    )


def _reweighted(pair: Pair, x: Tensor, num_draws: int, first_row: int, seed: int) -> Refined:
    latents, log_weights = [], []
    proposals = max(_PROPOSALS * num_draws, _LEAST_PROPOSALS)
    for draws in replicate(pair, x, proposals, replication="posterior", seed=seed):
        if draws.log_weights is None:
            raise PairError(
                f"rows share the latents {', '.join(draws.shared)}: no row has importance weights of its own, by which "
                "its draws could be drawn again"
            )
        latents.append(draws.latents)
        log_weights.append(draws.log_weights)
    weights = RowWeights(torch.cat(log_weights))
    refuse_undefined(weights.log_weights, first_row)
    places = weights.choose(num_draws, seed=seed)
    return Refined(
        {name: resample(torch.cat([part[name] for part in latents]), places) for name in latents[0]},
        weights.pareto_k,
        weights.effective_share,
        None,
        0,
    )


def _steps(pair: Pair, x: Tensor, seed: int) -> Steps:
    """How long each row's steps are, by chains from the prior: they find the posterior where the guide doesn't."""
    with seeded(seed):
        return tune(LatentDensity(pair, x, _PILOT_CHAINS, "prior"), schedule(_PILOT_TEMPERATURES), _LEAPFROGS)


def _moved(pair: Pair, x: Tensor, begin: Refined, found: Steps, hmc_steps: int, first_row: int, seed: int) -> Refined:
    num_draws = len(next(iter(begin.latents.values())))
    with seeded(seed):
        steps = found.at(1.0, num_draws)
        density = LatentDensity(pair, x, num_draws, "prior", evaluations=hmc_steps * _LEAPFROGS)
        # Of the draws, the first dimension is that of draws and rows together, as chains have it.
        own = {place.name: begin.latents[place.name].flatten(0, 1).to(x.device) for place in density.places}
        point = density.evaluate(
            density.coordinates({place.name: own[place.name].movedim(0, place.axis) for place in density.places})
        )
        refuse_undefined(density.by_chain(point.log_joint.abs()), first_row)
        accepted = torch.zeros_like(point.log_joint)
        for _ in range(hmc_steps):
            # Of one length, moves of a Gaussian can end where they began.
            point, probability = move(density, point, 1.0, steps, int(torch.randint(1, _LEAPFROGS + 1, ())))
            accepted += probability
        moved = density.latents(point.u)
        values = {place.name: moved[place.name].movedim(place.axis, 0) for place in density.places}
        if density.discrete:
            values |= _discrete(pair, x, density, moved)
    return Refined(
        {name: density.by_chain(values[name]).cpu() for name in begin.latents},
        begin.pareto_k,
        begin.effective_share,
        density.by_chain(accepted).mean(0).cpu() / hmc_steps,
        hmc_steps,
    )


def _discrete(pair: Pair, x: Tensor, density: LatentDensity, moved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Discrete latents from their exact conditional given the others, by site, shape (chains * rows,)."""
    rows = x.repeat(density.chains, *(1,) * (x.dim() - 1))
    summing = config_enumerate(poutine.condition(pair.run_model, data=dict(moved)), default="parallel")
    with quiet(pair, rows):
        trace: Any = poutine.trace(infer_discrete(summing, first_available_dim=FIRST_ENUMERATED)).get_trace(rows)
    return {name: trace.nodes[name]["value"] for name in density.discrete}
