"""Ways between rows and latent coordinates, for any pair with one continuous latent a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution

from pyro_lvm.errors import DataError, PairError
from pyro_lvm.marginals import marginals
from pyro_lvm.mixture_posterior import MixturePosterior
from pyro_lvm.pair import Decodes, Encodes, Pair, acceptable, refuse_holes
from pyro_lvm.plate import feeding
from pyro_lvm.seeding import seeded

# Entries of x that one call of the pair may hold.
_BLOCK_ENTRIES = 2**22
# For quantiles of a prior that doesn't know its own.
_PRIOR_DRAWS = 20_000
# Rows that show what sites a pair has.
_PROBE_ROWS = 3


class LatentSpace:
    """The space of a pair's continuous latent: what lies where, and what decodes to what.

    All of it is read from the pair's own traces, so that plain functions work as modules do.

    Args:
        pair: A trained pair.
        rows: Rows as the pair sees them, shape (rows, ...), NaN where missing: those that :meth:`embed` and the others
            speak of where no others are given.
        site: The latent's name; None where each row has but one that is continuous.

    Attributes:
        site: The latent's name.
        latent_dim: Its number of coordinates.

    Raises:
        DataError: There are no rows.
        PairError: A row has no continuous latent, or several and ``site`` chooses none; or its coordinates mean
            something else in each component of a mixture.
    """

    def __init__(self, pair: Pair, rows: Tensor, *, site: str | None = None) -> None:
        if len(rows) == 0:
            raise DataError("there are no rows: expected one at least")
        self.pair = pair
        self.rows = rows
        accepted = rows[acceptable(pair, rows)]
        # Something that the guide can take, for runs that are about the latent alone.
        self._probe = (accepted if len(accepted) else rows)[:_PROBE_ROWS].to(pair.device)
        refuse_holes(pair, self._probe)
        self.site = self._choose(site)
        with self._quiet(0):
            if isinstance(pair.guide, Encodes) and isinstance(pair.guide.encode(self._probe), MixturePosterior):
                raise PairError(
                    f"each component of {type(pair.guide).__name__} has coordinates '{self.site}' of its own: they "
                    "make no common space; use a pair with one continuous latent a row"
                )
            value: Tensor = self._at(pair.run_guide, self._probe)["value"]
        self._scalar = value.dim() == 1
        self.latent_dim = 1 if self._scalar else int(value.shape[1])

    def embed(self, x: Tensor | None = None) -> Tensor:
        """Posterior means of the latent coordinates, shape (rows, latent_dim).

        Args:
            x: Other rows than the space's own.
        """
        return self.moments(x)[0]

    def moments(self, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Posterior means and standard deviations, shape (rows, latent_dim) each, on the CPU.

        Args:
            x: Other rows than the space's own.

        Raises:
            PairError: The guide can't take missing entries, or its distribution knows no moments.
        """
        with self._quiet(0):
            parts = []
            for block in self._blocks(x):
                q = self._at(self.pair.run_guide, block)["fn"]
                try:
                    parts.append((self._flat(q.mean), self._flat(q.stddev)))
                except NotImplementedError as error:
                    raise PairError(
                        f"the guide's distribution of '{self.site}', {type(q).__name__}, knows no mean or standard "
                        "deviation: look at draws instead"
                    ) from error
        means, deviations = zip(*parts, strict=True)
        return torch.cat(means), torch.cat(deviations)

    def draw(self, x: Tensor | None = None, *, seed: int = 0) -> Tensor:
        """One draw from each row's posterior, shape (rows, latent_dim)."""
        with self._quiet(seed):
            return torch.cat([self._flat(self._at(self.pair.run_guide, block)["value"]) for block in self._blocks(x)])

    def draw_prior(self, count: int, *, seed: int = 0) -> Tensor:
        """Draws from the prior, shape (count, latent_dim)."""
        if count < 1:
            raise DataError(f"count={count}: expected a whole number from 1 up")
        parts = []
        with self._quiet(seed):
            for size in _sizes(count, self._block_rows):
                rows = self._probe[torch.arange(size, device=self._probe.device) % len(self._probe)]
                parts.append(self._flat(self._at(self.pair.run_model, rows)["value"]))
        return torch.cat(parts)

    def prior_quantiles(self, probabilities: Tensor | Sequence[float]) -> Tensor:
        """Quantiles of each coordinate under the prior, shape (len(probabilities), latent_dim).

        Exact where the prior knows them, else of 20,000 draws.

        Args:
            probabilities: Between 0 and 1.
        """
        levels = torch.as_tensor(probabilities, dtype=torch.float64)
        if not bool(((levels > 0) & (levels < 1)).all()):
            raise DataError(f"probabilities {levels.tolist()}: expected numbers between 0 and 1")
        with self._quiet(0):
            trace: Any = poutine.trace(self.pair.run_model).get_trace(self._probe)
        before = [name for name, site in trace.nodes.items() if site["type"] == "sample" and not site["is_observed"]]
        before = [name for name in before if type(trace.nodes[name]["fn"]).__name__ != "_Subsample"]
        each = marginals(trace.nodes[self.site]["fn"])
        # A prior that hangs on another latent is a mixture over it.
        if each is not None and before.index(self.site) == 0:
            try:
                loc = levels.to(self._probe.device, self._probe.dtype)
                values = each.icdf(loc.reshape(-1, *(1,) * len(each.batch_shape)))
                return values[:, 0].reshape(len(levels), self.latent_dim).cpu()
            except NotImplementedError:
                pass
        draws = self.draw_prior(_PRIOR_DRAWS)
        return torch.quantile(draws.double(), levels, dim=0).to(draws)

    def decode(self, z: Tensor) -> Tensor:
        """The mean of x at latent coordinates.

        Args:
            z: Shape (..., latent_dim).

        Returns:
            Shape (..., *row), on the CPU.

        Raises:
            DataError: ``z`` has another number of coordinates.
            PairError: The model's distribution of x knows no mean.
        """
        if z.shape[-1:] != (self.latent_dim,):
            raise DataError(f"z has shape {tuple(z.shape)}: expected (..., {self.latent_dim}) latent coordinates")
        flat = z.reshape(-1, self.latent_dim).to(self.pair.device)
        with self._quiet(0):
            parts = [self._decoded(part).cpu() for part in flat.split(self._block_rows)]
        return torch.cat(parts).reshape(*z.shape[:-1], *self.rows.shape[1:])

    def grid(self, num: int = 15, dims: tuple[int, int] = (0, 1)) -> Tensor:
        """Points at prior quantiles (i + 1/2) / num of two coordinates, the others at their prior medians.

        Args:
            num: Points along each coordinate.
            dims: The two coordinates.

        Returns:
            Shape (num, num, latent_dim): the first coordinate grows along dimension 1, the second along dimension 0.

        Raises:
            DataError: ``num`` isn't positive, or ``dims`` are not two of the coordinates.
        """
        self._check_dims(dims, 2)
        if num < 1:
            raise DataError(f"num={num}: expected a whole number from 1 up")
        quantiles = self.prior_quantiles((torch.arange(num) + 0.5) / num)
        points = self.prior_quantiles([0.5]).reshape(1, 1, -1).repeat(num, num, 1)
        points[:, :, dims[0]] = quantiles[None, :, dims[0]]
        points[:, :, dims[1]] = quantiles[:, None, dims[1]]
        return points

    def traverse(self, start: Tensor | None = None, *, dims: Sequence[int] | None = None, num: int = 9) -> Tensor:
        """Move one coordinate at a time through the prior's quantiles from 0.02 to 0.98, the others held.

        Args:
            start: Where the others are held, shape (latent_dim,), as a row's posterior mean; None for prior medians.
            dims: The coordinates to move, one after the other; None for all.
            num: Points along each.

        Returns:
            Shape (len(dims), num, latent_dim).

        Raises:
            DataError: A coordinate isn't there, ``num`` isn't positive, or ``start`` has another shape.
        """
        moved = range(self.latent_dim) if dims is None else dims
        self._check_dims(moved)
        if num < 1:
            raise DataError(f"num={num}: expected a whole number from 1 up")
        origin = self.prior_quantiles([0.5])[0] if start is None else start.cpu()
        if origin.shape != (self.latent_dim,):
            raise DataError(f"start has shape {tuple(origin.shape)}: expected ({self.latent_dim},)")
        quantiles = self.prior_quantiles(torch.linspace(0.02, 0.98, num))
        points = origin.repeat(len(moved), num, 1)
        for place, dim in enumerate(moved):
            points[place, :, dim] = quantiles[:, dim]
        return points

    def interpolate(self, start: Tensor, end: Tensor, num: int = 9) -> Tensor:
        """Points on the straight line between latent coordinates, both ends included.

        Args:
            start: Shape (..., latent_dim).
            end: The same shape.
            num: Points, 2 at least.

        Returns:
            Shape (..., num, latent_dim).

        Raises:
            DataError: The shapes differ, or ``num`` is below 2.
        """
        if start.shape != end.shape or start.shape[-1:] != (self.latent_dim,):
            raise DataError(
                f"start has shape {tuple(start.shape)}, end {tuple(end.shape)}: expected (..., {self.latent_dim}) twice"
            )
        if num < 2:
            raise DataError(f"num={num}: expected 2 or more, for both ends")
        share = torch.linspace(0, 1, num, dtype=start.dtype, device=start.device)[:, None]
        return start.unsqueeze(-2) * (1 - share) + end.unsqueeze(-2) * share

    def sample_near(self, x: Tensor, count: int, *, seed: int = 0) -> Tensor:
        r"""Draw where some rows are: from the mean of their posteriors, :math:`\frac1M \sum_m q(z \mid x_m)`.

        Of the rows of a class it makes new ones of the class; of a single row, others like it.

        Args:
            x: Rows, shape (rows, ...), one or more.
            count: Draws.
            seed: Of the draws.

        Returns:
            Latent coordinates, shape (count, latent_dim).
        """
        if len(x) == 0 or count < 1:
            raise DataError(f"{len(x)} rows and count={count}: expected one row and one draw at least")
        chosen = torch.randint(len(x), (count,), generator=torch.Generator().manual_seed(seed))
        return self.draw(x[chosen.to(x.device)], seed=seed)

    # ------------------------------------------------------------------ the pair's traces

    def _choose(self, site: str | None) -> str:
        with self._quiet(0):
            guide: Any = poutine.trace(self.pair.run_guide).get_trace(self._probe)
        found = [
            name
            for name, node in guide.nodes.items()
            if node["type"] == "sample"
            and type(node["fn"]).__name__ != "_Subsample"
            and tuple(node["fn"].batch_shape) == (len(self._probe),)
            and len(node["fn"].event_shape) <= 1
            and not getattr(node["fn"].support, "is_discrete", False)
        ]
        if site is not None and site not in found:
            raise PairError(f"site='{site}': expected a continuous latent of each row, of {', '.join(found) or 'none'}")
        if site is None and len(found) != 1:
            raise PairError(
                f"the guide draws {len(found) or 'no'} continuous latents for each row"
                + (f" ({', '.join(found)}): choose one, as in site='{found[0]}'" if found else ": expected one")
            )
        return site if site is not None else found[0]

    def _at(self, half: Callable[..., Any], x: Tensor) -> Any:
        """The latent's site in a trace of one half over some rows."""
        return poutine.trace(half).get_trace(x).nodes[self.site]

    def _decoded(self, z: Tensor) -> Tensor:
        model = self.pair.model
        if isinstance(model, Decodes):
            return _mean(model.decode(z), self.rows[0].numel(), len(z))
        rows = self._probe[torch.arange(len(z), device=z.device) % len(self._probe)]
        held = poutine.condition(self.pair.run_model, data={self.site: z[:, 0] if self._scalar else z})
        trace = poutine.trace(held).get_trace(rows)
        sites: list[Any] = [node for node in trace.nodes.values() if node["type"] == "sample" and node["is_observed"]]
        for node in sites:
            if node["name"] != self.site and node["value"].numel() == len(z) * self.rows[0].numel():
                return _mean(node["fn"], self.rows[0].numel(), len(z))
        raise PairError(
            "the model observes no site of the rows' shape: give it decode(z), the distribution of x given z"
        )

    @property
    def _block_rows(self) -> int:
        return max(1, _BLOCK_ENTRIES // max(1, self.rows[:1].numel()))

    def _blocks(self, x: Tensor | None) -> Iterator[Tensor]:
        for block in (self.rows if x is None else x).split(self._block_rows):
            block = block.to(self.pair.device)
            refuse_holes(self.pair, block)
            yield block

    def _flat(self, values: Tensor) -> Tensor:
        return values.detach().reshape(len(values), -1).cpu()

    def _check_dims(self, dims: Sequence[int], count: int | None = None) -> None:
        if (count is not None and len(set(dims)) != count) or not all(0 <= dim < self.latent_dim for dim in dims):
            expected = "coordinates" if count is None else f"{count} different coordinates"
            raise DataError(
                f"dims={list(dims)} of a latent space of {self.latent_dim}: expected {expected} from 0 to "
                f"{self.latent_dim - 1}"
            )

    @contextmanager
    def _quiet(self, seed: int) -> Iterator[None]:
        """As it is used, not trained; the caller's random state and traces know nothing of it."""
        with self.pair.evaluating(), seeded(seed), feeding(None), poutine.block():
            yield


def _sizes(count: int, block: int) -> Iterator[int]:
    for start in range(0, count, block):
        yield min(block, count - start)


def _mean(distribution: Distribution, row_entries: int, num_rows: int) -> Tensor:
    try:
        mean: Tensor = distribution.mean
    except NotImplementedError as error:
        raise PairError(
            f"the model's distribution of x, {type(distribution).__name__}, knows no mean: give one that does"
        ) from error
    if mean.numel() != row_entries * num_rows or not math.isfinite(float(mean.sum())):
        raise PairError(
            f"the model decodes {num_rows} points to a mean of shape {tuple(mean.shape)}: expected finite rows of "
            f"{row_entries} entries"
        )
    return mean.reshape(num_rows, -1)
