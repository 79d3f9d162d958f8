"""What the checks look at: a pair's traces on two batches, and which of its plates hold the rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_lvm.checking.running import ROLES, Role, Run, Runner
from pyro_lvm.checking.sites import Site, event_dim, frames, samples

# Batches of rows whose sizes are nothing else's size, so that a plate or a shape that follows the rows is told from one
# that only happens to be as large.
_BATCH_SIZES = (61, 53, 47, 43, 37, 31, 29, 23, 19, 17, 13, 11, 7, 5)


@dataclass
class View:
    """A pair's traces on two batches of different size.

    Attributes:
        runner: Runs the pair.
        x: The larger batch, shape (rows, ...).
        large, small: The traces on it and on its first rows, of each half by itself.
        joint, joint_small: The same of the model on what the guide drew; ``joint_small`` is None for a guide that is
            made for one batch.
        given_rows: Rows that the caller gave, the batch size in training.
        num_rows: Rows N of the whole data set, None where the caller didn't say.
        rows: Names of the plates that hold the rows given.
        drawn: Names of the plates that draw rows of their own out of those given.
    """

    runner: Runner
    x: Tensor
    large: Run
    small: Run
    joint: Run
    joint_small: Run | None
    given_rows: int
    num_rows: int | None
    rows: frozenset[str] = frozenset()
    drawn: frozenset[str] = frozenset()

    @property
    def minibatch(self) -> bool:
        """Whether the rows given are known to be a part of the data only."""
        return self.num_rows is not None and self.num_rows > self.given_rows

    def sites(self) -> Iterator[tuple[Role, str, Site]]:
        """Every sample site of both halves on the larger batch, the model's first."""
        for role in ROLES:
            for name, site in samples(self.large.traces[role]).items():
                yield role, name, site

    def joint_sites(self) -> Iterator[tuple[Role, str, Site]]:
        """The same of the model on what the guide drew."""
        for role in ROLES:
            for name, site in samples(self.joint.traces[role]).items():
                yield role, name, site

    def in_rows(self, site: Site) -> bool:
        """Whether a site is in a plate of rows."""
        return bool((self.rows | self.drawn) & frames(site).keys())

    def follows_rows(self, role: Role, name: str) -> bool:
        """Whether the shape of a site's value changes with the number of rows."""
        both = [samples(run.traces[role]).get(name) for run in (self.large, self.small)]
        shapes = [getattr(site["value"], "shape", ()) for site in both if site is not None]
        return len(shapes) == 2 and shapes[0] != shapes[1]


def choose_batch(x: Tensor, most: int) -> Tensor:
    """Rows to check on, spread over those given.

    Args:
        x: Rows, shape (rows, ...).
        most: Number of rows that is enough.

    Returns:
        At least 4 rows, the first repeated where there are fewer.
    """
    if len(x) < 4:
        return x[[i % len(x) for i in range(4)]]
    limit = min(len(x), most)
    size = next((n for n in _BATCH_SIZES if n <= limit and n not in x.shape[1:]), limit)
    return x[[i * len(x) // size for i in range(size)]]


def small_size(num_rows: int) -> int:
    """The size of the smaller batch."""
    return max(2, 2 * num_rows // 3)


def find_plates(large: Run, small: Run) -> tuple[frozenset[str], frozenset[str]]:
    """The plates whose size follows the rows given, and those that draw out of them.

    Args:
        large, small: Traces on batches of different size.
    """
    rows: set[str] = set()
    drawn: set[str] = set()
    for role in ROLES:
        before, after = _plates(large.traces[role]), _plates(small.traces[role])
        for name in before.keys() & after.keys():
            (size_a, full_a), (size_b, full_b) = before[name], after[name]
            if (size_a, size_b) == (large.num_rows, small.num_rows):
                rows.add(name)
            elif size_a == size_b > 0 and (full_a, full_b) == (large.num_rows, small.num_rows):
                drawn.add(name)
    return frozenset(rows), frozenset(drawn)


def plates_of_size(run: Run, size: int) -> frozenset[str]:
    """The plates of one size, where a second batch can't tell which of them hold the rows."""
    found = [name for role in ROLES for name, (held, _) in _plates(run.traces[role]).items() if held == size]
    return frozenset(name for name in found if name == "data") or frozenset(found)


def _plates(trace: Any) -> dict[str, tuple[int, int]]:
    """Size and full size of every plate of a trace; a plate of any size has the size of what is in it."""
    found: dict[str, tuple[int, int]] = {}
    for site in samples(trace).values():
        for frame in site["cond_indep_stack"]:
            size = frame.size
            if size == -1 and frame.dim is not None:
                shape = getattr(site["fn"], "batch_shape", ())
                size = shape[frame.dim] if len(shape) >= -frame.dim else 1
            found.setdefault(frame.name, (size, frame.full_size or size))
    return found


def mismatch_in_plate(error: Exception) -> tuple[str, str, int, int, int] | None:
    """Pyro's complaint about a site that doesn't fit its plate: plate, site, dimension, its size, the site's."""
    match = re.search(r"Shape mismatch inside plate\('(.+?)'\) at site (\S+) dim (-\d+), (\d+) vs (\d+)", str(error))
    if match is None:
        return None
    plate, site, dim, expected, actual = match.groups()
    return plate, site, int(dim), int(expected), int(actual)


def describe_draw(site: Site) -> str:
    """The shape of one draw of a site in words."""
    shape = tuple(getattr(site["fn"], "event_shape", ()))
    return f"event shape {shape} (event_dim={event_dim(site)})"
