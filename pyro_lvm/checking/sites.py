"""Reading Pyro's traces: which sites are what, the plates around them, and their log-probabilities."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

Site = dict[str, Any]


def samples(trace: Any) -> dict[str, Site]:
    """The sample sites of a trace by name, without the ones that plates make."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample"
    }


def latents(trace: Any) -> dict[str, Site]:
    """The sites that are drawn, without a guide's auxiliary ones."""
    return {
        name: site
        for name, site in samples(trace).items()
        if not site["is_observed"] and not site["infer"].get("is_auxiliary")
    }


def observed(trace: Any) -> dict[str, Site]:
    """The sites that are observed, without deterministic ones."""
    return {name: site for name, site in samples(trace).items() if site["is_observed"] and not is_deterministic(site)}


def is_deterministic(site: Site) -> bool:
    """Whether a site is a ``pyro.deterministic``: a value under a name, which Pyro has as an observed site."""
    return bool(site["infer"].get("_deterministic"))


def is_factor(site: Site) -> bool:
    """Whether a site is a ``pyro.factor``."""
    return type(innermost(site["fn"])).__name__ == "Unit"


def asks_for_enumeration(site: Site) -> bool:
    """Whether a site's author asked for it to be enumerated in parallel."""
    return bool(site["infer"].get("enumerate") == "parallel")


def innermost(distribution: Any) -> Any:
    """A distribution without the wrappers that only regroup or mask its log-density."""
    while type(distribution).__name__ in ("Independent", "MaskedDistribution"):
        distribution = distribution.base_dist
    return distribution


def log_prob(site: Site) -> Tensor:
    """A site's log-probability with its mask and without its scale."""
    value = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    masked: Tensor = scale_and_mask(value, 1.0, site["mask"])
    return masked


def event_dim(site: Site) -> int:
    """Dimensions of one draw."""
    return len(getattr(site["fn"], "event_shape", ()))


def frames(site: Site) -> dict[str, Any]:
    """The plates around a site, vectorized or sequential, by name."""
    return {frame.name: frame for frame in site["cond_indep_stack"]}


def plate_sizes(site: Site) -> dict[int, int]:
    """The size of each vectorized plate around a site by its dimension, counted from the right; -1 for any size."""
    return {-frame.dim: frame.size for frame in site["cond_indep_stack"] if frame.vectorized}


def fits_plates(site: Site, shape: Iterable[int]) -> bool:
    """Whether a batch shape is that of the plates around a site, and of nothing else."""
    sizes, actual = plate_sizes(site), tuple(shape)
    if any(size not in (1, -1) for dim, size in sizes.items() if dim > len(actual)):
        return False
    return all(size == sizes.get(dim, 1) or sizes.get(dim) == -1 for dim, size in enumerate(reversed(actual), start=1))


def expected_shape(site: Site) -> tuple[int, ...]:
    """The batch shape that the plates around a site ask for."""
    sizes = plate_sizes(site)
    return tuple(sizes.get(dim, 1) for dim in range(max(sizes, default=0), 0, -1))


def by_row(site: Site, rows: Iterable[str], num_rows: int) -> Tensor | None:
    """A site's log-probability summed to one number a row, shape (rows,), without its scale.

    Args:
        site: Of a trace.
        rows: Names of the plates that hold the rows.
        num_rows: Rows B of the batch.

    Returns:
        None where the site is outside these plates, or its plate doesn't hold all rows.
    """
    around = frames(site)
    frame = next((around[name] for name in rows if name in around), None)
    if frame is None or frame.size not in (num_rows, -1):
        return None
    value = log_prob(site)
    if frame.dim is None:
        # A sequential plate counts its rows from 1.
        whole = value.new_zeros(num_rows)
        whole[frame.counter - 1] = value.sum()
        return whole
    shape = torch.broadcast_shapes(value.shape, (num_rows,) + (1,) * (-frame.dim - 1))
    return value.expand(shape).movedim(frame.dim, -1).reshape(-1, num_rows).sum(0)


def family(name: str) -> str:
    """A site's name without its numbers: the sites of a sequential plate differ in nothing else."""
    return re.sub(r"\d+", "#", name)
