"""Rows that a pair predicts: before it saw any, after it saw these, and entries that were kept from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_lvm.errors import DataError
from pyro_lvm.evidence.observing import find_sites
from pyro_lvm.pair import Pair, refuse_holes
from pyro_lvm.predictive.replicating import Replication, replicate
from pyro_lvm.predictive.weights import RowWeights, resample


def prior_predictive(
    pair: Pair,
    like: Tensor,
    num_draws: int = 100,
    *,
    num_rows: int | None = None,
    site: str | None = None,
    seed: int = 0,
) -> Tensor:
    """Draw data sets from the model alone: every latent from its prior, parameters as they are.

    Args:
        pair: Any pair; its guide is not run.
        like: Rows such as the model takes, shape (rows, ...), of which only shape, type and device matter.
        num_draws: Data sets.
        num_rows: Rows of each; None for as many as ``like`` has.
        site: The observed site; None where there is but one.
        seed: Of the draws; the caller's random state is left as it was.

    Returns:
        Shape (num_draws, num_rows, ...), on the CPU.

    Raises:
        DataError: There are no rows, or a count isn't positive.
        PairError: The model observes nothing for each row, or its draws depend on the rows that it is given.
    """
    if num_rows is not None and num_rows < 1:
        raise DataError(f"num_rows={num_rows}: expected a whole number from 1 up")
    if len(like) and num_rows is not None:
        like = like[torch.arange(num_rows, device=like.device) % len(like)]
    return _observed(pair, like, num_draws, "prior", site, seed)


def posterior_predictive(
    pair: Pair,
    x: Tensor,
    num_draws: int = 100,
    *,
    replication: Replication = "posterior",
    site: str | None = None,
    seed: int = 0,
) -> Tensor:
    r"""Draw replicates of rows, or new rows like them.

    .. math:: \text{posterior: } x^s_n \sim p(x \mid z^s_n, \theta^s), \; z^s_n, \theta^s \sim q(z_n, \theta \mid x)
        \qquad \text{mixed: } x^s_n \sim p(x \mid z^s_n, \theta^s), \; z^s_n \sim p(z \mid \theta^s), \;
        \theta^s \sim q(\theta \mid x)

    A posterior replicate is the same row seen once more: its own latent is inferred from the row that it will be
    compared with. A mixed replicate is a new row of the same population; theta is what all rows share, and where they
    share nothing but parameters it is drawn from the model alone.

    Args:
        pair: Any pair.
        x: Rows as the pair sees them, shape (rows, ...), NaN where missing.
        num_draws: Replicates of each row.
        replication: ``"posterior"`` or ``"mixed"``.
        site: The observed site; None where there is but one.
        seed: Of the draws; the caller's random state is left as it was.

    Returns:
        Shape (num_draws, rows, ...), on the CPU: every entry, missing ones too.

    Raises:
        DataError: There are no rows, or ``num_draws`` isn't positive.
        PairError: The model observes nothing for each row, or its draws depend on the rows themselves; the guide lacks
            a latent, or can't take missing entries.
    """
    return _observed(pair, x, num_draws, replication, site, seed)


@dataclass(frozen=True)
class Prediction:
    """Draws for entries that were not shown to the guide.

    Attributes:
        draws: Shape (draws, rows, ...): the entries that were shown as they are, the others drawn.
        predicted: Which entries were drawn, shape (rows, ...).
        weights: Of the draws, row by row; None where rows share latents.
    """

    draws: Tensor
    predicted: Tensor
    weights: RowWeights | None

    @property
    def mean(self) -> Tensor:
        """Mean of the draws, shape (rows, ...)."""
        return self.draws.double().mean(0)

    def interval(self, probability: float = 0.9) -> tuple[Tensor, Tensor]:
        """Ends of the central interval of each entry, shape (rows, ...) each.

        Raises:
            DataError: ``probability`` is not between 0 and 1.
        """
        if not 0 < probability < 1:
            raise DataError(f"probability={probability}: expected a number between 0 and 1")
        ordered = self.draws.double().sort(0).values
        places = torch.tensor([0.5 - probability / 2, 0.5 + probability / 2], dtype=torch.float64) * (len(ordered) - 1)
        low, high = (torch.lerp(ordered[p.floor().long()], ordered[p.ceil().long()], p - p.floor()) for p in places)
        return low, high

    def pit(self, truth: Tensor, *, seed: int = 0) -> Tensor:
        """Where the truth falls among the draws (probability integral transform), uniform if they are right.

        Args:
            truth: Shape (rows, ...), the entries that were kept from the guide; NaN where not known.
            seed: Of what breaks ties, which discrete data has.

        Returns:
            One number from 0 to 1 for each predicted entry that is known, float64, flat.

        Raises:
            DataError: ``truth`` has another shape.
        """
        if truth.shape != self.predicted.shape:
            raise DataError(
                f"truth of shape {tuple(truth.shape)}: expected {tuple(self.predicted.shape)}, as predicted"
            )
        known = self.predicted & ~_missing(truth.cpu())
        drawn, true = self.draws[:, known], truth.cpu()[known]
        below, ties = (drawn < true).sum(0), (drawn == true).sum(0)
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(len(true), generator=generator, dtype=torch.float64)
        return (below + uniform * (ties + 1)) / (len(drawn) + 1)


def predict(
    pair: Pair,
    x: Tensor,
    held_out: Tensor | None = None,
    num_draws: int = 100,
    *,
    reweight: bool = False,
    seed: int = 0,
) -> Prediction:
    r"""Draw entries that are missing, or kept from the guide, given the others of the row.

    .. math:: z^s_n \sim q(z_n \mid x_{n,\text{shown}}), \qquad x^s_{n,\text{hidden}} \sim p(x \mid z^s_n)

    Entries are drawn independently given the latents, as :func:`pyro_lvm.observe` has it of rows with holes.

    Args:
        pair: A pair whose guide takes missing entries, and whose model observes its rows at one site.
        x: Rows as the pair sees them, shape (rows, ...), NaN where missing.
        held_out: True where an entry is to be kept from the guide, the shape of ``x``; None for what is missing alone.
        num_draws: Draws a row.
        reweight: Draw again from the draws by their importance weights, so that they stand for the posterior rather
            than for the guide; :attr:`Prediction.weights` says by Pareto-k where that can be done.
        seed: Of the draws.

    Returns:
        The draws.

    Raises:
        DataError: There are no rows, nothing to predict, ``num_draws`` isn't positive, or ``held_out`` doesn't fit.
        PairError: The guide can't take missing entries, or rows share latents and ``reweight`` is asked for.
    """
    if held_out is not None and (held_out.shape != x.shape or held_out.dtype != torch.bool):
        raise DataError(
            f"held_out of shape {tuple(held_out.shape)} and {held_out.dtype}: expected {tuple(x.shape)} of torch.bool"
        )
    if not x.is_floating_point():
        raise DataError(f"rows of {x.dtype} can't have missing entries: expected floating-point numbers")
    hidden = _missing(x) if held_out is None else _missing(x) | held_out.to(x.device)
    if not bool(hidden.any()):
        raise DataError("no entry is missing or held out: expected NaN in x, or held_out that is True somewhere")
    shown = x.masked_fill(hidden, torch.nan)
    refuse_holes(pair, shown)
    name = find_sites(pair, shown).choose(None)
    parts = list(replicate(pair, shown, num_draws, replication="posterior", seed=seed))
    draws = torch.cat([part.observed[name] for part in parts])
    if draws[0].numel() != x.numel():
        raise DataError(f"the model draws rows of shape {tuple(draws.shape[2:])}: expected {tuple(x.shape[1:])}")
    draws = draws.reshape(len(draws), *x.shape)
    own = [part.log_weights for part in parts if part.log_weights is not None]
    weights = RowWeights(torch.cat(own)) if own else None
    if reweight:
        if weights is None:
            raise DataError("rows share latents: no row has importance weights of its own; leave reweight out")
        draws = resample(draws, weights.choose(seed=seed))
    hidden = hidden.cpu()
    return Prediction(torch.where(hidden, draws, x.cpu().to(draws)), hidden, weights)


def _observed(pair: Pair, x: Tensor, num_draws: int, replication: Replication, site: str | None, seed: int) -> Tensor:
    name = find_sites(pair, x).choose(site)
    return torch.cat([d.observed[name] for d in replicate(pair, x, num_draws, replication=replication, seed=seed)])


def _missing(x: Tensor) -> Tensor:
    return x.isnan() if x.is_floating_point() else torch.zeros_like(x, dtype=torch.bool)
