"""Missing entries drawn from any pair, where no closed form gives them: Metropolis within Gibbs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_lvm.elbo import draw_rows, row_frame
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.pair import Pair
from pyro_lvm.plate import feeding
from pyro_lvm.progress import Reporter
from pyro_lvm.seeding import seeded

# Entries of x that one call of the pair may hold.
_BLOCK_ENTRIES = 2**20
# Steps before the first draw, between two draws, and that a mean is over.
_WARMUP, _THIN, _AVERAGED = 200, 20, 400
# Below this share of proposals taken, a chain has hardly moved.
_LEAST_ACCEPTANCE = 0.01


class ImputationChain:
    r"""A Markov chain over the latents and the missing entries of each row, which ends in p(z, x_mis | x_obs).

    A step draws :math:`z' \sim q(z \mid x)`, takes it with probability

    .. math:: \min\Bigl(1, \frac{p(x, z')\, q(z \mid x)}{p(x, z)\, q(z' \mid x)}\Bigr)

    and then draws :math:`x_\mathrm{mis} \sim p(x_\mathrm{mis} \mid z)` (Mattei and Frellsen 2018, "Leveraging the exact
    likelihood of deep latent variable models"). Taking every z' would be the pseudo-Gibbs sampler of Rezende, Mohamed
    and Wierstra 2014, whose draws are as wrong as the guide is. For a guide that takes missing entries x is the
    observed part alone.

    Args:
        pair: Any pair whose latents are a row's own and are drawn by its guide.
        rows: Rows as the pair sees them, shape (rows, ...), NaN where missing.
        seed: Of the draws; the caller's random state is left as it was.

    Attributes:
        rows: The rows, their missing entries as the chain has them now, on the CPU.
        missing: Which entries these are.

    Raises:
        PairError: Rows share latents, a latent is summed out, or the model observes no site of the rows' shape.
    """

    def __init__(self, pair: Pair, rows: Tensor, *, seed: int = 0) -> None:
        if isinstance(pair.guide, AutoGuide):
            raise PairError(
                f"the guide {type(pair.guide).__name__} knows the rows that it was trained on and no others: expected "
                "an amortized guide, which reads the rows"
            )
        self.pair = pair
        self.missing = rows.isnan()
        self.rows = rows.detach().clone().cpu()
        self._observed_alone = bool(getattr(pair.guide, "accepts_missing", False))
        self._seeds = np.random.default_rng(seed)
        self._latents: list[dict[str, Tensor]] = []
        # Which dimension of a latent's values is that of rows.
        self._places: dict[str, int] = {}
        self._accepted = torch.zeros(len(rows), dtype=torch.float64)
        self._steps = 0
        incomplete = self.missing.reshape(len(rows), -1).any(1).nonzero()[:, 0].cpu()
        self._blocks = incomplete.split(max(1, _BLOCK_ENTRIES // max(1, rows[:1].numel()))) if len(incomplete) else ()
        with self._quiet():
            for block in self._blocks:
                x, missing = self._block(block)
                self._latents.append(self._start(x, missing))
                self.rows[block] = x.cpu()

    @property
    def acceptance(self) -> Tensor:
        """Share of each row's proposals that were taken, shape (rows,); 1 for rows that lack nothing."""
        share = torch.ones_like(self._accepted)
        for block in self._blocks:
            share[block] = self._accepted[block] / max(1, self._steps)
        return share

    def run(self, steps: int, *, averaged: bool = False) -> Tensor:
        """Take steps.

        Args:
            steps: How many.
            averaged: Whether to give the mean of E[x | z] over these steps for what is missing, which has less noise
                than a mean of draws; else the last draw.

        Returns:
            The rows filled, on the CPU.

        Raises:
            PairError: A density is NaN, or there is no mean.
        """
        if steps < 1:
            raise DataError(f"steps={steps}: expected a whole number from 1 up")
        filled = self.rows.clone()
        with self._quiet():
            for block, latents in zip(self._blocks, self._latents, strict=True):
                x, missing = self._block(block)
                x = torch.where(missing, self.rows[block].to(x), x)
                mean = torch.zeros_like(x, dtype=torch.float64)
                accepted = torch.zeros(len(x), device=x.device)
                for _ in range(steps):
                    x, center, taken = self._step(x, missing, latents, averaged)
                    mean += center / steps
                    accepted += taken
                self._accepted[block] += accepted.double().cpu()
                self.rows[block] = x.cpu()
                filled[block] = torch.where(missing, mean.to(x), x).cpu() if averaged else x.cpu()
        self._steps += steps
        return filled

    # ------------------------------------------------------------------ one block of rows

    def _block(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """Rows with their holes, and which entries these are, on the pair's device."""
        missing = self.missing[block.to(self.missing.device)].to(self.pair.device)
        x = self.rows[block].to(self.pair.device)
        return x.masked_fill(missing, torch.nan), missing

    def _start(self, x: Tensor, missing: Tensor) -> dict[str, Tensor]:
        """Latents to start from, of the prior; ``x`` is filled in place."""
        latents: dict[str, Tensor] = {}
        prior: Any = poutine.trace(self.pair.run_model).get_trace(x)
        draw = _observed_site(prior, x, ())["fn"].sample().reshape(x.shape)
        x.copy_(torch.where(missing, draw.to(x), x))
        guide: Any = poutine.trace(self.pair.run_guide).get_trace(x)
        names, in_guide = ({name for name, site in trace.nodes.items() if _is_latent(site)} for trace in (prior, guide))
        if names != in_guide:
            raise PairError(
                f"the latent '{min(names ^ in_guide)}' is not drawn by both halves: missing entries can be drawn "
                "where the guide draws every latent of the model"
            )
        for name in sorted(names):
            site = prior.nodes[name]
            frame = row_frame(site["cond_indep_stack"], len(x))
            if frame is None:
                raise PairError(
                    f"the latent '{name}' lies outside the plate over rows: missing entries can be drawn where every "
                    "latent is a row's own"
                )
            latents[name] = site["value"]
            self._places[name] = latents[name].dim() - site["fn"].event_dim + frame.dim
        return latents

    def _step(
        self, x: Tensor, missing: Tensor, latents: dict[str, Tensor], averaged: bool
    ) -> tuple[Tensor, Tensor | float, Tensor]:
        """One step: rows filled anew, E[x | z], and which proposals were taken; ``latents`` are replaced in place."""
        unseen = missing.reshape(len(x), -1).all(1)
        if bool(unseen.any()):
            # There is nothing to be found out about these: steps would only make draws depend on each other.
            filled = x.masked_fill(missing, torch.nan)
            self._take(unseen, self._start(filled, missing), latents)
            x = _where(unseen, filled, x)
        seen = x.masked_fill(missing, torch.nan) if self._observed_alone else x
        new, old = draw_rows(self.pair, seen, len(x)), draw_rows(self.pair, seen, len(x), held=latents)
        log_ratio = (new.log_joint - new.log_guide) - (old.log_joint - old.log_guide)
        if bool(log_ratio.isnan().any()):
            raise PairError(
                "log p(x, z) - log q(z | x) of a row is NaN or infinite: expected finite densities; look at the rows, "
                "and whether the training diverged"
            )
        taken = torch.rand_like(log_ratio).log() < log_ratio
        self._take(taken, {name: new.guide.nodes[name]["value"] for name in latents}, latents)
        ahead, behind = (_observed_site(draw.model, x, latents)["fn"] for draw in (new, old))
        drawn = _where(taken, ahead.sample().reshape(x.shape), behind.sample().reshape(x.shape))
        center = _where(taken, _mean(ahead).reshape(x.shape), _mean(behind).reshape(x.shape)) if averaged else 0.0
        return torch.where(missing, drawn.to(x), x), center, taken | unseen

    def _take(self, which: Tensor, new: dict[str, Tensor], latents: dict[str, Tensor]) -> None:
        """Replace the latents of some rows."""
        for name, value in latents.items():
            latents[name] = _where(which, new[name], value, self._places[name])

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """As it is used, not trained; the caller's random state and traces know nothing of it."""
        seed = int(self._seeds.integers(2**32))
        with self.pair.evaluating(), seeded(seed), feeding(None), poutine.block():
            yield


def imputed_draws(
    pair: Pair, rows: Tensor, num_draws: int, *, seed: int = 0, progress: bool = False
) -> Iterator[Tensor]:
    """Fill missing entries by draws from p(x_mis | x_obs), a table after the other, of which one is in memory.

    The draws follow each other in one chain a row (:class:`ImputationChain`), 20 steps apart after 200 to begin with.

    Args:
        pair: Any pair whose latents are a row's own and are drawn by its guide.
        rows: Rows as the pair sees them, shape (rows, ...), NaN where missing.
        num_draws: How many.
        seed: Of the draws.
        progress: Show how far it is.

    Yields:
        The rows, filled.

    Raises:
        PairError: As for :class:`ImputationChain`.

    Warns:
        UserWarning: Hardly a proposal is taken for some rows.
    """
    chain = ImputationChain(pair, rows, seed=seed)
    total = _WARMUP + (num_draws - 1) * _THIN
    with Reporter("imputing", enabled=progress) as reporter:
        for done in range(_THIN, total + 1, _THIN):
            filled = chain.run(_THIN)
            reporter.update(done, total, "steps")
            if done >= _WARMUP:
                yield filled
    _warn_of_sticking(chain)


def imputed_mean(pair: Pair, rows: Tensor, *, seed: int = 0, progress: bool = False) -> Tensor:
    """Fill missing entries by their mean E[x_mis | x_obs], over 400 steps of a chain a row after 200 to begin with.

    Args:
        pair: Any pair whose latents are a row's own and are drawn by its guide.
        rows: Rows as the pair sees them, shape (rows, ...), NaN where missing.
        seed: Of the draws.
        progress: Show how far it is.

    Returns:
        The rows, filled.

    Raises:
        PairError: As for :class:`ImputationChain`, or the model's distribution of x knows no mean.

    Warns:
        UserWarning: Hardly a proposal is taken for some rows.
    """
    chain = ImputationChain(pair, rows, seed=seed)
    total = _WARMUP + _AVERAGED
    mean = torch.zeros_like(chain.rows)
    with Reporter("imputing", enabled=progress) as reporter:
        for done in range(_THIN, total + 1, _THIN):
            filled = chain.run(_THIN, averaged=done > _WARMUP)
            if done > _WARMUP:
                mean += filled * (_THIN / _AVERAGED)
            reporter.update(done, total, "steps")
    _warn_of_sticking(chain)
    return torch.where(chain.missing.cpu(), mean, chain.rows)


def _warn_of_sticking(chain: ImputationChain) -> None:
    stuck = int((chain.acceptance < _LEAST_ACCEPTANCE).sum())
    if stuck:
        warnings.warn(
            f"of {stuck} rows less than {_LEAST_ACCEPTANCE:.0%} of the guide's proposals were taken: their imputations "
            "have hardly moved; train the guide on rows with holes like these (a guide that takes missing entries), or "
            "for longer",
            stacklevel=3,
        )


def _is_latent(site: Any) -> bool:
    return site["type"] == "sample" and not site["is_observed"] and type(site["fn"]).__name__ != "_Subsample"


def _where(rows: Tensor, first: Tensor, second: Tensor, place: int = 0) -> Tensor:
    """The one or the other, row by row, which are dimension ``place``."""
    return torch.where(rows.reshape(-1, *(1,) * (first.dim() - 1 - place)), first, second)


def _observed_site(trace: Any, x: Tensor, latents: Iterable[str]) -> Any:
    """The site that holds the rows."""
    held = set(latents)
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and site["is_observed"] and name not in held and site["value"].shape == x.shape:
            return site
    raise PairError("the model observes no site of the rows' shape: missing entries can be drawn where it does")


def _mean(fn: Any) -> Tensor:
    try:
        mean: Tensor = fn.mean
    except NotImplementedError as error:
        raise PairError(
            f"the model's distribution of x, {type(fn).__name__}, knows no mean: ask for draws instead"
        ) from error
    return mean
